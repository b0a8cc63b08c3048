package codecore

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A party sends the other one elsewhere (RFC 3515, RFC 5589 6).
//
//	transferor         switch          target        remaining party
//	| REFER ---------> |                  |                |
//	| <-------- 202    | INVITE --------> |                |  calling
//	| <-------- NOTIFY |    (its words as last heard, Referred-By)
//	| <-------- NOTIFY | <---------- 180  |                |
//	| <-------- NOTIFY | <---------- 200  |                |  joined: the target has the slot
//	|                  | ACK -----------> |                |
//	| <----------- BYE | re-INVITE ----------------------> |  unless it knows that already
//	| 200 -----------> | <----------------------- 200, ACK |
//
// The transferor may hang up as soon as it has its 202: the remaining party then
// waits alone. When the target cannot be had, the transferor hears that, and the
// call is as it was; when it has gone, the call ends.
//
// The transferor's rights are those of the target's call: the dialplan is asked
// as if it had dialled. Referred-By says who it was by what we know, not by what
// it says. Of its subscription nothing outlives the dialog.

// Transfer is a transfer under way: one at a time in a call. Stored: never rename
// a field.
type Transfer struct {
	Slot   LegID `json:"slot"`             // the transferor's
	Leg    LegID `json:"leg,omitempty"`    // the target while it is called; once joined, the transferor; "" = neither is left
	Joined bool  `json:"joined,omitempty"` // the target has the slot
	// Replaces: the target has come by itself, with an INVITE that replaces the
	// dialog of the slot's party (replace.go).
	Replaces bool   `json:"replaces,omitempty"`
	To       string `json:"to,omitempty"` // number

	More []LegID `json:"more,omitempty"` // the target's other contacts, while they are called
	Best int     `json:"best,omitempty"` // status of the best refusal of those that were

	ID     string `json:"id,omitempty"`     // of the subscription: the REFER's CSeq; "" = none
	Status int    `json:"status,omitempty"` // what the transferor is to know
	Told   int    `json:"told,omitempty"`   // what it was told
	Over   bool   `json:"over,omitempty"`   // Status is final

	Answer string `json:"answer,omitempty"` // the target's SDP, which the remaining party has not been told
	Out    bool   `json:"out,omitempty"`    // the re-INVITE that tells it is out
	Wait   bool   `json:"wait,omitempty"`   // until TimerTransfer
}

// TimerTransfer bounds the ringing of a transfer's target, and later each pause
// before the remaining party is told again. Stored: never rename.
const TimerTransfer Timer = "transfer"

// ackGrace is how long a re-INVITE waits for the ACK to an earlier one.
const ackGrace = 2 * time.Second

// referral is a REFER, or an operator's wish, whose target is being located.
type referral struct {
	slot   LegID
	tx     string // of the REFER; "" = the operator's
	id     string
	to     ReferTo
	route  RouteResult
	at     time.Time
	webrtc bool // the target is a page
}

// TransferTo is the operator's wish to send one party's peer elsewhere: as if
// the party in slot Leg had sent REFER.
type TransferTo struct {
	Leg    LegID  `json:"leg"`            // the party that leaves
	Target string `json:"target"`         // number or SIP URI
	Plan   *Plan  `json:"plan,omitempty"` // put in by the worker; never stored

	Full map[string]string `json:"full,omitempty"` // likewise, as in SIPRequest
}

func (TransferTo) event() {}

// NumberOf is the number that an operator's target stands for: itself, or the
// user of a URI.
func NumberOf(target string) string {
	if to, err := ParseReferTo(target); err == nil {
		return userOf(to.URI)
	}
	return strings.TrimSpace(target)
}

// refer takes a REFER inside a dialog.
func (c *call) refer(leg LegID, d *Dialog, e SIPRequest) {
	cseq, _ := cseqOf(&e.Msg)
	if c.leg(leg).open("INVITE") == nil && leg == LegA && c.Phase == PhaseAnswered {
		c.acked(leg, math.MaxUint32) // it would not go on without having acknowledged
	}
	t := c.serve(leg, e)
	no := func(status int, cause string, more ...Header) {
		c.respond(leg, t, status, nil, append(more, c.reason(status, cause))...)
	}
	to, err := referTo(&e.Msg)
	unknown := unsupported(&e.Msg)
	switch {
	case len(unknown) > 0:
		no(420, "extension", Header{"Unsupported", unknown[0]})
		return
	case err != nil:
		no(400, "refer-to")
		return
	case !d.Confirmed || c.Phase != PhaseAnswered && c.Phase != PhaseTalking || c.leg(other(leg)).live() == nil || c.answerDue():
		no(500, "no-peer-dialog", Header{"Retry-After", "1"})
		return
	case c.Transfer != nil:
		no(491, "transfer-under-way")
		return
	}
	r := referral{slot: leg, tx: t.Tx, to: to, at: e.At}
	if !wantsNoNotify(&e.Msg) {
		r.id = strconv.FormatUint(uint64(cseq), 10)
	}
	c.transfer(r, e.Plan, e.Full)
}

