package loadtest

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// drain is how long a packet may be under way after its sender has stopped; overdue is
// how long one that is missing then is waited for: a reader may be held up. What is
// missing after that is lost.
const (
	drain   = 150 * time.Millisecond
	overdue = 2 * time.Second
)

// Rig is a set of callers, a set of callees, and their sound.
type Rig struct {
	cfg     RigConfig
	sound   *Sound // nil without RTP
	callers []*UA
	callees []*UA
	phone   *UA // of an account; nil without
	serial  atomic.Uint32

	mu    sync.Mutex
	calls map[string]*Call // by number dialled
	doubt []string         // what no call can be blamed for
}

// RigConfig is a rig. Zero values mean the defaults of the comments.
type RigConfig struct {
	Switch   netip.AddrPort // where the switch listens
	CallerIP netip.Addr     // default 127.0.0.2
	CalleeIP netip.Addr     // default 127.0.0.3
	UAs      int            // sockets a side, default 1
	TCP      bool           // SIP over TCP
	TLS      bool           // SIP over TLS, of a bed
	RTP      bool           // open sockets and send sound
	Mux      bool           // offer rtcp-mux
	Prefix   string         // of every number dialled, default "7"
	Linger   time.Duration  // see UAConfig
	Phone    netip.Addr     // of a caller that no dialplan knows, who has an account; zero: none
	secure   *tls.Config    // of TLS
}

// NewRig opens the SIP sockets and starts the sound.
func NewRig(c RigConfig) (*Rig, error) {
	if !c.CallerIP.IsValid() {
		c.CallerIP = netip.MustParseAddr("127.0.0.2")
	}
	if !c.CalleeIP.IsValid() {
		c.CalleeIP = netip.MustParseAddr("127.0.0.3")
	}
	c.UAs = max(c.UAs, 1)
	if c.Prefix == "" {
		c.Prefix = "7"
	}
	r := &Rig{cfg: c, calls: map[string]*Call{}}
	for range c.UAs {
		for _, side := range []struct {
			to *[]*UA
			ip netip.Addr
		}{{&r.callers, c.CallerIP}, {&r.callees, c.CalleeIP}} {
			u, err := NewUA(UAConfig{
				Local: netip.AddrPortFrom(side.ip, 0), Switch: c.Switch, TCP: c.TCP, TLS: c.secure, Linger: c.Linger, Accept: r.arrive, Mute: r.mute,
			})
			if err != nil {
				r.Close()
				return nil, err
			}
			*side.to = append(*side.to, u)
		}
	}
	if c.Phone.IsValid() {
		var err error
		if r.phone, err = NewUA(UAConfig{Local: netip.AddrPortFrom(c.Phone, 0), Switch: c.Switch, TCP: c.TCP, Linger: c.Linger}); err != nil {
			r.Close()
			return nil, err
		}
	}
	if c.RTP {
		var err error
		if r.sound, err = NewSound(); err != nil {
			r.Close()
			return nil, err
		}
	}
	return r, nil
}

func (r *Rig) all() []*UA {
	us := append(append([]*UA(nil), r.callers...), r.callees...)
	if r.phone != nil {
		us = append(us, r.phone)
	}
	return us
}

// Close closes all sockets.
func (r *Rig) Close() {
	for _, u := range r.all() {
		u.Close()
	}
	if r.sound != nil {
		r.sound.Close()
	}
}

// SetSwitch points every UA at another address; before the first call.
func (r *Rig) SetSwitch(at netip.AddrPort) {
	for _, u := range r.all() {
		switch t := u.tr.(type) {
		case *udpTransport:
			t.to = at
		case *tcpTransport:
			t.to = at
		}
	}
}

// Dialplan has the rig's sockets as peers and its prefix as routes, one digit
// after the prefix for each callee socket.
func (r *Rig) Dialplan() Dialplan {
	// A demo's calls may ring for longer than the default minute.
	p := Dialplan{Limits: json.RawMessage(`{"no_answer": 3600}`)}
	add := func(side string, us []*UA) {
		for i, u := range us {
			src, target := u.Addr().String(), "sip:"+u.Addr().String()
			if u.tr.reliable() {
				src, target = u.Addr().Addr().String(), target+";transport="+strings.ToLower(u.tr.name())
				if i > 0 {
					src = "" // one address, one peer
				}
			}
			peer := DialplanPeer{Name: fmt.Sprintf("%s%d", side, i), Kind: "trunk", Target: target}
			if src != "" {
				peer.Sources = []string{src}
			}
			p.Peers = append(p.Peers, peer)
		}
	}
	add("caller", r.callers)
	add("callee", r.callees)
	for i := range r.callees {
		p.Routes = append(p.Routes, DialplanRoute{Prefix: fmt.Sprintf("%s%d", r.cfg.Prefix, i), To: fmt.Sprintf("callee%d", i)})
	}
	return p
}

