package edge

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// zone is a name server on loopback: what it knows, and what it was asked.
type zone struct {
	addr string

	mu      sync.Mutex
	records map[string][]string // "name. TYPE" -> records
	asked   map[string]int
	mute    bool // it answers nothing
	broken  int  // rcode of all answers, if not 0
	hold    chan struct{}
}

func newZone(t testing.TB, records ...string) *zone {
	t.Helper()
	var pc net.PacketConn
	var ln net.Listener
	for ln == nil { // one number free for both
		var err error
		if pc, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if ln, err = net.Listen("tcp", pc.LocalAddr().String()); err != nil {
			ln = nil
			_ = pc.Close()
		}
	}
	z := &zone{addr: pc.LocalAddr().String(), records: map[string][]string{}, asked: map[string]int{}}
	z.set(t, records...)
	var up sync.WaitGroup
	up.Add(2)
	udp := &dns.Server{PacketConn: pc, Handler: z, NotifyStartedFunc: up.Done}
	tcp := &dns.Server{Listener: ln, Handler: z, NotifyStartedFunc: up.Done}
	for _, s := range []*dns.Server{udp, tcp} {
		go func() { _ = s.ActivateAndServe() }()
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	up.Wait()
	return z
}

func (z *zone) set(t testing.TB, records ...string) {
	t.Helper()
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, r := range records {
		rr, err := dns.NewRR(r)
		if err != nil {
			t.Fatal(err)
		}
		key := strings.ToLower(rr.Header().Name) + " " + dns.TypeToString[rr.Header().Rrtype]
		z.records[key] = append(z.records[key], r)
	}
}

func (z *zone) count(key string) int { z.mu.Lock(); defer z.mu.Unlock(); return z.asked[key] }

func (z *zone) quiet(on bool) { z.mu.Lock(); defer z.mu.Unlock(); z.mute = on }

func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	name := strings.ToLower(q.Question[0].Name)
	key := name + " " + dns.TypeToString[q.Question[0].Qtype]
	z.mu.Lock()
	z.asked[key]++
	mute, broken, hold := z.mute, z.broken, z.hold
	records := slices.Clone(z.records[key])
	if len(records) == 0 {
		records = slices.Clone(z.records[name+" CNAME"])
	}
	exists := false
	for k := range z.records {
		exists = exists || strings.HasPrefix(k, name+" ")
	}
	z.mu.Unlock()
	if hold != nil {
		<-hold
	}
	if mute {
		return
	}
	m := new(dns.Msg)
	m.SetReply(q)
	for _, r := range records {
		rr, _ := dns.NewRR(r)
		m.Answer = append(m.Answer, rr)
	}
	if len(records) == 0 {
		soa, _ := dns.NewRR(". 60 IN SOA ns. root. 1 3600 600 86400 7")
		m.Ns = append(m.Ns, soa)
		if !exists {
			m.Rcode = dns.RcodeNameError
		}
	}
	if broken != 0 {
		m.Rcode, m.Answer = broken, nil
	}
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp && m.Len() > 512 {
		m.Truncate(512)
	}
	_ = w.WriteMsg(m)
}

func (z *zone) locator() locator {
	return locator{nameServers: nameServers{[]string{z.addr}}, kinds: []uint16{dns.TypeA, dns.TypeAAAA}, hosts: os.DevNull}
}

func hops(l located, seed string) string {
	var s []string
	for _, h := range l.order(seed) {
		s = append(s, h.String())
	}
	return strings.Join(s, " ")
}

func (z *zone) find(t *testing.T, uri, seed string) (string, located) {
	t.Helper()
	q, ok := target(uri)
	if !ok {
		t.Fatalf("%s is no target", uri)
	}
	if l, ok := q.numeric(); ok {
		return hops(l, seed), l
	}
	n := z.locator()
	l := n.locate(context.Background(), q)
	return hops(l, seed), l
}

