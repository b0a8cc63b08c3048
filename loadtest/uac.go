package loadtest

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// clientTx is a request of ours; its leg's mutex guards it.
type clientTx struct {
	leg      *Leg
	method   string
	branch   string
	cseq     uint32
	raw      []byte
	ack      []byte // of an INVITE, once there is a final response
	provis   bool
	timer    *time.Timer
	wait     time.Duration
	deadline time.Time
	final    *message // nil with done closed: timed out
	done     chan struct{}
	over     bool
}

// Invite places a call to number at host (ip:port of the switch). It returns
// as soon as the INVITE is on its way.
func Invite(u *UA, from, number string, set func(*Leg), extra ...string) (*Leg, error) {
	l := newLeg(u, u.id()+"@rig", true)
	l.Number, l.From = number, from
	if set != nil {
		set(l)
	}
	if l.target == "" {
		l.target = "sip:" + number + "@" + u.switchHost()
	}
	l.ourURI = "<sip:" + from + "@" + hostOf(u.Addr()) + ">;tag=" + l.localTag
	l.theirURI = "<" + l.target + ">"
	if u.tr.reliable() {
		l.target += ";transport=" + strings.ToLower(u.tr.name())
	}
	u.add(l)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.times.Invite = time.Now()
	var err error
	l.invite, err = l.start("INVITE", "application/sdp", l.sdp(sendRecv), extra)
	return l, err
}

func (u *UA) switchHost() string {
	switch t := u.tr.(type) {
	case *udpTransport:
		return t.to.String()
	case *tcpTransport:
		return t.to.String()
	}
	return ""
}

// start sends a new request; l.mu is held.
func (l *Leg) start(method, contentType string, body []byte, extra []string) (*clientTx, error) {
	l.cseq++
	t := &clientTx{
		leg: l, method: method, branch: "z9hG4bK" + l.ua.id(), cseq: l.cseq,
		wait: timerT1, deadline: time.Now().Add(timerB), done: make(chan struct{}),
	}
	t.raw = l.build(method, t.branch, t.cseq, contentType, body, extra)
	return t, l.launch(t)
}

func (l *Leg) launch(t *clientTx) error {
	l.clients[t.method+t.branch] = t
	err := l.ua.tr.send(t.raw)
	t.timer = time.AfterFunc(t.wait, t.again)
	return err
}

// again is timers A, B, E and F.
func (t *clientTx) again() {
	t.leg.mu.Lock()
	defer t.leg.mu.Unlock()
	if t.over || t.leg.stopped {
		return
	}
	if t.method == "INVITE" && t.provis {
		return // it may ring for long
	}
	if time.Now().After(t.deadline) {
		t.finish(nil)
		return
	}
	if !t.leg.ua.tr.reliable() {
		_ = t.leg.ua.tr.send(t.raw)
	}
	t.wait *= 2
	if t.method != "INVITE" {
		t.wait = min(t.wait, timerT2)
	}
	t.timer.Reset(t.wait)
}

func (t *clientTx) finish(m *message) {
	if t.over {
		return
	}
	t.over, t.final = true, m
	if t.timer != nil {
		t.timer.Stop()
	}
	close(t.done)
}

// outcome waits for the final response.
func (t *clientTx) outcome(ctx context.Context) (*message, error) {
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w", t.method, ctx.Err())
	case <-t.done:
	}
	if t.final == nil {
		return nil, fmt.Errorf("%s: %w", t.method, ErrTimeout)
	}
	return t.final, nil
}

func (t *clientTx) success(ctx context.Context) error {
	m, err := t.outcome(ctx)
	if err != nil {
		return err
	}
	if m.code >= 300 {
		return fmt.Errorf("%s: %w: %d %s", t.method, ErrRefused, m.code, m.reason)
	}
	return nil
}

