package codecore

import (
	"strconv"
	"strings"
	"time"
)

// Requests that the switch itself begins inside a dialog: a session refresh, and a
// re-INVITE that tells a party again what the other last said. The latter takes an
// offer back that came to nothing: one party has accepted it in a way that cannot
// be passed on, and would send and listen for what the other does not know of.
//
//	a                    switch                    b
//	| INVITE offer2 ---> | INVITE offer2 --------> |
//	|                    | <------------- 200 junk |
//	|                    | ACK ------------------> |
//	| <-------------- 500|                         |
//	|                    | INVITE offer1 --------> |   as before
//
// Where such a request of ours crosses one of theirs, it gets 491 and is sent again
// (RFC 3261 14.1): by the owner of the Call-ID after 2.1 to 4 s, by the other one
// within 2 s.

// renew tells the leg's party again what the other one last said.
func (c *call) renew(leg LegID) {
	l := c.leg(leg)
	d := l.live()
	if d == nil || c.Phase == PhaseEnded {
		return
	}
	if c.engaged(leg) {
		c.later(renewTimer, leg, time.Second)
		return
	}
	s, ok := c.saidBy(c.across(leg))
	if !ok {
		return
	}
	l.CSeq++
	c.ask(leg, d, "INVITE", l.CSeq, "", c.offer(leg, s), sdpType)
}

// refresh says that the session lives: by UPDATE if the party takes it.
func (c *call) refresh(leg LegID) {
	l := c.leg(leg)
	d := l.live()
	switch {
	case d == nil:
	case !l.Update:
		c.renew(leg)
	case c.busy(leg):
		c.later(refreshTimer, leg, time.Second)
	default:
		l.CSeq++
		c.ask(leg, d, "UPDATE", l.CSeq, "", nil)
	}
}

// engaged reports whether an offer to the leg would cross another.
func (c *call) engaged(leg LegID) bool {
	l, far := c.leg(leg), c.leg(c.across(leg))
	return c.Phase != PhaseTalking || c.offering() || c.answerDue() || c.busy(leg) ||
		l.open("INVITE") != nil || l.open("UPDATE") != nil || far.open("INVITE") != nil || far.open("UPDATE") != nil
}

// busy reports whether a request like it is out on the leg.
func (c *call) busy(leg LegID) bool {
	for _, t := range c.leg(leg).Cli {
		if t.Method == "INVITE" || t.Method == "UPDATE" {
			return true
		}
	}
	return false
}

func (c *call) later(kind string, leg LegID, d time.Duration) {
	c.stop(timerOf(kind, leg))
	c.Timers = append(c.Timers, Deadline{timerOf(kind, leg), c.now.Add(d)})
	c.res.Save = true
}

// renewed takes the final response to a re-INVITE or UPDATE of our own.
func (c *call) renewed(leg LegID, t ClientTx, e SIPResponse) {
	l := c.leg(leg)
	kind := renewTimer
	if t.Method == "UPDATE" {
		kind = refreshTimer
	}
	if d := l.dialog(t.Tag); d != nil && e.Msg.Status < 300 {
		if target := contactOf(&e.Msg); target != "" {
			d.Target = target
		}
		l.learn(&e.Msg)
		if c.Phase != PhaseEnded {
			c.sessionAgreed(leg, &e.Msg)
		}
		if t.Method == "INVITE" {
			c.ask(leg, d, "ACK", t.CSeq, "", nil)
		}
	}
	switch status := e.Msg.Status; {
	case c.Phase == PhaseEnded, t.Method == "INVITE" && c.remainingTold(leg, t, e):
	case status < 300:
		if s, err := c.answered(leg, e.Msg.Body); err == nil && t.Method == "INVITE" {
			l.Sound = s.sound
			l.Answers++
			c.bridge()
		}
	case c.longer(leg, t, e):
	case status == 491:
		c.later(kind, leg, c.glare(leg))
	case status == 500 && e.Msg.Get("Retry-After") != "":
		n, _ := strconv.Atoi(strings.TrimSpace(e.Msg.Get("Retry-After")))
		c.later(kind, leg, Seconds(min(max(n, 1), 10)).duration())
	case status == 405 || status == 501:
		if l.Update && t.Method == "UPDATE" {
			l.Update = false
			c.renew(leg)
		}
	case gone(status):
		c.lost(leg, e)
	}
	// Any other refusal: the description stands, and the session has until its end.
}

// glare is how long to wait after a 491 (RFC 3261 14.1), in steps of 10 ms.
func (c *call) glare(leg LegID) time.Duration {
	n := c.between(0, 200, "glare", leg, c.leg(leg).CSeq)
	if c.slot(leg) != LegA { // the Call-ID is ours
		n = c.between(210, 400, "glare", leg, c.leg(leg).CSeq)
	}
	return time.Duration(n) * 10 * time.Millisecond
}
