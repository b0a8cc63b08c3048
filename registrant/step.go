package registrant

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"callswitch/codecore"
)

// Tick does what is due: it follows the dialplan, leaves an edge that is gone,
// gives a REGISTER up that nobody has answered, and decides the next one. edges
// are the nodes that one can go out by.
func (s State) Tick(p *codecore.Plan, edges []string, now time.Time) State {
	s.follow(p, now)
	if !slices.Contains(edges, s.Edge) {
		if len(edges) == 0 {
			return s // an edge that restarts gets the action again
		}
		s.move(edges, now)
	}
	if s.Tx != nil && now.Sub(s.Tx.At) > txGiveUp {
		s.fail(408, ReasonNoAnswer, 0, now)
	}
	if !s.Since.IsZero() && !s.Bound(now) {
		s.Since = time.Time{}
	}
	switch {
	case s.Tx != nil || s.Gone(), s.Next.After(now):
	case s.Leaving:
		s.send(0, 0, nil, now)
	default:
		s.send(s.ask(), 0, nil, now)
	}
	return s
}

// Due is when Tick has something to do, unless the plan or the edges change.
func (s *State) Due() time.Time {
	if s.Tx != nil {
		return s.Tx.At.Add(txGiveUp)
	}
	return s.Next
}

// Gone reports that nothing is left of the registration: its record may go.
func (s *State) Gone() bool { return s.Leaving && s.Tx == nil && s.Until.IsZero() }

func (s *State) ask() codecore.Seconds { return max(s.Account.Seconds(), s.Min) }

// follow takes a newer dialplan. An account that has changed is left before the
// new one is entered.
func (s *State) follow(p *codecore.Plan, now time.Time) {
	if p.Version < s.Plan {
		return
	}
	want, named := p.Enlisted()[s.Peer]
	switch {
	case named && want == s.Account && !s.Leaving:
	case named && want.SameAccount(s.Account):
		if s.Leaving || want.Expires != s.Account.Expires {
			s.Leaving, s.Fails, s.Next = false, 0, now
		}
		s.Account, s.Plan = want, p.Version
	case !s.Leaving:
		s.Leaving, s.Fails, s.Next, s.Plan = true, 0, now, p.Version
		fallthrough
	default:
		if named && s.Gone() {
			s.Leaving, s.Account, s.Plan, s.Challenges, s.Min = false, want, p.Version, nil, 0
			s.Fails, s.Reason, s.Status, s.Next = 0, "", 0, now
		}
	}
}

// move leaves an edge that is gone: what it was asked for will not be answered,
// and the address in the binding is not ours any more.
func (s *State) move(edges []string, now time.Time) {
	best := ""
	for _, e := range edges {
		if best == "" || s.hash(8, "edge", e) > s.hash(8, "edge", best) {
			best = e
		}
	}
	if s.Edge != "" {
		s.Tx, s.Next = nil, now
	}
	s.Edge = best
}

// Answered takes a response; one to an earlier REGISTER changes nothing.
func (s State) Answered(r codecore.SIPResponse, now time.Time) State {
	status := r.Msg.Status
	if s.Tx == nil || r.Branch != s.Tx.Branch || status < 200 {
		return s
	}
	switch {
	case s.elsewhere(r.Failed, now):
	case status < 300:
		s.granted(&r.Msg, now)
	case status == 401 || status == 407:
		s.challenged(&r.Msg, now)
	case status == 423:
		s.tooBrief(&r.Msg, now)
	case status == 403:
		s.fail(status, ReasonForbidden, 0, now)
	case status == 408:
		s.fail(status, ReasonNoAnswer, retryAfter(&r.Msg), now)
	case status == 480, status == 486, status/100 == 5:
		s.fail(status, ReasonBusy, retryAfter(&r.Msg), now)
	default:
		s.fail(status, ReasonRefused, retryAfter(&r.Msg), now)
	}
	return s
}

// TimedOut takes the edge's word that there is no answer.
func (s State) TimedOut(e codecore.SIPTimeout, now time.Time) State {
	if s.Tx == nil || e.Branch != s.Tx.Branch {
		return s
	}
	if s.elsewhere(e.Failed, now) {
		return s
	}
	reason := ReasonNoAnswer
	switch e.Code {
	case 407:
		reason = ReasonNoPassword
	case 503:
		reason = ReasonUnreachable
	}
	s.fail(e.Code, reason, 0, now)
	return s
}

// elsewhere asks the registrar's next address (RFC 3263 4.3), when the edge says
// that one has failed and that there are others.
func (s *State) elsewhere(failed string, now time.Time) bool {
	t := s.Tx
	if failed == "" || len(t.Avoid) >= maxAvoid || slices.Contains(t.Avoid, failed) {
		return false
	}
	s.send(t.Expires, t.Tries, append(slices.Clone(t.Avoid), failed), now)
	return true
}

