package loadtest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
)

// party is a phone that answers every call.
type party struct {
	ua    *UA
	calls chan *Leg

	mu   sync.Mutex
	legs []*Leg // all
}

func newParty(t *testing.T, ip string, sw netip.AddrPort) *party {
	t.Helper()
	p := &party{calls: make(chan *Leg, 4)}
	ua, err := NewUA(UAConfig{Local: netip.AddrPortFrom(netip.MustParseAddr(ip), 0), Switch: sw, Accept: func(l *Leg) {
		l.SetSound(netip.AddrPortFrom(netip.MustParseAddr(ip), 40000), false)
		l.Ring()
		l.Answer()
		p.has(l)
		p.calls <- l
	}})
	if err != nil {
		t.Fatal(err)
	}
	p.ua = ua
	t.Cleanup(ua.Close)
	return p
}

func (p *party) has(l *Leg) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.legs = append(p.legs, l)
}

func (p *party) peer(name string) DialplanPeer {
	return DialplanPeer{Name: name, Kind: "phone", Sources: []string{p.ua.Addr().String()}, Target: "sip:" + p.ua.Addr().String()}
}

// call has p call a number; the call is answered at to.
func (p *party) call(ctx context.Context, t *testing.T, number string, to *party) (*Leg, *Leg) {
	t.Helper()
	at := p.ua.Addr()
	l, err := Invite(p.ua, "100", number, func(l *Leg) { l.SetSound(netip.AddrPortFrom(at.Addr(), 40000), false) })
	if err != nil {
		t.Fatal(err)
	}
	p.has(l)
	if err := await(ctx, l.Accepted, "200 to "+number); err != nil {
		t.Fatal(err)
	}
	return l, to.next(ctx, t)
}

func (p *party) next(ctx context.Context, t *testing.T) *Leg {
	t.Helper()
	select {
	case l := <-p.calls:
		if err := await(ctx, l.Accepted, "ACK"); err != nil {
			t.Fatal(err)
		}
		return l
	case <-ctx.Done():
		t.Fatal("no call came")
	}
	return nil
}

// TestTransfersThroughTheSwitch: blind, attended with either call's side, as
// three phones see it.
func TestTransfersThroughTheSwitch(t *testing.T) {
	b, _ := realSwitch(t, 0, nil)
	sw := b.sw.cfg.Site.SIP
	alice, bob, carol := newParty(t, "127.0.0.4", sw), newParty(t, "127.0.0.5", sw), newParty(t, "127.0.0.6", sw)
	if err := b.sw.plan(t.Context(), Dialplan{
		Peers:  []DialplanPeer{alice.peer("alice"), bob.peer("bob"), carol.peer("carol")},
		Routes: []DialplanRoute{{Prefix: "5", To: "bob"}, {Prefix: "6", To: "carol"}},
	}); err != nil {
		t.Fatal(err)
	}
	hear := func(ctx context.Context, s *signal, what string) {
		t.Helper()
		if err := await(ctx, s, what); err != nil {
			t.Error(err)
		}
	}
	t.Run("blind", func(t *testing.T) {
		ctx := patient(t, time.Minute)
		a, atBob := alice.call(ctx, t, "500", bob)
		if err := atBob.Refer(ctx, "sip:600@"+sw.String()); err != nil {
			t.Fatal(err)
		}
		atCarol := carol.next(ctx, t)
		hear(ctx, atBob.HungUp, "BYE at the transferor")
		if told := atBob.Told(); len(told) == 0 || told[len(told)-1] != "SIP/2.0 200 OK" {
			t.Errorf("the transferor was told %q", told)
		}
		if err := atCarol.Bye(ctx); err != nil {
			t.Error(err)
		}
		hear(ctx, a.HungUp, "BYE at the caller")
	})
	t.Run("attended", func(t *testing.T) {
		ctx := patient(t, time.Minute)
		a, atBob := alice.call(ctx, t, "500", bob)
		b2, atCarol := bob.call(ctx, t, "600", carol)
		if err := atBob.Refer(ctx, b2.Dialog()); err != nil {
			t.Fatal(err)
		}
		hear(ctx, b2.HungUp, "BYE in the replaced dialog")
		hear(ctx, atBob.HungUp, "BYE at the transferor")
		if told := atBob.Told(); !slices.Contains(told, "SIP/2.0 200 OK") {
			t.Errorf("the transferor was told %q", told)
		}
		if err := a.Info(ctx, "5"); err != nil {
			t.Error(err)
		}
		if atCarol.Infos() != 1 {
			t.Error("what Alice says does not reach Carol through both calls")
		}
		if err := a.Bye(ctx); err != nil {
			t.Error(err)
		}
		hear(ctx, atCarol.HungUp, "BYE at the other end of both calls")
	})
	t.Run("no route", func(t *testing.T) {
		ctx := patient(t, time.Minute)
		a, atBob := alice.call(ctx, t, "500", bob)
		if err := atBob.Refer(ctx, "sip:900@"+sw.String()); err == nil {
			t.Error("sent to a number that the dialplan does not have")
		}
		if err := a.Bye(ctx); err != nil {
			t.Error(err)
		}
		hear(ctx, atBob.HungUp, "BYE")
	})
	for _, l := range []*party{alice, bob, carol} {
		if n := l.ua.Stray(); n > 0 {
			t.Error(fmt.Errorf("%d messages of no call at %s", n, l.ua.Addr()))
		}
		for _, leg := range l.legs {
			if v, _ := leg.Violations(); len(v) > 0 {
				t.Errorf("%s, call of %s to %s: %q", l.ua.Addr(), leg.From, leg.Number, v)
			}
		}
	}
}
