package codecore

import (
	"slices"
	"time"
)

// Step advances a call by one event. It is the whole call logic: no clock, no
// randomness, no I/O. The state passed in is not changed. Late and unknown
// events of any kind are named, empty cases, never errors.
func Step(s State, now time.Time, e Event) (State, Result) {
	c := call{State: s.clone(), now: now}
	switch e := e.(type) {
	case SIPRequest:
		c.request(e)
	case SIPResponse:
		c.response(e)
	case SIPTimeout:
		c.timeout(e)
	case NoAck:
		c.noAck(e)
	case NoPrack:
		c.noPrack(e)
	case Allocated:
		c.allocated(e)
	case Located:
		c.located(e)
	case Fired:
		c.fired(e)
	case MediaSilent:
		if e.Reason != "" { // for good, on hold or not
			if c.Phase != "" && c.Phase != PhaseEnded {
				c.hangUp("switch", e.Reason, e.At)
			}
		} else if (c.Phase == PhaseTalking || c.Phase == PhaseAnswered) && !c.held() && c.Transfer == nil {
			c.hangUp("switch", "rtp-timeout", e.At)
		}
	case Accepted:
		c.accepted(e)
	case MediaApplied:
		c.MediaDue = false
	case TransferTo:
		c.transferTo(e)
	case HangUp:
		if c.Phase != "" && c.Phase != PhaseEnded {
			c.hangUp("switch", e.Cause, now)
		}
	}
	c.goOn()
	if c.sweep(); c.res.Locate == "" {
		c.sent = nil
	}
	if c.Phase == PhaseTalking && c.res.Save {
		c.stop(TimerAck) // the record knows
	}
	return c.State, c.res
}

// call is a State being stepped.
type call struct {
	State
	now    time.Time
	res    Result
	closed *SendRequest // the request of ours whose final response this Step takes
	why    []Header     // Reason headers of the party that ends the call, for the other
	path   []string     // Route set of the INVITE being composed
	cause  string       // the edge's reason code of the SIPTimeout that this Step takes
}

func (s Seconds) duration() time.Duration { return time.Duration(s) * time.Second }

// clone copies what a Step may change in place.
func (s State) clone() State {
	s.A, s.B = s.A.clone(), s.B.clone()
	s.More = slices.Clone(s.More)
	for i := range s.More {
		s.More[i] = s.More[i].clone()
	}
	if s.Transfer != nil {
		x := *s.Transfer
		x.More = slices.Clone(x.More)
		s.Transfer = &x
	}
	if s.Fork != nil {
		f := *s.Fork
		s.Fork = &f
	}
	s.Pending = slices.Clone(s.Pending)
	s.Timers = slices.Clone(s.Timers)
	s.Media.Legs = slices.Clone(s.Media.Legs)
	return s // Peers is copied when it is written
}

func (l Leg) clone() Leg {
	l.Dialogs = slices.Clone(l.Dialogs)
	l.Srv = slices.Clone(l.Srv)
	l.Cli = slices.Clone(l.Cli)
	l.Challenges = slices.Clone(l.Challenges)
	return l
}

// leg finds a leg by its name: whoever is in that slot, or one of the further
// ones; nil when there is none.
func (s *State) leg(id LegID) *Leg {
	switch id {
	case LegA:
		return &s.A
	case LegB:
		return &s.B
	}
	for i := range s.More {
		if s.More[i].Name == id {
			return &s.More[i]
		}
	}
	return nil
}

// other is the other slot.
func other(id LegID) LegID {
	if id == LegA {
		return LegB
	}
	return LegA
}

// become is the one home of transitions: it sets what the phase owns.
func (c *call) become(p Phase) {
	c.Phase, c.res.Save = p, true
	noAnswer, maxCall := c.limits()
	switch p {
	case PhaseRouting:
		c.res.Save = false // Allocated decides
	case PhaseInviting:
		c.Timers = []Deadline{{TimerNoAnswer, c.now.Add(noAnswer.duration())}}
	case PhaseAnswered:
		c.A.Agreed, c.B.Agreed, c.AnswerAt = false, false, time.Time{}
		c.Early, c.Fork = nil, nil
		c.stop(TimerNoAnswer)
		c.stop(TimerExpires)
		c.stop(TimerTarget)
		c.Timers = append([]Deadline{{TimerMaxCall, c.now.Add(maxCall.duration())}, {TimerAck, c.now.Add(ackWait)}}, c.Timers...)
	case PhaseEnded:
		c.Timers = []Deadline{{TimerGiveUp, c.now.Add(giveUp)}}
		c.Early, c.A.Offer, c.B.Offer, c.Fork = nil, nil, nil, nil
		c.A.AckDue, c.B.AckDue = 0, 0
		c.A.Agreed, c.B.Agreed, c.AnswerAt = false, false, time.Time{}
		c.Media.Legs = nil
		c.MediaDue = c.Media.Node != ""
	}
}

