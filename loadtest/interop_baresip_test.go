package loadtest

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// control speaks to a baresip over its ctrl_tcp: netstrings of JSON.
type control struct {
	chat
	conn net.Conn
}

func (p *phone) control(t *testing.T) *control {
	t.Helper()
	conn, err := net.Dial("tcp", p.ctl.String()) //nolint:noctx // loopback
	for ctx := patient(t, 20*time.Second); err != nil; {
		if !pause(ctx, 20*time.Millisecond) { // it listens there a little later than for SIP
			t.Fatal(err)
		}
		conn, err = net.Dial("tcp", p.ctl.String()) //nolint:noctx // as above
	}
	c := &control{conn: conn}
	done := make(chan struct{})
	go func() { _, _ = io.Copy(&c.chat, conn); close(done) }()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
		if t.Failed() {
			t.Logf("%s told:\n%s", p.at, tail(c.all(0)))
		}
	})
	return c
}

// ask gives a command and returns what was said until its answer.
func (c *control) ask(t *testing.T, command string, params ...string) string {
	t.Helper()
	since := c.mark()
	text := fmt.Sprintf(`{"command":%q,"params":%q}`, command, strings.Join(params, " "))
	if _, err := fmt.Fprintf(c.conn, "%d:%s,", len(text), text); err != nil {
		t.Fatal(err)
	}
	c.says(t, since, `"response":true`)
	return c.all(since)
}

// Three baresips without accounts: the one that transfers is told that a number
// is not known (it hangs up then); a transfer that is not refused joins the other
// two, whose call moves to the next release and back. Digits pass (RFC 4733),
// before and after a hold.
func TestBaresipTransfersHoldsAndDials(t *testing.T) {
	b, _ := realSwitch(t, 0, nil)
	at := b.sw.cfg.Site.SIP
	bob, carol := startPhone(t, "127.0.0.7", "500"), startPhone(t, "127.0.0.8", "600")
	if err := b.sw.plan(t.Context(), Dialplan{
		Peers: []DialplanPeer{
			{Name: "alice", Kind: "phone", Sources: []string{"127.0.0.6"}, Target: "sip:alice@127.0.0.6"},
			{Name: "bob", Kind: "phone", Sources: []string{bob.at.String()}, Target: "sip:500@" + bob.at.String()},
			{Name: "carol", Kind: "phone", Sources: []string{carol.at.String()}, Target: "sip:600@" + carol.at.String()},
		},
		Routes: []DialplanRoute{{Prefix: "5", To: "bob"}, {Prefix: "6", To: "carol"}},
	}); err != nil {
		t.Fatal(err)
	}
	atBob, atCarol := bob.control(t), carol.control(t)
	alice := startPhone(t, "127.0.0.6", "alice", dial("500", at)...)
	atAlice := alice.control(t)
	atBob.says(t, 0, `"type":"CALL_ESTABLISHED"`)
	pause(t.Context(), time.Second)

	atBob.ask(t, "transfer", "sip:999@"+at.String())
	atAlice.says(t, 0, `"type":"CALL_CLOSED"`) // a baresip whose transfer fails hangs up
	again := atBob.mark()
	atAlice.ask(t, "dial", "sip:500@"+at.String())
	atBob.says(t, again, `"type":"CALL_ESTABLISHED"`)
	pause(t.Context(), time.Second)
	atBob.ask(t, "transfer", "sip:600@"+at.String())
	atCarol.says(t, 0, `"type":"CALL_ESTABLISHED"`)
	atBob.says(t, again, `"type":"CALL_CLOSED"`)
	b.onward(t, 1)
	pause(t.Context(), 2*time.Second)
	digit := func(key string) {
		t.Helper()
		since := atCarol.mark()
		atAlice.ask(t, "sndcode", key)
		atCarol.says(t, since, `"type":"CALL_DTMF_START"`)
		atCarol.says(t, since, `"param":"`+key+`"`)
	}
	digit("5")
	atAlice.ask(t, "hold")
	pause(t.Context(), 500*time.Millisecond)
	atAlice.ask(t, "resume")
	pause(t.Context(), 500*time.Millisecond)
	digit("7")
	atAlice.ask(t, "hangup")
	atCarol.says(t, 0, `"type":"CALL_CLOSED"`)
	for _, p := range []*phone{alice, bob, carol} {
		p.stop(t)
	}
	if !strings.Contains(bob.out.String(), "transfer failed: 404") {
		t.Error("the transferor has not heard of the 404")
	}
	carol.mustHearTone(t, 2)
	if cdrs := b.cdrs(t, 2); cdrs[0].HungUpBy != "b" || cdrs[1].Result != "answered" || cdrs[1].HungUpBy != "a" {
		t.Errorf("%+v", cdrs)
	}
}

// cdrs waits until so many are stored.
func (b *bed) cdrs(t *testing.T, n int) []CDR {
	t.Helper()
	ctx := patient(t, 20*time.Second)
	for {
		cdrs, err := b.sw.API.CDRs(ctx)
		if err == nil && len(cdrs) >= n {
			return cdrs
		}
		if !pause(ctx, 50*time.Millisecond) {
			t.Fatalf("%d CDRs, not %d: %v", len(cdrs), n, err)
		}
	}
}
