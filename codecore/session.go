package codecore

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// Session timers (RFC 4028). Each leg negotiates its own: whoever is the refresher
// says every half interval, by UPDATE or re-INVITE, that the session lives; when
// nobody has until shortly before its end, the call ends. We ask a callee to
// refresh, and leave it to a caller that does not mind: then all that is kept of
// it is one deadline, which a release without session timers may lose.
//
//	2xx to INVITE or UPDATE
//	   | refresher is the party       | refresher is us (Leg.Interval)
//	   v                              v
//	expire-<leg>                    refresh-<leg> --half--> UPDATE or re-INVITE, expire-<leg>
//	   | nobody refreshed
//	   v
//	BYE, "session-expired"

const (
	extTimer = "timer"

	refreshTimer = "refresh-" // Timer + LegID: our refresh is due. Stored: never rename.
	expireTimer  = "expire-"  // the session ends
	renewTimer   = "renew-"   // a re-INVITE of ours is due again (renew.go)
)

// Defaults of PlanLimits, and bounds of what a party may ask for.
const (
	defaultSession Seconds = 1800
	defaultMinSE   Seconds = 90 // RFC 4028 5: the least there is
	maxSession     Seconds = 24 * 3600
)

func timerOf(kind string, leg LegID) Timer { return Timer(kind + string(leg)) }

// sessionOf reads the name of a session timer; kind is "" for any other.
func sessionOf(t Timer) (kind string, leg LegID) {
	for _, kind := range []string{refreshTimer, expireTimer} {
		if leg, ok := strings.CutPrefix(string(t), kind); ok {
			return kind, LegID(leg)
		}
	}
	return "", ""
}

func (p *Plan) session() (expires, least Seconds) {
	expires, least = p.Limits.SessionExpires, max(defaultMinSE, p.Limits.MinSE)
	if expires == 0 {
		expires = defaultSession
	}
	if expires > 0 {
		expires = max(expires, least)
	}
	return expires, least
}

// intervalOf reads a Session-Expires or Min-SE value; 0 is none.
func intervalOf(v string) (n Seconds, refresher string) {
	num, params, _ := strings.Cut(v, ";")
	d, err := strconv.ParseUint(strings.TrimSpace(num), 10, 31)
	if err != nil || d == 0 {
		return 0, ""
	}
	for _, p := range strings.Split(params, ";") {
		if name, value, _ := strings.Cut(strings.TrimSpace(p), "="); strings.EqualFold(name, "refresher") {
			refresher = strings.ToLower(strings.TrimSpace(value))
		}
	}
	return Seconds(min(d, uint64(maxSession))), refresher
}

// sessionTerms settles what the 2xx to an INVITE or UPDATE will say of the session
// (RFC 4028 9), and keeps it with the transaction. most is the longest interval of
// ours, 0 when the dialplan is not at hand.
func (c *call) sessionTerms(leg LegID, t *ServerTx, m *Message, most, least Seconds) *refusal {
	n, refresher := intervalOf(m.Get("Session-Expires"))
	takes := hasOption(m, "Supported", extTimer) || hasOption(m, "Require", extTimer)
	switch {
	case n != 0 && n < least && takes:
		return &refusal{422, "session-interval", []Header{{"Min-SE", strconv.Itoa(int(least))}}}
	case n != 0 && !takes: // a proxy wants it: the caller cannot refresh
		n, refresher = max(n, least), "uas"
	case n != 0:
		if asked, _ := intervalOf(m.Get("Min-SE")); most > 0 {
			n = min(n, max(most, asked))
		}
		if refresher != "uas" {
			refresher = "uac"
		}
	case !takes:
		return nil
	case most > 0:
		n, refresher = most, "uac"
	case c.leg(leg).Interval > 0: // ours goes on
		n, refresher = c.leg(leg).Interval, "uas"
	default:
		return nil
	}
	t.Head = append(t.Head, Header{"Session-Expires", sessionValue(n, refresher)})
	return nil
}

func sessionValue(n Seconds, refresher string) string {
	return strconv.Itoa(int(n)) + ";refresher=" + refresher
}

// sessionAnswer is what a 2xx of ours says of the session, which begins with it.
func (c *call) sessionAnswer(leg LegID, t *ServerTx) (more []Header) {
	for _, h := range t.Head {
		if h.Name != "Session-Expires" {
			continue
		}
		n, refresher := intervalOf(h.Value)
		if refresher == "uac" {
			more = append(more, Header{"Require", extTimer})
		}
		c.session(leg, n, refresher == "uas")
		return append(more, h)
	}
	c.session(leg, 0, false)
	return nil
}

