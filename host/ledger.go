package host

import (
	"encoding/json"
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

func writeLedger(dir string, rows []ledgerRow) error {
	b, err := json.Marshal(ledger{Boot: bootID(), Children: rows})
	if err != nil {
		return err
	}
	next := ledgerPath(dir) + ".next"
	if err := os.WriteFile(next, b, 0o600); err != nil {
		return err
	}
	return os.Rename(next, ledgerPath(dir))
}
