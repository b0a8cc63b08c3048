package loadtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// DemoConfig says what a demo does. Zero values mean the defaults of the comments.
type DemoConfig struct {
	SwitchBinary string // this release
	NextBinary   string // the next one
	StateDir     string // default: a new temporary directory, removed afterwards
	Calls        int    // talking, default 200
	Seconds      int    // of talk over all, default 20
	Releases     int    // steps, next and this alternating, default 2
	RTP          bool   // sound both ways
	TCP          bool   // SIP over TCP
	JSON         bool   // the verdict as one JSON object on Out, progress on Err
	Out, Err     io.Writer
	Kinds        map[string]int // how many of each other kind; nil: DefaultKinds
	Schema       int            // newest that both releases can store: kinds that need more are left out; 0: all
	Pinned       Mark           // what pins a call to the next release; empty: no such calls
	Refused      Mark           // what the next release refuses; empty: no such calls
	Steps        []int          // of each rollout, per cent, default 10,50,100
	Pause        time.Duration  // between waves, default 300 ms
	Rate         int            // calls placed a second, default 100
	Config       func(Site) []byte
	Argv         func(configPath string) []string // default SwitchBinary serve --config path
	Env          []string

	atEnd func(*Switch) // of tests: what the switch says before it is stopped
}

// DefaultKinds are the calls that come on top of the talking ones. The second half
// are those that a far end holds in one moment while the first rollout moves them.
func DefaultKinds() map[string]int {
	kinds := map[string]int{
		KindRinging: 5, KindHeld: 5, KindBye: 10, KindCancel: 10, KindEarly: 5, KindReinvite: 5, KindBusy: 5, KindForkRace: 5,
		KindPinned: 1, KindRefused: 1,
	}
	for _, k := range momentKinds() {
		kinds[k] = 4
	}
	return kinds
}

// momentKinds are those that wait in one moment, for which time is short.
func momentKinds() []string {
	return []string{
		KindSilent, KindPending, KindUpdate, KindPrack, KindRefresh, KindTransfer, KindFork, KindDTMF, KindInfo, KindInvite, KindChallenged, KindChallenges,
	}
}

