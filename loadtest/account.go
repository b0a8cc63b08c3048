package loadtest

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Hearing is what one leg heard of the other. Numbers are packets.
type Hearing struct {
	Sent        int     `json:"sent"`
	Received    int     `json:"received"` // distinct
	Lost        int     `json:"lost"`
	Duplicated  int     `json:"duplicated"`
	Reordered   int     `json:"reordered"`    // arrived after a later one
	WrongSource int     `json:"wrong_source"` // not from the address and port of the SDP
	Foreign     int     `json:"foreign"`      // of another call, of our own direction, or not the rig's
	Broken      int     `json:"broken"`       // SSRC changed, or header sequence and payload number disagree
	Digits      string  `json:"digits,omitempty"`
	GapMS       float64 `json:"gap_ms"`   // longest silence between two packets while the other side sent
	DelayMS     float64 `json:"delay_ms"` // longest way of one packet
}

// Account keeps the count for one direction of one call, at its receiver.
type Account struct {
	mu       sync.Mutex
	call     uint32
	dir      byte
	allowed  []netip.AddrPort // newest last; a re-INVITE may change it, so two are kept
	seen     []uint64         // bitmap of payload numbers
	top      int64            // highest number seen
	last     time.Time
	stream   bool // ssrc, offset are known
	ssrc     uint32
	offset   uint16 // header sequence - payload number
	event    uint32 // timestamp of the last telephone-event
	digits   []byte
	h        Hearing
	delay    time.Duration
	gap      time.Duration
	eventsOn bool
}

func (a *Account) init(call uint32, dir byte) { a.call, a.dir, a.top = call, dir, -1 }

func (a *Account) expect(at netip.AddrPort) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if slices.Contains(a.allowed, at) {
		return
	}
	a.allowed = append(a.allowed, at)
	if len(a.allowed) > 2 {
		a.allowed = a.allowed[1:]
	}
}

// pause makes the next gap not count.
func (a *Account) pause() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = time.Time{}
}

func (a *Account) packet(b []byte, from netip.AddrPort, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.Contains(a.allowed, from) {
		a.h.WrongSource++
	}
	if len(b) >= rtpHeader+4 && b[0]>>6 == 2 && b[1]&0x7f == dtmfType {
		a.telephoneEvent(b)
		return
	}
	if len(b) != rtpHeader+payloadLen || b[0] != 0x80 || binary.BigEndian.Uint32(b[rtpHeader:]) != mark {
		a.h.Foreign++
		return
	}
	p := b[rtpHeader:]
	if binary.BigEndian.Uint32(p[4:]) != a.call || p[8] != a.dir {
		a.h.Foreign++
		return
	}
	n := int64(binary.BigEndian.Uint32(p[9:]))
	if n > 1<<26 { // 15 days of talk: not ours
		a.h.Foreign++
		return
	}
	if !a.number(n) {
		return
	}
	a.header(b, uint16(n))
	if !a.last.IsZero() {
		a.gap = max(a.gap, now.Sub(a.last))
	}
	a.last = now
	a.delay = max(a.delay, now.Sub(time.Unix(0, int64(binary.BigEndian.Uint64(p[13:])))))
}

// number counts a payload number; false: it was there before.
func (a *Account) number(n int64) bool {
	for int64(len(a.seen))*64 <= n {
		a.seen = append(a.seen, 0)
	}
	if a.seen[n/64]&(1<<(n%64)) != 0 {
		a.h.Duplicated++
		return false
	}
	a.seen[n/64] |= 1 << (n % 64)
	a.h.Received++
	if n < a.top {
		a.h.Reordered++
	}
	a.top = max(a.top, n)
	return true
}

// header checks that the switch keeps one stream (RFC 3550 section 5.1): SSRC
// and the distance between header sequence and payload number do not change.
func (a *Account) header(b []byte, n uint16) {
	ssrc, seq := binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint16(b[2:])
	off := seq - n
	if a.stream && (ssrc != a.ssrc || off != a.offset) {
		if !a.eventsOn || ssrc != a.ssrc || off-a.offset > 8 {
			a.h.Broken++
		}
	}
	a.stream, a.ssrc, a.offset, a.eventsOn = true, ssrc, off, false
}

func (a *Account) telephoneEvent(b []byte) {
	a.eventsOn = true // their packets use sequence numbers of their own
	stamp := binary.BigEndian.Uint32(b[4:])
	if a.event == stamp+1 || b[rtpHeader+1]&0x80 == 0 {
		return
	}
	a.event = stamp + 1
	const keys = "0123456789*#ABCD"
	if d := int(b[rtpHeader]); d < len(keys) {
		a.digits = append(a.digits, keys[d])
	}
}

func (a *Account) hearing(sent uint32) Hearing {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.h
	h.Sent, h.Lost = int(sent), int(sent)-h.Received
	h.Digits = string(a.digits)
	h.GapMS = float64(a.gap.Microseconds()) / 1000
	h.DelayMS = float64(a.delay.Microseconds()) / 1000
	return h
}

// Add sums up two directions; gaps and delays take the longer.
func (h *Hearing) Add(o Hearing) {
	h.Sent += o.Sent
	h.Received += o.Received
	h.Lost += o.Lost
	h.Duplicated += o.Duplicated
	h.Reordered += o.Reordered
	h.WrongSource += o.WrongSource
	h.Foreign += o.Foreign
	h.Broken += o.Broken
	h.GapMS = max(h.GapMS, o.GapMS)
	h.DelayMS = max(h.DelayMS, o.DelayMS)
}
