package codecore

import (
	"slices"
	"strings"
)

// Schema 2 adds to schema 1 (v0.1.0) and changes nothing of it: what is new is
// left out while it is not in use, so a call that uses none of it is stored in
// schema 1 and can go back to v0.1.0.

// released lists every schema change since schema 1, oldest first. Entries are
// appended, never edited: records in the field depend on them.
var released = []Migration{
	{Name: "0002_depth", Adds: added},
	// -- add new migrations here --
}

// added names the first thing in use that schema 1 cannot say; "" is none. It
// looks at every stored field that is new, and at new values of old ones.
// schema_2_test.go holds it to that.
func added(p *stored) string {
	legs := append([]storedLeg{p.A, p.B}, p.More...)
	for _, l := range legs {
		if l.Name != "" || l.Slot != "" || l.Target != "" || l.Peer != "" || l.Early != nil || l.Leaving {
			return "legs"
		}
		if len(l.Challenges) > 0 || slices.ContainsFunc(l.Cli, func(t ClientTx) bool { return t.Tries > 0 }) {
			return "digest" // v0.1.0 would end the call when its BYE is challenged, and the trunk's side would go on
		}
	}
	for _, a := range p.Pending {
		switch {
		case a.Request == nil:
		case len(a.Request.Auth) > 0:
			return "digest"
		case len(a.Request.Avoid) > 0 || a.Request.Hurry:
			return "failover"
		}
	}
	if len(p.Avoid) > 0 { // v0.1.0 would send what follows to the address that failed
		return "failover"
	}
	if !p.AnswerAt.IsZero() {
		return "prack"
	}
	for _, d := range p.Timers { // v0.1.0 would let a session end, or an offer stand; that one expires, as an INVITE, it may lose
		if name := string(d.Timer); strings.HasPrefix(name, refreshTimer) || strings.HasPrefix(name, renewTimer) {
			return "session-timer"
		}
	}
	for _, a := range p.Pending { // an INVITE that the callee may answer reliably
		if a.Request != nil && a.Request.Method == "INVITE" && slices.ContainsFunc(a.Request.Headers, offersReliable) {
			return "100rel"
		}
	}
	forked := func(d Deadline) bool { return d.Timer == TimerTarget }
	switch {
	case len(p.More) > 0:
		return "legs"
	case p.Fork != nil, slices.ContainsFunc(p.Timers, forked):
		return "fork"
	}
	if slices.ContainsFunc(p.Media, func(m MediaLeg) bool { return m.Opaque }) {
		return "t38"
	}
	for _, l := range legs {
		if l.Sound.Fax || l.Offer != nil && l.Offer.Fax {
			return "t38"
		}
		if l.Sound.Line != nil || l.Offer != nil && l.Offer.Line != nil || l.Terms != nil && l.Terms.Ask != nil {
			return "srtp"
		}
		if l.AckDue != 0 {
			return "delayed-offer"
		}
		if why := l.reliable(); why != "" {
			return why
		}
		for _, t := range l.Cli {
			switch {
			case t.Bare:
				return "delayed-offer"
			case t.Method == "UPDATE", t.Method == "PRACK": // v0.1.0 would not know the answer
				return strings.ToLower(t.Method)
			}
		}
	}
	if p.Labels > 0 { // v0.1.0 would forget which are used
		return "srtp"
	}
	for _, m := range p.Media {
		switch {
		case m.Secure != nil:
			return "srtp"
		case m.Echo, m.Tone:
			return "service"
		}
	}
	if p.Transfer != nil || p.Transferred {
		return "transfer"
	}
	for _, a := range p.Pending {
		if a.CDR != nil && a.CDR.transferred() {
			return "transfer"
		}
	}
	return ""
}

// reliable is the part of added about provisional responses.
func (l *storedLeg) reliable() string {
	if l.Interval != 0 {
		return "session-timer"
	}
	if l.Agreed || slices.ContainsFunc(l.Dialogs, func(d Dialog) bool { return d.RSeq != 0 }) {
		return "prack"
	}
	for _, t := range l.Srv {
		switch {
		case t.Unacked, t.RSeq != 0:
			return "prack"
		case t.Status == 0 && (t.Method == "UPDATE" || t.Method == "PRACK"):
			return strings.ToLower(t.Method)
		}
	}
	return ""
}

func offersReliable(h string) bool {
	name, value, _ := strings.Cut(h, ": ")
	return (name == "Supported" || name == "Require") && strings.Contains(value, extReliable)
}
