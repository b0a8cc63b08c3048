package registrar

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"callswitch/codecore"
)

// A Binding is one address at which an account can be reached. Stored: never
// rename a field.
type Binding struct {
	Contact  string    `json:"contact"` // URI
	Path     []string  `json:"path,omitempty"`
	Edge     string    `json:"edge"`             // node of the edge it came by
	Flow     string    `json:"flow,omitempty"`   // of that edge
	Source   string    `json:"source,omitempty"` // "ip:port" it came from
	CallID   string    `json:"call_id"`
	CSeq     uint32    `json:"cseq"`
	Instance string    `json:"instance,omitempty"`
	RegID    int       `json:"reg_id,omitempty"`
	Agent    string    `json:"agent,omitempty"`
	At       time.Time `json:"at"`    // registered or refreshed, as last stored
	Until    time.Time `json:"until"` // not before what the phone was told
}

// An Entry is all bindings of an account, the newest first: one value of the
// directory. Stored: never rename a field.
type Entry struct {
	Account  string    `json:"account"`
	Bindings []Binding `json:"bindings"`
}

// Limits of bindings. Zero values mean the defaults named.
type Limits struct {
	MinExpires     time.Duration // 60 s: less is answered with 423
	MaxExpires     time.Duration // 1 h: more is cut
	DefaultExpires time.Duration // 1 h: when nothing was asked
	MaxBindings    int           // 8 of an account: the oldest goes
	// Slack is how long after what the phone was told a binding may be stored as
	// valid, at most the time told: a refresh that stays within it is not
	// written. Default 60 s; negative: none, every refresh is written.
	Slack time.Duration
}

// WithDefaults fills in what is zero.
func (l Limits) WithDefaults() Limits {
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{{&l.MinExpires, time.Minute}, {&l.MaxExpires, time.Hour}, {&l.DefaultExpires, time.Hour}, {&l.Slack, time.Minute}} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	if l.MaxBindings <= 0 {
		l.MaxBindings = 8
	}
	return l
}

// Told is one binding as the answer to a REGISTER tells it.
type Told struct {
	Binding
	Expires time.Duration
}

// Apply performs a REGISTER on an entry (RFC 3261 10.3, steps 6 to 8): all of
// it or, with a refusal, nothing. write tells whether the result must be stored:
// a refresh that moves nothing but the end, and that within what is stored
// already, need not be.
func (e Entry) Apply(r Request, l Limits, now time.Time) (next Entry, told []Told, write bool, no *Refusal) {
	l = l.WithDefaults()
	next = Entry{Account: r.Account}
	for _, b := range e.Bindings {
		if b.Until.After(now) {
			next.Bindings = append(next.Bindings, b)
		} else {
			write = true
		}
	}
	if r.Wildcard {
		for _, b := range next.Bindings {
			if b.CallID == r.CallID && r.CSeq < b.CSeq {
				return e, nil, false, &Refusal{Status: 500, Cause: "cseq-order"}
			}
		}
		return Entry{Account: r.Account}, nil, len(e.Bindings) > 0, nil
	}
	var fresh []Binding
	var ends []time.Duration
	for _, c := range r.Contacts {
		expires, no := l.grant(c.Expires)
		if no != nil {
			return e, nil, false, no
		}
		b := Binding{
			Contact: c.URI, Path: r.Path, Edge: r.Edge, Flow: r.Flow, Source: r.Source, CallID: r.CallID, CSeq: r.CSeq,
			Instance: c.Instance, RegID: c.RegID, Agent: r.Agent, At: now, Until: now.Add(expires + min(max(l.Slack, 0), expires)),
		}
		keep := true
		for i := len(next.Bindings) - 1; i >= 0; i-- {
			old := next.Bindings[i]
			if !old.same(b) {
				continue
			}
			if old.CallID == r.CallID && r.CSeq < old.CSeq {
				return e, nil, false, &Refusal{Status: 500, Cause: "cseq-order"}
			}
			if keep && expires > 0 && old.stands(b, now.Add(expires)) {
				b, keep = old, false
				b.CSeq = r.CSeq // in memory; the next write has it
			}
			next.Bindings = slices.Delete(next.Bindings, i, i+1)
		}
		if i := slices.IndexFunc(fresh, b.same); i >= 0 { // twice in one request: the last counts
			fresh, ends = slices.Delete(fresh, i, i+1), slices.Delete(ends, i, i+1)
		}
		if expires == 0 {
			write = true
			continue
		}
		write = write || keep
		fresh, ends = append(fresh, b), append(ends, expires)
	}
	next.Bindings = append(fresh, next.Bindings...)
	if len(next.Bindings) > l.MaxBindings {
		next.Bindings, write = next.Bindings[:l.MaxBindings], true
	}
	for i, b := range next.Bindings {
		left := b.Until.Sub(now)
		if i < len(ends) {
			left = ends[i]
		}
		told = append(told, Told{b, left})
	}
	return next, told, write, nil
}

