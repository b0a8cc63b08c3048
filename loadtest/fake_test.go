package loadtest

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	ossignal "os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The test binary plays the switch too: a back-to-back user agent with a relay
// and the API, whose moves only change names and epochs. It can be told to
// misbehave, and each misbehaviour must be caught.
func TestMain(m *testing.M) {
	switch os.Getenv("RIG_FAKE") {
	case "worker":
		stop := make(chan os.Signal, 1)
		ossignal.Notify(stop, syscall.SIGTERM)
		<-stop
	case "rig":
		if err := runRig(os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "serve":
		if err := runFake(os.Args[1], os.Getenv("RIG_FAULT")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
			_ = os.RemoveAll(built) // "": nothing
			os.Exit(code)
		}))
	}
}

type fakeCall struct {
	info  CallInfo
	a, b  *Leg
	relay *fakeRelay
}

type fake struct {
	fault  string
	site   Site
	ua     *UA
	mu     sync.Mutex
	calls  map[string]*fakeCall
	cdrs   []CDR
	plan   Dialplan
	r      Rollout
	now    string // release of new calls
	worker map[string]Process
	serial int
	cmds   []*exec.Cmd
}

func runFake(config, fault string) error {
	b, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	f := &fake{fault: fault, calls: map[string]*fakeCall{}, worker: map[string]Process{}, now: "v1"}
	if err := json.Unmarshal(b, &f.site); err != nil {
		return err
	}
	udp, err := newUDP(f.site.SIP, netip.AddrPort{})
	if err != nil {
		return err
	}
	f.ua = &UA{tr: byURI{udp}, prefix: randomHex(6), linger: 40 * time.Second, accept: f.incoming, legs: map[string]*Leg{}}
	go udp.serve(f.ua.receive)
	exe, _ := os.Executable()
	f.spawn("v1", exe)
	run := filepath.Join(f.site.StateDir, "run")
	if err := os.MkdirAll(run, 0o700); err != nil {
		return err
	}
	ln, err := net.Listen("unix", filepath.Join(run, "api.sock"))
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(ln, f.handler()) }() //nolint:gosec // a test's own socket
	stop := make(chan os.Signal, 1)
	ossignal.Notify(stop, syscall.SIGTERM)
	<-stop
	for _, c := range f.cmds {
		_ = c.Process.Kill()
		_ = c.Wait()
	}
	return nil
}

// byURI sends requests where their Request-URI says.
type byURI struct{ *udpTransport }

func (t byURI) send(b []byte) error {
	m, err := parseMessage(b)
	if err != nil {
		return err
	}
	_, host, _ := strings.Cut(m.uri, "@")
	host, _, _ = strings.Cut(host, ";")
	to, err := netip.ParseAddrPort(host)
	if err != nil {
		return err
	}
	_, err = t.conn.WriteToUDPAddrPort(b, to)
	return err
}

func (f *fake) spawn(release, binary string) {
	cmd := exec.Command(binary) //nolint:noctx,gosec // ended by signal
	cmd.Env = append(os.Environ(), "RIG_FAKE=worker")
	if cmd.Start() != nil {
		return
	}
	d, _ := Digest(cmd.Process.Pid)
	f.cmds = append(f.cmds, cmd)
	f.worker[release] = Process{Role: RoleWorker, ID: "w-" + release, PID: cmd.Process.Pid, Release: f.name(release), Digest: d[:12]}
}

// name of a release: two may have one.
func (f *fake) name(release string) string {
	if f.fault == "one-name" {
		return "v1"
	}
	return release
}

func (f *fake) incoming(a *Leg) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.serial++
	target := ""
	for _, r := range f.plan.Routes {
		for _, p := range f.plan.Peers {
			if strings.HasPrefix(a.Number, r.Prefix) && p.Name == r.To {
				target = strings.TrimPrefix(p.Target, "sip:")
			}
		}
	}
	relay, err := newFakeRelay(f.site.MediaIP, f.fault, f.serial)
	if target == "" || err != nil {
		go a.Reject(404)
		return
	}
	c := &fakeCall{a: a, relay: relay, info: CallInfo{
		ID: fmt.Sprintf("c%06d", f.serial), From: a.From, To: a.Number, Start: time.Now(), Release: f.name(f.now), Owner: "w-" + f.now, Epoch: 1,
	}}
	f.calls[c.info.ID] = c
	go f.bridge(c, target)
}

// bridge is the whole life of a fake call.
func (f *fake) bridge(c *fakeCall, target string) {
	ctx := context.Background()
	a := c.a
	a.mu.Lock()
	a.SetSound(c.relay.a.addr(), false)
	a.Remote = c.relay.a.to.set
	a.heard(a.incoming.req)
	a.mu.Unlock()
	b, err := Invite(f.ua, a.From, a.Number, func(l *Leg) {
		l.SetSound(c.relay.b.addr(), false)
		l.Remote = c.relay.b.to.set
		l.target = "sip:" + a.Number + "@" + target
	})
	if err != nil {
		return
	}
	c.b = b
	result := "answered"
	var code int
	select {
	case <-b.Ringing.C():
	case <-a.Canceled.C():
	}
	if b.Early.Is() {
		a.Progress()
	} else {
		a.Ring()
	}
	select {
	case <-a.Canceled.C():
		_ = b.Cancel(ctx)
		result, code = "cancelled", 487
	case <-b.invite.done:
		if code, _ = b.Final(ctx); code != 200 {
			result = "busy"
			a.Reject(code)
			break
		}
		a.Answer()
		f.talk(ctx, c)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.calls, c.info.ID)
	c.relay.close()
	cdr := CDR{ID: c.info.ID, From: a.From, To: a.Number, Result: result, Code: code}
	f.cdrs = append(f.cdrs, cdr)
	if f.fault == "cdr-twice" && len(f.cdrs) == 3 {
		f.cdrs = append(f.cdrs, cdr)
	}
}

func (f *fake) talk(ctx context.Context, c *fakeCall) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	was := map[*Leg]string{c.a: sendRecv, c.b: sendRecv}
	for {
		select {
		case <-c.a.HungUp.C():
			f.bye(ctx, c.b)
			return
		case <-c.b.HungUp.C():
			f.bye(ctx, c.a)
			return
		case <-tick.C:
		}
		for l, o := range map[*Leg]*Leg{c.a: c.b, c.b: c.a} {
			if d := l.Direction(); d != was[l] && l.Count("INVITE") > 0 {
				was[l] = d
				_ = o.Reinvite(ctx, d)
				was[o] = o.Direction()
			}
		}
	}
}

func (f *fake) bye(ctx context.Context, l *Leg) {
	if f.fault == "bye-twice" { // at once: the verdict does not wait for a later one
		l.mu.Lock()
		_, _ = l.start("BYE", "", nil, nil)
		l.mu.Unlock()
	}
	_ = l.Bye(ctx)
}
