package media

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/rtp"
	"go.uber.org/goleak"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = netip.MustParseAddr("127.0.0.1")

// portBase gives each node of a test run its own range, below the kernel's own.
var portBase atomic.Int64

func init() { portBase.Store(rand.Int64N(1 << 20)) }

// freeRange finds 200 ports that nobody has: other tests, other switches.
func freeRange() (first int) {
	const lowest, ranges = 10000, 110
	for range ranges {
		first = lowest + int(portBase.Add(1)%ranges)*200
		free := true
		for port := first; free && port < first+200; port++ {
			f, err := openUDP(loopback, port)
			if free = err == nil; free {
				_ = f.Close()
			}
		}
		if free {
			break
		}
	}
	return first
}

// node is a running Media with what it is wired to.
type node struct {
	*Media
	t    testing.TB
	bus  *memBus
	legs *severed
	stop func()
}

// severed is a LegStore that a process which has been killed reaches no more.
type severed struct {
	LegStore
	cut atomic.Bool
}

func (s *severed) Put(ctx context.Context, node string, call codecore.CallID, body []byte, rev uint64) (uint64, error) {
	if s.cut.Load() {
		return 0, sessions.ErrUnavailable
	}
	return s.LegStore.Put(ctx, node, call, body, rev)
}

func (s *severed) Delete(ctx context.Context, node string, call codecore.CallID) error {
	if s.cut.Load() {
		return sessions.ErrUnavailable
	}
	return s.LegStore.Delete(ctx, node, call)
}

// sever keeps what the node does from now on out of the store. Media.mu is held.
func (n *node) sever() {
	n.cfg.Legs = nil // it writes nothing more on its way out
	if n.legs != nil {
		n.legs.cut.Store(true)
	}
}

// config returns a Config with a small range of its own.
func config(bus *memBus) Config {
	lo := freeRange()
	return Config{Node: "n1", Boot: "m-1", Listen: loopback, PortMin: lo, PortMax: lo + 199, Bus: bus, Ahead: 8, RestPorts: 50 * time.Millisecond}
}

// start runs a node until the test ends or stop is called. change may shorten
// the plane's times before it runs.
func start(t testing.TB, cfg Config, change func(*Media)) *node {
	t.Helper()
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return run(t, m, cfg, change)
}

func run(t testing.TB, m *Media, cfg Config, change func(*Media)) *node {
	t.Helper()
	m.times.tick = 10 * time.Millisecond
	m.times.behind = 30 * time.Millisecond
	m.times.gather = 5 * time.Millisecond
	m.loop.parkFor = int64(20 * time.Second) // a busy machine takes its time
	if change != nil {
		change(m)
	}
	n := &node{Media: m, t: t, bus: cfg.Bus.(*memBus)}
	if m.cold.store != nil {
		n.legs = &severed{LegStore: m.cold.store}
		m.cold.store = n.legs
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stopped := false
	n.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(n.stop)
	n.await("subscriptions", func() bool { return len(n.bus.handlers(SubjectStats("media.n1"))) > 0 && n.ready() })
	return n
}

func (n *node) await(what string, ok func() bool) {
	n.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			n.t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// inStep reports whether the store has all that has come about so far.
func (n *node) inStep() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loop.mu.Lock()
	defer n.loop.mu.Unlock()
	return len(n.loop.dirty) == 0 && n.cold.waiting() == 0
}

func ask[A any](n *node, subject string, q any) (a A) {
	n.t.Helper()
	data, err := wire.Seal(q)
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	reply, err := n.bus.Request(ctx, subject, data)
	if err == nil {
		err = wire.Open(reply, &a)
	}
	if err != nil {
		n.t.Fatalf("%s: %v", subject, err)
	}
	return a
}

func (n *node) alloc(call string) [2]int {
	n.t.Helper()
	a := ask[codecore.Allocated](n, sessions.SubjectAlloc("media.n1"), sessions.Alloc{Call: codecore.CallID(call), Legs: []codecore.LegID{"a", "b"}})
	if len(a.Legs) != 2 {
		n.t.Fatalf("allocated %+v", a)
	}
	return [2]int{a.Legs[0].Port, a.Legs[1].Port}
}

func (n *node) do(call string, epoch, num uint64, legs ...codecore.MediaLeg) sessions.MediaDone {
	n.t.Helper()
	return ask[sessions.MediaDone](n, sessions.SubjectDo("media.n1"), sessions.DoMedia{
		Call: codecore.CallID(call),
		Gen:  codecore.Generation{Epoch: epoch, N: num}, Media: codecore.Media{Node: "n1", Legs: legs},
	})
}

func (n *node) quality(call string, leg codecore.LegID) Quality {
	n.t.Helper()
	for _, q := range ask[CallStats](n, SubjectStats("media.n1"), StatsRequest{Call: codecore.CallID(call)}).Legs {
		if q.Leg == leg {
			return q
		}
	}
	n.t.Fatalf("call %s has no leg %s", call, leg)
	return Quality{}
}

// phone is a far end: a socket that sends numbered packets.
type phone struct {
	t    testing.TB
	conn *net.UDPConn
	to   int
	ssrc uint32
	seq  uint16
	ts   uint32
	pt   byte
}

func newPhone(t testing.TB, to int, ssrc uint32) *phone {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &phone{t: t, conn: conn, to: to, ssrc: ssrc, seq: uint16(ssrc), ts: ssrc * 7}
}

func (p *phone) addr() string { return p.conn.LocalAddr().String() }

func (p *phone) write(b []byte, port int) {
	if _, err := p.conn.WriteToUDP(b, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}); err != nil {
		p.t.Error(err)
	}
}