// sessionAgreed takes what a 2xx to an INVITE or UPDATE of ours says of it.
func (c *call) sessionAgreed(leg LegID, m *Message) {
	n, refresher := intervalOf(m.Get("Session-Expires"))
	c.session(leg, n, refresher != "uas")
}

// session starts the leg's session timer anew; n = 0: it has none.
func (c *call) session(leg LegID, n Seconds, us bool) {
	l := c.leg(leg)
	l.Interval = 0
	kept := func(d Deadline) bool {
		return d.Timer == timerOf(refreshTimer, leg) || d.Timer == timerOf(expireTimer, leg)
	}
	had := len(c.Timers)
	c.Timers = without(c.Timers, kept)
	switch {
	case n == 0:
		if len(c.Timers) != had {
			c.res.Save = true
		}
		return
	case us:
		l.Interval = n
		c.Timers = append(c.Timers, Deadline{timerOf(refreshTimer, leg), c.now.Add(n.duration() / 2)})
	default:
		c.Timers = append(c.Timers, Deadline{timerOf(expireTimer, leg), c.now.Add(n.duration() - margin(n))})
	}
	c.res.Save = true
}

// margin is how long before its end a session that nobody refreshed gets its BYE
// (RFC 4028 10).
func margin(n Seconds) time.Duration { return min(32*time.Second, n.duration()/3) }

// sessionOffer is what a request of ours inside a dialog says of the session.
func (l *Leg) sessionOffer() []Header {
	more := []Header{{"Supported", extTimer}}
	if l.Interval > 0 {
		more = append(more, Header{"Session-Expires", sessionValue(l.Interval, "uac")})
	}
	return more
}

// refreshDue refreshes the session of a leg, which ends unless that succeeds.
func (c *call) refreshDue(leg LegID) {
	l := c.leg(leg)
	if l == nil || l.Interval == 0 || c.Phase == PhaseEnded {
		return
	}
	c.res.Save = true
	if !slices.ContainsFunc(c.Timers, func(d Deadline) bool { return d.Timer == timerOf(expireTimer, leg) }) {
		c.Timers = append(c.Timers, Deadline{timerOf(expireTimer, leg), c.now.Add(l.Interval.duration()/2 - margin(l.Interval))})
	}
	c.refresh(leg)
}

// longer repeats a request of ours that got 422, with the interval that it wants
// (RFC 4028 7.4); false when that is no more than it had.
func (c *call) longer(leg LegID, t ClientTx, e SIPResponse) bool {
	want, _ := intervalOf(e.Msg.Get("Min-SE"))
	if c.closed == nil || c.Phase == PhaseEnded || c.leg(leg).Leaving || e.Msg.Status != 422 {
		return false
	}
	had, refresher := intervalOf(c.closed.Msg.Get("Session-Expires"))
	if want <= had {
		return false
	}
	if refresher == "" {
		refresher = "uas"
	}
	if c.leg(leg).Interval > 0 {
		c.leg(leg).Interval = want
	}
	return c.askAgain(leg, t, Header{"Session-Expires", sessionValue(want, refresher)}, Header{"Min-SE", strconv.Itoa(int(want))})
}

// askAgain sends the request that was just closed as a new one, with these headers
// in place of those it had (RFC 3261 8.1.3.5).
func (c *call) askAgain(leg LegID, t ClientTx, headers ...Header) bool {
	if c.closed == nil {
		return false
	}
	l, r := c.leg(leg), *c.closed
	l.CSeq++
	headers = append(headers, Header{"CSeq", formatCSeq(l.CSeq, t.Method)})
	var kept []Header
	for _, h := range r.Msg.Headers {
		if !slices.ContainsFunc(headers, func(o Header) bool { return o.Name == h.Name }) {
			kept = append(kept, h)
		}
	}
	r.Msg.Headers = append(kept, headers...)
	r.Branch = c.branch(leg, t.Method, l.CSeq, t.Tag)
	r.Auth = c.authorize(leg, t.Method, l.CSeq)
	t.Branch, t.CSeq = r.Branch, l.CSeq
	l.Cli = append(l.Cli, t)
	c.do(edgeOf(l.Edge), Effect{Request: &r})
	return true
}
