package edge

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

func TestAStrangerGets403AFewTimes(t *testing.T) {
	lim := quick()
	lim.StrangerRate = 3
	r := newRig(t, lim)
	r.plan.Store(&codecore.Plan{})
	began := time.Now()
	for range 50 {
		r.send(r.request("INVITE", "s", ""))
	}
	r.hear("403")
	for r.edge.stats.Reasons()["flood"] < 40 {
		r.send(r.request("INVITE", "s", ""))
	}
	n, most := r.edge.stats.Reasons()["stranger"], 4+uint64(3*time.Since(began).Seconds())
	if n < 1 || n > most {
		t.Errorf("%d strangers served, want at most %d", n, most)
	}
	select {
	case d := <-r.step:
		t.Fatalf("a stranger reached a worker: %+v", d)
	default:
	}
}

// A carrier's Contact or Record-Route may name another machine than the one that
// called: what it sends in a dialog of ours is heard, with accounts or without.
func TestAPartyMayBeElsewhere(t *testing.T) {
	r := newRig(t, patient())
	r.send(r.request("INVITE", "e", ""))
	q := event(r, func(q codecore.SIPRequest) bool { return q.Msg.Method == "INVITE" })
	r.plan.Store(&codecore.Plan{})
	r.send(r.request("BYE", "f", "TOTAG="+strings.Repeat("ab", tokenLen/2)))
	r.hear("403")
	r.send(r.request("BYE", "g", "TOTAG="+q.Token+".t"))
	event(r, func(q codecore.SIPRequest) bool { return q.Msg.Method == "BYE" && q.Peer == "" })
}

// However many requests a party sends in its call, the edge holds so many; a BYE still
// gets through.
func TestACallHasSoManyTransactions(t *testing.T) {
	e := clocked(t)
	token := e.ids.token("0123456789abcdef01234567")
	ask := func(method string, n int) {
		p, _, why := parse(fmt.Appendf(nil, "%s sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK%s%d\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:b@c>;tag=%s.t\r\nCall-ID: 1\r\nCSeq: %d %s\r\nContent-Length: 0\r\n\r\n",
			method, method, n, token, n, method), &e.lim)
		if why != okay {
			t.Fatal(why)
		}
		e.onRequest(flow{silent{}, netip.MustParseAddrPort("127.0.0.1:5061")}, "phone", p, time.Now())
	}
	for n := range 3 * maxOpen {
		ask("INFO", n)
	}
	if n := e.stats.Open.Load(); n != maxOpen {
		t.Errorf("%d transactions, want %d", n, maxOpen)
	}
	if n := e.stats.Reasons()["queue-full"]; n < 2*maxOpen {
		t.Errorf("%d refusals are counted", n)
	}
	for n := range 3 * maxOpen {
		ask("BYE", n)
	}
	if n := e.stats.Open.Load(); n != 2*maxOpen {
		t.Errorf("%d transactions, want %d", n, 2*maxOpen)
	}
}

// A host with a network of its own is one friend, as it is one source.
func TestAFriendIsASource(t *testing.T) {
	fs, now := friends{by: map[netip.Addr]time.Time{}}, time.Now()
	fs.add(netip.MustParseAddr("2001:db8::1"), now.Add(time.Hour), now)
	fs.add(netip.MustParseAddr("2001:db8::2"), now.Add(time.Hour), now)
	if !fs.has(netip.MustParseAddr("2001:db8::3"), now) || fs.has(netip.MustParseAddr("2001:db8:0:1::1"), now) || len(fs.by) != 1 {
		t.Errorf("%v", fs.by)
	}
}

// Of a body that comes byte by byte the headers are read once.
func TestABodyInDripsCostsItsBytes(t *testing.T) {
	head := "A\r\n" + strings.Repeat("X: y\r\n", 5000) + "l: 20000\r\n\r\n"
	lim := Limits{}.withDefaults()
	h := half{Raw: []byte(head)}
	if p, why := nextInStream(&h, &lim); !p.none() || why != okay || h.Need != len(head)+20000 {
		t.Fatalf("%v %v, %d are needed", p, why, h.Need)
	}
	h.Raw = append(h.Raw, make([]byte, 19_999)...)
	if n := testing.AllocsPerRun(100, func() { _, _ = nextInStream(&h, &lim) }); n > 0 {
		t.Errorf("%v allocations: they are read again", n)
	}
	h.Raw = append(h.Raw, 'x', '\r', '\n')
	if p, _ := nextInStream(&h, &lim); len(p.msg) != len(head)+20000 || h.Need != 0 {
		t.Errorf("%d bytes, %d are needed", len(p.msg), h.Need)
	}
}

