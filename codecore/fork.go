package codecore

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Calling several targets (RFC 3261 16.7, by a switch that is both parties'
// peer).
//
//	a            switch       b    c    d
//	| INVITE ----> | INVITE ---> |    |    |   a group at once: its branches
//	|              | INVITE --------> |    |
//	| <------- 180 | <------ 180 |    |    |   from whoever rings, one early dialog
//	| <------- 200 | <----------- 200 |    |   the first answer wins
//	|              | ACK ----------> |    |
//	|              | CANCEL ---> |    |    |   the losers
//	|              |             |    |    |   d is of the next group: never called
//
// Slot B has a branch that tries, the one whose early media the caller hears if
// there is one, in the end the winner; the others are legs of State.More. When
// all of a group have failed, or its time is over, the next group is called.

// Fork is what a call that has more than one target remembers while it invites.
type Fork struct {
	Next  []Destination `json:"next,omitempty"`  // not called yet: groups in order
	Best  Failure       `json:"best,omitzero"`   // of those that failed
	Tried []string      `json:"tried,omitempty"` // targets, from the first redirection on
	Depth int           `json:"depth,omitempty"` // redirections followed
	Carry []Header      `json:"carry,omitempty"` // what those of Next may be told of the caller (identity.go)
}

// Destination is somewhere to call.
type Destination struct {
	Group   int      `json:"group,omitempty"` // neighbours of one group are called at once
	Seconds Seconds  `json:"seconds,omitempty"`
	Peer    string   `json:"peer,omitempty"`   // as RouteResult.Peer
	Number  string   `json:"number,omitempty"` // as RouteResult.Number
	Target  string   `json:"target,omitempty"` // SIP URI; "" = the account of Peer is to be located first
	Path    []string `json:"path,omitempty"`   // as in Located
	Edge    string   `json:"edge,omitempty"`
	Flow    string   `json:"flow,omitempty"`

	// Of the plan's peer.
	Reliable string       `json:"reliable,omitempty"`
	Trusted  bool         `json:"trusted,omitempty"`
	From     []NumberRule `json:"from,omitempty"` // PlanPeer.Out.From
	WebRTC   bool         `json:"webrtc,omitempty"`

	SRTP string `json:"srtp,omitempty"` // of the plan's peer or the account
}

// Failure is why a target was not reached.
type Failure struct {
	Status   int      `json:"status,omitempty"`
	Cause    string   `json:"cause,omitempty"`    // "callee", or the switch's reason code
	Contacts []string `json:"contacts,omitempty"` // of a redirection that is passed on
	Said     []Header `json:"said,omitempty"`     // the callee's Reason headers
}

// TimerTarget ends the ringing of the group that is called. Stored: never rename.
const TimerTarget Timer = "target"

// groupTime is how long a group rings when another may be called and the plan
// does not say.
const groupTime Seconds = 20

const maxDestinations = 32

// located takes the answer to Locate. It may have to ask for the next account.
func (c *call) located(e Located) {
	if c.referred != nil {
		c.targetLocated(e)
		return
	}
	i := slices.IndexFunc(c.places, Destination.unknown)
	if i < 0 || c.Phase != PhaseRouting && c.Phase != PhaseInviting {
		return
	}
	if e.Reason == "" && e.Target == "" {
		e.Reason = "directory-away"
	}
	var found []Destination
	if e.Reason == "" {
		for _, at := range append([]Located{e}, e.More...) {
			d := c.places[i]
			d.Target, d.Path, d.Edge, d.Flow, d.SRTP = at.Target, at.Path, at.Edge, at.Flow, at.SRTP
			found = append(found, d)
		}
	} else {
		c.missed(Failure{Status: unlocated(e.Reason), Cause: e.Reason})
	}
	c.places = slices.Replace(slices.Clone(c.places), i, i+1, found...)
	c.places = c.places[:min(len(c.places), maxDestinations)]
	c.settle()
}

// unknown reports whether d is an account that is to be located.
func (d Destination) unknown() bool { _, ok := AccountOf(d.Peer); return ok && d.Target == "" }

func unlocated(reason string) int {
	switch reason {
	case "unknown-account":
		return 404
	case "not-registered":
		return 480
	}
	return 503
}

// settle goes on once it is known where all places are.
func (c *call) settle() {
	for _, d := range c.places {
		if d.unknown() {
			c.res.Locate, _ = AccountOf(d.Peer)
			return
		}
	}
	switch {
	case c.Phase == PhaseInviting: // a redirection
		c.fork().Next = append(slices.Clone(c.places), c.fork().Next...)
		c.places = nil
		if !c.callNext() {
			c.searchOn(c.now)
		}
	case len(c.places) == 0:
		f := c.Fork.Best
		c.Fork = nil
		c.reject(c.A.open("INVITE"), f.Status, f.Cause, c.now)
	default:
		c.Route.Peer, c.Route.Target = c.places[0].Peer, c.places[0].Target
		c.CDR.ToPeer = c.Route.Peer
		c.res.Allocate = []LegID{LegA, LegB}
		if c.service() != "" {
			c.res.Allocate = []LegID{LegA}
		}
	}
}

// callFirst calls the first group: its first target from slot B.
func (c *call) callFirst(t *ServerTx, offer []byte, more ...Header) {
	d := c.places[0]
	if rest := c.places[1:]; len(rest) > 0 {
		c.fork().Next, c.fork().Carry = slices.Clone(rest), c.carry
	}
	c.places = nil
	c.B.Remote, c.B.Flow = d.remote(), d.Flow
	if d.Edge != "" {
		c.B.Edge = d.Edge
	}
	c.become(PhaseInviting)
	c.path = d.Path
	r := c.compose(LegB, nil, "INVITE", c.B.CSeq, offer, more...)
	r.Hurry = c.nextAfter(d)
	c.send(LegB, nil, r, c.B.CSeq, t.Tx)
	c.path = nil
	if c.Fork == nil {
		c.rings(d)
		return
	}
	for len(c.Fork.Next) > 0 && c.Fork.Next[0].Group == d.Group {
		next := c.Fork.Next[0]
		c.Fork.Next = c.Fork.Next[1:]
		c.branchTo(next)
	}
	c.rings(d)
	c.tidy()
}

func (d Destination) remote() string { return "<" + address(d.Number, hostOf(d.Target)) + ">" }

// callNext calls the next group that can be called.
func (c *call) callNext() (called bool) {
	for !called && c.Fork != nil && len(c.Fork.Next) > 0 {
		first := c.Fork.Next[0]
		for len(c.Fork.Next) > 0 && c.Fork.Next[0].Group == first.Group {
			d := c.Fork.Next[0]
			c.Fork.Next = c.Fork.Next[1:]
			called = c.branchTo(d) || called
		}
		if called {
			c.rings(first)
		}
	}
	c.tidy()
	return called
}

// rings sets how long the group of d may ring.
func (c *call) rings(d Destination) {
	c.stop(TimerTarget)
	limit := d.Seconds
	if limit == 0 && c.Fork != nil && len(c.Fork.Next) > 0 {
		limit = groupTime
	}
	if limit > 0 {
		c.Timers = append(c.Timers, Deadline{TimerTarget, c.now.Add(limit.duration())})
	}
}

// branchTo calls one more target, with the INVITE that others had.
func (c *call) branchTo(d Destination) bool {
	like, t := c.template(), c.A.open("INVITE")
	if like == nil || t == nil {
		return false
	}
	name := c.more(LegB)
	if name == "" {
		c.missed(Failure{Status: 503, Cause: "too-many-legs"})
		return false
	}
	l := c.leg(name)
	l.Remote, l.Flow, l.Target, l.Peer = d.remote(), d.Flow, d.Target, d.Peer
	l.set(Terms{SRTP: d.SRTP})
	l.SDPs, l.Told = c.B.SDPs, c.B.Told
	if d.Edge != "" {
		l.Edge = d.Edge
	} else {
		l.Edge = c.A.Edge
	}
	if !c.trying(LegB) {
		c.promote(name)
		name = LegB
	}
	c.carry = c.carriedOn(like)
	defer func() { c.carry = nil }()
	c.leg(name).Local = c.from(d.manner())
	c.path = d.Path
	r := c.compose(name, nil, "INVITE", 1, c.inShape(name, like.Msg.Body, c.asks(LegB, d.webrtc(), d.SRTP)))
	c.path, r.Hurry = nil, c.nextAfter(d)
	r.Msg.Headers = append(r.Msg.Headers, offersTo(d.Reliable, len(r.Msg.Body) == 0)...)
	for _, h := range like.Msg.Headers {
		switch {
		case strings.EqualFold(h.Name, "Max-Forwards"):
			for i := range r.Msg.Headers {
				if r.Msg.Headers[i].Name == "Max-Forwards" {
					r.Msg.Headers[i] = h
				}
			}
		case ofTarget(h) || r.Msg.Get(h.Name) != "":
		default:
			r.Msg.Headers = append(r.Msg.Headers, h)
		}
	}
	r.Msg.Headers = append(r.Msg.Headers, told(c.carry, d.manner())...)
	r.Msg.fold("Supported")
	c.send(name, nil, r, 1, t.Tx)
	return true
}

// inShape is our INVITE's offer to one branch as another is told it. Two that are
// told plain RTP are told the same.
func (c *call) inShape(name LegID, offer []byte, ask *Ask) []byte {
	s, err := describe(offer, want{coding: true})
	if len(offer) == 0 || err != nil || ask == nil && s.sound.Line == nil && !strings.Contains(string(offer), "a=crypto:") {
		return offer
	}
	l := c.leg(name)
	l.set(Terms{l.policy(), ask})
	return c.offer(name, s)
}

// ofTarget reports whether a header of an INVITE is for that target alone.
func ofTarget(h Header) bool {
	switch strings.ToLower(h.Name) {
	case "route", "authorization", "proxy-authorization":
		return true
	}
	return h.Value == extReliable || isCarried(h)
}

// template is an INVITE that called somebody: the one that has just ended, or
// one that still waits.
func (c *call) template() *SendRequest {
	if c.sent != nil {
		return c.sent
	}
	for _, a := range c.Pending {
		if a.Request != nil && a.Request.Msg.Method == "INVITE" && toTag(&a.Request.Msg) == "" {
			return a.Request
		}
	}
	return nil
}

// trying reports whether the leg's party is being called.
func (c *call) trying(id LegID) bool {
	l := c.leg(id)
	return !l.Leaving && slices.ContainsFunc(l.Cli, func(t ClientTx) bool { return t.Method == "INVITE" && t.Tag == "" })
}

func (c *call) fork() *Fork {
	if c.Fork == nil {
		c.Fork = new(Fork)
	}
	return c.Fork
}

// tidy lets go of a Fork that says nothing.
func (c *call) tidy() {
	if f := c.Fork; f != nil && len(f.Next) == 0 && len(f.Tried) == 0 && f.Best.Status == 0 && f.Depth == 0 {
		c.Fork = nil
	}
}

// missed remembers the best of the failures (RFC 3261 16.7 step 6).
func (c *call) missed(f Failure) {
	if best := c.fork(); best.Best.Status == 0 || rank(f) < rank(best.Best) {
		best.Best = f
	}
	c.res.Save = true
}

// rank orders failures: 6xx first, then the lowest class, in it what tells the
// caller how to ask again; what says least of the callee comes last.
func rank(f Failure) int {
	switch s := f.Status; {
	case s >= 600:
		return 0
	case s < 400 && len(f.Contacts) > 0:
		return 1
	case s == 415, s == 420, s == 484:
		return 2
	case s == 401, s == 407: // we are not let in: nothing that the caller could mend
		return 5
	case s < 400, s == 404, s == 408, s == 480, s == 487:
		return 4
	case s < 500:
		return 3
	case s == 503:
		return 6
	}
	return 5
}

// branchFailed takes the end of one branch without an answer.
func (c *call) branchFailed(leg LegID, f Failure, at time.Time) {
	c.missed(f)
	c.left(leg)
	if f.Status >= 600 { // step 5: nobody else is called
		c.failed(at)
		return
	}
	c.searchOn(at)
}

// left marks a branch that has ended.
func (c *call) left(leg LegID) { c.leg(leg).Leaving = true }

// forked reports whether somebody else than slot B's party may answer: then no
// answer of his is told the caller as one that stays.
func (c *call) forked() bool {
	return c.Fork != nil && len(c.Fork.Next) > 0 || slices.ContainsFunc(c.More, func(l Leg) bool { return c.trying(l.Name) })
}

// won ends the search while the answer waits for the caller's PRACK.
func (c *call) won(at time.Time) {
	c.AnswerAt, c.Fork, c.res.Save = at, nil, true
	c.stop(TimerTarget)
	c.leaveAll(elsewhere)
}

// searchOn waits for the other branches, calls the next group, or gives up.
func (c *call) searchOn(at time.Time) {
	for _, id := range c.legs()[1:] {
		if !c.trying(id) {
			continue
		}
		if id != LegB && !c.trying(LegB) {
			c.promote(id)
		}
		return
	}
	if c.A.Agreed || !c.callNext() { // who has an answer cannot be given another
		c.failed(at)
	}
}

// promote puts a branch in slot B whose party failed or was overtaken. What the
// caller heard of that one is over.
func (c *call) promote(name LegID) {
	heard := c.Early != nil
	before := c.leg(c.take(name))
	before.Leaving, before.Early = true, nil
	if !heard {
		return
	}
	if c.bridge(); c.Early == nil {
		c.B.Answers++ // the address of whoever is heard next is to be learned
	}
}

// failed tells the caller that nobody answers.
func (c *call) failed(at time.Time) {
	f, t := c.Fork.Best, c.A.open("INVITE")
	c.Fork = nil
	c.cancelCallees()
	status, result, by := mapped(f.Status), "", "b"
	switch {
	case f.Cause == "callee" && (f.Status == 401 || f.Status == 407):
		f.Cause, f.Said = "trunk-auth", nil
	case f.Cause == "callee" && len(f.Contacts) > 0:
		status = f.Status
	case f.Cause != "callee":
		by, result = "switch", "failed"
		if f.Cause == "no-answer" {
			result = f.Cause
		}
		if f.Cause != "unreachable" {
			status = f.Status
		}
	}
	if f.Cause != "callee" {
		c.CDR.Cause = f.Cause
	}
	c.respond(LegA, t, status, nil, append(c.passedOn(status, f), contacts(f.Contacts)...)...)
	c.finish(cmp.Or(result, resultOf(status)), status, by, at)
}

// elsewhere tells the losers of a fork that no call was missed (RFC 3326 3.2).
var elsewhere = Header{"Reason", `SIP;cause=200;text="Call completed elsewhere"`}

// groupOver takes the end of a group's time to answer.
func (c *call) groupOver() {
	for _, id := range c.legs()[1:] {
		if c.trying(id) {
			c.leave(id)
		}
	}
	c.missed(Failure{Status: 480, Cause: "no-answer"})
	c.searchOn(c.now)
}
