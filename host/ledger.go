package host

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// ledger is run/host.json: which processes live, for the next host. Its JSON
// names are stored: never rename.
type ledger struct {
	Boot     string      `json:"boot"` // of the machine
	Children []ledgerRow `json:"children"`
}

type ledgerRow struct {
	Spec  Spec      `json:"spec"`
	PID   int       `json:"pid"`
	Born  uint64    `json:"born"`
	ID    string    `json:"id,omitempty"`
	Since time.Time `json:"since"`
}

func ledgerPath(dir string) string { return filepath.Join(runDir(dir), "host.json") }

// readLedger returns what the last host left, split into the living and the
// dead. An unreadable ledger is an empty one: the children will come by themselves.
func readLedger(dir string) (alive, dead []ledgerRow) {
	var l ledger
	b, err := os.ReadFile(ledgerPath(dir))
	if err != nil || json.Unmarshal(b, &l) != nil {
		return nil, nil
	}
	for _, r := range l.Children {
		if l.Boot == bootID() && r.Born != 0 && born(r.PID) == r.Born && r.Spec.check() == nil {
			alive = append(alive, r)
		} else {
			dead = append(dead, r)
		}
	}
	return alive, dead
}

// Living lists the children of a state directory that an earlier host left and
// that still run: the next host adopts them.
func Living(dir string) (specs []Spec) {
	alive, _ := readLedger(dir)
	for _, r := range alive {
		specs = append(specs, r.Spec)
	}
	return specs
}

// scribe writes the ledger down, on a goroutine of its own: a disk may hold a write
// up for longer than anybody may be silent, and a process that is being replaced,
// frozen, waits for answers of the host. Of several that wait, the newest is written.
type scribe struct {
	path string
	log  *slog.Logger
	next chan entry // capacity 1
}

// entry is a ledger to write; then are told how that went.
type entry struct {
	rows []ledgerRow
	then []func(error)
}

func newScribe(dir string, log *slog.Logger) *scribe {
	return &scribe{path: ledgerPath(dir), log: log, next: make(chan entry, 1)}
}

// put never waits. Only one goroutine calls it.
func (s *scribe) put(e entry) {
	select {
	case old := <-s.next:
		e.then = append(old.then, e.then...)
	default:
	}
	s.next <- e
}

// run writes until next is closed.
func (s *scribe) run() {
	for e := range s.next {
		err := s.write(e.rows)
		if err != nil {
			s.log.Error("children not written down: a later host may not find them", "err", err)
		}
		for _, then := range e.then {
			then(err)
		}
	}
}

func (s *scribe) write(rows []ledgerRow) error {
	b, err := json.Marshal(ledger{Boot: bootID(), Children: rows})
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.path+".next", b, 0o600); err != nil {
		return err
	}
	return os.Rename(s.path+".next", s.path)
}
