package codecore

import (
	"fmt"
	"slices"
)

// Calls of more than two legs.
//
// State.A and State.B are slots: the two parties in conversation, or to be.
// State.More holds every further leg: a fork's other branches, one that lost and
// is being ended, the target of a transfer that does not talk yet. LegA and LegB
// name the slots, whoever is in them; a leg of More has a name of its own ("c",
// "d", …), which is a handle and stands in nothing on the wire: what does stand
// there, Call-ID and tag, is kept in the leg and is never minted twice in a call.
//
//	more ----------> in More ----------> takes a slot     who was there goes to More
//	                    |                                  under a new name
//	                    | leaving, and nothing waits on it
//	                    v
//	                  removed
//
// Ports belong to slots: all branches of a fork are told the same one, and who
// takes a slot goes on with the port of the one before. So nothing is allocated
// anew, and a call whose further legs have gone is a plain call again, and can be
// stored as one.

// maxMore bounds the further legs of a call.
const maxMore = 8

// more adds a leg that may take a slot one day, with ids of its own; "" when the
// call has too many.
func (c *call) more(slot LegID) LegID {
	if len(c.More) >= maxMore {
		return ""
	}
	now, name := c.leg(slot), c.name()
	// The numbers of actions only grow, and each leg costs at least one.
	var minted uint64
	for _, p := range c.Peers {
		minted += p.Minted
	}
	mark := LegID(fmt.Sprint(name, minted))
	l := Leg{Name: name, Edge: now.Edge, CallID: c.callID(mark), Tag: c.tag(mark), CSeq: 1, Local: now.Local, Media: now.Media}
	l.Media.Leg = slot
	c.More = append(c.More, l)
	return name
}

// name is the first that no further leg has.
func (c *call) name() LegID {
	for n := LegB[0] + 1; ; n++ {
		if id := LegID(n); !slices.ContainsFunc(c.More, func(l Leg) bool { return l.Name == id }) {
			return id
		}
	}
}

// take brings a leg of More into its slot. Who had the slot goes to More, under
// the name returned. Pointers to either leg are void afterwards.
func (c *call) take(name LegID) (before LegID) {
	slot := c.slot(name)
	l, s := c.leg(name), c.leg(slot)
	*l, *s = *s, *l
	l.Name, s.Name = name, ""
	for i := range c.Timers { // of sessions: they go with their legs
		switch kind, of := sessionOf(c.Timers[i].Timer); {
		case kind == "":
		case of == name:
			c.Timers[i].Timer = timerOf(kind, slot)
		case of == slot:
			c.Timers[i].Timer = timerOf(kind, name)
		}
	}
	s.Answers = max(s.Answers, l.Answers)
	if c.Phase == PhaseInviting && len(c.Media.Legs) > 0 {
		s.Answers++ // another was heard: this one's address is to be learned
	}
	if slot == LegB { // the route says where slot B's party was called
		l.Target, l.Peer, c.Route.Target, c.Route.Peer = c.Route.Target, c.Route.Peer, s.Target, s.Peer
		s.Target, s.Peer = "", ""
		c.CDR.ToPeer = c.Route.Peer
		l.Early, c.Early, s.Early = c.Early, s.Early, nil
	}
	c.res.Save = true
	return name
}

// slot is the one of the two slots that the leg has, or may take.
func (s *State) slot(id LegID) LegID {
	if id == LegA || id == LegB {
		return id
	}
	return s.leg(id).Media.Leg
}

// across is the leg's party in conversation.
func (s *State) across(id LegID) LegID { return other(s.slot(id)) }

// legs are the names of all legs, the slots first.
func (s *State) legs() []LegID {
	ids := make([]LegID, 2, 2+len(s.More))
	ids[0], ids[1] = LegA, LegB
	for i := range s.More {
		ids = append(ids, s.More[i].Name)
	}
	return ids
}

// leave ends a further leg, in whatever state it is: it is removed with its last
// transaction. A CANCEL says why.
func (c *call) leave(name LegID, why ...Header) {
	l := c.leg(name)
	l.Leaving = true
	c.refuseWaiting(name)
	c.cancelOf(name, why...)
	if d := l.live(); d != nil {
		c.bye(name, d)
	}
}

// sweep removes further legs that have left, and the session timers of whoever is
// not talked to any more: who comes next under that name has a session of its own.
func (c *call) sweep() {
	gone := func(l Leg) bool {
		waits := slices.ContainsFunc(l.Srv, func(t ServerTx) bool { return t.Status == 0 || t.accepted() })
		return l.Leaving && len(l.Cli) == 0 && !waits && !l.ByeDue
	}
	if slices.ContainsFunc(c.More, gone) {
		c.More, c.res.Save = slices.DeleteFunc(c.More, gone), true
	}
	if len(c.More) == 0 {
		c.More = nil
	}
	c.Timers = without(c.Timers, func(d Deadline) bool {
		kind, leg := sessionOf(d.Timer)
		return kind != "" && (c.leg(leg) == nil || c.leg(leg).live() == nil)
	})
}

// target is the Request-URI of the leg's INVITE.
func (c *call) target(id LegID) string {
	if t := c.leg(id).Target; t != "" {
		return t
	}
	return c.Route.Target
}