// transferTo takes the operator's wish.
func (c *call) transferTo(e TransferTo) {
	if e.Leg != LegA && e.Leg != LegB || c.Transfer != nil || c.Phase != PhaseTalking ||
		c.A.live() == nil || c.B.live() == nil {
		return
	}
	to, err := ParseReferTo(e.Target)
	if err != nil || to.Replaces != nil {
		to = ReferTo{URI: address(NumberOf(e.Target), "invalid")}
	}
	c.transfer(referral{slot: e.Leg, to: to, at: c.now}, e.Plan, e.Full)
}

// transfer finds the target's way by the dialplan, with the transferor's rights.
func (c *call) transfer(r referral, plan *Plan, full map[string]string) {
	if id, ok := c.ours(r.to.Replaces); ok {
		// The call of that dialog has been routed long ago: no dialplan is asked.
		r.route = RouteResult{Peer: "call:" + id, Number: "call:" + id, Target: r.to.URI}
		c.callTarget(r, Located{Target: r.to.URI, Flow: LoopFlow})
		return
	}
	if plan == nil {
		c.refuseReferral(r, 503, "no-dialplan")
		return
	}
	var err error
	if r.route, err = Route(plan, c.peerOf(r.slot), userOf(r.to.URI)); err != nil {
		c.refuseReferral(r, 404, "no-route")
		return
	}
	if IsService(r.route.Peer) {
		c.refuseReferral(r, 403, "service")
		return
	}
	if why := c.full(full, r.route.Peer); why != "" {
		c.refuseReferral(r, 503, why)
		return
	}
	if account, ok := AccountOf(r.route.Peer); ok {
		c.referred, c.res.Locate = &r, account
		return
	}
	at := Located{Target: r.route.Target}
	if p := plan.peer(r.route.Peer); p != nil {
		at.SRTP, r.webrtc = p.SRTP, p.Media == MediaWebRTC
	}
	c.callTarget(r, at)
}

func (c *call) refuseReferral(r referral, status int, cause string) {
	if t := c.leg(r.slot).srv(r.tx); t != nil {
		c.respond(r.slot, t, status, nil, c.reason(status, cause))
	}
}

// targetLocated goes on when the directory has answered.
func (c *call) targetLocated(e Located) {
	r := *c.referred
	c.referred = nil
	if e.Reason != "" {
		c.refuseReferral(r, unlocated(e.Reason), e.Reason)
		return
	}
	c.callTarget(r, append([]Located{e}, e.More...)...)
}

// callTarget calls the target of a transfer, all its contacts at once.
func (c *call) callTarget(r referral, at ...Located) {
	sdp, ok := c.wordsOf(other(r.slot))
	if !ok {
		c.refuseReferral(r, 488, "no-plain-codec")
		return
	}
	at = at[:min(len(at), maxMore-len(c.More))]
	if len(at) == 0 {
		c.refuseReferral(r, 503, "legs-out")
		return
	}
	if t := c.leg(r.slot).srv(r.tx); t != nil {
		var more []Header
		if r.id == "" {
			more = []Header{{"Refer-Sub", "false"}}
		}
		c.respond(r.slot, t, 202, nil, more...)
	}
	x := &Transfer{Slot: r.slot, To: r.route.Number, ID: r.id, Status: 100}
	c.Transfer = x
	noAnswer, _ := c.limits()
	c.setTimer(TimerTransfer, noAnswer.duration())
	more := []Header{{"Referred-By", "<" + uriOf(c.leg(r.slot).Remote) + ">"}, sdpType}
	if d := r.to.Replaces; d != nil {
		more = append(more, Header{"Replaces", d.String()}, Header{"Require", extReplaces})
	}
	for _, to := range at {
		name := c.more(r.slot)
		l := c.leg(name)
		l.Target, l.Peer, l.Flow = to.Target, r.route.Peer, to.Flow
		l.Remote = "<" + address(r.route.Number, hostOf(to.Target)) + ">"
		if to.Flow == LoopFlow {
			l.Remote = "<" + to.Target + ">"
		}
		if to.Edge != "" {
			l.Edge = to.Edge
		}
		l.set(Terms{to.SRTP, c.asks(r.slot, r.webrtc || isWebSocket(to.Target, to.Flow), to.SRTP)})
		if x.Leg == "" {
			x.Leg = name
		} else {
			x.More = append(x.More, name)
		}
		c.path = to.Path
		c.ask(name, nil, "INVITE", 1, "", c.offer(name, sdp), more...)
		c.path = nil
	}
}

