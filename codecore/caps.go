package codecore

import "slices"

// Caps of trunks and accounts. How many calls each has is counted by those who
// hold the records (sessions); here is said whom a call occupies, and what
// follows when somebody can have no further one.

// Occupied are the parties whose calls this one is: the caller, and everybody who
// is called or talks.
func Occupied(s State) []string {
	if s.Phase == "" || s.Phase == PhaseEnded {
		return nil
	}
	out := []string{s.CDR.FromPeer}
	add := func(peer string) {
		if peer != "" && !slices.Contains(out, peer) {
			out = append(out, peer)
		}
	}
	add(s.Route.Peer)
	for _, l := range s.More {
		if !l.Leaving {
			add(l.Peer)
		}
	}
	return out
}

// Caps are the bounds of a party's calls; 0 = none.
func (p *Plan) Caps(party string) (calls int, rate float64) {
	if _, account := AccountOf(party); account {
		return p.Limits.AccountCalls, p.Limits.AccountRate
	}
	if q := p.peer(party); q != nil {
		return q.MaxCalls, q.MaxRate
	}
	return 0, 0
}

// Capped reports whether anybody's calls are bounded.
func (p *Plan) Capped() bool {
	return p.Limits.AccountCalls > 0 || p.Limits.AccountRate > 0 ||
		slices.ContainsFunc(p.Peers, func(q PlanPeer) bool { return q.MaxCalls > 0 || q.MaxRate > 0 })
}

// full says why a party can have no further call; who is in this one has it already.
func (c *call) full(full map[string]string, party string) (cause string) {
	if len(full) == 0 || slices.Contains(Occupied(c.State), party) {
		return ""
	}
	return full[party]
}

// spare leaves the targets out that can have no further call; it says why there
// can be no call at all.
func (c *call) spare(e *SIPRequest) (cause string) {
	if cause = e.Full[e.Peer]; cause != "" {
		return cause
	}
	c.places = slices.DeleteFunc(slices.Clone(c.places), func(d Destination) bool {
		why := e.Full[d.Peer]
		if cause == "" {
			cause = why
		}
		return why != ""
	})
	if len(c.places) == 0 {
		return cause
	}
	c.Route.Peer, c.Route.Target, c.Route.Number = c.places[0].Peer, c.places[0].Target, c.places[0].Number
	return ""
}