func TestBucketRefills(t *testing.T) {
	b, now, a := newBuckets(2, 16), time.Now(), netip.MustParseAddr("192.0.2.1")
	for i, want := range []bool{true, true, false} {
		if b.take(a, now) != want {
			t.Fatal(i)
		}
	}
	if !b.take(a, now.Add(500*time.Millisecond)) || b.take(a, now.Add(500*time.Millisecond)) {
		t.Fatal("refilled wrongly")
	}
}

func TestAFloodOfInventedSourcesResetsNobodyAndShutsNobodyOut(t *testing.T) {
	b, now := newBuckets(10, strangerCells), time.Now()
	loud, quiet := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for range 10 {
		b.take(loud, now)
	}
	if b.take(loud, now) {
		t.Fatal("more than its burst")
	}
	refused := 0
	for i := range 1_000_000 {
		at := now.Add(time.Duration(i) * 10 * time.Microsecond) // 100,000 a second
		b.take(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), at)
		if i%100_000 == 50_000 && !b.take(quiet, at) {
			refused++
		}
	}
	if refused > 1 {
		t.Errorf("an honest source was refused %d times of 10", refused)
	}
	if len(b.cells) != strangerCells {
		t.Error("the table grew")
	}
	six := netip.MustParseAddr("2001:db8::1")
	for range 10 {
		b.take(six, now.Add(20*time.Second))
	}
	if b.take(netip.MustParseAddr("2001:db8::2"), now.Add(20*time.Second)) {
		t.Error("a /64 has a bucket for each of its addresses")
	}
}

func TestRefusalsAreLoggedOncePerSourceAndMinute(t *testing.T) {
	var c complaints
	now := time.Unix(6000, 0)
	named := 0
	for i := range 5000 {
		for range 3 {
			if ok, _ := c.first(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), now); ok {
				named++
			}
		}
	}
	if named != linesPerMinute {
		t.Errorf("%d lines in a minute, want %d", named, linesPerMinute)
	}
	if ok, before := c.first(netip.MustParseAddr("10.0.0.1"), now.Add(time.Minute)); !ok || before != 15000-linesPerMinute {
		t.Errorf("named %v, %d before", ok, before)
	}
}

func TestCallsAndTransactionsAreForgotten(t *testing.T) {
	r := newRig(t, quick())
	r.says(func(d sessions.Delivery) *sessions.Answer {
		if q, is := d.Event.Event().(codecore.SIPRequest); is && q.Msg.Method == "INVITE" {
			return ok(d, action(1, response(q, 486)))
		}
		return ok(d)
	})
	r.send(r.request("INVITE", "1", ""))
	r.hear("486")
	r.send(r.request("ACK", "1", "TOTAG=x"))
	late := time.After(guard)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for r.edge.stats.Calls.Load()+r.edge.stats.Open.Load() > 0 {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%d calls, %d transactions are left", r.edge.stats.Calls.Load(), r.edge.stats.Open.Load())
		}
	}
}

func TestAStatusOfTheWorkerBecomesAResponse(t *testing.T) {
	r := newRig(t, patient())
	for _, c := range []struct {
		a    sessions.Answer
		want string
	}{
		{sessions.Answer{Status: sessions.StatusRefused, Code: 503, Reason: "ports-out", After: 7}, "503"},
		{sessions.Answer{Status: sessions.StatusFailed}, "500"},
	} {
		r.says(func(d sessions.Delivery) *sessions.Answer { a := c.a; return &a })
		r.send(r.request("INVITE", "w"+c.want, ""))
		msg := r.hear(c.want)
		if c.a.After > 0 && (!strings.Contains(msg, "Retry-After: 7") || !strings.Contains(msg, `text="ports-out"`)) {
			t.Error(msg)
		}
	}
}

