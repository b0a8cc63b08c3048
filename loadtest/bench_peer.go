package loadtest

import (
	"context"
	_ "embed"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

//go:embed peers/kamailio.cfg
var kamailioConfig string

// PeerResult is what another project's pair does with the same calls: Kamailio
// relays the signalling, rtpengine anchors the media (both in user space).
type PeerResult struct {
	SetupResult
	Name string `json:"name"`
}

// peer is Kamailio and rtpengine, started for one run.
type peer struct {
	dir   string
	procs []*exec.Cmd
}

// benchPeer places the calls of benchSetup through Kamailio and rtpengine, so
// that the two figures come from one machine and one hour.
func benchPeer(ctx context.Context, c BenchConfig, rate int) (r PeerResult, err error) {
	r.Name = "Kamailio + rtpengine"
	at, err := freeUDP()
	if err != nil {
		return r, err
	}
	rig, err := NewRig(RigConfig{Switch: at, Mux: true, Linger: 5 * time.Second, UAs: 2})
	if err != nil {
		return r, err
	}
	defer rig.Close()
	p, err := startPeer(ctx, at, rig)
	if err != nil {
		return r, err
	}
	defer p.stop()
	b := &bed{rig: rig}
	warm := min(rate, 100)
	if w, err := b.shortCalls(ctx, warm, warm, c.Hold); err != nil || w.Failed > 0 {
		return r, fmt.Errorf("loadtest: the peer's first calls: %d of %d failed: %s (%w)", w.Failed, warm, w.Error, err)
	}
	before, own, begin := p.cpu(), ownCPU(), time.Now()
	n := rate * c.Seconds
	if r.SetupResult, err = b.shortCalls(ctx, n, rate, c.Hold); err != nil {
		return r, err
	}
	r.Rate, r.Placed, r.Seconds = rate, n, time.Since(begin).Seconds()
	r.RigCPUms = (ownCPU() - own) / float64(n) * 1000
	pause(ctx, time.Second)
	_, _ = fmt.Fprintf(c.Progress, "%s, %d calls/s: %s\n", r.Name, rate, r.cost(before, p.cpu()))
	return r, nil
}

func freeUDP() (netip.AddrPort, error) {
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("loadtest: %w", err)
	}
	defer func() { _ = c.Close() }()
	return addrOf(c.LocalAddr()), nil
}

func startPeer(ctx context.Context, at netip.AddrPort, rig *Rig) (*peer, error) {
	ng, err := freeUDP()
	if err != nil {
		return nil, err
	}
	p := &peer{}
	if p.dir, err = os.MkdirTemp("", "switch-peer-"); err != nil {
		return nil, fmt.Errorf("loadtest: %w", err)
	}
	cfg := strings.NewReplacer("LISTEN", at.String(), "RTPENGINE", ng.String(), "CALLEE0", rig.callees[0].Addr().String(),
		"CALLEE1", rig.callees[1].Addr().String()).Replace(kamailioConfig)
	path := filepath.Join(p.dir, "kamailio.cfg")
	if err := os.WriteFile(path, []byte(cfg), 0o600); err != nil {
		p.stop()
		return nil, fmt.Errorf("loadtest: %w", err)
	}
	err = p.start("rtpengine", "--foreground", "--log-stderr", "--log-level=3", "--config-file=none", "--table=-1", "--interface=127.0.0.1",
		"--listen-ng="+ng.String(), "--port-min=40000", "--port-max=60000", "--pidfile="+filepath.Join(p.dir, "rtpengine.pid"))
	if err == nil {
		err = p.start("kamailio", "-DD", "-E", "-f", path, "-Y", p.dir, "-P", filepath.Join(p.dir, "kamailio.pid"), "-m", "256", "-M", "32")
	}
	if err == nil {
		err = p.ready(ctx, at)
	}
	if err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func (p *peer) start(name string, args ...string) error {
	log, err := os.Create(filepath.Join(p.dir, name+".log"))
	if err != nil {
		return fmt.Errorf("loadtest: %w", err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(name, args...) //nolint:noctx // it is stopped by signal, not by context
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("loadtest: %s (a Debian package of that name) does not start: %w", name, err)
	}
	p.procs = append(p.procs, cmd)
	return nil
}

// ready waits until the proxy answers, with whatever.
func (p *peer) ready(ctx context.Context, at netip.AddrPort) error {
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(at))
	if err != nil {
		return fmt.Errorf("loadtest: %w", err)
	}
	defer func() { _ = c.Close() }()
	here := c.LocalAddr().String()
	ask := "OPTIONS sip:" + at.String() + " SIP/2.0\r\nVia: SIP/2.0/UDP " + here + ";branch=z9hG4bKready\r\nMax-Forwards: 70\r\n" +
		"From: <sip:rig@" + here + ">;tag=1\r\nTo: <sip:" + at.String() + ">\r\nCall-ID: ready@rig\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
	buf := make([]byte, 2048)
	for begin := time.Now(); time.Since(begin) < 20*time.Second; {
		_, _ = c.Write([]byte(ask)) // refused until it listens
		_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := c.Read(buf); err == nil {
			return nil
		}
		if !pause(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
	log, _ := os.ReadFile(filepath.Join(p.dir, "kamailio.log"))
	return fmt.Errorf("loadtest: kamailio does not answer: %s", lastLines(string(log), 5))
}

func lastLines(s string, n int) string {
	l := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(l[max(0, len(l)-n):], "\n")
}

// cpu is the CPU time in seconds of each program, its children included.
func (p *peer) cpu() map[string]float64 {
	group := map[int]string{}
	for _, c := range p.procs {
		group[c.Process.Pid] = filepath.Base(c.Path)
	}
	out := map[string]float64{}
	_ = fs.WalkDir(os.DirFS("/proc"), ".", func(name string, d fs.DirEntry, err error) error {
		if name == "." {
			return nil
		}
		pid, bad := strconv.Atoi(name)
		if err != nil || bad != nil {
			return fs.SkipDir
		}
		if g, err := syscall.Getpgid(pid); err == nil && group[g] != "" {
			if s, err := readStat(pid); err == nil {
				out[group[g]] += s.cpu
			}
		}
		return fs.SkipDir
	})
	return out
}

func (p *peer) stop() {
	for _, c := range p.procs {
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGTERM)
		timer := time.AfterFunc(5*time.Second, func() { _ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) })
		_ = c.Wait()
		timer.Stop()
	}
	_ = os.RemoveAll(p.dir)
}
