package edge

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"callswitch/codecore"
	"callswitch/sessions/sessionstest"
)

// silent is a link to nowhere.
type silent struct{}

func (silent) send(netip.AddrPort, []byte) error { return nil }
func (silent) transport() string                 { return "UDP" }
func (silent) local() netip.AddrPort             { return netip.MustParseAddrPort("127.0.0.1:5060") }
func (silent) reliable() bool                    { return false }
func (silent) alive() bool                       { return true }
func (silent) flowID(netip.AddrPort) string      { return "silent" }

// clocked is an edge that nobody runs: the test is its clock.
func clocked(t testing.TB) *Edge {
	e, err := New(Config{
		Node: "n1", Boot: "b1", Listen: []string{"udp:127.0.0.1:0"}, ClusterKey: key, Bus: sessionstest.NewBus(1),
		Plan: func() *codecore.Plan { return nil }, Weights: func() []Weight { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// answered puts a call into e as its INVITEs, 2xx and ACKs leave it.
func answered(e *Edge, n int, now time.Time) {
	id := codecore.CallID(fmt.Sprintf("%032x", n))
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.call(id, e.ids.token(id))
	f := flow{silent{}, netip.MustParseAddrPort("127.0.0.1:5061")}
	packet := func() []byte { return make([]byte, 1000) }
	in := e.newServer(c, fmt.Sprint("in ", n), "INVITE", f, "1", now)
	in.respond(e, 180, packet(), now)
	in.respond(e, 200, packet(), now)
	in.acked, in.last = true, nil
	e.arm(in, in.endAt)
	branch := fmt.Sprint("z9hG4bK", n)
	out := &clientTx{key: clientKey(branch, "INVITE"), call: c, invite: true, branch: branch, endAt: now.Add(e.lim.MaxPending)}
	e.client[out.key] = out
	c.open++
	e.arm(out, out.endAt)
	out.done(e, accepted, e.lim.gone(), now)
	c.keepAck(sentAck{"call-id", "tag", "1", packet(), f, now.Add(e.lim.gone())})
}

// A call that talks is a few hundred bytes here. Transactions and ACKs that
// something still points to (the slot of a slice, the entry of a timer that is
// passed over) were ten times as much.
func TestATalkingCallKeepsLittle(t *testing.T) {
	const calls, most = 2000, 900
	e, now := clocked(t), time.Now()
	before := liveHeap()
	for n := range calls {
		answered(e, n, now)
	}
	e.fireDue(now.Add(e.lim.gone() + time.Second))
	if got := e.stats.Open.Load(); len(e.calls) != calls || len(e.server)+len(e.client) != 0 {
		t.Fatalf("%d calls, %d transactions are left, want %d and none", len(e.calls), got, calls)
	}
	per := (liveHeap() - before) / calls
	t.Logf("%d bytes a call, %d entries of timers", per, len(e.timers.heap))
	if per > most {
		t.Errorf("a talking call keeps %d bytes, want at most %d: what does it point to that is over?", per, most)
	}
	runtime.KeepAlive(e)
}

func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Deadlines that are moved or taken back leave entries behind, but not for ever.
func TestTimersKeepWhatCounts(t *testing.T) {
	e, now := clocked(t), time.Now()
	e.mu.Lock()
	var all []*call
	for range 1000 {
		c := &call{}
		e.arm(c, now.Add(time.Hour))
		e.arm(c, now.Add(time.Minute))
		e.arm(c, time.Time{})
		all = append(all, c)
	}
	last := &call{idleAt: now.Add(time.Hour)}
	e.arm(last, now.Add(2*time.Minute))
	for _, c := range all[:10] { // taken back, then wanted again
		c.idleAt = now.Add(time.Hour)
		e.arm(c, now.Add(3*time.Minute))
	}
	if n := len(e.timers.heap); n > 300 {
		t.Errorf("%d entries for 11 deadlines", n)
	}
	e.mu.Unlock()
	fired := func(at time.Duration) (n int) {
		e.fireDue(now.Add(at))
		for _, c := range append(all, last) {
			if c.at > now.Add(at).UnixNano() { // fire has armed it for idleAt
				n++
			}
		}
		return n
	}
	if n := fired(2*time.Minute + time.Second); n != 11 {
		t.Errorf("%d deadlines stand after 2 min, want 11", n)
	}
	if last.at < now.Add(59*time.Minute).UnixNano() {
		t.Error("the deadline at 2 min did not fire")
	}
	fired(3*time.Minute + time.Second)
	for i, c := range all[:10] {
		if c.at < now.Add(59*time.Minute).UnixNano() {
			t.Errorf("the deadline of %d at 3 min did not fire", i)
		}
	}
}
