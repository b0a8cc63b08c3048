package loadtest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	spoofedPerSecond = 1_000_000 / 60 // a million in a minute
	attackPeerRate   = 1000           // messages a second that one known address is admitted
	silentConns      = 1000
	honestPerSecond  = 10
	guesses          = 5000 // passwords for an account whose phone is at work
)

// spoof sends datagrams of many sources from one socket, without being root:
// all of 127.0.0.0/8 is ours, and IP_PKTINFO names the source of each (ip(7)).
func spoof(ctx context.Context, to netip.AddrPort, rate int, junk func(n int) []byte) (sent int, err error) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{})
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); ; {
		for due := int(time.Since(began).Seconds() * float64(rate)); sent < due; sent++ {
			n := sent
			from := unix.Inet4Pktinfo{Spec_dst: [4]byte{127, byte(64 + n>>16&63), byte(n >> 8), byte(n)}}
			if _, _, err := c.WriteMsgUDPAddrPort(junk(n), unix.PktInfo4(&from), to); err != nil {
				return sent, err
			}
		}
		select {
		case <-ctx.Done():
			return sent, nil
		case <-tick.C:
		}
	}
}

// strangersJunk is what strangers send: calls, scans, what is no SIP, and
// answers to nothing.
func strangersJunk(n int) []byte {
	id := strconv.Itoa(n)
	head := func(method string) []byte {
		return []byte(method + " sip:100@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5062;branch=z9hG4bK" + id + "\r\nFrom: <sip:x@y>;tag=" + id +
			"\r\nTo: <sip:100@127.0.0.1>\r\nCall-ID: " + id + "\r\nCSeq: 1 " + method + "\r\nMax-Forwards: 70\r\nContact: <sip:x@127.0.0.1>\r\nUser-Agent: friendly-scanner\r\nContent-Length: 0\r\n\r\n")
	}
	switch n % 5 {
	case 0:
		return head("INVITE")
	case 1:
		return head("OPTIONS")
	case 2:
		return []byte(id)
	case 3:
		return []byte("SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK" + id + "\r\n\r\n")
	}
	return []byte(strings.Replace(string(head("REGISTER")), "friendly-scanner", "phone", 1))
}

// byRole is the memory of each process.
func (b *bed) byRole(t *testing.T) string {
	t.Helper()
	ps, err := b.sw.Processes(t.Context())
	if err != nil {
		t.Error(err)
	}
	var out strings.Builder
	for _, p := range ps {
		fmt.Fprintf(&out, " %s %d", p.Role, UsageOf([]int{p.PID}).PSS)
	}
	return out.String() + " kB"
}

