package edge

import (
	"strconv"
	"strings"
	"time"

	"callswitch/codecore"
)

// A reliable is a reliable provisional response to an INVITE of the far end (RFC
// 3262 3): repeated after T1, then twice as long each time, over any transport,
// until its PRACK or the final response; after 64 T1 the call hears of it.
type reliable struct {
	rseq   string
	bytes  []byte
	every  time.Duration
	nextAt time.Time
	endAt  time.Time
}

func (tx *serverTx) repeatReliably(e *Edge, rseq string, b []byte, now time.Time) {
	if tx.final || tx.prov != nil && tx.prov.rseq == rseq {
		return
	}
	tx.prov = &reliable{rseq: rseq, bytes: b, every: e.lim.T1, nextAt: now.Add(e.lim.T1), endAt: now.Add(e.lim.gone())}
	e.arm(tx, tx.prov.nextAt)
}

func (r *reliable) fire(e *Edge, tx *serverTx, now time.Time) {
	if !r.endAt.After(now) {
		tx.prov = nil
		n, _ := strconv.ParseUint(r.rseq, 10, 32)
		e.enqueue(tx.call, &item{kind: kindNotice, event: codecore.NoPrack{Tx: tx.key, RSeq: uint32(n), At: now}, expires: now.Add(e.lim.KeepFor)})
		e.arm(tx, tx.endAt)
		return
	}
	if !r.nextAt.After(now) {
		e.stats.Repeated.Add(1)
		e.write(tx.flow, r.bytes)
		r.every *= 2
		r.nextAt = now.Add(r.every)
	}
	e.arm(tx, earlier(earlier(r.nextAt, r.endAt), tx.endAt))
}

// pracked silences the repetitions of what a PRACK acknowledges (RFC 3262 7.2:
// "rseq cseq method"). Whether it is a good one is for the call to say: if it is
// refused, NoPrack comes when it would have.
func (c *call) pracked(e *Edge, rack string) {
	w := strings.Fields(rack)
	if len(w) != 3 || w[2] != "INVITE" {
		return
	}
	for _, tx := range c.invites {
		if tx.prov != nil && tx.prov.rseq == w[0] && tx.cseq == w[1] {
			tx.prov.nextAt = tx.prov.endAt
			e.arm(tx, earlier(tx.prov.endAt, tx.endAt))
			return
		}
	}
}

// prackTaken forgets what a PRACK has acknowledged that the call took.
func (c *call) prackTaken(e *Edge) {
	for _, tx := range c.invites {
		if r := tx.prov; r != nil && r.nextAt.Equal(r.endAt) {
			tx.prov = nil
			e.arm(tx, tx.endAt)
		}
	}
}

// inOrder takes the reliable provisional responses of a far end by their numbers
// (RFC 3262 4): one that came before, or before its turn, is passed over, and is
// repeated by its sender.
func (tx *clientTx) inOrder(tag, rseq string) bool {
	n, err := strconv.ParseUint(strings.TrimSpace(rseq), 10, 32)
	if err != nil || n == 0 {
		return false
	}
	last, had := tx.rseqs[tag]
	if had && n != last+1 {
		return false
	}
	if tx.rseqs == nil {
		tx.rseqs = map[string]uint64{}
	}
	if !had && len(tx.rseqs) >= 32 {
		return false
	}
	tx.rseqs[strings.Clone(tag)] = n
	return true
}