// The ways of RFC 3263 section 4.
func TestLocate(t *testing.T) {
	z := newZone(t,
		`naptr.example. 300 IN NAPTR 50 50 "s" "SIPS+D2T" "" _sips._tcp.naptr.example.`,
		`naptr.example. 300 IN NAPTR 90 50 "s" "SIP+D2T" "" _sip._tcp.naptr.example.`,
		`naptr.example. 300 IN NAPTR 100 50 "s" "SIP+D2U" "" _sip._udp.naptr.example.`,
		`_sip._tcp.naptr.example. 300 IN SRV 10 1 5066 a.example.`,
		`_sips._tcp.naptr.example. 300 IN SRV 10 1 5067 a.example.`,
		`_sip._udp.naptr.example. 300 IN SRV 10 1 5066 a.example.`,
		`srv.example. 300 IN A 192.0.2.9`,
		`_sip._udp.srv.example. 300 IN SRV 20 0 5062 b.example.`,
		`_sip._udp.srv.example. 300 IN SRV 10 0 5061 a.example.`,
		`_sip._tcp.srv.example. 300 IN SRV 10 0 5071 a.example.`,
		`plain.example. 300 IN A 192.0.2.9`,
		`plain.example. 300 IN AAAA 2001:db8::9`,
		`six.example. 300 IN AAAA 2001:db8::6`,
		`a.example. 300 IN A 192.0.2.1`,
		`b.example. 300 IN CNAME c.example.`,
		`c.example. 60 IN A 192.0.2.2`,
		`none.example. 300 IN A 192.0.2.3`,
		`_sip._udp.none.example. 300 IN SRV 0 0 0 .`,
		`round.example. 300 IN CNAME round2.example.`,
		`round2.example. 300 IN CNAME round.example.`,
	)
	for uri, want := range map[string]string{
		"sip:192.0.2.1":                       "udp/192.0.2.1:5060",
		"sip:192.0.2.1:5070;transport=tcp":    "tcp/192.0.2.1:5070",
		"sip:[2001:db8::1]":                   "udp/[2001:db8::1]:5060",
		"sip:x@naptr.example":                 "tcp/192.0.2.1:5066", // TLS is for who asks for it
		"sip:naptr.example;transport=udp":     "udp/192.0.2.1:5066",
		"sip:NAPTR.example.":                  "tcp/192.0.2.1:5066",
		"sip:srv.example":                     "udp/192.0.2.1:5061 udp/192.0.2.2:5062",
		"sip:srv.example;transport=tcp":       "tcp/192.0.2.1:5071",
		"sip:srv.example:5090":                "udp/192.0.2.9:5090", // a port: no SRV
		"sip:plain.example":                   "udp/192.0.2.9:5060 udp/[2001:db8::9]:5060",
		"sip:six.example;transport=tcp":       "tcp/[2001:db8::6]:5060",
		"sip:b.example":                       "udp/192.0.2.2:5060",
		"sip:nobody.example":                  "",
		"sip:round.example":                   "",
		"sip:x@plain.example;maddr=192.0.2.7": "udp/192.0.2.7:5060",
		"<sip:192.0.2.5;lr>":                  "udp/192.0.2.5:5060",
		"sips:192.0.2.5":                      "tls/192.0.2.5:5061",
		"sip:192.0.2.5:5070;transport=TLS":    "tls/192.0.2.5:5070",
		"sips:x@naptr.example":                "tls/192.0.2.1:5067",
		"sips:plain.example;transport=tcp":    "tls/192.0.2.9:5061 tls/[2001:db8::9]:5061",
	} {
		if got, l := z.find(t, uri, "s"); got != want || l.unknown {
			t.Errorf("%s is at %q (%v), want %q", uri, got, l, want)
		}
	}
	for _, uri := range []string{"sips:a.example;transport=udp", "tel:123", "sip:a.example;transport=sctp"} {
		if q, ok := target(uri); ok {
			t.Errorf("%s is taken for %v", uri, q)
		}
	}
	_, l := z.find(t, "sip:b.example", "")
	if l.ttl != 7*time.Second { // the shortest of all that was said: that there is no NAPTR
		t.Error(l.ttl)
	}
}

