package edge

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"callswitch/codecore"
	"callswitch/registrar"
)

// oneShelf is a directory in memory; it can be away.
type oneShelf struct {
	mu     sync.Mutex
	values map[string][]byte
	rev    uint64
	away   bool
}

func (s *oneShelf) Put(_ context.Context, key string, value []byte, _ uint64, _ time.Duration) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return 0, registrar.ErrUnavailable
	}
	s.rev++
	s.values[key] = value
	return s.rev, nil
}

func (s *oneShelf) Get(_ context.Context, key string) ([]byte, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.values[key]; ok {
		return v, s.rev, nil
	}
	return nil, 0, registrar.ErrNotFound
}

func (s *oneShelf) Scan(_ context.Context, fn func(string, []byte, uint64) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range s.values {
		if err := fn(k, v, s.rev); err != nil {
			return err
		}
	}
	return nil
}

// withAccount starts an edge that knows account 1, password sesame, and no peer.
func withAccount(t *testing.T, shelf *oneShelf) *rig {
	r := newRig(t, patient())
	r.own = func(c *Config) {
		accounts := registrar.NewAccounts([]registrar.Account{registrar.NewAccount("1", "switch", "sesame")})
		accounts.Loaded()
		c.Accounts, c.Directory, c.Keepalive = accounts, registrar.NewDirectory(shelf, registrar.Limits{}), time.Second
		c.Auth = registrar.NewAuth(registrar.AuthConfig{Key: key, Realm: "switch", Accounts: accounts, Born: time.Now()})
		c.Plan = func() *codecore.Plan { return &codecore.Plan{} }
	}
	r.stop()
	r.start("b2", "udp:127.0.0.1:0", patient())
	return r
}

// answerTo makes the header that answers a challenge.
func answerTo(challenge, method, password string, nc int) string {
	h := func(parts ...string) string {
		sum := sha256.Sum256([]byte(strings.Join(parts, ":")))
		return hex.EncodeToString(sum[:])
	}
	name := "Authorization"
	if strings.Contains(challenge, "Proxy-Authenticate") {
		name = "Proxy-Authorization"
	}
	_, rest, _ := strings.Cut(challenge, `nonce="`)
	nonce, _, _ := strings.Cut(rest, `"`)
	count := fmt.Sprintf("%08x", nc)
	response := h(h("1", "switch", password), nonce, count, "c", "auth", h(method, "sip:100@127.0.0.1"))
	return fmt.Sprintf("%s: Digest username=\"1\", realm=\"switch\", nonce=%q, uri=\"sip:100@127.0.0.1\", response=%q, algorithm=SHA-256, cnonce=\"c\", qop=auth, nc=%s\r\n", name, nonce, response, count)
}

func (r *rig) registerLine(branch, extra string) string {
	m := r.request("REGISTER", branch, extra)
	m = strings.Replace(m, "t: <sip:100@x>", "t: <sip:1@x>", 1)
	return strings.Replace(m, "m: <sip:1@127.0.0.1:", "m: <sip:1@10.0.0.9:", 1) // behind NAT
}

func TestRegisterWithDigest(t *testing.T) {
	shelf := &oneShelf{values: map[string][]byte{}}
	r := withAccount(t, shelf)
	r.send(r.registerLine("r1", ""))
	challenge := r.hear("401")
	if strings.Index(challenge, "SHA-256") > strings.Index(challenge, "algorithm=MD5") {
		t.Errorf("SHA-256 is not first:\n%s", challenge)
	}
	r.send(r.registerLine("r2", answerTo(challenge, "REGISTER", "wrong", 1)))
	r.hear("401")
	good := r.registerLine("r3", answerTo(challenge, "REGISTER", "sesame", 1))
	r.send(good)
	r.hear("200")
	r.send(good) // its answer got lost
	r.hear("200")
	r.send(r.registerLine("r4", answerTo(challenge, "REGISTER", "sesame", 1)))
	if m := r.hear("401"); !strings.Contains(m, "stale=true") {
		t.Errorf("a replayed answer:\n%s", m)
	}
	ping := r.hear("OPTIONS sip:1@10.0.0.9:")
	r.send(strings.Replace(ping[strings.Index(ping, "Via:"):], "Via:", "SIP/2.0 200 OK\r\nVia:", 1))
	r.hear("OPTIONS")
	r.await(func() bool { return r.edge.stats.KeepAlives.Load() > 0 }) // the answer to a ping is known as one
	r.again("b3", patient())
	r.hear("OPTIONS") // the next edge goes on
	shelf.mu.Lock()
	shelf.away = true
	shelf.mu.Unlock()
	r.send(r.registerLine("r5", ""))
	challenge = r.hear("401")
	r.send(r.registerLine("r6", "Expires: 600\r\n"+answerTo(challenge, "REGISTER", "sesame", 1)))
	if m := r.hear("503"); !strings.Contains(m, "Retry-After") {
		t.Errorf("a directory that is away:\n%s", m)
	}
}