// grant says for how long a contact is bound.
func (l Limits) grant(asked time.Duration) (time.Duration, *Refusal) {
	switch {
	case asked < 0:
		asked = l.DefaultExpires
	case asked == 0:
		return 0, nil
	case asked < l.MinExpires:
		return 0, &Refusal{423, "interval", []codecore.Header{{Name: "Min-Expires", Value: strconv.Itoa(int(l.MinExpires.Seconds()))}}}
	}
	return min(asked, l.MaxExpires), nil
}

// same reports whether b takes the place of old: the same instance by the same
// of its ways (RFC 5626 6), else the same address.
func (old Binding) same(b Binding) bool {
	if old.Instance != "" && b.Instance != "" {
		return old.Instance == b.Instance && old.RegID == b.RegID
	}
	return sameURI(old.Contact, b.Contact)
}

// stands reports whether what is stored says all that b would, but for its end,
// which is no earlier than until, and the CSeq: then it need not be written.
func (old Binding) stands(b Binding, until time.Time) bool {
	return !old.Until.Before(until) && !old.Until.After(b.Until) && old.Contact == b.Contact && old.Edge == b.Edge && old.Flow == b.Flow && old.Source == b.Source &&
		old.CallID == b.CallID && old.Instance == b.Instance && old.RegID == b.RegID && slices.Equal(old.Path, b.Path)
}

// sameURI compares addresses as RFC 3261 19.1.4 does in what phones vary: the
// user with regard to case, host, scheme and transport without.
func sameURI(a, b string) bool {
	if a == b {
		return true
	}
	scheme := func(u string) string { s, _, _ := strings.Cut(u, ":"); return strings.ToLower(s) }
	return scheme(a) == scheme(b) && userOf(a) == userOf(b) && strings.EqualFold(hostOf(a), hostOf(b)) && transportOf(a) == transportOf(b)
}

func transportOf(uri string) string {
	for _, p := range strings.Split(uri, ";")[1:] {
		name, v, _ := strings.Cut(p, "=")
		if strings.EqualFold(name, "transport") {
			return strings.ToLower(v)
		}
	}
	return ""
}

// Living are the bindings that have not ended, the newest first.
func (e Entry) Living(now time.Time) (out []Binding) {
	for _, b := range e.Bindings {
		if b.Until.After(now) {
			out = append(out, b)
		}
	}
	return out
}

// Header writes a binding as a Contact of the answer to a REGISTER.
func (t Told) Header() codecore.Header {
	v := "<" + t.Contact + ">;expires=" + strconv.Itoa(int((t.Expires+time.Second-1)/time.Second))
	if t.Instance != "" {
		v += `;+sip.instance="` + strings.NewReplacer(`"`, "", `\`, "").Replace(t.Instance) + `"`
	}
	if t.RegID > 0 {
		v += ";reg-id=" + strconv.Itoa(t.RegID)
	}
	return codecore.Header{Name: "Contact", Value: v}
}

// BehindNAT reports whether the phone came from elsewhere than its contact says:
// it can only be reached by the way it came.
func (b Binding) BehindNAT() bool {
	host := hostOf(b.Contact)
	if i := strings.LastIndexByte(host, ':'); i < 0 || strings.HasSuffix(host, "]") { // RFC 3261 19.1.2
		host += ":5060"
	}
	return !strings.EqualFold(host, b.Source)
}
