package loadtest

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Timers of RFC 3261 section 17.
const (
	timerT1 = 500 * time.Millisecond
	timerT2 = 4 * time.Second
	timerB  = 32 * time.Second
)

// UA is a user agent of the rig: many calls over one socket.
type UA struct {
	tr     transport
	prefix string
	serial atomic.Uint64
	linger time.Duration
	accept func(*Leg) // a new INVITE; must not block
	mute   func(number string) bool
	wg     sync.WaitGroup
	stray  atomic.Int64 // requests and responses of no call we know
	broken atomic.Int64 // not SIP

	mu   sync.Mutex
	legs map[string]*Leg // by Call-ID
}

// UAConfig says where a UA is and whom it speaks to.
type UAConfig struct {
	Local  netip.AddrPort // port 0: any
	Switch netip.AddrPort // where all requests go
	TCP    bool
	TLS    *tls.Config   // over TCP; nil: without
	Linger time.Duration // how long a finished call still takes note of messages; default 33 s
	// Accept gets each new call, before anything was answered. It must not block.
	Accept func(*Leg)
	// Mute tells the numbers whose INVITE gets no 100 Trying. It must not block. Default: none.
	Mute func(number string) bool
}

// NewUA opens the socket and starts reading.
func NewUA(c UAConfig) (*UA, error) {
	var tr transport
	var err error
	if c.TCP || c.TLS != nil {
		tr, err = newTCP(c.Local, c.Switch, c.TLS)
	} else {
		tr, err = newUDP(c.Local, c.Switch)
	}
	if err != nil {
		return nil, err
	}
	if c.Linger == 0 {
		c.Linger = timerB + time.Second
	}
	u := &UA{tr: tr, prefix: randomHex(6), linger: c.Linger, accept: c.Accept, mute: c.Mute, legs: map[string]*Leg{}}
	u.wg.Go(func() { tr.serve(u.receive) })
	return u, nil
}

// Addr is where the UA listens.
func (u *UA) Addr() netip.AddrPort { return u.tr.local() }

// Lost counts connections that have ended.
func (u *UA) Lost() int {
	t, ok := u.tr.(*tcpTransport)
	if !ok {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lost
}

// Stray counts messages that belong to no call of this UA.
func (u *UA) Stray() int64 { return u.stray.Load() }

// Close stops everything; calls are not hung up.
func (u *UA) Close() {
	u.mu.Lock()
	legs := u.legs
	u.legs = map[string]*Leg{}
	u.mu.Unlock()
	for _, l := range legs {
		l.stop()
	}
	_ = u.tr.close()
	u.wg.Wait()
}

func (u *UA) id() string {
	const digits = "0123456789abcdefghijklmnopqrstuvwxyz"
	n := u.serial.Add(1)
	b := []byte(u.prefix)
	for ; n > 0; n /= 36 {
		b = append(b, digits[n%36])
	}
	return string(b)
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

func (u *UA) contact() string {
	c := "sip:rig@" + u.Addr().String()
	if u.tr.reliable() {
		c += ";transport=" + strings.ToLower(u.tr.name())
	}
	return c
}

func (u *UA) leg(callID string) *Leg {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.legs[callID]
}

func (u *UA) receive(b []byte, reply func([]byte) error) {
	m, err := parseMessage(b)
	if err != nil {
		u.broken.Add(1)
		return
	}
	l := u.leg(m.callID())
	if m.code != 0 {
		if l == nil {
			u.stray.Add(1)
			return
		}
		l.response(m)
		return
	}
	if l == nil && m.method == "INVITE" && param(m.get("to"), "tag") == "" && u.accept != nil {
		l = newCallee(u, m)
		u.add(l)
	}
	switch {
	case l != nil:
		l.request(m, reply)
	case m.method == "ACK":
		u.stray.Add(1)
	case m.method == "OPTIONS":
		_ = reply(respond(m, 200, "OK", randomHex(4), u.contact(), nil))
	default:
		u.stray.Add(1)
		_ = reply(respond(m, 481, "Call/Transaction Does Not Exist", randomHex(4), "", nil))
	}
}

func (u *UA) add(l *Leg) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.legs[l.callID] = l
}

// forget lets go of a finished leg once nothing more can come for it.
func (u *UA) forget(l *Leg) {
	time.AfterFunc(u.linger, func() {
		l.stop()
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.legs[l.callID] == l {
			delete(u.legs, l.callID)
		}
	})
}