func TestCallerWithDigest(t *testing.T) {
	r := withAccount(t, &oneShelf{values: map[string][]byte{}})
	r.send(r.request("INVITE", "i1", ""))
	challenge := r.hear("407")
	r.send(strings.Replace(r.request("INVITE", "i2", answerTo(challenge, "INVITE", "sesame", 1)), "<sip:1@x>;tag=a1", "<sip:2@x>;tag=a1", 1))
	r.hear("403") // as whom one calls is who one is
	invite := r.request("INVITE", "i3", answerTo(challenge, "INVITE", "sesame", 2))
	r.send(invite)
	ev := event(r, func(e codecore.SIPRequest) bool { return e.Msg.Method == "INVITE" })
	if ev.Peer != "account:1" || ev.Msg.Get("Proxy-Authorization") != "" {
		t.Errorf("peer %q, secrets %q", ev.Peer, ev.Msg.Get("Proxy-Authorization"))
	}
	r.hear("100")
	r.send(invite)
	r.hear("100") // absorbed, not judged again
	r.send(r.request("CANCEL", "i3", ""))
	event(r, func(e codecore.SIPRequest) bool { return e.Msg.Method == "CANCEL" })
	r.hear("200")
	r.send(r.request("BYE", "b1", "TOTAG="+ev.Token+".x"))
	event(r, func(e codecore.SIPRequest) bool { return e.Msg.Method == "BYE" })
	r.send(r.request("BYE", "b2", "TOTAG=invented"))
	r.hear("481")
}

// An account says itself what its contact is, and by what path. Neither leads its
// calls to a carrier, who would take them for ours.
func TestNoAccountCallsACarrierByItsContact(t *testing.T) {
	r := withAccount(t, &oneShelf{values: map[string][]byte{}})
	own, peer := r.own, codecore.PlanPeer{Name: "carrier", Kind: "trunk", Target: "sip:127.0.0.9:5071"}
	r.own = func(c *Config) {
		own(c)
		c.Plan = func() *codecore.Plan { return &codecore.Plan{Peers: []codecore.PlanPeer{peer}} }
	}
	r.stop()
	r.start("b3", "udp:127.0.0.1:0", patient())
	r.await(func() bool { return r.edge.isTrunk(netip.MustParseAddrPort("127.0.0.9:5060")) })

	for i, c := range []struct{ flow, target string }{
		{"a connection that is closed", "sip:900123@127.0.0.9"},
		{"tcp/127.0.0.9:9/b1.1", "sip:900123@127.0.0.9"},        // a carrier, even if it came from there
		{"tcp/127.0.0.1:9/b1.1", "sip:100@127.0.0.8"},           // somebody who is nobody's trunk here
		{"udp/192.0.2.1:5060/127.0.0.1:9", "sip:100@127.0.0.8"}, // of a socket that is no more
	} {
		e := r.outgoing(r.edge.ids.token("0123456789abcdef01234567"), "INVITE")
		e.Request.Account, e.Request.Flow, e.Request.Target = "1", c.flow, c.target
		e.Request.Branch += fmt.Sprint(i)
		r.order(e)
		if e := event[codecore.SIPTimeout](r, nil); e.Code != 480 {
			t.Errorf("%+v: %+v", c, e)
		}
	}
	e := r.outgoing(r.edge.ids.token("0123456789abcdef01234567"), "INVITE")
	e.Request.Account, e.Request.Flow = "1", "tcp/127.0.0.1:9/b1.1"
	r.order(e) // where it came from, it may be called
	r.hear("INVITE")

	r.send(r.registerLine("p1", "Path: <sip:192.0.2.1;lr>\r\n"))
	challenge := r.hear("401")
	for i, c := range []struct{ path, want string }{
		{"<sip:192.0.2.1;lr>", "403"},
		{"<sip:carrier.example;lr>", "403"},
		{"<sip:127.0.0.1:5090;lr>, <sip:192.0.2.1;lr>", "200"}, // the proxy that it came from
	} {
		r.send(r.registerLine(fmt.Sprint("p2", i), "Path: "+c.path+"\r\n"+answerTo(challenge, "REGISTER", "sesame", i+1)))
		if m := r.hear(c.want); c.want == "403" && !strings.Contains(m, "path-elsewhere") {
			t.Errorf("%s:\n%s", c.path, m)
		}
	}
}

// An account registers, over a connection, a number of the carrier's, or another
// client's contact, as its own. Neither the calls to the carrier nor those to that
// client come to it.
func TestNobodyIsLedToAnothersConnection(t *testing.T) {
	r := withAccount(t, &oneShelf{values: map[string][]byte{}})
	own := r.own
	r.own = func(c *Config) {
		own(c)
		c.Listen = append(c.Listen, "tcp:127.0.0.1:0")
	}
	r.stop()
	r.start("b3", "udp:127.0.0.1:0", patient())
	conn, err := net.Dial("tcp", r.edge.Addrs()[1].String())
	f := newTCPFar(t, conn, err)
	line := func(n int, extra string) string {
		m := strings.Replace(r.registerLine(fmt.Sprint("f", n), extra), "SIP/2.0/UDP", "SIP/2.0/TCP", 1)
		m = strings.Replace(m, "CSeq: 7 ", fmt.Sprintf("CSeq: %d ", n), 1)
		return strings.Replace(m, "m: <sip:1@10.0.0.9:", "m: <sip:2@127.0.0.1:", 1) // the far end's own
	}
	f.send(line(8, ""))
	f.send(line(9, answerTo(f.hear("401"), "REGISTER", "sesame", 1)))
	f.hear("200")
	for i, account := range []string{"", "2"} { // a trunk, another client
		e := r.outgoing(r.edge.ids.token("0123456789abcdef01234567"), "INVITE")
		e.Request.Account = account
		e.Request.Branch += fmt.Sprint(i)
		r.order(e)
		r.hear("INVITE")
	}
	e := r.outgoing(r.edge.ids.token("0123456789abcdef01234567"), "INVITE")
	e.Request.Account = "1"
	e.Request.Branch += "own"
	r.order(e)
	f.hear("INVITE")
}