func TestSRVWeightsAreKeptOverManyCallsAndForOneCall(t *testing.T) {
	z := newZone(t,
		`_sip._udp.w.example. 300 IN SRV 1 75 5060 a.example.`,
		`_sip._udp.w.example. 300 IN SRV 1 25 5060 b.example.`,
		`_sip._udp.w.example. 300 IN SRV 2 100 5060 c.example.`,
		`a.example. 300 IN A 192.0.2.1`, `b.example. 300 IN A 192.0.2.2`, `c.example. 300 IN A 192.0.2.3`,
	)
	_, l := z.find(t, "sip:w.example", "")
	z.mu.Lock()
	slices.Reverse(z.records["_sip._udp.w.example. SRV"])
	z.mu.Unlock()
	_, turned := z.find(t, "sip:w.example", "")
	first := 0
	for i := range 2000 {
		seed := strconv.Itoa(i)
		order := hops(l, seed)
		if order != hops(l, seed) || order != hops(turned, seed) {
			t.Fatal("the same call is sent elsewhere when its action is repeated")
		}
		if strings.HasPrefix(order, "udp/192.0.2.1") {
			first++
		}
		if !strings.HasSuffix(order, "192.0.2.3:5060") {
			t.Fatal("a lower priority before a higher: ", order)
		}
	}
	if first < 1400 || first > 1600 {
		t.Errorf("%d of 2000 calls went to the server of weight 75 of 100", first)
	}
}

func TestAnswersAreRememberedByTheirTTL(t *testing.T) {
	z := newZone(t, `p.example. 100 IN A 192.0.2.1`)
	n := newNames(z.locator())
	var wg sync.WaitGroup
	now := time.Now()
	ask := func(host string) *located {
		q := question{host: host, port: 5060}
		got := make(chan *located, 1)
		n.find(context.Background(), &wg, q, func(l *located) { got <- l })
		return <-got
	}
	ask("p.example")
	learned := time.Now()
	q := question{host: "p.example", port: 5060}
	if _, ok := n.get(q, now.Add(90*time.Second)); !ok {
		t.Error("forgotten before its time")
	}
	if _, ok := n.get(q, learned.Add(101*time.Second)); ok {
		t.Error("remembered for longer than its TTL")
	}
	no := question{host: "no.example", port: 5060}
	if l := ask("no.example"); len(l.servers) > 0 {
		t.Error(l)
	}
	learned = time.Now()
	if l, ok := n.get(no, now.Add(6*time.Second)); !ok || len(l.servers) > 0 {
		t.Error("that there is nobody is to be remembered for the SOA's minimum")
	}
	if _, ok := n.get(no, learned.Add(8*time.Second)); ok {
		t.Error("that there is nobody is remembered for too long")
	}
	z.mu.Lock()
	z.broken = dns.RcodeServerFailure
	z.mu.Unlock()
	if l := ask("p.example"); len(l.servers) != 1 {
		t.Error("an address that was known is given up because the name server is out of order")
	}
	if l := ask("new.example"); !l.unknown {
		t.Error("a name server's failure is taken for an answer")
	}
	wg.Wait()
}

func TestAQuestionIsAskedOnceForAllWhoWait(t *testing.T) {
	z := newZone(t, `p.example. 100 IN A 192.0.2.1`)
	hold := make(chan struct{})
	z.mu.Lock()
	z.hold = hold
	z.mu.Unlock()
	n := newNames(z.locator())
	var wg sync.WaitGroup
	got := make(chan *located, 100)
	began := time.Now()
	for range 100 {
		n.find(context.Background(), &wg, question{host: "p.example", port: 1}, func(l *located) { got <- l })
	}
	close(hold)
	for range 100 {
		if l := <-got; hops(*l, "") != "udp/192.0.2.1:1" {
			t.Fatal(l)
		}
	}
	wg.Wait()
	most := 1 + int(time.Since(began)/dnsTry) // each time that no answer has come in time
	if c := z.count("p.example. A"); c < 1 || c > most {
		t.Errorf("asked %d times, want at most %d", c, most)
	}
	for i := range maxNames + 10 {
		n.mu.Lock()
		n.learn(question{host: strconv.Itoa(i)}, located{ttl: time.Hour}, time.Now())
		n.mu.Unlock()
	}
	if len(n.known) > maxNames {
		t.Errorf("%d names are remembered", len(n.known))
	}
}

