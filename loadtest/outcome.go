package loadtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// outcome is what both far ends have seen of a call when it is over, and what its
// CDRs say: one line for each end, without anything that may differ between two
// calls that went alike (times, tags, repetitions, ports).
func (c *Call) outcome(err error, cdrs []CDR) string {
	var b strings.Builder
	if err != nil {
		fmt.Fprintf(&b, "error: %s\n", strings.TrimPrefix(err.Error(), "loadtest: "))
	}
	legs := c.legs()
	for _, name := range slices.Sorted(maps.Keys(legs)) {
		fmt.Fprintf(&b, "%s: %s\n", name, legs[name].saw())
	}
	if c.SA != nil {
		for _, p := range []struct {
			name string
			h    Hearing
		}{{"a", c.SA.Heard(c.SB.Sent())}, {"b", c.SB.Heard(c.SA.Sent())}} {
			sound := "silence"
			if p.h.Received > 10 {
				sound = "sound"
			}
			fmt.Fprintf(&b, "%s heard %s: lost %d, twice %d, from elsewhere %d, foreign %d, breaks %d, keys %q\n",
				p.name, sound, p.h.Lost, p.h.Duplicated, p.h.WrongSource, p.h.Foreign, p.h.Broken, p.h.Digits)
		}
	}
	v, _ := c.Violations()
	slices.Sort(v)
	for _, s := range v {
		fmt.Fprintf(&b, "against the rules: %s\n", s)
	}
	for _, r := range cdrs {
		fmt.Fprintf(&b, "CDR: %s %d by %s %s\n", r.Result, r.Code, r.HungUpBy, r.Cause)
	}
	if len(cdrs) != 1 {
		fmt.Fprintf(&b, "%d CDRs\n", len(cdrs))
	}
	return b.String()
}

// ackedMark follows the code of a failure that got its ACK.
const ackedMark = " and ACK"

// saw tells what a leg was asked and answered, and what it asked and was answered,
// each in order.
func (l *Leg) saw() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var got, said []string
	acked := map[string]bool{} // failures to INVITE, by branch: theirs is the ACK's (RFC 3261 section 17.1.1.3)
	for _, e := range l.ledger.Requests {
		if t := l.servers["INVITE"+e.Branch]; e.Method == "ACK" && t != nil && t.code >= 300 {
			acked[e.Branch] = true
		}
	}
	for _, e := range l.ledger.Requests {
		if e.Method == "ACK" && acked[e.Branch] {
			continue // the next hop's alone: it stands with its failure, whenever it came
		}
		s := e.Method
		if d := detail(e.raw); d != "" {
			s += "(" + d + ")"
		}
		if t := l.servers[e.Method+e.Branch]; t != nil && e.Method != "ACK" {
			s += fmt.Sprintf(" %d", t.code)
		}
		if acked[e.Branch] && e.Method == "INVITE" {
			s += ackedMark
		}
		got = append(got, s)
	}
	for _, e := range l.ledger.Responses {
		if e.Code == 100 || e.Code == 407 && stale(e.raw) {
			continue // of the next hop alone; a phone's own business, like a repetition
		}
		s := fmt.Sprintf("%s %d", e.Method, e.Code)
		if d := detail(e.raw); d != "" {
			s += "(" + d + ")"
		}
		said = append(said, s)
	}
	return fmt.Sprintf("got %s; asked %s", strings.Join(got, ", "), strings.Join(said, ", "))
}

func stale(raw []byte) bool {
	m, err := parseMessage(raw)
	return err == nil && isStale(m)
}

// detail is what tells messages of a method apart to who gets them.
func detail(raw []byte) string {
	m, err := parseMessage(raw)
	if err != nil {
		return "broken"
	}
	var out []string
	switch {
	case m.method == "NOTIFY":
		line, _, _ := strings.Cut(string(m.body), "\r\n")
		out = append(out, line)
	case m.method == "INFO":
		out = append(out, keyOf(m))
	case strings.HasPrefix(m.get("content-type"), "application/sdp"):
		if s, ok := readSDP(m.body); ok {
			out = append(out, s.direction)
		}
	}
	if v := m.get("rack"); v != "" {
		out = append(out, v)
	}
	if _, v, ok := strings.Cut(m.get("session-expires"), ";"); ok {
		out = append(out, v)
	}
	return strings.Join(out, " ")
}
