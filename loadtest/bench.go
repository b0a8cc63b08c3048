package loadtest

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
)

// BenchConfig says what to measure. Zero values mean the defaults of the
// comments; each part runs on a fresh switch of its own.
type BenchConfig struct {
	SwitchBinary string
	NextBinary   string        // for the moves of held calls; "": not measured
	Parts        []string      // of "setup", "held", "relay" (default these), "registrations" and "peer"
	Rates        []int         // calls a second of "setup", default 200,1000
	Seconds      int           // of each rate and of "relay", default 20
	Hold         time.Duration // of a call of "setup", default 200 ms
	Calls        int           // of "held", default 4000
	HeldSeconds  int           // before memory is read, default 45: transactions have gone
	Rounds       int           // of moving the held calls there and back, default 3
	RelayCalls   int           // default 400
	RelayKinds   []string      // of the callees of "relay", default all of Sound…
	Phones       int           // of "registrations", each refreshing once a minute, default 10000
	Workers      int           // of "held": a second one takes over, default 2
	Config       func(Site) []byte
	Argv         func(configPath string) []string // default SwitchBinary serve --config path
	Env          []string
	Progress     io.Writer // default os.Stderr
}

// BenchResult is what was measured; parts that did not run are absent.
type BenchResult struct {
	Machine Machine       `json:"machine"`
	Setup   []SetupResult `json:"setup,omitempty"`
	Peer    []PeerResult  `json:"peer,omitempty"`
	Held    *HeldResult   `json:"held,omitempty"`
	Relay   []RelayResult `json:"relay,omitempty"`

	Registrations *RegisterResult `json:"registrations,omitempty"`
}

// SetupResult is a rate of short calls without sound, media anchored.
type SetupResult struct {
	Rate     int                `json:"rate"` // calls a second asked for
	Placed   int                `json:"placed"`
	Failed   int                `json:"failed"`
	Error    string             `json:"error,omitempty"`           // the first failure
	Seconds  float64            `json:"seconds"`                   // first INVITE to last BYE
	CPUms    float64            `json:"cpu_ms_per_call,omitempty"` // user and system, all processes of the switch; absent where calls failed (cost)
	ByRole   map[string]float64 `json:"cpu_ms_per_call_by_role,omitempty"`
	RigCPUms float64            `json:"rig_cpu_ms_per_call"` // what the rig itself took of the machine
	PDDms    Quantiles          `json:"pdd_ms"`              // INVITE to 18x
	SetupMS  Quantiles          `json:"setup_ms"`            // INVITE to 200; the callee answers at once
	ByeMS    Quantiles          `json:"bye_ms"`              // BYE to its 200
	Retrans  int                `json:"sip_retransmitted"`
}

// HeldResult is many calls at rest.
type HeldResult struct {
	Calls    int          `json:"calls"`
	PSSIdle  int          `json:"pss_idle_kb"` // all processes, before the first call
	PSS      int          `json:"pss_kb"`
	KBCall   float64      `json:"kb_per_call"`
	FDs      int          `json:"descriptors"`     // all processes
	IdleCPU  float64      `json:"cpu_percent"`     // of one core, calls at rest
	Moves    []MoveResult `json:"moves,omitempty"` // there, back, there, …
	MoveSum  *MoveSummary `json:"moves_summary,omitempty"`
	Takeover *Takeover    `json:"takeover,omitempty"`
	Dropped  int          `json:"dropped"`
	Error    string       `json:"error,omitempty"`
}

// RelayResult is the cost of sound between plain parties and parties of a kind.
type RelayResult struct {
	Kind      string  `json:"kind"`
	Calls     int     `json:"calls"`
	Packets   int     `json:"packets"` // that came out of the switch
	Lost      int     `json:"lost"`
	CPUus     float64 `json:"cpu_us_per_packet"`     // media process
	CPUusAll  float64 `json:"cpu_us_per_packet_all"` // all processes
	GapMax    float64 `json:"gap_ms_max"`            //
	DelayMax  float64 `json:"delay_ms_max"`          //
	RigCPUus  float64 `json:"rig_cpu_us_per_packet"` //
	Reordered int     `json:"reordered"`             //
	Elsewhere int     `json:"wrong_source"`          //
	MediaCPU  float64 `json:"media_cpu_percent"`     // of one core
	Seconds   float64 `json:"seconds"`               //

	// Of the media process, before the first packet. A browser's leg costs what a
	// call of "webrtc" costs more than one of "rtp", and a plain leg.
	SetupCPUms float64 `json:"media_setup_cpu_ms_per_call"`
	KBCall     float64 `json:"media_rest_kb_per_call"` // PSS beyond the idle process
	Goroutines int     `json:"media_rest_goroutines"`
}