func TestTheNextNameServerIsAskedWhenOneIsMute(t *testing.T) {
	mute, z := newZone(t), newZone(t, `p.example. 100 IN A 192.0.2.1`)
	mute.quiet(true)
	n := z.locator()
	n.fixed = []string{mute.addr, z.addr}
	l := n.locate(context.Background(), question{host: "p.example", port: 5060})
	if hops(l, "") != "udp/192.0.2.1:5060" {
		t.Error(l)
	}
}

func TestALongAnswerComesByTCPAndIsCut(t *testing.T) {
	z := newZone(t)
	for i := range 100 {
		z.set(t, "many.example. 60 IN A 192.0.2."+strconv.Itoa(i+1))
	}
	got, _ := z.find(t, "sip:many.example:5060", "")
	if n := len(strings.Fields(got)); n != maxAddrs {
		t.Errorf("%d addresses", n)
	}
}

// liar answers any question with bytes.
func TestGarbageFromANameServer(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	good := newZone(t, `p.example. 100 IN A 192.0.2.1`)
	go func() {
		buf := make([]byte, 1500)
		for i := 0; ; i++ {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			m := new(dns.Msg)
			_ = m.Unpack(buf[:n])
			var out []byte
			switch m.Response = true; i % 4 {
			case 0:
				out = []byte("\x00\xff")
			case 1: // another question's answer
				m.Question[0].Name = "evil.example."
				rr, _ := dns.NewRR("p.example. 60 IN A 203.0.113.66")
				m.Answer = []dns.RR{rr}
				out, _ = m.Pack()
			case 2: // another name's record
				rr, _ := dns.NewRR("evil.example. 60 IN A 203.0.113.66")
				m.Answer = []dns.RR{rr}
				out, _ = m.Pack()
			default: // cut short
				out, _ = m.Pack()
				out = append(out[:6:6], 0xff, 0xff, 0xff, 0xff)
			}
			_, _ = pc.WriteTo(out, from)
		}
	}()
	for range 4 {
		n := good.locator()
		n.fixed = []string{pc.LocalAddr().String(), good.addr}
		l := n.locate(context.Background(), question{host: "p.example", port: 5060})
		if got := hops(l, ""); strings.Contains(got, "203.0.113.66") {
			t.Errorf("garbage led to %q", got)
		}
	}
}

func TestHostsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(path, []byte("# c\n127.0.0.9 Carrier carrier.example # x\n\x00\xff\nbad line\n::9 six\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := inHosts(path, "carrier.example"); !slices.Equal(got, []netip.Addr{netip.MustParseAddr("127.0.0.9")}) {
		t.Error(got)
	}
	z := newZone(t)
	n := z.locator()
	n.hosts = path
	if l := n.locate(context.Background(), question{host: "carrier"}); hops(l, "") != "udp/127.0.0.9:5060" {
		t.Error(l)
	}
}

func TestServersOfTheConfiguration(t *testing.T) {
	got, err := dnsServers([]string{"192.0.2.1", "192.0.2.2:5353", "2001:db8::1"})
	if err != nil || !slices.Equal(got, []string{"192.0.2.1:53", "192.0.2.2:5353", "[2001:db8::1]:53"}) {
		t.Error(got, err)
	}
	if _, err := dnsServers([]string{"dns.example"}); err == nil {
		t.Error("a name server is named")
	}
}