// without is s less what is over; it keeps no array for nothing.
func without[T any](s []T, over func(T) bool) []T {
	if s = slices.DeleteFunc(s, over); len(s) == 0 {
		return nil
	}
	return s
}

func (c *call) stop(t Timer) {
	c.Timers = without(c.Timers, func(d Deadline) bool { return d.Timer == t })
}

// do mints a numbered action: it must be saved before it is performed.
func (c *call) do(to string, e Effect) {
	p := c.Peers[to]
	p.Minted++
	c.setPeer(to, p)
	a := Action{To: to, Seq: p.Minted, Effect: e}
	c.Pending = append(c.Pending, a)
	c.res.Actions = append(c.res.Actions, a)
	c.res.Save = true
}

// lossy performs an effect at most once, without a save: nobody depends on it.
func (c *call) lossy(to string, e Effect) {
	c.res.Actions = append(c.res.Actions, Action{To: to, Effect: c.addressed(e)})
}

// Ended reports whether the call is over, whatever is still to be carried out.
func Ended(s State) bool { return s.Phase == PhaseEnded }

// Settled reports whether nothing is left to do: the tombstone may be written.
func Settled(s State) bool {
	return s.Phase == PhaseEnded && len(s.Pending) == 0 && !s.MediaDue && !s.A.ByeDue && !s.B.ByeDue
}

// Info is what lists of calls show.
type Info struct {
	From     string    `json:"from"`
	To       string    `json:"to"`
	FromPeer string    `json:"from_peer"`
	ToPeer   string    `json:"to_peer,omitempty"`
	Phase    Phase     `json:"phase"`
	Start    time.Time `json:"start"`
	Answer   time.Time `json:"answer,omitzero"`
	Pinned   string    `json:"pinned,omitempty"`   // why it cannot go to an older schema
	Transfer bool      `json:"transfer,omitempty"` // one is under way
}

// Summary describes a call for people.
func Summary(s State) Info {
	return Info{
		From: s.CDR.From, To: s.CDR.To, FromPeer: s.CDR.FromPeer, ToPeer: s.CDR.ToPeer,
		Phase: s.Phase, Start: s.CDR.Start, Answer: s.CDR.Answer, Pinned: pinnedBy(s),
		Transfer: s.Transfer != nil,
	}
}

func edgeOf(node string) string { return "edge." + node }

const receiverCDR = "cdr"

// request takes a SIP request of either party.
func (c *call) request(e SIPRequest) {
	if c.Phase == "" {
		c.begin(e)
		return
	}
	leg, tx := c.find(e)
	switch {
	case tx != nil && e.Msg.Method == "CANCEL":
		c.cancel(leg, tx, e)
	case tx != nil && tx.Last != nil: // again: the edge that had the answer has gone
		c.lossy(edgeOf(e.Edge), Effect{Response: tx.Last})
	case tx != nil && e.Msg.Method != "ACK": // again; no answer yet, or the 2xx is pending
	case e.Msg.Method == "CANCEL":
		c.refuse(e, 481, "no-transaction") // nothing to cancel (RFC 3261 9.2)
	case e.Msg.Method == "INVITE" && toTag(&e.Msg) == "" && c.joinedBy(&e.Msg):
		// The INVITE of a party again, late: its ACK has come.
	case e.Msg.Method == "INVITE" && toTag(&e.Msg) == "" && e.Msg.Get("Replaces") != "":
		c.replace(e)
	case leg == "":
		c.refuse(e, 481, "no-dialog")
	default:
		c.inDialog(leg, e)
	}
}

// joinedBy reports whether an INVITE is the one by which a party came into the call.
func (c *call) joinedBy(m *Message) bool {
	_, tag := tagOf(m.Get("From"))
	cseq, _ := cseqOf(m)
	return slices.ContainsFunc(c.legs(), func(id LegID) bool {
		l := c.leg(id)
		d := l.dialog(tag)
		return d != nil && l.CallID == m.Get("Call-ID") && cseq <= d.CSeq
	})
}

// find tells whose request it is, and whether it has been here before.
func (c *call) find(e SIPRequest) (LegID, *ServerTx) {
	for _, id := range c.legs() {
		if t := c.leg(id).srv(e.Tx); t != nil && (t.Method == e.Msg.Method || e.Msg.Method == "CANCEL") {
			return id, t
		}
	}
	_, ours := tagOf(e.Msg.Get("To"))
	_, theirs := tagOf(e.Msg.Get("From"))
	for _, id := range c.legs() {
		l := c.leg(id)
		if ours != "" && l.Tag == ours && l.dialog(theirs) != nil && l.CallID == e.Msg.Get("Call-ID") {
			return id, nil
		}
	}
	return "", nil
}
