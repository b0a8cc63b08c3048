package edge

import (
	"strconv"
	"strings"
	"time"

	"callswitch/codecore"
	"callswitch/registrar"
)

// Clients that only a connection of theirs leads to (RFC 5626, RFC 7118): a
// browser's contact is a name under .invalid, a phone's behind NAT an address of
// somebody else. A request names the flow that the client registered or spoke
// by. When that is gone, because the client went or because an edge crashed, the
// client comes back over another and registers the same contact: the contact
// then leads to it. One that can be reached in no other way is waited for a
// little (waitFor). There is no flow token in a Path or Record-Route: we are the
// registrar, and both ends of every dialog.

const (
	// comesBack is how long a client is given to come back when it matters to
	// nobody yet: a call that begins.
	comesBack = 5 * time.Second
	// afterStart likewise, when the edge is new and all have to come back.
	afterStart   = 10 * time.Second
	maxContacts  = 1 << 17
	maxWaiting   = 10_000
	flowTimer    = 120 // seconds between keep-alives that a client is told (RFC 5626 4.4)
	flowTimerUDP = 30
)

// A client is one contact of one account. What another account registers as its
// own contact leads nobody to it who asks for this one.
type client struct {
	account string
	contact string // contactKey
}

// A foothold is the connection over which a client has registered last.
type foothold struct {
	deadline
	client
	flow flow
	lost time.Time // when its connection broke; zero = it is up
}

// fire forgets a foothold that nobody has come back to.
func (h *foothold) fire(e *Edge, _ time.Time) {
	if !h.lost.IsZero() && e.footholds[h.client] == h {
		delete(e.footholds, h.client)
	}
}

// A waiter is a request whose client is expected back.
type waiter struct {
	deadline
	client
	then func(route)
}

func (w *waiter) fire(e *Edge, _ time.Time) {
	if e.waiting[w.client].drop(w) {
		e.stopWaiting(w.client)
		w.then(route{why: noFlow})
	}
}

// waiters wait for one client.
type waiters map[*waiter]struct{}

func (ws waiters) drop(w *waiter) bool {
	_, ok := ws[w]
	delete(ws, w)
	return ok
}

func (e *Edge) stopWaiting(c client) {
	e.waits--
	if len(e.waiting[c]) == 0 {
		delete(e.waiting, c)
	}
}

// contactKey is what the URI of a contact is known by, however its parameters
// are written. ok false: it is none.
func contactKey(to string) (key string, u uri, ok bool) {
	if i := strings.IndexByte(to, '<'); i >= 0 {
		to, _, _ = strings.Cut(to[i+1:], ">")
	}
	if u, ok = parseURI(to); !ok || !u.sip() {
		return "", u, false
	}
	return u.user + "@" + u.host + ":" + strconv.Itoa(u.port), u, true
}

// flowOnly tells a URI that no address stands for: a name that cannot exist (RFC
// 2606), or a WebSocket, which only its client opens.
func (u *uri) flowOnly() bool {
	t, _ := u.param("transport")
	return strings.EqualFold(t, "ws") || strings.EqualFold(t, "wss") || u.host == "invalid" || strings.HasSuffix(u.host, ".invalid")
}

// registered takes note that a client has its foothold on a connection. e.mu is
// held.
func (e *Edge) registered(account, contact string, f flow) {
	c, ok := f.link.(*streamLink)
	key, _, fine := contactKey(contact)
	if !ok || !fine || !c.alive() {
		return
	}
	who := client{account, key}
	h := e.footholds[who]
	switch {
	case h == nil && len(e.footholds) >= maxContacts:
		return
	case h == nil || h.flow.link != f.link:
		if h != nil {
			e.arm(h, time.Time{})
		}
		h = &foothold{client: who, flow: f}
		e.footholds[who] = h
		c.footholds = append(c.footholds, h)
	}
	e.come(who, f)
}

// come sends what has waited for a client.
func (e *Edge) come(c client, f flow) {
	for w := range e.waiting[c] {
		e.arm(w, time.Time{})
		e.waiting[c].drop(w)
		e.stopWaiting(c)
		w.then(route{flow: f, ok: true})
	}
}