// granted takes a 2xx (RFC 3261 10.2.4).
func (s *State) granted(m *codecore.Message, now time.Time) {
	t := s.Tx
	if t.Expires == 0 {
		s.Tx, s.Until, s.Since, s.Next, s.Fails, s.Reason, s.Status = nil, time.Time{}, time.Time{}, now, 0, "", 0
		return
	}
	span := s.span(m)
	if span <= 0 {
		s.fail(m.Status, ReasonNotBound, 0, now)
		return
	}
	s.Tx, s.Fails, s.Reason, s.Status = nil, 0, "", 0
	if s.Since.IsZero() {
		s.Since = now
	}
	s.Until = t.At.Add(span)
	if s.Next = s.refresh(t.At, span); s.Leaving {
		s.Next = now
	}
}

// span is for how long our Contact is bound. A registrar that lists it otherwise
// than we wrote it, or not at all, says it in Expires, or grants what was asked.
func (s *State) span(m *codecore.Message) time.Duration {
	said := m.Get("Expires")
	for _, c := range m.All("Contact") {
		if user, expires := contact(c); user == s.Contact() {
			if expires != "" {
				said = expires
			}
			break
		}
	}
	n, err := strconv.ParseUint(strings.TrimSpace(said), 10, 32)
	if err != nil {
		n = uint64(s.Tx.Expires)
	}
	return min(time.Duration(n)*time.Second, mostGranted)
}

// contact reads the user and the expires parameter of a Contact.
func contact(v string) (user, expires string) {
	var uri, params string
	if open := strings.IndexByte(v, '<'); open >= 0 {
		uri, params, _ = strings.Cut(v[open+1:], ">")
	} else {
		uri, params, _ = strings.Cut(v, ";")
	}
	if _, rest, ok := strings.Cut(uri, ":"); ok {
		user, _, _ = strings.Cut(rest, "@")
	}
	for _, p := range strings.Split(params, ";") {
		if name, value, _ := strings.Cut(strings.TrimSpace(p), "="); strings.EqualFold(strings.TrimSpace(name), "expires") {
			expires = strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return user, expires
}

// refresh is when a binding is asked for again: early enough for one REGISTER to
// time out (32 s) and another to get through, where that much was granted.
func (s *State) refresh(from time.Time, span time.Duration) time.Time {
	spare := max(span/5, min(2*span/3, 75*time.Second))
	return from.Add(span - spare - s.spread(spare/5))
}

// challenged answers 401 and 407, or gives up.
func (s *State) challenged(m *codecore.Message, now time.Time) {
	t, asked := s.Tx, codecore.ChallengesOf(m)
	if len(asked) == 0 {
		s.fail(m.Status, ReasonChallenge, 0, now)
		return
	}
	if t.Tries > 0 && codecore.Refused(t.Auth, asked) || t.Tries >= maxTries {
		s.fail(m.Status, ReasonWrong, 0, now)
		s.Challenges = nil
		return
	}
	s.Challenges = codecore.Pose(s.Challenges, asked)
	s.send(t.Expires, t.Tries+1, t.Avoid, now)
}

// tooBrief asks for what the registrar wants at least (RFC 3261 10.2.8).
func (s *State) tooBrief(m *codecore.Message, now time.Time) {
	n, err := strconv.ParseUint(strings.TrimSpace(m.Get("Min-Expires")), 10, 32)
	least := time.Duration(n) * time.Second
	if t := s.Tx; err != nil || t.Expires == 0 || least > mostGranted || codecore.Seconds(n) <= t.Expires || t.Tries >= maxTries {
		s.fail(m.Status, ReasonInterval, 0, now)
		return
	}
	s.Min = codecore.Seconds(n)
	s.send(s.ask(), s.Tx.Tries+1, s.Tx.Avoid, now)
}

// fail ends a round, and says when the next one begins.
func (s *State) fail(status int, reason string, after time.Duration, now time.Time) {
	s.Tx, s.Status, s.Reason, s.Failed = nil, status, reason, now
	s.Fails++
	if s.Leaving && (s.Fails >= leaveTries || !s.Bound(now)) {
		s.Until, s.Since = time.Time{}, time.Time{} // it ends by itself
		return
	}
	var wait time.Duration
	switch reason {
	case ReasonNoAnswer, ReasonUnreachable, ReasonBusy, ReasonNotBound:
		wait = s.spread(min(quickFirst<<min(s.Fails-1, 10), quickMost))
		if left := s.Until.Sub(now); left > 0 { // more often while something can be saved
			wait = min(wait, max(left/3, 2*time.Second))
		}
	default:
		wait = slowRetry/2 + s.spread(slowRetry)
	}
	s.Next = now.Add(max(wait, min(after, mostAfter)))
}

// retryAfter reads "120 (busy);duration=60" (RFC 3261 20.33).
func retryAfter(m *codecore.Message) time.Duration {
	v := strings.TrimSpace(m.Get("Retry-After"))
	if i := strings.IndexAny(v, " (;"); i >= 0 {
		v = v[:i]
	}
	n, err := strconv.ParseUint(v, 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}