// Call is one call through the switch, with both its ends.
type Call struct {
	rig    *Rig
	Serial uint32
	Number string
	From   string
	extra  []string   // headers of the INVITE
	plan   func(*Leg) // what the callee does when the INVITE comes
	A, B   *Leg
	more   []*Leg // callees beside B, of a fork
	SA, SB *Stream
	here   *signal // the callee has the INVITE
	mu     sync.Mutex
	doubt  []string

	branches int        // of a fork
	kind     string     // "" = none of kindOf
	index    int        // among those of its kind
	caller   func(*Leg) // sets the caller up before its INVITE
	target   string     // number that B sends A to
	there    *signal    // the INVITE of that has come to C
	C        *Leg
	refresh  int // seconds that the callee gives its session; 0: no session timer
}

// Mark is what makes the switch treat a call specially (a number its next
// release refuses, a header that uses a new feature).
type Mark struct {
	Number  string   `json:"number"`  // dialled instead of a number of the rig; "{n}" stands for one
	Headers []string `json:"headers"` // added to the INVITE
}

// NewCall prepares a call; plan says what its callee does.
func (r *Rig) NewCall(m Mark, plan func(*Leg)) *Call {
	n := r.serial.Add(1)
	c := &Call{rig: r, Serial: n, plan: plan, here: newSignal(), extra: m.Headers}
	c.Number = fmt.Sprintf("%s%d%06d", r.cfg.Prefix, int(n)%len(r.callees), n)
	if m.Number != "" {
		c.Number = m.Number
	}
	c.From = fmt.Sprintf("1%06d", n)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls[c.Number] = c
	return c
}

// Forget drops a finished call from the rig's table.
func (r *Rig) Forget(c *Call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.calls, c.Number)
}

// arrive is Accept of every UA.
func (r *Rig) arrive(l *Leg) {
	r.mu.Lock()
	c := r.calls[l.Number]
	if c == nil {
		r.doubt = append(r.doubt, "INVITE for "+l.Number+", which nobody has dialled")
	}
	r.mu.Unlock()
	if c == nil {
		l.Reject(404)
		return
	}
	c.mu.Lock()
	if c.target != "" && l.Number == c.target && c.C == nil {
		c.C = l
		l.mu.Lock()
		c.sound(l, c.SB) // B hears no more
		l.mu.Unlock()
		c.mu.Unlock()
		l.Ring()
		c.there.set()
		return
	}
	if c.B != nil && len(c.more) < c.branches-1 {
		c.more = append(c.more, l)
		l.mu.Lock()
		c.sound(l, c.SB) // of one of them at most is ever heard
		l.mu.Unlock()
		last := len(c.more) == c.branches-1
		c.mu.Unlock()
		c.plan(l)
		if last {
			c.here.set()
		}
		return
	}
	if c.B != nil {
		c.doubt = append(c.doubt, "a second INVITE came, under another Call-ID")
		c.mu.Unlock()
		l.Reject(486)
		return
	}
	c.B = l
	l.mu.Lock()
	c.sound(l, c.SB)
	if s, ok := readSDP(l.incoming.req.body); ok && l.Remote != nil {
		l.Remote(s.addr) // the offer came before we listened
	}
	l.mu.Unlock()
	whole := c.branches <= 1
	c.mu.Unlock()
	if whole {
		c.here.set()
	}
	c.plan(l)
}

// sound connects a leg to its stream, or to a port that nobody listens on.
func (c *Call) sound(l *Leg, s *Stream) {
	if s == nil {
		l.local = netip.AddrPortFrom(l.ua.Addr().Addr(), uint16(20000+c.Serial%20000*2))
		l.mux = c.rig.cfg.Mux
		return
	}
	l.local, l.mux, l.Remote = s.Addr(), c.rig.cfg.Mux, s.SetRemote
}