func (c *DemoConfig) defaults() {
	setDefault(&c.Calls, 200)
	setDefault(&c.Seconds, 20)
	setDefault(&c.Releases, 2)
	setDefault(&c.Rate, 100)
	setDefault(&c.Pause, 300*time.Millisecond)
	if c.Kinds == nil {
		c.Kinds = DefaultKinds()
		for k := range c.Kinds { // beside an older release they would stay where they are
			if c.Schema > 0 && c.Schema < kindOf[k].schema {
				delete(c.Kinds, k)
			}
		}
	}
	if c.Config == nil && c.Kinds[KindChallenged]+c.Kinds[KindChallenges] > 0 {
		c.Config = KindsConfig
	}
	if len(c.Steps) == 0 {
		c.Steps = []int{10, 50, 100}
	}
	if c.Out == nil {
		c.Out = os.Stdout
	}
	if c.Err == nil {
		c.Err = os.Stderr
	}
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// demo is one running demo.
type demo struct {
	cfg    DemoConfig
	sw     *Switch
	rig    *Rig
	out    *progress
	stage  *Stage
	cast   *cast
	v      Verdict
	base   Release // that the calls begin on
	next   Release
	moved  map[string]bool // by number
	back   map[string]bool
	epochs map[string]uint64
	where  map[string]string // digest of the owner by number, newest look
	known  releases

	refresh int // seconds of a session whose refresh falls due with the first rollout
}

// Demo runs a switch, moves its calls to the next release and back while they
// talk, and judges. The error is about the rig or a switch that did not come
// up; what the switch did to its calls is in the Verdict.
func Demo(ctx context.Context, c DemoConfig) (Verdict, error) {
	c.defaults()
	if c.StateDir == "" {
		dir, err := os.MkdirTemp("", "switch-demo-")
		if err != nil {
			return Verdict{}, fmt.Errorf("loadtest: %w", err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		c.StateDir = dir
	}
	pw := c.Out
	if c.JSON {
		pw = c.Err
	}
	d := &demo{
		cfg: c, out: newProgress(pw), stage: newStage(), moved: map[string]bool{}, back: map[string]bool{},
		epochs: map[string]uint64{}, where: map[string]string{}, known: newReleases(),
	}
	d.v.rtp = c.RTP
	begin := time.Now()
	if err := d.start(ctx); err != nil {
		return d.v, err
	}
	defer d.rig.Close()
	defer d.sw.Stop(20 * time.Second)
	if err := d.run(ctx); err != nil {
		d.v.Problems = append(d.v.Problems, err.Error())
	}
	if c.atEnd != nil {
		c.atEnd(d.sw)
	}
	d.stage.end.set()
	d.cast.cancel()
	d.cast.wg.Wait()
	d.v.Seconds = time.Since(begin).Seconds()
	d.v.check(c.Releases > 1)
	if c.JSON {
		return d.v, d.v.WriteJSON(c.Out)
	}
	d.v.WriteTable(c.Out)
	return d.v, nil
}

func (d *demo) start(ctx context.Context) error {
	total := d.cfg.Calls
	for _, n := range d.cfg.Kinds {
		total += n
	}
	site, err := NewSite(d.cfg.StateDir, total)
	if err != nil {
		return err
	}
	site.Silent = !d.cfg.RTP
	sc := ServeConfig{Binary: d.cfg.SwitchBinary, Site: site, Config: d.cfg.Config, Env: d.cfg.Env}
	if d.cfg.Argv != nil {
		sc.Argv = d.cfg.Argv(site.StateDir + "/switch.yaml")
	}
	if d.sw, err = StartSwitch(ctx, sc); err != nil {
		return err
	}
	rc := RigConfig{Switch: site.SIP, RTP: d.cfg.RTP, TCP: d.cfg.TCP}
	if d.cfg.Kinds[KindChallenged] > 0 {
		rc.Phone = phoneIP
	}
	if d.rig, err = NewRig(rc); err != nil {
		d.sw.Stop(5 * time.Second)
		return err
	}
	plan := d.rig.Dialplan()
	for _, m := range []Mark{d.cfg.Pinned, d.cfg.Refused} {
		if m.Number != "" {
			plan.Routes = append(plan.Routes, DialplanRoute{Prefix: m.Number, To: "callee0"})
		}
	}
	if d.cfg.Kinds[KindFork]+d.cfg.Kinds[KindForkRace] > 0 {
		plan.Routes = append(plan.Routes, d.rig.forkRoute())
	}
	if err = d.sw.plan(ctx, plan); err != nil {
		d.rig.Close()
		d.sw.Stop(5 * time.Second)
		return err
	}
	d.out.say("switch is up: SIP %s, pid %d, state in %s", site.SIP, d.sw.cmd.Process.Pid, d.cfg.StateDir)
	d.cast = newCast(ctx, d)
	return nil
}

func (d *demo) run(ctx context.Context) error {
	if err := d.sighting(ctx, 0); err != nil {
		return err
	}
	talk := time.Duration(d.cfg.Seconds) * time.Second / time.Duration(d.cfg.Releases+1)
	begin := time.Now()
	if err := d.populate(ctx, talk); err != nil {
		return err
	}
	if late := time.Since(begin) - talk - time.Duration(d.cfg.Calls)*time.Second/time.Duration(d.cfg.Rate); late > 0 {
		talk = max(talk-late/time.Duration(d.cfg.Releases), talk/2)
	}
	if err := d.look(ctx, false); err != nil {
		return err
	}
	if err := d.ports(ctx); err != nil {
		return err
	}
	d.stage.ready.set()
	for step := 1; step <= d.cfg.Releases; step++ {
		if err := d.step(ctx, step); err != nil {
			return fmt.Errorf("step %d: %w", step, err)
		}
		if step == 1 && !d.cfg.Pinned.empty() && d.cfg.Kinds[KindPinned] > 0 {
			d.cast.place(KindPinned, 1, d.cfg.Pinned)
			if err := d.cast.settled(ctx); err != nil {
				return err
			}
		}
		pause(ctx, talk)
	}
	d.stage.back.set() // with one step only nobody has gone back
	d.out.say("hanging up")
	d.stage.end.set()
	if err := d.cast.finished(ctx); err != nil {
		return err
	}
	return d.sum(ctx)
}

// populate places all calls and lets them talk; those that are held in a moment
// come last.
func (d *demo) populate(ctx context.Context, talk time.Duration) error {
	total := d.cfg.Calls
	for _, n := range d.cfg.Kinds {
		total += n
	}
	const moments = 2 * time.Second // to bring them there
	until := time.Duration(total)*time.Second/time.Duration(d.cfg.Rate) + talk
	d.refresh = 2 * max(int(until.Seconds()), 20) // a sixth of it is all that the rollout has
	d.cast.place(KindRefresh, d.cfg.Kinds[KindRefresh], Mark{})
	d.cast.place(KindTalking, d.cfg.Calls, Mark{})
	short := momentKinds()
	for _, k := range sortedKeys(d.cfg.Kinds) {
		switch {
		case k == KindPinned || k == KindRefused && d.cfg.Refused.empty() || slices.Contains(short, k):
		case k == KindRefused:
			d.cast.place(k, 1, d.cfg.Refused) // one marked number, one call
		default:
			d.cast.place(k, d.cfg.Kinds[k], Mark{})
		}
	}
	if err := d.cast.settled(ctx); err != nil {
		return err
	}
	d.v.Calls = d.cfg.Calls
	pause(ctx, max(talk-moments, 0))
	n := 0
	for _, k := range short {
		if k != KindRefresh {
			d.cast.place(k, d.cfg.Kinds[k], Mark{})
		}
		n += d.cfg.Kinds[k]
	}
	if n == 0 {
		pause(ctx, min(talk, moments))
		return nil
	}
	err := d.cast.settled(ctx)
	d.cast.inMoment(ctx)
	return err
}

func (m Mark) empty() bool { return m.Number == "" && len(m.Headers) == 0 }

// step moves all calls to the next release (odd) or back (even).
func (d *demo) step(ctx context.Context, step int) error {
	begin := time.Now()
	forth := step%2 == 1
	var r Rollout
	var err error
	if forth {
		_, err = d.sw.API.StartRollout(ctx, RolloutStart{
			Binary: d.cfg.NextBinary, Steps: d.cfg.Steps, Pause: d.cfg.Pause.String(), ConfirmWithin: "10m",
		})
	} else {
		_, err = d.sw.API.Steer(ctx, "undo", Steer{Steps: d.cfg.Steps})
	}
	if err != nil {
		return err
	}
	if r, err = d.follow(ctx, forth, step); err != nil {
		return err
	}
	if step == 1 {
		d.base, d.next = r.From, r.To
		d.known.name(r.From.Digest, r.From.Name)
		d.known.name(r.To.Digest, r.To.Name)
	}
	on := r.To
	if !forth {
		on = r.From
	}
	s := ReleaseStep{
		Step: step, Release: d.known.show(on.Digest), Digest: on.Digest, Seconds: time.Since(begin).Seconds(), Refused: len(r.Refusals),
	}
	for _, w := range r.Waves {
		if w.Back == forth {
			continue
		}
		s.Moved += w.Moved
		s.FreezeMS.P50 = max(s.FreezeMS.P50, w.FreezeMS.P50)
		s.FreezeMS.P99 = max(s.FreezeMS.P99, w.FreezeMS.P99)
		s.FreezeMS.Max = max(s.FreezeMS.Max, w.FreezeMS.Max)
	}
	if err := d.look(ctx, forth); err != nil {
		return err
	}
	s.Talking = d.checkStep(s.Digest, forth, r.Refusals)
	d.v.Releases = append(d.v.Releases, s)
	return d.sighting(ctx, step)
}

// follow waits for the end of a rollout, or of its way back, and prints waves.
func (d *demo) follow(ctx context.Context, forth bool, step int) (Rollout, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	printed := 0
	for {
		r, err := d.sw.API.Rollout(ctx)
		if err != nil {
			return r, err
		}
		waves := slices.DeleteFunc(slices.Clone(r.Waves), func(w Wave) bool { return w.Back == forth })
		if len(waves) > 0 {
			d.stage.moving.set()
			if !forth {
				d.stage.back.set()
			}
		}
		for ; printed < len(waves) && !waves[printed].Ended.IsZero(); printed++ {
			d.out.say("step %d  %v", step, waves[printed])
		}
		if d.out.tty && printed < len(waves) {
			st, _ := d.sw.API.Status(ctx) // of the line only: a failure shows nothing
			d.out.show("step %d  %v  %s", step, waves[printed], byRelease(st.CallsByRelease))
		}
		switch {
		case r.State == RolloutFailed,
			forth && (r.State == RolloutRolledBack || r.State == RolloutUndoing):
			return r, fmt.Errorf("loadtest: rollout %s: %s", r.State, r.Error)
		case forth && r.State == RolloutDone:
			d.stage.moving.set()
			d.stage.forth.set()
			return r, nil
		case !forth && r.State == RolloutRolledBack:
			d.stage.back.set()
			return r, nil
		}
		if !pause(ctx, 15*time.Millisecond) {
			return r, errors.New("loadtest: rollout did not end: " + r.State)
		}
	}
}