// send sends one packet that carries n.
func (p *phone) send(n int) {
	p.t.Helper()
	payload := make([]byte, 160)
	binary.BigEndian.PutUint32(payload, uint32(n))
	b, err := (&rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: p.pt, SequenceNumber: p.seq, Timestamp: p.ts, SSRC: p.ssrc}, Payload: payload}).Marshal()
	if err != nil {
		p.t.Fatal(err)
	}
	p.seq++
	p.ts += 160
	p.write(b, p.to)
}

// got is a packet as it came.
type got struct {
	rtp.Packet
	n    int
	from int // port
}

// recv waits for one packet; ok is false when none comes in the given time.
func (p *phone) recv(wait time.Duration) (g got, ok bool) {
	p.t.Helper()
	var buf [2048]byte
	p.conn.SetReadDeadline(time.Now().Add(wait))
	n, from, err := p.conn.ReadFromUDP(buf[:])
	if err != nil {
		return g, false
	}
	if err := g.Unmarshal(append([]byte(nil), buf[:n]...)); err != nil {
		p.t.Fatal(err)
	}
	return got{Packet: g.Packet, n: int(binary.BigEndian.Uint32(g.Payload)), from: from.Port}, true
}

// must returns the next packet, which must carry n.
func (p *phone) must(n int) got {
	p.t.Helper()
	g, ok := p.recv(20 * time.Second)
	if !ok {
		p.t.Fatalf("packet %d did not come", n)
	}
	if g.n != n {
		p.t.Fatalf("packet %d came, not %d", g.n, n)
	}
	return g
}

// silent fails when anything comes within a moment.
func (p *phone) silent() {
	p.t.Helper()
	if g, ok := p.recv(80 * time.Millisecond); ok {
		p.t.Fatalf("packet %d came, and none was due", g.n)
	}
}

// talk is the desired state of a leg in an answered call.
func talk(id codecore.LegID, port int, remote string, learn int) codecore.MediaLeg {
	return codecore.MediaLeg{Leg: id, Port: port, Remote: remote, Learn: learn, Payloads: []byte{0, 8}, DTMF: 101, Send: true, Recv: true}
}

// pairOfPhones allocates a call, answers it and checks that both hear each other.
func (n *node) pairOfPhones(call string) (ports [2]int, a, b *phone) {
	n.t.Helper()
	ports = n.alloc(call)
	a, b = newPhone(n.t, ports[0], 1000), newPhone(n.t, ports[1], 2000)
	if d := n.do(call, 1, 1, talk("a", ports[0], a.addr(), 1), talk("b", ports[1], b.addr(), 1)); d.Reason != "" || d.Gen.N != 1 {
		n.t.Fatalf("order: %+v", d)
	}
	a.send(1)
	b.must(1)
	b.send(1)
	a.must(1)
	return ports, a, b
}
