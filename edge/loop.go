package edge

import (
	"net/netip"
	"sync/atomic"
	"time"

	"callswitch/codecore"
)

// loopLink is the edge's flow to itself: a call of ours that sends to another one
// of ours (INVITE with Replaces, after an attended transfer) goes out and comes
// back in here, and meets the same transactions as any message. Nothing from
// outside can come by it, so who does is one of our calls.
type loopLink struct {
	e     *Edge
	queue chan []byte
	under atomic.Int64 // way: queued, or being dealt with
}

// loopQueue bounds what is under way; what does not fit is lost and sent again,
// as on UDP.
const loopQueue = 1024

func (l *loopLink) send(_ netip.AddrPort, b []byte) error {
	l.under.Add(1)
	select {
	case l.queue <- b:
		return nil
	default:
		l.under.Add(-1)
		return errLink
	}
}

func (l *loopLink) transport() string            { return "UDP" }
func (l *loopLink) local() netip.AddrPort        { return l.e.loopAddr() }
func (l *loopLink) reliable() bool               { return false }
func (l *loopLink) alive() bool                  { return true }
func (l *loopLink) flowID(netip.AddrPort) string { return codecore.LoopFlow }

// loopAddr is the address that messages by the loop name: one where we listen.
func (e *Edge) loopAddr() netip.AddrPort {
	switch {
	case len(e.udp) > 0:
		return e.udp[0].bound
	case len(e.listeners) > 0:
		return e.listeners[0].bound
	}
	return netip.AddrPortFrom(netip.IPv4Unspecified(), 5060)
}

func (e *Edge) loopFlow() flow { return flow{e.loop, e.loopAddr()} }

// serveLoop reads the loop.
func (e *Edge) serveLoop() {
	defer e.wg.Done()
	for {
		select {
		case <-e.ctx.Done():
			return
		case b := <-e.loop.queue:
			e.handleOwn(b)
			e.loop.under.Add(-1)
		}
	}
}

// handleOwn deals with one message that a call of ours sent to another: parsed
// like any, but nobody has to be identified.
func (e *Edge) handleOwn(data []byte) {
	now, f := time.Now(), e.loopFlow()
	p, _, why := parse(data, &e.lim)
	if why != okay {
		e.complain(f.remote, why, now)
		return
	}
	p.size, p.known = len(data), true
	if p.msg.Status != 0 {
		e.onResponse(f, p, now)
		return
	}
	p.stamp(f.remote)
	p.strip()
	e.onRequest(f, "", p, now)
}

// replaced finds the call that an INVITE with Replaces is for (RFC 3891): the one
// whose tag it names. ok is false when there is no such header.
func (e *Edge) replaced(p *packet) (id codecore.CallID, token string, found, ok bool) {
	all := p.msg.All("Replaces")
	if len(all) == 0 || p.msg.Method != "INVITE" || p.toTag != "" {
		return "", "", false, false
	}
	r, err := codecore.ParseReplaces(all[0])
	if err != nil {
		return "", "", false, true
	}
	id, token, found = e.ids.verify(r.To)
	return id, token, found, true
}
