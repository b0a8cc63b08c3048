package media

import (
	"log/slog"
	"os"
	"strconv"
	"sync"
)

// Keeper holds duplicates of sockets for the next generation of this process
// (Config.Inherited there). Names are "udp-<port>".
type Keeper interface {
	Keep(name string, f *os.File) error
	Drop(name string)
}

const keepPrefix = "udp-"

func keepName(port int) string { return keepPrefix + strconv.Itoa(port) }

// keepers passes sockets to the Keeper in the order in which they were bound and
// closed, on a goroutine of its own: no call waits for it.
type keepers struct {
	to  Keeper
	log *slog.Logger

	mu     sync.Mutex
	todo   []keepOp
	more   chan struct{} // capacity 1
	failed uint64
	asked  uint64 // operations ever pushed
	done   uint64 // and carried out
}

type keepOp struct {
	name string
	f    *os.File // nil: drop
}

func newKeepers(to Keeper, log *slog.Logger) *keepers {
	return &keepers{to: to, log: log, more: make(chan struct{}, 1)}
}

func (k *keepers) keep(port int, f *os.File) { k.push(keepOp{keepName(port), f}) }
func (k *keepers) drop(port int)             { k.push(keepOp{keepName(port), nil}) }
func (k *keepers) dropName(name string)      { k.push(keepOp{name, nil}) }

func (k *keepers) push(op keepOp) {
	if k.to == nil {
		return
	}
	k.mu.Lock()
	k.todo = append(k.todo, op)
	k.asked++
	k.mu.Unlock()
	select {
	case k.more <- struct{}{}:
	default:
	}
}

// flush carries out what is due. Only one goroutine calls it.
func (k *keepers) flush() {
	for {
		k.mu.Lock()
		todo := k.todo
		k.todo = nil
		k.done = k.asked - uint64(len(todo)) // of the rounds before
		k.mu.Unlock()
		if len(todo) == 0 {
			return
		}
		for _, op := range todo {
			if op.f == nil {
				k.to.Drop(op.name)
				continue
			}
			// Closed meanwhile: a Drop follows.
			if err := k.to.Keep(op.name, op.f); err != nil {
				k.mu.Lock()
				k.failed++
				k.mu.Unlock()
				k.log.Warn("media: socket not kept", "name", op.name, "err", err)
			}
		}
	}
}

// idle reports whether the Keeper has been told of everything.
func (k *keepers) idle() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.done == k.asked
}

// run keeps until done is closed.
func (k *keepers) run(done <-chan struct{}) {
	for {
		select {
		case <-done:
			k.flush()
			return
		case <-k.more:
			k.flush()
		}
	}
}