// While strangers and one peer gone mad send what they can, calls in progress
// hear everything, honest callers get through, and memory stays. SWITCH_ATTACK
// is for how many seconds, 15; 60 make the million. With SWITCH_ATTACK_CALM nobody
// attacks: what memory does then is the calls' own.
func TestAttack(t *testing.T) {
	seconds, err := strconv.Atoi(os.Getenv("SWITCH_ATTACK"))
	if err != nil {
		seconds = 15
	}
	accounts := filepath.Join(t.TempDir(), "accounts.yaml")
	if err := os.WriteFile(accounts, crowdAccounts(1), 0o600); err != nil {
		t.Fatal(err)
	}
	b, calls := realSwitchAs(t, 50, nil, func(s Site) []byte {
		return fmt.Appendf([]byte(strings.Replace(string(DefaultConfig(s)), "edge:\n", fmt.Sprintf("edge:\n  limits: {peer_rate: %d}\n", attackPeerRate), 1)),
			"registrar:\n  accounts: %q\n", accounts)
	})
	at := b.sw.cfg.Site.SIP
	mad := newRaw(t, "127.0.0.8", at)
	plan := b.rig.Dialplan()
	plan.Peers = append(plan.Peers, DialplanPeer{Name: "mad", Kind: "phone", Sources: []string{"127.0.0.8"}, Target: "sip:" + mad.local().String()})
	if err := b.sw.plan(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	phone, err := newCrowd(1, "127.0.0.10", at)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = phone.conn.Close() }()
	phone.again = true // the kernel drops what the edge has not read in time
	guesser, err := newCrowd(1, "127.0.0.11", at)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = guesser.conn.Close() }()
	guesser.secret = "sesam"
	if !phone.register(t.Context(), 0) {
		t.Fatalf("the phone cannot register\n%s", b.sw.LogTail())
	}
	// As many calls as will be placed during the attack, so that what they leave
	// (records, transactions) is not taken for the attack's.
	if r, err := b.shortCalls(t.Context(), honestPerSecond*seconds, 3*honestPerSecond, 100*time.Millisecond); err != nil || r.Failed > 0 {
		t.Fatalf("%d failed: %s %v", r.Failed, r.Error, err)
	}
	before, err := b.pss(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	edge := []int{b.only(t, "edge").PID}
	edgeBefore := UsageOf(edge)
	refused := map[string]float64{}
	reasons := []string{"flood", "stranger", "scanner", "token", "header-end", "method", "connection-limit", "unanswerable", "digest-wrong", "digest-slowed"}
	for _, r := range reasons {
		refused[r] = b.metric(t, "switch_sip_refused_total", `reason="`+r+`"`)
	}
	logged, _ := os.ReadFile(b.sw.LogPath())

	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(seconds)*time.Second)
	defer cancel()
	calm := os.Getenv("SWITCH_ATTACK_CALM") != ""
	t.Logf("before:%s", b.byRole(t))
	var wg sync.WaitGroup
	var datagrams, floods atomic.Int64
	attack := func(f func()) {
		if !calm {
			wg.Go(f)
		}
	}
	attack(func() {
		n, err := spoof(ctx, at, spoofedPerSecond, strangersJunk)
		datagrams.Store(int64(n))
		if err != nil {
			t.Errorf("after %d datagrams: %v", n, err)
		}
	})
	attack(func() { // a known peer, at ten times what it is admitted
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		msg := map[bool][]byte{
			true:  []byte(mad.request("OPTIONS", "1", "", "")),
			false: []byte(mad.request("SUBSCRIBE", "1", "", "", "Max-Forwards: 70", "Max-Forwards: 70\r\nEvent: presence")),
		}
		for ctx.Err() == nil {
			<-tick.C
			for i := range attackPeerRate / 10 {
				_ = mad.send(msg[i%2 == 0])
				floods.Add(1)
			}
		}
	})
	attack(func() { silence(ctx, at) })
	attack(func() {
		if _, failed := guesser.round(ctx, 0, guesses, guesses/seconds+1); failed != guesses && ctx.Err() == nil {
			t.Errorf("%d of %d guesses failed", failed, guesses)
		}
	})
	refreshes, away := 0, 0
	wg.Go(func() {
		for pause(ctx, time.Second) {
			if refreshes++; !phone.register(t.Context(), 0) {
				away++
			}
		}
	})
	var early Usage
	wg.Go(func() { // by then every pool has the size that the attack asks for
		if pause(ctx, time.Duration(seconds)*time.Second/3) {
			early, _ = b.pss(ctx)
			t.Logf("after a third:%s", b.byRole(t))
		}
	})
	honest, err := b.shortCalls(t.Context(), honestPerSecond*seconds, honestPerSecond, 100*time.Millisecond)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	after, err := b.pss(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("at the end:%s", b.byRole(t))
	edgeAfter := UsageOf(edge)
	t.Logf("edge: %d -> %d kB, %.1f s of CPU", edgeBefore.PSS, edgeAfter.PSS, edgeAfter.CPU-edgeBefore.CPU)
	total := honestPerSecond * seconds
	t.Logf("%d s: %d spoofed datagrams, %d of a mad peer, %d silent connections; honest calls %d of %d, INVITE to 18x p50 %.1f p99 %.1f ms; memory of all processes %d kB before, %d after a third, %d at the end",
		seconds, datagrams.Load(), floods.Load(), silentConns, total-honest.Failed, total, honest.PDDms.P50, honest.PDDms.P99, before.PSS, early.PSS, after.PSS)
	t.Logf("%d guesses at a password; its phone refreshed %d of %d times", guesses, refreshes-away, refreshes)
	if refreshes == 0 || away > 0 {
		t.Errorf("the phone could not refresh %d of %d times", away, refreshes)
	}
	for _, r := range reasons {
		t.Logf("refused %-18s %.0f", r, b.metric(t, "switch_sip_refused_total", `reason="`+r+`"`)-refused[r])
	}
	if honest.Failed*20 > total {
		t.Errorf("%d of %d honest calls failed: %s", honest.Failed, total, honest.Error)
	}
	if !calm && (after.PSS > early.PSS*115/100 || after.PSS > before.PSS*160/100) {
		t.Errorf("memory grew from %d kB to %d and %d", before.PSS, early.PSS, after.PSS)
	}
	now, _ := os.ReadFile(b.sw.LogPath())
	if lines := strings.Count(string(now[min(len(logged), len(now)):]), "edge: refused"); lines > 60*(seconds/60+2) {
		t.Errorf("%d lines about refusals in the log", lines)
	}
	b.verdict(t, calls, 0)
}

// silence opens connections that never say anything, of as many sources, and
// opens them again when they are closed, once a second.
func silence(ctx context.Context, to netip.AddrPort) {
	var conns [silentConns]net.Conn
	defer func() {
		for _, c := range conns {
			if c != nil {
				_ = c.Close()
			}
		}
	}()
	for ctx.Err() == nil {
		for i := range conns {
			if conns[i] != nil {
				_ = conns[i].SetReadDeadline(time.Now())
				if _, err := conns[i].Read(make([]byte, 1)); err != nil && !os.IsTimeout(err) {
					_ = conns[i].Close()
					conns[i] = nil
				}
			}
			if conns[i] == nil && ctx.Err() == nil {
				from := net.TCPAddr{IP: net.IPv4(127, 32, byte(i>>8), byte(i))}
				d := net.Dialer{LocalAddr: &from, Timeout: time.Second}
				if c, err := d.DialContext(ctx, "tcp", to.String()); err == nil {
					conns[i] = c
				}
			}
		}
		pause(ctx, time.Second)
	}
}
