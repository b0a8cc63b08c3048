package loadtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Site is where a switch under test lives; all on loopback.
type Site struct {
	StateDir string
	SIP      netip.AddrPort // UDP and TCP
	MediaIP  netip.Addr
	PortMin  int // of RTP, even
	PortMax  int
	Metrics  netip.AddrPort
	NATS     netip.AddrPort // of the embedded server
	Silent   bool           // calls carry no sound: media is not to wait for it
	Workers  int            // of the release; 0: as the switch likes
	TLS      netip.AddrPort // zero: no listener
	CA       string         // file of whom the switch trusts in TLS; "": those of the system
}

// NewSite picks free ports for a switch of so many calls.
func NewSite(stateDir string, calls int) (s Site, err error) {
	return newSiteAt(stateDir, netip.MustParseAddr("127.0.0.1"), calls)
}

// newSiteAt is NewSite with SIP and media on a loopback address.
func newSiteAt(stateDir string, ip netip.Addr, calls int) (s Site, err error) {
	own := netip.MustParseAddr("127.0.0.1")
	s = Site{StateDir: stateDir, MediaIP: ip}
	if s.SIP, err = freePort(ip); err != nil {
		return s, err
	}
	if s.Metrics, err = freePort(own); err != nil {
		return s, err
	}
	if s.NATS, err = freePort(own); err != nil {
		return s, err
	}
	width := min(max(2000, 8*calls), 22000)
	s.PortMin = 10000 + rand.N(max(22000-width, 2))/2*2 // below the kernel's own range
	s.PortMax = s.PortMin + width - 1
	return s, nil
}

// nextPort is where freePort goes on: no port is found twice.
var nextPort atomic.Int64

func init() { nextPort.Store(rand.Int64N(3000)) }

// freePort finds a port that is free for UDP and TCP. It is below the kernel's own
// range, so no connection gets it for its own end before the switch listens, and
// none that a browser keeps away from. The port behind it is nobody's: a baresip
// listens there for TLS.
func freePort(ip netip.Addr) (netip.AddrPort, error) {
	for range 100 {
		at := netip.AddrPortFrom(ip, uint16(7000+nextPort.Add(2)%3000))
		u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			continue
		}
		t, err := net.Listen("tcp", at.String())
		_ = u.Close()
		if err == nil {
			_ = t.Close()
			return at, nil
		}
	}
	return netip.AddrPort{}, errors.New("loadtest: no free port")
}

// ServeConfig says how to start a switch.
type ServeConfig struct {
	Binary string
	Site   Site
	// Config writes the switch's configuration file; nil: DefaultConfig.
	Config func(Site) []byte
	// Argv is the whole command; default Binary serve --config <StateDir>/switch.yaml.
	Argv []string
	Env  []string      // added to ours
	Wait time.Duration // for readiness, default a minute
}

// DefaultConfig is the configuration that the rig runs a switch with.
func DefaultConfig(s Site) []byte {
	b := fmt.Appendf(nil, "state: %q\n", s.StateDir)
	if s.Workers > 0 {
		b = fmt.Appendf(b, "workers: %d\n", s.Workers)
	}
	b = fmt.Appendf(b, "edge:\n  listen: [%q, %q]\n", "udp:"+s.SIP.String(), "tcp:"+s.SIP.String())
	if s.TLS.IsValid() {
		b = bytes.Replace(b, []byte("]\n"), fmt.Appendf(nil, ", %q]\n  tls: {ca: %q}\n", "tls:"+s.TLS.String(), s.CA), 1)
	}
	b = fmt.Appendf(b, "media:\n  listen: %q\n  ports: \"%d-%d\"\n", s.MediaIP, s.PortMin, s.PortMax)
	if s.Silent {
		b = append(b, "  timeout: -1s\n"...)
	}
	b = fmt.Appendf(b, "nats:\n  listen: %q\n", s.NATS)
	return fmt.Appendf(b, "metrics:\n  listen: %q\n", s.Metrics)
}

// ErrNotReady: the switch did not come up; the text has the end of its log.
var ErrNotReady = errors.New("loadtest: switch is not ready")

// Switch is a running switch of ours, a tree of processes.
type Switch struct {
	cfg ServeConfig
	API *API

	mu   sync.Mutex
	cmd  *exec.Cmd
	gone chan struct{}
	seen map[int]uint64 // pid -> start time: every process of it that we saw
}