// response takes a response to a request of ours.
func (l *Leg) response(m *message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ledger.response(m)
	_, method := m.cseq()
	t := l.clients[method+m.branch()]
	if t == nil || l.stopped {
		return
	}
	if method == "INVITE" {
		l.inviteResponse(t, m)
	}
	if m.code < 200 {
		t.provis = true
		return
	}
	if t.method == "BYE" {
		l.ledger.ended = true
		l.end()
	}
	t.finish(m)
}

func (l *Leg) inviteResponse(t *clientTx, m *message) {
	now := time.Now()
	switch {
	case m.code == 100:
		setOnce(&l.times.Trying, now)
	case m.code < 200:
		l.wantsPrack(m)
		if l.heard(m) {
			l.Early.set()
		}
		setOnce(&l.times.Ringing, now)
		l.Ringing.set()
	case m.code < 300:
		if t.ack == nil {
			l.theirURI = m.get("to")
			l.target = uriOf(m.get("contact"))
			if t == l.invite {
				l.routes = reversed(m.all("record-route"))
				l.times.Answered = now
			}
			l.heard(m)
			t.ack = l.build("ACK", "z9hG4bK"+l.ua.id(), t.cseq, "", nil, nil)
		}
		_ = l.ua.tr.send(t.ack)
		l.Accepted.set()
	default:
		if t.ack == nil {
			to := l.theirURI
			l.theirURI = m.get("to")
			t.ack = l.build("ACK", t.branch, t.cseq, "", nil, nil)
			l.theirURI = to
		}
		_ = l.ua.tr.send(t.ack)
		switch {
		case t == l.invite && l.user != "" && (m.code == 401 || m.code == 407):
			l.ask401 = m
			l.Asked.set()
		case t == l.invite:
			l.end()
		}
	}
}

func setOnce(t *time.Time, now time.Time) {
	if t.IsZero() {
		*t = now
	}
}

func reversed(s []string) []string {
	out := make([]string, 0, len(s))
	for i := len(s) - 1; i >= 0; i-- {
		out = append(out, s[i])
	}
	return out
}

// Final waits for the final response to our INVITE and returns its code.
func (l *Leg) Final(ctx context.Context) (int, error) {
	m, err := l.invite.outcome(ctx)
	if err != nil {
		return 0, err
	}
	return m.code, nil
}

// Cancel sends CANCEL for our INVITE and waits for its answer.
func (l *Leg) Cancel(ctx context.Context) error {
	l.mu.Lock()
	inv := l.invite
	t := &clientTx{
		leg: l, method: "CANCEL", branch: inv.branch, cseq: inv.cseq,
		wait: timerT1, deadline: time.Now().Add(timerB), done: make(chan struct{}),
	}
	t.raw = l.build("CANCEL", t.branch, t.cseq, "", nil, nil)
	err := l.launch(t)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	return t.success(ctx)
}

// request sends a request in the dialog and waits for its final response.
func (l *Leg) ask(ctx context.Context, method, contentType string, body []byte) error {
	l.mu.Lock()
	t, err := l.start(method, contentType, body, nil)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	return t.success(ctx)
}

// Bye hangs up and waits for the answer.
func (l *Leg) Bye(ctx context.Context) error { return l.ask(ctx, "BYE", "", nil) }

// Info sends INFO with a DTMF digit and waits for the answer.
func (l *Leg) Info(ctx context.Context, digit string) error {
	return l.ask(ctx, "INFO", "application/dtmf-relay", []byte("Signal="+digit+"\r\nDuration=160\r\n"))
}

// Reinvite offers another direction (hold: sendonly, resume: sendrecv).
func (l *Leg) Reinvite(ctx context.Context, direction string) error {
	l.mu.Lock()
	t, err := l.start("INVITE", "application/sdp", l.sdp(direction), nil)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	return t.success(ctx)
}

// hostOf is an address as a SIP URI has it.
func hostOf(at netip.AddrPort) string {
	if at.Addr().Is6() {
		return "[" + at.Addr().String() + "]"
	}
	return at.Addr().String()
}