func seeds(f *testing.F) {
	f.Add([]byte("OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h:5060;branch=z9hG4bK1, SIP/2.0/TCP [::1]\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:b@c>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\nContact: *\r\nl: 2\r\n\r\nab"))
	f.Add([]byte("SIP/2.0 200 OK\r\nv: SIP/2.0/UDP h\r\nf: a\r\nt: b;tag=\"\r\ni: 1\r\nCSeq: 1 A\r\n\r\n"))
	f.Add([]byte("INVITE sip:u;p@[2001:db8::1]:5060;x=%41 SIP/2.0\r\nVia: SIP / 2.0 / UDP [::1] : 9 ;branch = z9hG4bK1;received=[::2]\r\nf: \"\\\"\\\x00<\" <sip:a@b>;tag=1;p=\">\"\r\nTo: a b <sips:b@c>;tag=2\r\ni: 1\r\nCSeq: 1 INVITE\r\nRoute: <sip:a;lr>,\r\n <sip:b>\r\n\r\n"))
	f.Add([]byte("OPTIONS tel:1 SIP/2.0\r\nv: SIP/2.0/TCP h;;\r\nf: \"a <sip:a@b>\r\nt: <isbn:1>\r\ni: 1\r\nCSeq: 4294967296 OPTIONS\r\n"))
	f.Add([]byte("\r\n\r\nX\r\n y\r\nl:\r\n 3\r\n\r\nabc"))
}

// FuzzDatagram: nothing panics, and what passes can be written as one message.
func FuzzDatagram(f *testing.F) {
	seeds(f)
	lim := Limits{}.withDefaults()
	ids := newIDs(key)
	f.Fuzz(func(t *testing.T, data []byte) {
		p, _, why := parse(data, &lim)
		if why != okay {
			if p.replyable() {
				checkOne(t, reply(&p.msg, 400, "x"))
				checkOne(t, shortReply(&p.msg, 403, "x"))
			}
			return
		}
		p.stamp(netip.MustParseAddrPort("192.0.2.1:9"))
		ids.verify(p.toTag)
		_ = ids.mergeKey(p)
		if via, ok := parseVia(p.msg.Get("Via")); !ok || via.branch != p.via.branch || via.host != p.via.host || via.port != p.via.port {
			t.Fatalf("the stamped Via is another: %q was %+v", p.msg.Get("Via"), p.via)
		}
		if got := tagOf(p.msg.Get("To")); got != p.toTag {
			t.Fatalf("two readers of To: %q and %q in %q", got, p.toTag, p.msg.Get("To"))
		}
		_ = ids.tx(p, p.msg.Method) + string(ids.call(p))
		if p.msg.IsRequest() {
			checkOne(t, reply(&p.msg, 200, "x"))
		}
	})
}

// checkOne: a stream reader sees exactly one message in b.
func checkOne(t *testing.T, b []byte) {
	t.Helper()
	lim := Limits{}.withDefaults()
	p, why := nextInStream(&half{Raw: b}, &lim)
	if why != okay || len(p.msg) != len(b) {
		t.Fatalf("not one message (%v): %q", why, b)
	}
}

// FuzzStream: the pieces of a stream do not depend on how it was cut.
func FuzzStream(f *testing.F) {
	f.Add([]byte("A\r\nl: 1\r\n\r\nxB\r\nl: 0\r\n\r\n\r\n\r\n"), uint8(3))
	f.Fuzz(func(t *testing.T, data []byte, cut uint8) {
		whole, broken := split(data, len(data)+1)
		parts, broken2 := split(data, int(cut)+4)
		if broken != broken2 || len(whole) != len(parts) {
			t.Fatalf("%q %v, in pieces %q %v", whole, broken, parts, broken2)
		}
	})
}

func split(data []byte, n int) (out []string, broken bool) {
	lim := Limits{MaxMessage: 1 << 20}.withDefaults()
	h := half{}
	for len(data) > 0 {
		k := min(n, len(data))
		h.Raw, data = append(h.Raw, data[:k]...), data[k:]
		for {
			p, why := nextInStream(&h, &lim)
			if why != okay {
				return out, true
			}
			if p.none() {
				break
			}
			if p.msg != nil {
				out = append(out, string(p.msg))
			}
		}
	}
	return out, false
}

func BenchmarkParse(b *testing.B) {
	lim := Limits{}.withDefaults()
	msg := []byte("INVITE sip:100@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5061;rport;branch=z9hG4bKx\r\nFrom: <sip:1@x>;tag=a1\r\nTo: <sip:100@x>\r\nCall-ID: abc\r\nCSeq: 7 INVITE\r\nMax-Forwards: 70\r\nContact: <sip:1@127.0.0.1:5061>\r\nAllow: INVITE, ACK, BYE\r\nContent-Type: application/sdp\r\nContent-Length: 0\r\n\r\n")
	b.ReportAllocs()
	for b.Loop() {
		if _, _, why := parse(msg, &lim); why != okay {
			b.Fatal(why)
		}
	}
}