func (c *call) setTimer(t Timer, after time.Duration) {
	c.stop(t)
	c.Timers = append(c.Timers, Deadline{t, c.now.Add(after)})
	c.res.Save = true
}

// isTarget reports whether a leg is one that a transfer calls.
func (c *call) isTarget(leg LegID) bool { return slices.Contains(c.targets(), leg) }

// targets are the legs that a transfer calls.
func (c *call) targets() []LegID {
	x := c.Transfer
	if x == nil || x.Joined || x.Leg == "" {
		return nil
	}
	return append([]LegID{x.Leg}, x.More...)
}

// targetRings passes the target's progress on to the transferor.
func (c *call) targetRings(status int) {
	if x := c.Transfer; status > x.Status && status < 200 {
		x.Status = status
		c.res.Save = true
	}
}

// targetSaid takes the final answer of a transfer's target.
func (c *call) targetSaid(leg LegID, t ClientTx, e SIPResponse) {
	x := c.Transfer
	if e.Msg.Status >= 300 {
		c.leg(leg).Leaving = true
		c.targetFailed(leg, e.Msg.Status, e.At)
		return
	}
	d := c.confirm(leg, e)
	if d == nil {
		return
	}
	c.ask(leg, d, "ACK", t.CSeq, "", nil)
	s, err := c.answered(leg, e.Msg.Body)
	if err != nil {
		c.leave(leg)
		c.targetFailed(leg, 488, e.At)
		return
	}
	c.leg(leg).Sound = s.sound
	c.join(leg, e)
	x.Status, x.Answer = e.Msg.Status, string(e.Msg.Body)
	c.bridge()
}

// join brings the target into the transferor's slot.
func (c *call) join(leg LegID, e SIPResponse) {
	x := c.Transfer
	for _, id := range c.targets() {
		if id != leg {
			c.leave(id, elsewhere)
		}
	}
	x.More = nil
	c.refuseWaiting(x.Slot)
	c.dropLate(x.Slot)
	by := c.peerOf(x.Slot)
	c.stop(TimerTransfer)
	x.Leg = c.take(leg)
	c.leg(x.Leg).Peer = by
	c.leg(x.Slot).Target = ""
	c.leg(x.Slot).Answers++
	x.Joined, x.Over = true, true
	c.CDR.TransferredTo, c.CDR.TransferredBy, c.CDR.Transferred = x.To, by, e.At
}

// targetFailed takes the end of one contact of the target: the others ring on, but
// after a 6xx (RFC 3261 16.7).
func (c *call) targetFailed(leg LegID, status int, at time.Time) {
	x := c.Transfer
	if x.Best == 0 || rank(Failure{Status: status}) < rank(Failure{Status: x.Best}) {
		x.Best = status
	}
	left := without(c.targets(), func(id LegID) bool { return id == leg })
	if status >= 600 {
		for _, id := range left {
			c.leave(id)
		}
		left = nil
	}
	if len(left) == 0 {
		c.targetLost(x.Best, at)
		return
	}
	x.Leg, x.More, c.res.Save = left[0], without(left[1:], func(LegID) bool { return false }), true
}

// targetLost takes the end of the attempt: the parties stay as they were, if
// both are there.
func (c *call) targetLost(status int, at time.Time) {
	x := c.Transfer
	x.Leg, x.More, x.Status, x.Over = "", nil, status, true
	c.stop(TimerTransfer)
	c.res.Save = true
	if c.leg(x.Slot).live() == nil && c.Phase != PhaseEnded {
		c.Transfer = nil
		c.hangUp("switch", "transfer-failed", at)
	}
}

// transferorLeft takes the BYE of a transferor whose target is being called: the
// call goes on without it.
func (c *call) transferorLeft(leg LegID) bool {
	x := c.Transfer
	if x == nil || x.Joined || x.Leg == "" || leg != x.Slot || c.leg(leg).live() != nil {
		return false
	}
	c.dropLate(leg)
	c.leg(leg).Sound, c.leg(leg).Offer = Sound{}, nil // its labels stay used
	c.refuseWaiting(leg)
	c.bridge()
	return true
}

// dropLate ends an offer of a 2xx whose answer a leaving party owes, or is owed:
// it will not come. The other party is told anew.
func (c *call) dropLate(leaving LegID) {
	rest := other(leaving)
	l, r := c.leg(leaving), c.leg(rest)
	if l.AckDue != 0 {
		if d := l.live(); d != nil {
			c.ackRefusing(leaving, d, l.AckDue, l.Offer)
		}
		l.AckDue, r.Told = 0, ""
	}
	if d := r.live(); r.AckDue != 0 && d != nil {
		c.ackRefusing(rest, d, r.AckDue, r.Offer)
	}
}

