package edge

import (
	"bytes"
	"context"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"callswitch/registrar"
)

// A phone behind NAT can be reached as long as packets keep the way open (RFC
// 5626 4.4). Those that registered over UDP from elsewhere than their contact
// says get an OPTIONS every Config.Keepalive, whose answer renews the binding of
// any NAT (RFC 4787 REQ-6: an inbound packet need not). The answer is all: it is
// known by its branch and dropped.

const (
	pingSlots = 100 // of one Keepalive: pings are spread over it
	maxPings  = 1 << 17
	// pingBranch is what the branch of a ping begins with, after the cookie.
	pingBranch = "ka."
)

type pings struct {
	mu    sync.Mutex
	slots [pingSlots]map[string]ping
	n     int
}

type ping struct {
	to    flow
	uri   string
	until time.Time
}

func pingKey(account, contact string) (key string, slot int) {
	key = account + " " + contact
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	return key, int(h.Sum32() % pingSlots)
}

// keep takes what a REGISTER left: bindings that came by this flow are pinged,
// those that it removed are not any more.
func (p *pings) keep(req registrar.Request, told []registrar.Told, node string, f flow, now time.Time) {
	account := req.Account
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range req.Contacts {
		key, slot := pingKey(account, c.URI)
		p.drop(key, slot)
	}
	if req.Wildcard {
		for slot := range p.slots {
			for key := range p.slots[slot] {
				if strings.HasPrefix(key, account+" ") {
					p.drop(key, slot)
				}
			}
		}
	}
	for _, t := range told {
		if t.Edge == node && t.Flow == f.id() {
			p.put(account, t.Binding, f, now.Add(t.Expires))
		}
	}
}

// put adds a binding that can be pinged. p.mu is held.
func (p *pings) put(account string, b registrar.Binding, f flow, until time.Time) {
	if f.link.reliable() || !b.BehindNAT() || len(b.Path) > 0 {
		return
	}
	key, slot := pingKey(account, b.Contact)
	if _, had := p.slots[slot][key]; !had {
		if p.n >= maxPings {
			return
		}
		p.n++
	}
	if p.slots[slot] == nil {
		p.slots[slot] = map[string]ping{}
	}
	p.slots[slot][key] = ping{f, b.Contact, until}
}

func (p *pings) drop(key string, slot int) {
	if _, had := p.slots[slot][key]; had {
		delete(p.slots[slot], key)
		p.n--
	}
}

// due are the pings of a slot; those of bindings that have ended are dropped.
func (p *pings) due(slot int, now time.Time) (out []ping) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, g := range p.slots[slot] {
		if !g.until.After(now) {
			p.drop(key, slot)
			continue
		}
		out = append(out, g)
	}
	return out
}

// runPings sends them, after it has read who is registered here: an edge that
// restarts goes on where the last one ended.
func (e *Edge) runPings(ctx context.Context) {
	defer e.wg.Done()
	err := e.cfg.Directory.Load(ctx, time.Now(), func(account string, b registrar.Binding) {
		if b.Edge != e.cfg.Node {
			return
		}
		if f, ok := e.flowByID(b.Flow); ok {
			e.pings.mu.Lock()
			e.pings.put(account, b, f, b.Until)
			e.pings.mu.Unlock()
			e.friends.add(f.remote.Addr(), b.Until, time.Now())
		} else if source, err := netip.ParseAddrPort(b.Source); err == nil { // its connection is gone, it will be back
			e.friends.add(source.Addr().Unmap(), b.Until, time.Now())
		}
	})
	if err != nil && ctx.Err() == nil {
		e.log.Warn("edge: registrations not read; phones behind NAT are kept reachable from their next refresh on", "err", err)
	}
	if e.cfg.Keepalive < 0 {
		return
	}
	tick := time.NewTicker(e.cfg.Keepalive / pingSlots)
	defer tick.Stop()
	for slot := 0; ; slot = (slot + 1) % pingSlots {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			e.gate.enter()
			for _, g := range e.pings.due(slot, now) {
				e.stats.Pings.Add(1)
				e.write(g.to, e.options(g.uri, pingBranch, strconv.FormatUint(rand.Uint64(), 36), g.to.link))
			}
			e.gate.leave()
		}
	}
}

// options is a ping; r is random, and known again in the answer's branch.
func (e *Edge) options(uri, kind, r string, l link) []byte {
	host := e.sentBy(l)
	b := make([]byte, 0, 400)
	b = append(append(append(b, "OPTIONS "...), oneLine(uri)...), " SIP/2.0\r\n"...)
	b = appendHeader(b, "Via", e.via(cookie+kind+e.ids.sum(16, "ping", r)+r, l))
	b = appendHeader(b, "Max-Forwards", "70")
	b = appendHeader(b, "From", "<sip:"+host+">;tag="+r)
	b = appendHeader(b, "To", "<"+uri+">")
	b = appendHeader(b, "Call-ID", r)
	b = appendHeader(b, "CSeq", "1 OPTIONS")
	return append(b, "Content-Length: 0\r\n\r\n"...)
}

// answersPing tells the answer to a ping of ours, any edge's, by its branch.
func (e *Edge) answersPing(data []byte, now time.Time) bool {
	if _, ok := e.pingIn(data, pingBranch); ok {
		return true
	}
	id, ok := e.pingIn(data, trunkBranch)
	if ok {
		e.pong(id, data, now)
	}
	return ok
}

// pingIn finds the random part in the branch of a ping of that kind.
func (e *Edge) pingIn(data []byte, kind string) (r string, ok bool) {
	_, found, ok := bytes.Cut(data[:min(len(data), 512)], []byte(cookie+kind))
	if !ok {
		return "", false
	}
	rest := string(found[:min(len(found), 64)])
	end := strings.IndexAny(rest, ";,\r\n \t")
	if end <= 16 || end >= 48 || e.ids.sum(16, "ping", rest[16:end]) != rest[:16] {
		return "", false
	}
	return rest[16:end], true
}