// keepFootholds takes what a REGISTER left. e.mu is held.
func (e *Edge) keepFootholds(req registrar.Request, told []registrar.Told, f flow) {
	stay := map[string]bool{}
	for _, t := range told {
		key, _, _ := contactKey(t.Contact)
		stay[key] = true
		if t.Edge == e.cfg.Node && t.Flow == f.id() {
			e.registered(req.Account, t.Contact, f)
		}
	}
	for _, c := range req.Contacts {
		if key, _, _ := contactKey(c.URI); !stay[key] {
			delete(e.footholds, client{req.Account, key})
		}
	}
	c, ok := f.link.(*streamLink)
	if !ok {
		return
	}
	held := c.footholds[:0]
	for _, h := range c.footholds {
		if h.account == req.Account && !stay[h.contact] { // removed, or another contact of its instance took its place
			delete(e.footholds, h.client)
		}
		if e.footholds[h.client] == h {
			held = append(held, h)
		}
	}
	clear(c.footholds[len(held):])
	c.footholds = held
}

// loseFootholds keeps those of a broken connection for comesBack. e.mu is held.
func (e *Edge) loseFootholds(c *streamLink, now time.Time) {
	for _, h := range c.footholds {
		if e.footholds[h.client] == h {
			h.lost = now
			e.arm(h, now.Add(comesBack))
		}
	}
	c.footholds = nil
}

// byFoothold finds the connection of a client whose flow is gone. done: then has
// been called, or will be; only a contact with another way goes on without.
// e.mu is held.
func (e *Edge) byFoothold(a *codecore.SendRequest, then func(route)) (done bool) {
	who, u, ok := clientOf(a)
	if !ok {
		return false
	}
	h := e.footholds[who]
	if h != nil && h.flow.link.alive() {
		then(route{flow: h.flow, ok: true})
		return true
	}
	if !u.flowOnly() {
		return false
	}
	now := time.Now()
	until := e.waitFor(h, tagOf(a.Msg.Get("To")) != "", now)
	if !until.After(now) || e.waits >= maxWaiting {
		then(route{why: noFlow})
		return true
	}
	w := &waiter{client: who, then: then}
	if e.waiting[who] == nil {
		e.waiting[who] = waiters{}
	}
	e.waiting[who][w] = struct{}{}
	e.waits++
	e.arm(w, until)
	return true
}

// clientOf is whom a request is for, if that is an account.
func clientOf(a *codecore.SendRequest) (who client, u uri, ok bool) {
	if a.Account == "" {
		return who, u, false
	}
	who.account = a.Account
	who.contact, u, ok = contactKey(a.Target)
	return who, u, ok
}

// latest is the connection that a client has registered over last, or the one
// that a request names: a client that changes its network leaves a connection
// behind that looks alive for minutes. e.mu is held.
func (e *Edge) latest(f flow, a *codecore.SendRequest) flow {
	if _, ok := f.link.(*streamLink); !ok || len(e.footholds) == 0 {
		return f
	}
	who, _, _ := clientOf(a)
	if h := e.footholds[who]; h != nil && h.lost.IsZero() && h.flow.link.alive() {
		return h.flow
	}
	return f
}

// waitFor is until when a client is expected back: in a dialog as long as a
// transaction may take, at the beginning of a call only when it went just now, or
// when this edge is new. Longer, and the caller would listen to nothing.
func (e *Edge) waitFor(h *foothold, inDialog bool, now time.Time) time.Time {
	switch {
	case inDialog:
		return now.Add(e.lim.gone())
	case h != nil:
		lost := h.lost
		if lost.IsZero() {
			lost = now
		}
		return lost.Add(comesBack)
	}
	return e.born.Add(afterStart)
}

// outboundHeaders answer a client that keeps its flow alive itself (RFC 5626 6).
// Without an instance and a reg-id, or behind a proxy, nothing is promised.
func outboundHeaders(p *packet, req registrar.Request, f flow) []string {
	asked := false
	for _, name := range []string{"Supported", "Require"} {
		for _, list := range p.msg.All(name) {
			for _, tag := range strings.Split(list, ",") {
				asked = asked || strings.EqualFold(strings.TrimSpace(tag), "outbound")
			}
		}
	}
	if !asked || len(req.Path) > 0 {
		return nil
	}
	for _, c := range req.Contacts {
		if c.Instance != "" && c.RegID > 0 && c.Expires != 0 {
			seconds := flowTimerUDP
			if f.link.reliable() {
				seconds = flowTimer
			}
			return []string{"Require", "outbound", "Flow-Timer", strconv.Itoa(seconds)}
		}
	}
	return nil
}