// Place sends the INVITE.
func (c *Call) Place() (err error) {
	if err := c.open(); err != nil {
		return err
	}
	u := c.rig.callers[int(c.Serial)%len(c.rig.callers)]
	if c.kind == KindChallenged {
		u, c.From = c.rig.phone, rigUser
	}
	c.A, err = Invite(u, c.From, c.Number, func(l *Leg) {
		c.sound(l, c.SA)
		if c.caller != nil {
			c.caller(l)
		}
	}, c.extra...)
	return err
}

func (c *Call) open() (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rig.sound != nil {
		if c.SA, err = c.rig.sound.Open(c.rig.cfg.CallerIP, c.Serial, 'a'); err != nil {
			return err
		}
		if c.SB, err = c.rig.sound.Open(c.rig.cfg.CalleeIP, c.Serial, 'b'); err != nil {
			return err
		}
	}
	return nil
}

var errNoTalk = errors.New("loadtest: call did not come up")

// Establish places the call and waits until both ends have it.
func (c *Call) Establish(ctx context.Context) error {
	if err := c.Place(); err != nil {
		return err
	}
	code, err := c.A.Final(ctx)
	if err != nil {
		return err
	}
	if code != 200 {
		return fmt.Errorf("%w: %d", errNoTalk, code)
	}
	if err := await(ctx, c.here, "INVITE at the callee"); err != nil {
		return err
	}
	return await(ctx, c.B.Accepted, "ACK at the callee")
}

// Talk starts sound both ways.
func (c *Call) Talk() {
	for _, s := range []*Stream{c.SA, c.SB} {
		if s != nil {
			s.Pause()
			s.Talk()
		}
	}
}

// Hush stops sound both ways and waits until nothing is under way.
func (c *Call) Hush(ctx context.Context) {
	if c.SA == nil {
		return
	}
	c.SA.Hush()
	c.SB.Hush()
	pause(ctx, drain)
	for begin := time.Now(); c.Hearing().Lost > 0 && time.Since(begin) < overdue && pause(ctx, 10*time.Millisecond); {
	}
	c.SA.Pause()
	c.SB.Pause()
}

// Dropped reports whether the switch has ended the call on either side.
func (c *Call) Dropped() bool {
	return c.A.HungUp.Is() || c.B != nil && c.B.HungUp.Is()
}

// HangUp sends BYE from one side, waits for its answer and for the BYE at the other.
func (c *Call) HangUp(ctx context.Context, byCaller bool) error {
	from, to := c.A, c.B
	if !byCaller {
		from, to = c.B, c.A
	}
	if c.Dropped() {
		return errors.New("loadtest: the switch had hung up already")
	}
	if err := from.Bye(ctx); err != nil {
		return err
	}
	return await(ctx, to.HungUp, "BYE at the other end")
}

// Close frees the sockets of the call's sound.
func (c *Call) Close() {
	if c.SA != nil {
		c.SA.Close()
	}
	if c.SB != nil {
		c.SB.Close()
	}
}

// Hearing sums up both directions.
func (c *Call) Hearing() (h Hearing) {
	if c.SA == nil || c.SB == nil {
		return h
	}
	h = c.SB.Heard(c.SA.Sent())
	h.Add(c.SA.Heard(c.SB.Sent()))
	return h
}

// Violations of both ledgers, and whatever else is wrong on the wire.
func (c *Call) Violations() (out []string, retransmissions int) {
	c.mu.Lock()
	out = append(out, c.doubt...)
	c.mu.Unlock()
	for side, l := range c.legs() {
		v, n := l.Violations()
		retransmissions += n
		for _, s := range v {
			out = append(out, side+": "+s)
		}
	}
	return out, retransmissions
}

// legs are both ends, and who else was called, by name.
func (c *Call) legs() map[string]*Leg {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]*Leg{"a": c.A, "b": c.B, "c": c.C}
	for i, l := range c.more {
		out[fmt.Sprintf("b%d", i+2)] = l
	}
	maps.DeleteFunc(out, func(_ string, l *Leg) bool { return l == nil })
	return out
}

func await(ctx context.Context, s *signal, what string) error {
	select {
	case <-s.C():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("loadtest: no %s: %w", what, ctx.Err())
	}
}

// pause waits; false: ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
