package handoff

import (
	"hash/fnv"
	"sort"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

// Times of a takeover (R7).
const (
	// Grace is how long the claimers of the record's own release have before
	// others step in; after twice that anybody may.
	Grace = time.Second
	// CrashWindow is how soon after a claim a crash counts against the call.
	CrashWindow = 30 * time.Second
	// CrashLimit is how many crashes set a call aside.
	CrashLimit = 2
)

// Death tells that an owner is gone, and which of its calls it was stepping or
// restoring: the memory word that the host keeps, or the exit report. Without
// one no call is blamed.
type Death struct {
	Owner  string            `json:"owner"`
	InHand []codecore.CallID `json:"in_hand,omitempty"`
}

// Blames reports whether the dead owner had the call in hand.
func (d Death) Blames(id codecore.CallID) bool {
	for _, c := range d.InHand {
		if c == id {
			return true
		}
	}
	return false
}

// Claim is the first CAS of a takeover (R7): owner, epoch+1 and n+1 with the
// body and its schema and release unchanged, before any code runs on it. When
// the call is blamed for its owner's death, attempts grows too, and the second
// such crash sets it aside; a crash that comes later than CrashWindow after the
// last claim begins the count anew. A call set aside stays so.
func Claim(rec sessions.Record, worker string, now time.Time, blamed bool) sessions.Record {
	if blamed {
		if !rec.Claimed.IsZero() && now.Sub(rec.Claimed) > CrashWindow {
			rec.Attempts = 0
		}
		rec.Attempts++
		rec.Aside = rec.Aside || rec.Attempts >= CrashLimit
	}
	rec.Owner = worker
	rec.Epoch++
	rec.N++
	rec.Claimed = now
	return rec
}

// SetAside is the save that gives a claimed call to the caretaker, when no code
// here can read it.
func SetAside(rec sessions.Record) sessions.Record {
	rec.N++
	rec.Aside = true
	return rec
}

// Claimant says which of the living claims a record whose owner is dead: the
// highest rendezvous hash among those that can read it. Before Grace has passed
// only workers of the record's release count, unless there is none; until twice
// Grace it is one worker of any release, then anybody who is asked. Draining
// workers claim only when nobody else lives. "" means nobody who can.
func Claimant(rec sessions.Record, living []sessions.Process, waited time.Duration, self string) string {
	var own, rest, drained []string
	for _, p := range living {
		if p.Role != "" && p.Role != "worker" {
			continue
		}
		if !rec.Aside && (rec.Schema < p.SchemaMin || rec.Schema > p.SchemaMax) {
			continue
		}
		if waited >= 2*Grace && p.ID == self {
			return self
		}
		switch {
		case p.Draining:
			drained = append(drained, p.ID)
		case p.Release == rec.Release:
			own = append(own, p.ID)
		default:
			rest = append(rest, p.ID)
		}
	}
	if waited >= Grace {
		own = append(own, rest...)
	}
	for _, among := range [][]string{own, rest, drained} {
		if len(among) > 0 {
			return rendezvous(rec.ID, among)
		}
	}
	return ""
}

// rendezvous gives the worker with the highest hash of (call, worker): when one
// dies, only its calls change hands.
func rendezvous(id codecore.CallID, among []string) string {
	sort.Strings(among)
	best, top := "", uint64(0)
	for _, w := range among {
		h := fnv.New64a()
		_, _ = h.Write([]byte(w))
		_, _ = h.Write([]byte{0})
		_, _ = h.Write([]byte(id))
		if v := mix(h.Sum64()); best == "" || v > top {
			best, top = w, v
		}
	}
	return best
}

// mix spreads FNV's weak high bits (the finaliser of MurmurHash3).
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// Dethroned tells a former owner which calls it has lost (R4), by SubjectControl
// (owner, "dethroned"). It is a hint: the receiver reads the records
// (ReadOwn), and goes on only if they say so.
type Dethroned struct {
	By    string            `json:"by"`
	Calls []codecore.CallID `json:"calls"`
}