// transferFired takes TimerTransfer.
func (c *call) transferFired() {
	x := c.Transfer
	switch {
	case x == nil:
	case x.Wait:
		x.Wait = false
		c.acked(other(x.Slot), math.MaxUint32) // a crash may have swallowed its ACK
		c.res.Save = true
	case !x.Joined && x.Leg != "":
		c.CDR.Cause = ""
		for _, id := range c.targets() {
			c.leave(id)
		}
		c.targetLost(408, c.now)
	}
}

// goOn does what a transfer has due, whatever has just happened.
func (c *call) goOn() {
	x := c.Transfer
	if x == nil {
		return
	}
	if c.Phase == PhaseEnded {
		c.Transfer = nil
		c.stop(TimerTransfer)
		return
	}
	told := c.tellTransferor()
	if told && x.Joined && x.Leg != "" {
		c.leave(x.Leg)
		x.Leg = ""
	}
	c.tellRemaining()
	if told && x.Over && x.Answer == "" && x.Leg == "" {
		c.Transfer, c.res.Save = nil, true
		c.stop(TimerTransfer)
	}
}

// tellTransferor sends the NOTIFY that is due, one at a time; it reports whether
// there is nothing more to say.
func (c *call) tellTransferor() (over bool) {
	x := c.Transfer
	id := x.Slot
	if x.Joined {
		id = x.Leg
	}
	if id == "" || x.ID == "" {
		return x.Over
	}
	l := c.leg(id)
	d := l.live()
	switch {
	case d == nil:
		return x.Over
	case slices.ContainsFunc(l.Cli, func(t ClientTx) bool { return t.Method == "NOTIFY" }):
		return false
	case x.Told == x.Status:
		return x.Over
	}
	state := "terminated;reason=noresource"
	if !x.Over {
		noAnswer, _ := c.limits()
		state = "active;expires=" + strconv.Itoa(int(noAnswer)+60)
	}
	x.Told = x.Status
	l.CSeq++
	c.ask(id, d, "NOTIFY", l.CSeq, "", sipfrag(x.Status), Header{"Event", "refer;id=" + x.ID},
		Header{"Subscription-State", state}, Header{"Content-Type", "message/sipfrag;version=2.0"})
	return false
}

// notified takes the answer to a NOTIFY. Who knows of no subscription is told
// no more.
func (c *call) notified(status int) {
	if x := c.Transfer; x != nil && status >= 300 {
		x.ID = ""
		c.res.Save = true
	}
}

// tellRemaining lets the remaining party know how the target sounds, if that
// differs from what it was told last.
func (c *call) tellRemaining() {
	x := c.Transfer
	if x.Answer == "" || x.Out || x.Wait {
		return
	}
	id := other(x.Slot)
	l := c.leg(id)
	d := l.live()
	s, err := describe([]byte(x.Answer), want{coding: true})
	switch {
	case d == nil || err != nil:
		x.Answer, c.res.Save = "", true
		return
	case l.open("INVITE") != nil || l.open("UPDATE") != nil || c.busy(id):
		return // its end comes by here
	case slices.ContainsFunc(l.Srv, ServerTx.accepted):
		x.Wait = true
		c.setTimer(TimerTransfer, ackGrace)
		return
	}
	told := l.Told
	body := c.offer(id, s)
	if l.Told == told {
		x.Answer, c.res.Save = "", true
		return
	}
	l.CSeq++
	x.Out = true
	c.ask(id, d, "INVITE", l.CSeq, "", body, sdpType)
}

// remainingTold takes the remaining party's answer to that; it reports whether
// it was one.
func (c *call) remainingTold(leg LegID, t ClientTx, e SIPResponse) bool {
	x := c.Transfer
	if x == nil || !x.Out || leg != other(x.Slot) || t.For != "" {
		return false
	}
	x.Out = false
	c.res.Save = true
	if e.Msg.Status == 491 { // RFC 3261 14.1: who made the Call-ID waits longer
		l := c.leg(leg)
		x.Wait = true
		wait := time.Second
		if leg == LegB || c.key(leg) != LegA {
			wait = 3 * time.Second
		}
		l.Told = "" // the same words again
		c.setTimer(TimerTransfer, wait)
		return true
	}
	x.Answer = ""
	if e.Msg.Status >= 300 {
		if gone(e.Msg.Status) {
			c.lost(leg, e)
		}
		return true
	}
	if s, err := c.answered(leg, e.Msg.Body); err == nil {
		l := c.leg(leg)
		l.Sound = s.sound
		l.Answers++
		c.leg(other(leg)).Answers++
		c.bridge()
	}
	return true
}
