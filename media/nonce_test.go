package media

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/pion/rtp"
)

// used is one use of a key: a second one of the same gives the key away (GCM) or
// the sum of two sounds (CM).
type use struct {
	key     string
	ssrc    uint32
	control bool
	index   uint64
}

// ledger has every use over all generations.
type ledger struct {
	uses    map[use]bool
	repeats []use
}

func (r *ledger) add(u use) {
	if r.uses == nil {
		r.uses = map[use]bool{}
	}
	if r.uses[u] {
		r.repeats = append(r.repeats, u)
	}
	r.uses[u] = true
}

// sealing is a leg's sealer in a world where its process dies at any moment, and
// where those that died sometimes wake.
func sealing(t *testing.T, seed uint64, late bool) *ledger {
	r := &ledger{}
	rnd := rand.New(rand.NewPCG(seed, 1))
	shared, gen := make(slot, slotWords), uint16(1)
	k := keys{profile: suites["AEAD_AES_128_GCM"], key: make([]byte, 28)}
	begin := func() *sealer {
		on := shared
		if late { // mutant: what is written reaches the memory after the packet has left
			on = append(slot(nil), shared...)
		}
		e, err := newSealer(k, on, gen)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	e := begin()
	var dead []*sealer
	var h rtp.Header
	seq := uint16(65000)
	packet := func(e *sealer, seq uint16) (sent, moved bool) {
		b := make([]byte, 30, 64)
		b[0], b[2], b[3], b[11] = 0x80, byte(seq>>8), byte(seq), 9
		if rnd.IntN(10) == 0 {
			rr := make([]byte, 8, 64)
			rr[0], rr[1], rr[3], rr[7] = 0x80, 201, 1, 9
			if _, err := e.control(rr); err == nil {
				sent = true
				r.add(use{"k", 9, true, e.last})
			}
		}
		_, err := e.rtp(b, &h)
		if err == nil {
			r.add(use{"k", 9, false, e.last})
		}
		return sent || err == nil, errors.Is(err, errMoved)
	}
	for range 3000 {
		var s uint16
		switch rnd.IntN(12) {
		case 0:
			s = seq - uint16(rnd.IntN(300)) // late, or said twice
		case 1:
			s = uint16(rnd.Uint32()) // spoofed
		case 2:
			seq += uint16(rnd.IntN(5)) // lost
			s = seq
		default:
			seq++
			s = seq
		}
		if far, sure := e.jumped(s); !far || sure {
			if _, moved := packet(e, s); moved {
				t.Fatal("the living one was taken for dead")
			}
		}
		switch rnd.IntN(40) {
		case 0: // kill -9 when the packet has left
			dead = append(dead, e)
			gen++
			e = begin()
			seq = uint16(e.sent.top)
		case 1, 2:
			if len(dead) == 0 {
				break
			}
			if sent, _ := packet(dead[rnd.IntN(len(dead))], s+1); sent && !late {
				t.Fatal("a dead process was heard")
			}
		}
		if late {
			copy(shared, e.slot)
		}
	}
	return r
}

func TestNoIndexIsSealedTwice(t *testing.T) {
	for seed := range uint64(20) {
		if r := sealing(t, seed, false); len(r.repeats) > 0 || len(r.uses) < 1000 {
			t.Fatalf("seed %d: %d uses, repeated: %v", seed, len(r.uses), r.repeats)
		}
	}
}

// TestMutantSlotWrittenAfterTheSendIsCaught proves that the test above can fail.
func TestMutantSlotWrittenAfterTheSendIsCaught(t *testing.T) {
	for seed := range uint64(20) {
		if r := sealing(t, seed, true); len(r.repeats) > 0 {
			t.Logf("seed %d: %v", seed, r.repeats[0])
			return
		}
	}
	t.Error("nobody noticed")
}

// audit has a node write into a ledger all that it seals.
func (r *ledger) audit(m *Media) {
	m.loop.sealed = func(g *leg, control bool) {
		e := g.sec.tx
		r.add(use{fmt.Sprintf("%x", e.keys.key), e.ssrc, control, e.last})
	}
}