func (c *BenchConfig) defaults() {
	setDefault(&c.Seconds, 20)
	setDefault(&c.Hold, 200*time.Millisecond)
	setDefault(&c.Calls, 4000)
	setDefault(&c.HeldSeconds, 45)
	setDefault(&c.Rounds, 3)
	setDefault(&c.RelayCalls, 400)
	setDefault(&c.Workers, 2)
	setDefault(&c.Phones, 10_000)
	if len(c.RelayKinds) == 0 {
		c.RelayKinds = []string{SoundPlain, SoundSDES, SoundWebRTC}
	}
	if len(c.Rates) == 0 {
		c.Rates = []int{200, 1000}
	}
	if len(c.Parts) == 0 {
		c.Parts = []string{"setup", "held", "relay"}
	}
	if c.Progress == nil {
		c.Progress = os.Stderr
	}
}

// Bench measures a switch from outside: its processes' CPU and memory, and the
// rig's own clock.
func Bench(ctx context.Context, c BenchConfig) (r BenchResult, err error) {
	c.defaults()
	if r.Machine, err = measureMachine(); err != nil {
		return r, err
	}
	for _, rate := range c.Rates {
		if slices.Contains(c.Parts, "peer") {
			p, err := benchPeer(ctx, c, rate)
			if err != nil {
				return r, err
			}
			r.Peer = append(r.Peer, p)
		}
		if slices.Contains(c.Parts, "setup") {
			s, err := benchSetup(ctx, c, rate)
			if err != nil {
				return r, err
			}
			r.Setup = append(r.Setup, s)
		}
	}
	if slices.Contains(c.Parts, "held") {
		if r.Held, err = benchHeld(ctx, c); err != nil {
			return r, err
		}
	}
	if slices.Contains(c.Parts, "registrations") {
		if r.Registrations, err = benchRegister(ctx, c); err != nil {
			return r, err
		}
	}
	if slices.Contains(c.Parts, "relay") {
		for _, kind := range c.RelayKinds {
			one, err := benchRelay(ctx, c, kind)
			if err != nil {
				return r, fmt.Errorf("loadtest: relay to %s: %w", kind, err)
			}
			r.Relay = append(r.Relay, *one)
		}
	}
	return r, nil
}

// bed is a fresh switch with a rig.
type bed struct {
	sw    *Switch
	rig   *Rig
	since bool // owners tell since when they own a call
}

func newBed(ctx context.Context, c BenchConfig, calls, workers int, rc RigConfig) (*bed, error) {
	dir, err := os.MkdirTemp("", "switch-bench-")
	if err != nil {
		return nil, fmt.Errorf("loadtest: %w", err)
	}
	at := netip.MustParseAddr("127.0.0.1")
	if rc.CallerIP.Is6() {
		at = netip.IPv6Loopback()
	}
	site, err := newSiteAt(dir, at, calls)
	if err != nil {
		return nil, err
	}
	site.Workers, site.Silent = workers, !rc.RTP
	if rc.TLS {
		if site.TLS, err = freePort(at); err != nil {
			return nil, err
		}
		site.CA = dir + "/rig.pem"
		if rc.secure, err = newSecure(site.CA, rigIPs...); err != nil {
			return nil, err
		}
	}
	sc := ServeConfig{Binary: c.SwitchBinary, Site: site, Config: c.Config, Env: c.Env}
	if c.Argv != nil {
		sc.Argv = c.Argv(dir + "/switch.yaml")
	}
	sw, err := StartSwitch(ctx, sc)
	if err != nil {
		return nil, err
	}
	b := &bed{sw: sw}
	if rc.Switch = site.SIP; rc.TLS {
		rc.Switch = site.TLS
	}
	if b.rig, err = NewRig(rc); err == nil {
		err = sw.plan(ctx, b.rig.Dialplan())
	}
	if err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bed) close() {
	if b.rig != nil {
		b.rig.Close()
	}
	b.sw.Stop(10 * time.Second)
	_ = os.RemoveAll(b.sw.cfg.Site.StateDir)
}

// cpu is the CPU time of the switch by role, in seconds.
func (b *bed) cpu(ctx context.Context) (map[string]float64, error) {
	ps, err := b.sw.Processes(ctx)
	out := map[string]float64{}
	for _, p := range ps {
		if s, err := readStat(p.PID); err == nil {
			out[p.Role] += s.cpu
		}
	}
	return out, err
}

func total(m map[string]float64) (t float64) {
	for _, v := range m {
		t += v
	}
	return t
}

func (b *bed) pss(ctx context.Context) (Usage, error) {
	pids, err := b.sw.PIDs(ctx)
	return UsageOf(pids), err
}

// samples collects durations and gives their quantiles.
type samples struct {
	mu sync.Mutex
	ms []float64
}

func (s *samples) add(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ms = append(s.ms, float64(d.Microseconds())/1000)
}

func (s *samples) quantiles() Quantiles {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ms) == 0 {
		return Quantiles{}
	}
	slices.Sort(s.ms)
	at := func(q float64) float64 { return s.ms[min(int(q*float64(len(s.ms))), len(s.ms)-1)] }
	return Quantiles{P50: at(0.5), P99: at(0.99), Max: s.ms[len(s.ms)-1]}
}
