package loadtest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// serveZone is a name server that knows carrier.example: two servers, the first
// of which is to be tried first.
func serveZone(t *testing.T, addr string, first, second netip.AddrPort) {
	t.Helper()
	records := map[string][]string{}
	for i, at := range []netip.AddrPort{first, second} {
		host := fmt.Sprintf("s%d.example.", i+1)
		srv := "_sip._udp.carrier.example."
		records[srv] = append(records[srv], fmt.Sprintf("%s 5 IN SRV %d 0 %d %s", srv, i+1, at.Port(), host))
		records[host] = []string{fmt.Sprintf("%s 5 IN A %s", host, at.Addr())}
	}
	records["carrier.example."] = []string{`carrier.example. 5 IN NAPTR 10 10 "s" "SIP+D2U" "" _sip._udp.carrier.example.`}
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	up := make(chan struct{})
	s := &dns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(up) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		for _, text := range records[strings.ToLower(q.Question[0].Name)] {
			if rr, err := dns.NewRR(text); err == nil && rr.Header().Rrtype == q.Question[0].Qtype {
				m.Answer = append(m.Answer, rr)
			}
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = s.ActivateAndServe() }()
	t.Cleanup(func() { _ = s.Shutdown() })
	<-up
}

// sick is a carrier's server that takes no call. It answers each INVITE with
// code, 0: not at all, and hears of each call once.
type sick struct {
	conn *net.UDPConn
	code int
	mu   sync.Mutex
	seen map[string]bool
}

func newSick(t *testing.T, code int) *sick {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 4)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s := &sick{conn: c, code: code, seen: map[string]bool{}}
	go func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			m, err := parseMessage(bytes.Clone(buf[:n]))
			if err != nil || m.code != 0 {
				continue
			}
			out := respond(m, 200, "OK", "sick", "", nil) // to pings
			if m.method == "INVITE" {
				s.mu.Lock()
				s.seen[m.callID()] = true
				s.mu.Unlock()
				out = respond(m, s.code, "Sick", "sick", "", nil)
			}
			if m.method != "ACK" && s.code != 0 {
				_, _ = c.WriteToUDPAddrPort(out, from)
			}
		}
	}()
	return s
}

func (s *sick) calls() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.seen) }

// A trunk is a name; the first of its servers is dead, says 503, or dies while it
// rings. Each of 20 calls is answered by the second, though the worker or the edge
// is killed, or the calls move to the next release, in the middle.
func TestTrunkByNameWithASickServer(t *testing.T) {
	for name, code := range map[string]int{"dead": 0, "503": 503, "dies_while_it_rings": 180} {
		for _, what := range []string{"nothing else", RoleWorker, RoleEdge, "move"} {
			t.Run(name+"/"+what, func(t *testing.T) {
				first := newSick(t, code)
				zone, err := freePort(netip.MustParseAddr("127.0.0.1"))
				if err != nil {
					t.Fatal(err)
				}
				b, _ := realSwitchAs(t, 0, nil, func(s Site) []byte {
					return bytes.Replace(DefaultConfig(s), []byte("edge:\n"), fmt.Appendf(nil, "edge:\n  dns: {servers: [%q]}\n  limits: {silence: 2s}\n", zone), 1)
				})
				serveZone(t, zone.String(), first.conn.LocalAddr().(*net.UDPAddr).AddrPort(), b.rig.callees[0].Addr())
				plan := b.rig.Dialplan()
				for i := range plan.Peers {
					if plan.Peers[i].Name == "callee0" {
						plan.Peers[i].Target, plan.Peers[i].Ping = "sip:carrier.example", 1
						if code != 180 {
							plan.Peers[i].Ping = 0 // what is shown is what calls alone find out
						}
					}
				}
				if err := b.sw.plan(t.Context(), plan); err != nil {
					t.Fatal(err)
				}
				ctx := patient(t, 45*time.Second)
				calls, errs := make([]*Call, 20), make(chan error, 20)
				for i := range calls {
					calls[i] = b.rig.NewCall(Mark{}, answerAtOnce)
					go func() { errs <- calls[i].Establish(ctx) }()
					pause(ctx, 10*time.Millisecond)
				}
				for first.calls() == 0 && pause(ctx, 5*time.Millisecond) {
				}
				b.strikeAt(ctx, t, what)
				if code == 180 {
					_ = first.conn.Close()
				}
				for range calls {
					if err := <-errs; err != nil {
						t.Error(err)
					}
				}
				if t.Failed() {
					return
				}
				pause(ctx, settle)
				for _, c := range calls {
					c.Talk()
				}
				pause(ctx, time.Second)
				t.Logf("the first server heard of %d calls of %d", first.calls(), len(calls))
				b.verdict(t, calls, 0)
				b.once(t, calls)
			})
		}
	}
}

// strikeAt does to the switch what the test is about.
func (b *bed) strikeAt(ctx context.Context, t *testing.T, what string) {
	t.Helper()
	switch what {
	case RoleWorker, RoleEdge:
		p := b.only(t, what)
		if err := b.sw.Kill(p); err != nil {
			t.Fatal(err)
		}
		if _, err := b.sw.Successor(ctx, what, p); err != nil {
			t.Fatal(err)
		}
	case "move":
		bin, err := binaries()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.sw.API.StartRollout(ctx, RolloutStart{Binary: bin[1], Steps: []int{100}}); err != nil {
			t.Fatal(err)
		}
	}
}
