package loadtest

import (
	"bytes"
	"fmt"
	"sort"
)

// Ledger is what one side of one call saw on the wire: every distinct
// transaction once, with its retransmissions. It is not safe for concurrent
// use; its Leg guards it.
type Ledger struct {
	Requests  []*LedgerEntry `json:"requests"`  // that came in, in order
	Responses []*LedgerEntry `json:"responses"` // to our requests, in order
	ended     bool           // a BYE was answered by us, or ours was answered
}

// LedgerEntry is one request, or one distinct response to a request of ours.
type LedgerEntry struct {
	Method  string `json:"method"`
	CSeq    uint32 `json:"cseq"`
	Branch  string `json:"branch"`
	Code    int    `json:"code,omitempty"`    // responses
	Tag     string `json:"tag,omitempty"`     // of the other side
	Count   int    `json:"count"`             // 1 + retransmissions
	Changed int    `json:"changed,omitempty"` // retransmissions that differ in a byte
	Late    bool   `json:"late,omitempty"`    // came for the first time after the call had ended
	raw     []byte
}

func (l *Ledger) request(m *message) (first bool) {
	n, _ := m.cseq()
	return note(&l.Requests, &LedgerEntry{
		Method: m.method, CSeq: n, Branch: m.branch(), Tag: param(m.get("from"), "tag"),
		Late: l.ended && m.method != "ACK", raw: m.raw,
	})
}

func (l *Ledger) response(m *message) (first bool) {
	n, method := m.cseq()
	return note(&l.Responses, &LedgerEntry{
		Method: method, CSeq: n, Branch: m.branch(), Code: m.code, Tag: param(m.get("to"), "tag"), raw: m.raw,
	})
}

func note(to *[]*LedgerEntry, e *LedgerEntry) (first bool) {
	for _, o := range *to {
		if o.Method == e.Method && o.CSeq == e.CSeq && o.Branch == e.Branch && o.Code == e.Code && o.Tag == e.Tag {
			o.Count++
			if !bytes.Equal(o.raw, e.raw) {
				o.Changed++
			}
			return false
		}
	}
	e.Count = 1
	*to = append(*to, e)
	return true
}

// Retransmissions counts messages beyond the first of each.
func (l *Ledger) Retransmissions() (n int) {
	for _, e := range append(append([]*LedgerEntry(nil), l.Requests...), l.Responses...) {
		n += e.Count - 1
	}
	return n
}

// Distinct counts the transactions of a method that came in.
func (l *Ledger) Distinct(method string) (n int) {
	for _, e := range l.Requests {
		if e.Method == method {
			n++
		}
	}
	return n
}

// Violations lists what must never be on a wire, whatever crashed meanwhile:
// a second transaction for one CSeq, a second BYE, a CSeq that falls, a request
// after the end, two different final responses to one request of ours, a
// response whose To-tag changed, a retransmission with other bytes.
func (l *Ledger) Violations() (out []string) {
	out = append(out, l.requestViolations()...)
	type key struct {
		branch, method string
	}
	finals := map[key]*LedgerEntry{}
	tag := ""
	for _, e := range l.Responses {
		if e.Changed > 0 {
			out = append(out, fmt.Sprintf("%d to %s %d was repeated with other bytes", e.Code, e.Method, e.CSeq))
		}
		if e.Code > 100 && e.Tag != "" && e.Code != 401 && e.Code != 407 { // those begin no dialog, and another INVITE follows
			if tag != "" && e.Tag != tag {
				out = append(out, fmt.Sprintf("%d to %s %d has another To-tag", e.Code, e.Method, e.CSeq))
			}
			tag = e.Tag
		}
		if e.Code < 200 {
			continue
		}
		k := key{e.Branch, e.Method}
		if f := finals[k]; f != nil {
			out = append(out, fmt.Sprintf("second final response to %s %d: %d after %d", e.Method, e.CSeq, e.Code, f.Code))
		}
		finals[k] = e
	}
	sort.Strings(out)
	return out
}

func (l *Ledger) requestViolations() (out []string) {
	type key struct {
		method string
		cseq   uint32
	}
	seen := map[key]bool{}
	var top uint32
	for _, e := range l.Requests {
		k := key{e.Method, e.CSeq}
		if seen[k] {
			out = append(out, fmt.Sprintf("second transaction: %s %d under another branch", e.Method, e.CSeq))
		}
		seen[k] = true
		if e.Changed > 0 {
			out = append(out, fmt.Sprintf("%s %d was retransmitted with other bytes", e.Method, e.CSeq))
		}
		if e.Late {
			out = append(out, fmt.Sprintf("%s %d came after the end of the call", e.Method, e.CSeq))
		}
		if e.Method == "ACK" || e.Method == "CANCEL" {
			continue // they carry the CSeq of their INVITE
		}
		if e.CSeq < top {
			out = append(out, fmt.Sprintf("%s %d came after CSeq %d", e.Method, e.CSeq, top))
		}
		top = max(top, e.CSeq)
	}
	if n := l.Distinct("BYE"); n > 1 {
		out = append(out, fmt.Sprintf("%d BYE transactions", n))
	}
	return out
}
