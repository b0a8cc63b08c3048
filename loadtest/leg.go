package loadtest

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Errors of a leg.
var (
	ErrTimeout = errors.New("loadtest: no final response")
	ErrRefused = errors.New("loadtest: refused")
)

// Leg is one side of one call: a dialog, its transactions, its ledger.
type Leg struct {
	ua     *UA
	callID string
	caller bool   // we sent the INVITE
	Number string // dialled
	From   string // user part of the caller

	// Set before the first message, then only read.
	Remote func(at netip.AddrPort) // the other side's newest sound address
	speaks speaker                 // nil: plain RTP, described by local and mux

	Ringing  *signal // 18x came (caller)
	Early    *signal // a provisional response with SDP came (caller)
	Accepted *signal // 2xx came (caller), ACK came (callee)
	Canceled *signal // CANCEL came (callee)
	HungUp   *signal // BYE came
	Reliable *signal // a provisional response that wants a PRACK came (caller)
	Asked    *signal // 401 or 407 came (caller); its INVITE with credentials (callee)

	says      []string // header lines of our 2xx to INVITE and UPDATE
	user      string   // who asks us for a password may have it (caller); the name we ask for (callee)
	prackLate bool     // PRACK is sent when the test says so

	mu       sync.Mutex
	local    netip.AddrPort // our sound
	mux      bool
	version  int
	ourURI   string // with tag: From of our requests
	theirURI string
	target   string
	routes   []string
	cseq     uint32
	localTag string
	onHold   string // direction that the far end offered last
	clients  map[string]*clientTx
	servers  map[string]*serverTx
	invite   *clientTx // the first
	incoming *serverTx // the first
	ledger   Ledger
	stopped  bool
	info     int    // INFO that came in
	keys     string // of those, in order
	withheld map[string]*withheld
	early    *message // the newest response that wants a PRACK
	ask401   *message // that asks for a password
	told     []string // by NOTIFY
	times    LegTimes
}

// speaker describes the sound of a leg that is not plain RTP.
type speaker interface {
	offer() []byte
	answer(offer []byte) []byte
	answered(sdp []byte)
}

// LegTimes are the rig's own clock; zero: did not happen.
type LegTimes struct {
	Invite   time.Time // sent or received
	Trying   time.Time
	Ringing  time.Time
	Answered time.Time // 2xx sent or received
	Acked    time.Time
	Ended    time.Time
}

// signal is an event that happens once.
type signal struct {
	once sync.Once
	c    chan struct{}
}

func newSignal() *signal             { return &signal{c: make(chan struct{})} }
func (s *signal) set()               { s.once.Do(func() { close(s.c) }) }
func (s *signal) C() <-chan struct{} { return s.c }

// Is reports whether it has happened.
func (s *signal) Is() bool {
	select {
	case <-s.c:
		return true
	default:
		return false
	}
}

func newLeg(u *UA, callID string, caller bool) *Leg {
	return &Leg{
		ua: u, callID: callID, caller: caller, version: 1,
		Ringing: newSignal(), Early: newSignal(), Accepted: newSignal(), Canceled: newSignal(), HungUp: newSignal(),
		Reliable: newSignal(), Asked: newSignal(), withheld: map[string]*withheld{},
		clients: map[string]*clientTx{}, servers: map[string]*serverTx{},
		localTag: u.id(), onHold: sendRecv,
	}
}

// newCallee makes the leg of an INVITE that came in.
func newCallee(u *UA, m *message) *Leg {
	l := newLeg(u, m.callID(), false)
	l.Number, l.From = userOf(m.uri), userOf(uriOf(m.get("from")))
	l.theirURI = m.get("from")
	l.ourURI = m.get("to") + ";tag=" + l.localTag
	l.target, l.routes = uriOf(m.get("contact")), m.all("record-route")
	l.times.Invite = time.Now()
	return l
}

// SetSound says where our sound is received; before Answer, Progress or Invite.
func (l *Leg) SetSound(at netip.AddrPort, mux bool) { l.local, l.mux = at, mux }

// Times returns what happened when.
func (l *Leg) Times() LegTimes {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.times
}

// Infos counts INFO requests that came in.
func (l *Leg) Infos() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.info
}

// Keys are the digits of the INFO requests that came in, in order.
func (l *Leg) Keys() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.keys
}

// Violations of the leg's ledger, and its retransmissions.
func (l *Leg) Violations() (v []string, retransmissions int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ledger.Violations(), l.ledger.Retransmissions()
}

// Count returns how many distinct transactions of a method came in.
func (l *Leg) Count(method string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ledger.Distinct(method)
}

// sdp writes our side; l.mu is held.
func (l *Leg) sdp(direction string) []byte {
	switch {
	case l.speaks != nil && l.caller:
		return l.speaks.offer()
	case l.speaks != nil:
		return l.speaks.answer(l.incoming.req.body)
	}
	b := writeSDP(l.local, direction, l.version, l.mux)
	l.version++
	return b
}

// heard takes the other side's SDP; l.mu is held.
func (l *Leg) heard(m *message) bool {
	if !strings.HasPrefix(strings.ToLower(m.get("content-type")), "application/sdp") {
		return false
	}
	if l.speaks != nil {
		if l.caller {
			l.speaks.answered(m.body)
		}
		return true
	}
	s, ok := readSDP(m.body)
	if !ok {
		return false
	}
	l.onHold = s.direction
	if l.Remote != nil {
		l.Remote(s.addr)
	}
	return true
}

// Direction is what the other side's newest SDP says.
func (l *Leg) Direction() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.onHold
}

// build writes a request in or before the dialog; l.mu is held.
func (l *Leg) build(method, branch string, cseq uint32, contentType string, body []byte, extra []string) []byte {
	var w builder
	w.line(method, " ", l.target, " SIP/2.0")
	w.line("Via: SIP/2.0/", l.ua.tr.name(), " ", l.ua.Addr().String(), ";rport;branch=", branch)
	w.line("Max-Forwards: 70")
	w.line("From: ", l.ourURI)
	w.line("To: ", l.theirURI)
	w.line("Call-ID: ", l.callID)
	w.line(fmt.Sprintf("CSeq: %d %s", cseq, method))
	w.line("Contact: <", l.ua.contact(), ">")
	for _, r := range l.routes {
		w.line("Route: ", r)
	}
	for _, h := range extra {
		w.line(h)
	}
	return w.finish(contentType, body)
}

func (l *Leg) end() {
	if l.times.Ended.IsZero() {
		l.times.Ended = time.Now()
		l.ua.forget(l)
	}
}

func (l *Leg) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	for _, t := range l.clients {
		t.finish(nil)
	}
	for _, t := range l.servers {
		t.stop()
	}
}
