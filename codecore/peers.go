package codecore

import "maps"

// Noted says what a numbered event is to the call.
type Noted int

// What Note finds.
const (
	NotedNew    Noted = iota // step it
	NotedRepeat              // stepped already: acknowledge it again
	NotedStale               // from an incarnation that a newer one has replaced: refuse it
)

// Note takes down the number of an event from one incarnation of a sender
// (R1). A newer incarnation starts at event 0 with nothing accepted;
// num 0 is not numbered.
func (s *State) Note(from, boot string, num uint64) Noted {
	p := s.Peers[from]
	switch {
	case boot < p.Boot:
		return NotedStale
	case boot > p.Boot:
		p = Peer{Boot: boot, Minted: p.Minted}
	case num != 0 && num <= p.Event:
		return NotedRepeat
	}
	p.Event = max(p.Event, num)
	s.setPeer(from, p)
	return NotedNew
}

func (s *State) setPeer(name string, p Peer) {
	if s.Peers[name] == p {
		return
	}
	s.Peers = maps.Clone(s.Peers)
	if s.Peers == nil {
		s.Peers = map[string]Peer{}
	}
	s.Peers[name] = p
}

// PendingFor lists the actions for a receiver that this incarnation of it has
// not accepted. First marks the oldest pending of all, and each whose
// predecessor is over: nothing that is still wanted lies before it, so the
// receiver need not wait for the number in between.
func PendingFor(s State, to, boot string) []Action {
	p := s.Peers[to]
	var out []Action
	before, oldest := uint64(0), true
	for _, a := range s.Pending {
		if a.To != to {
			continue
		}
		a.First = oldest || a.Seq != before+1
		before, oldest = a.Seq, false
		if boot != p.Boot || a.Seq > p.Accepted {
			a.Effect = s.addressed(a.Effect)
			out = append(out, a)
		}
	}
	return out
}

// addressed says whose account a request is for.
func (s *State) addressed(e Effect) Effect {
	if e.Request == nil {
		return e
	}
	for _, id := range s.legs() {
		account, ok := AccountOf(s.peerOf(id))
		if ok && s.leg(id).CallID == e.Request.Msg.Get("Call-ID") {
			r := *e.Request
			r.Account = account
			return Effect{Request: &r}
		}
	}
	return e
}

// accepted takes a receiver's word that it has the actions up to Seq, and
// forgets those that are over by it.
func (c *call) accepted(e Accepted) {
	p := c.Peers[e.To]
	switch {
	case e.Boot < p.Boot:
		return
	case e.Boot > p.Boot:
		p = Peer{Boot: e.Boot, Minted: p.Minted}
	}
	p.Accepted = max(p.Accepted, min(e.Seq, p.Minted))
	c.setPeer(e.To, p)
	c.forget(c.over)
}

// forget removes pending actions that are over.
func (c *call) forget(over func(Action) bool) { c.Pending = without(c.Pending, over) }

// over reports whether an action is over by having been accepted. What only the
// far end can finish (R3) is not: a request waits for its final response, a 2xx
// to INVITE for its ACK, as long as anything depends on that.
func (c *call) over(a Action) bool {
	if a.Seq > c.Peers[a.To].Accepted {
		return false
	}
	switch {
	case a.Request != nil:
		return a.Request.Msg.Method == "ACK" || a.Request.Branch == "" // the latter has no transaction (SendRequest)
	case a.Response != nil && a.Response.Msg.Status < 200 && a.Response.Msg.Get("RSeq") != "": // until its PRACK
		t := c.A.srv(a.Response.Tx)
		return t == nil || !t.Unacked
	case a.Response != nil && a.Response.Msg.Method == "INVITE" && a.Response.Msg.Status/100 == 2:
		return c.Phase == PhaseEnded && !c.A.ByeDue
	}
	return true
}
