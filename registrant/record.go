package registrant

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

// Form is the newest form of a record that this release reads, and the one that
// it writes. Processes tell theirs (sessions.Process.Registrant), so that nobody
// waits for one that cannot read a record.
const Form = 1

// Errors of Decode.
var (
	ErrForm   = errors.New("registrant: record of a newer release")
	ErrRecord = errors.New("registrant: record cannot be read")
)

// Record is a registration at rest. Stored: never rename a field.
type Record struct {
	Form    int       `json:"form"`
	Owner   string    `json:"owner"` // incarnation of a worker
	Epoch   uint64    `json:"epoch"` // of ownership; grows by one with every change of owner
	N       uint64    `json:"n"`     // grows by one with every save
	Release string    `json:"release"`
	Claimed time.Time `json:"claimed,omitzero"`
	State   State     `json:"state"`
}

// Decode reads a record. With ErrForm, all but the state is true.
func Decode(value []byte) (r Record, err error) {
	var head struct {
		Record
		State json.RawMessage `json:"state"`
	}
	if err := json.Unmarshal(value, &head); err != nil {
		return r, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	r = head.Record
	if r.Form > Form {
		return r, ErrForm
	}
	if err := json.Unmarshal(head.State, &r.State); err != nil {
		return r, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	if s := &r.State; r.Form < 1 || r.Owner == "" || s.Peer == "" || s.Token == "" || s.CallID == "" || s.Account.AOR == "" {
		return r, fmt.Errorf("%w: something is missing", ErrRecord)
	}
	return r, nil
}

// after reports whether r was written later than o. Of two lives of a
// registration (it left the plan, and came back) the claims tell.
func (r *Record) after(o Record) bool {
	if o.Owner == "" || r.State.CallID != o.State.CallID {
		return o.Owner == "" || r.Claimed.After(o.Claimed)
	}
	return r.Epoch > o.Epoch || r.Epoch == o.Epoch && r.N > o.N
}

// Owner says who of the living ought to own a registration. It stays where it is
// as long as its owner lives, does not leave, and is of the release that takes
// the new calls (prefer, a digest; "" = any). Else it is the highest rendezvous
// hash among the best there are; "" when nobody reads its form. form 0 and owner
// "" are those of a registration that does not exist yet.
func Owner(id codecore.CallID, form int, owner string, living []sessions.Process, prefer string) string {
	var best []string
	rank := -1
	for _, p := range living {
		if p.Role != "worker" || p.Registrant == 0 || p.Registrant < form {
			continue
		}
		r := 0
		if !p.Draining && !p.Closed {
			r++
			if prefer == "" || p.Digest == prefer {
				r++
			}
		}
		if r > rank {
			best, rank = nil, r
		}
		if r == rank {
			best = append(best, p.ID)
		}
	}
	if slices.Contains(best, owner) {
		return owner
	}
	slices.Sort(best)
	top, most := "", uint64(0)
	for _, w := range best {
		h := fnv.New64a()
		_, _ = h.Write([]byte(w + "\x00" + string(id)))
		if v := mix(h.Sum64()); top == "" || v > most {
			top, most = w, v
		}
	}
	return top
}

// mix spreads FNV's weak high bits (the finaliser of MurmurHash3).
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// Claim is the one compare-and-set that changes the owner: epoch and n grow, the
// state stays as it was.
func Claim(r Record, worker, release string, now time.Time) Record {
	r.Owner, r.Release, r.Claimed = worker, release, now
	r.Epoch++
	r.N++
	return r
}