// StartSwitch starts `switch serve` and waits until it is ready.
func StartSwitch(ctx context.Context, c ServeConfig) (*Switch, error) {
	if c.Wait == 0 {
		c.Wait = time.Minute
	}
	if c.Config == nil {
		c.Config = DefaultConfig
	}
	path := filepath.Join(c.Site.StateDir, "switch.yaml")
	if err := os.MkdirAll(c.Site.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("loadtest: %w", err)
	}
	if err := os.WriteFile(path, c.Config(c.Site), 0o600); err != nil {
		return nil, fmt.Errorf("loadtest: %w", err)
	}
	if len(c.Argv) == 0 {
		c.Argv = []string{c.Binary, "serve", "--config", path}
	}
	s := &Switch{cfg: c, API: NewAPI(filepath.Join(c.Site.StateDir, "run", "api.sock")), seen: map[int]uint64{}}
	if err := s.Start(ctx); err != nil {
		s.KillAll()
		return nil, err
	}
	return s, nil
}

// Start runs serve (again) and waits for readiness.
func (s *Switch) Start(ctx context.Context) error {
	log, err := os.OpenFile(s.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("loadtest: %w", err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(s.cfg.Argv[0], s.cfg.Argv[1:]...) //nolint:noctx // it is stopped by signal, not by context
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), s.cfg.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid: true, // our Ctrl-C is not its
		// When this process is killed serve stops its children and ends.
		Pdeathsig: syscall.SIGTERM,
	}
	gone := make(chan struct{})
	begun := make(chan error)
	go func() {
		// The signal comes when the thread ends that has started the child: this
		// one is held until the child has gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		begun <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(gone)
	}()
	if err := <-begun; err != nil {
		return fmt.Errorf("loadtest: %w", err)
	}
	s.mu.Lock()
	s.cmd, s.gone = cmd, gone
	s.mu.Unlock()
	return s.ready(ctx, gone)
}

func (s *Switch) ready(ctx context.Context, gone <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Wait)
	defer cancel()
	var last error
	for {
		st, err := s.API.Status(ctx)
		if err == nil && st.Ready {
			_, _ = s.Processes(ctx)
			return nil
		}
		if err != nil && ctx.Err() == nil {
			last = err
		}
		select {
		case <-gone:
			return fmt.Errorf("%w: it has exited\n%s", ErrNotReady, s.LogTail())
		case <-ctx.Done():
			return fmt.Errorf("%w: %w (%w)\n%s", ErrNotReady, ctx.Err(), last, s.LogTail())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// LogPath is where serve's output goes.
func (s *Switch) LogPath() string { return filepath.Join(s.cfg.Site.StateDir, "serve.log") }

// LogTail is the end of serve's output.
func (s *Switch) LogTail() string {
	b, _ := os.ReadFile(s.LogPath())
	if len(b) > 3000 {
		b = b[len(b)-3000:]
	}
	return strings.TrimSpace(string(b))
}

// Processes asks the API and remembers what it said, for KillAll.
func (s *Switch) Processes(ctx context.Context) ([]Process, error) {
	ps, err := s.API.Processes(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range ps {
		if st, err := readStat(p.PID); err == nil {
			s.seen[p.PID] = st.start
		}
	}
	return ps, err
}

// PIDs of every process of the switch now.
func (s *Switch) PIDs(ctx context.Context) (out []int, err error) {
	ps, err := s.Processes(ctx)
	for _, p := range ps {
		out = append(out, p.PID)
	}
	return out, err
}

// Stop sends SIGTERM to serve, waits, and kills what is left.
func (s *Switch) Stop(wait time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	_, _ = s.Processes(ctx)
	cancel()
	s.mu.Lock()
	cmd, gone := s.cmd, s.gone
	s.mu.Unlock()
	if cmd != nil {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-gone:
		case <-time.After(wait):
		}
	}
	s.KillAll()
}

// KillAll is kill -9 of every process of the switch that we ever saw.
func (s *Switch) KillAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil { // the host first, so that it starts nobody again
		_ = s.cmd.Process.Kill()
		<-s.gone
		s.cmd = nil
	}
	for pid, start := range s.seen {
		if st, err := readStat(pid); err == nil && st.start == start {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	for pid := range s.seen {
		for range 3000 { // who is at the disk ends when the disk has answered
			if !Alive(pid) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	s.seen = map[int]uint64{}
	s.API.Close()
}

// plan stores a dialplan and waits until all have it: who is not in the plan that an
// edge goes by is a stranger to it.
func (s *Switch) plan(ctx context.Context, p Dialplan) error {
	stored, err := s.API.PutDialplan(ctx, p)
	if err != nil {
		return err
	}
	return s.heard(ctx, "switch_dialplan_version", float64(stored.Version))
}
