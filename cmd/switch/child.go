package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"callswitch/codecore"
	"callswitch/host"
	"callswitch/internal/metrics"
	"callswitch/internal/near"
	"callswitch/internal/wire"
	"callswitch/nats"
	"callswitch/sessions"
)

type logger = *slog.Logger

// A child is one process of the switch other than the host: what all roles need.
type child struct {
	cfg      Config
	run      string // directory of sockets and of what processes tell each other
	role, id string
	digest   string
	key      []byte // the cluster's
	log      logger
	host     *host.Client
	nats     *nats.Conn // nil in the nats role
	bus      sessions.Bus
	near     *near.Bus // nil: bus is nats alone
	metrics  *prometheus.Registry
	describe func(*sessions.Process) // fills in what changes
	busy     func() bool             // there is work that must go on without a host

	quiet    func()          // ends the serving of the metrics
	replaced atomic.Bool     // an heir does the work
	leave    func()          // ends the role's work
	told     <-chan struct{} // closed when the process has been told to end
}

// aloneFor is how long a child waits for a new host before it asks whether it
// is still needed.
const aloneFor = time.Minute

const (
	configFile  = "config.json" // in run/: the configuration as serve resolved it
	natsURLFile = "nats.url"    // in run/: where the embedded server listens
)

func childCommand() *cobra.Command {
	roles := map[string]func(context.Context, *child) error{
		"nats": runNATS, "edge": runEdge, "media": runMedia, "worker": runWorker, "api": runAPI,
	}
	cmd := &cobra.Command{
		Use:    "child ROLE",
		Short:  "be one of the processes that serve starts (not for people)",
		Hidden: true,
		Args:   args(1, "a role"),
		RunE: func(cmd *cobra.Command, words []string) error {
			role, state := words[0], cmd.Flag("state").Value.String()
			ctx, leave := context.WithCancel(cmd.Context())
			defer leave()
			fn, ok := roles[role]
			if !ok {
				return usagef("no role %q", role)
			}
			c, err := newChild(ctx, role, state)
			if err != nil {
				return fmt.Errorf("%s: %w", role, err)
			}
			defer c.close()
			c.leave, c.told = leave, cmd.Context().Done()
			c.host.WhenAlone(aloneFor, func() {
				if !c.busy() {
					c.log.Info("no host and nothing to do: leaving")
					leave()
				}
			})
			err = fn(ctx, c)
			if c.replaced.Load() {
				select {} // yields says when this process ends
			}
			if err != nil && !errors.Is(err, context.Canceled) {
				c.log.Error("ended", "err", err)
				return errLogged
			}
			return nil
		},
	}
	cmd.Flags().String("state", "", "state directory")
	_ = cmd.MarkFlagRequired("state")
	return cmd
}

// newID names a process for ever: role, node, and a part that sorts by time of birth.
func newID(role, node string) string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return fmt.Sprintf("%s-%s-%011s%s", role, node, strconv.FormatInt(time.Now().UnixNano()/1000, 36), hex.EncodeToString(b[:]))
}

// birth is the part of an id that sorts by time.
func birth(id string) string { return id[strings.LastIndexByte(id, '-')+1:] }

func newChild(ctx context.Context, role, state string) (*child, error) {
	c := &child{role: role, run: filepath.Join(state, "run"), describe: func(*sessions.Process) {}, busy: func() bool { return false }}
	raw, err := os.ReadFile(filepath.Join(c.run, configFile))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &c.cfg); err != nil {
		return nil, err
	}
	c.cfg.State = state
	useCPUs(c.cfg.Procs)
	coalesceTimers(slackOf(role, c.cfg))
	go tendHeap(ctx)
	c.id = newID(role, c.cfg.Node)
	if c.digest, err = executableDigest(); err != nil {
		return nil, err
	}
	if c.key, err = LoadClusterKey(state); err != nil {
		return nil, err
	}
	c.log = newLogger(c.cfg, os.Stderr).With("role", role, "id", c.id)
	c.metrics = metrics.New()
	c.metrics.MustRegister(releaseInfo(codecore.Release))
	if c.host, err = c.dialHost(ctx); err != nil {
		return nil, err
	}
	if role != "nats" {
		if c.nats, err = c.dialNATS(ctx); err != nil {
			return nil, err
		}
		c.bus = c.nats
	}
	serve, quiet := context.WithCancel(context.WithoutCancel(ctx)) // to the end: a drain is worth seeing
	c.quiet = quiet
	go func() {
		if err := metrics.Serve(serve, c.run, c.host.Name(), birth(c.id), c.metrics); err != nil && serve.Err() == nil {
			c.log.Warn("metrics not served", "err", err)
		}
	}()
	return c, nil
}

// lastWords leaves what this process has counted to who asks next: it is about to end.
func (c *child) lastWords() {
	if err := metrics.Leave(c.run, c.host.Name(), birth(c.id), c.metrics); err != nil {
		c.log.Warn("what was counted since the metrics were last read is lost", "err", err)
	}
}

func (c *child) close() {
	c.quiet()
	if c.near != nil {
		c.near.Close()
	}
	if c.nats != nil {
		c.nats.Close()
	}
	c.host.Close()
	_ = os.Remove(c.metricsPath())
}

func (c *child) metricsPath() string {
	return filepath.Join(c.run, c.host.Name()+"."+birth(c.id)+".metrics")
}

// natsToken is the secret of the embedded server, derived from the cluster key.
func natsToken(key []byte) string {
	m := hmac.New(sha256.New, key)
	m.Write([]byte("nats token"))
	return hex.EncodeToString(m.Sum(nil))
}

// dialNATS waits for the embedded server's address, or takes the configured one.
func (c *child) dialNATS(ctx context.Context) (*nats.Conn, error) {
	cfg := nats.Config{URL: c.cfg.NATS.URL, Creds: c.cfg.NATS.Creds, Name: c.role + "." + c.id, Log: c.log}
	if cfg.URL == "" {
		cfg.Token = natsToken(c.key)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for cfg.URL == "" {
			b, err := os.ReadFile(filepath.Join(c.run, natsURLFile))
			if err == nil {
				cfg.URL = strings.TrimSpace(string(b))
				break
			}
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-tick.C:
			}
		}
	}
	return nats.Connect(ctx, cfg)
}

// process is what this process tells of itself.
func (c *child) process() sessions.Process {
	p := sessions.Process{
		Role: c.role, Node: c.cfg.Node, ID: c.id, PID: os.Getpid(), Release: codecore.Release, Digest: c.digest,
		SchemaMin: codecore.SchemaMin, SchemaMax: codecore.Schema, ProtoMin: wire.MinProto, ProtoMax: wire.Proto,
	}
	c.describe(&p)
	return p
}

// beat tells the others that this process lives, until ctx ends.
func (c *child) beat(ctx context.Context) { nats.Beat(ctx, c.nats, c.process) }

// dialHost waits for the host of the state directory.
func (c *child) dialHost(ctx context.Context) (*host.Client, error) {
	h, err := host.Dial(ctx, c.cfg.State, host.Hello{Role: c.role, ID: c.id, Release: codecore.Release, Digest: c.digest})
	if err == nil {
		h.SetLog(c.log)
	}
	return h, err
}

// ready tells the host that this process works.
func (c *child) ready() { c.host.Ready() }

// inHand marks a call as being stepped or restored, in memory that the host
// reads when this process dies (R7).
func (c *child) inHand(id codecore.CallID) (over func()) { return c.host.InHand(string(id)) }

// onExit tells of each worker of this host that has ended, and of the calls it
// had in hand.
func (c *child) onExit(fn func(id string, inHand []codecore.CallID)) {
	c.host.OnExit(func(e host.Exit) {
		if e.Role != "worker" || e.ID == "" {
			return
		}
		var calls []codecore.CallID
		for _, id := range e.InHand {
			calls = append(calls, codecore.CallID(id))
		}
		fn(e.ID, calls)
	})
}

// goneHere judges owners of this node by the host's list of living children;
// those of other nodes are for the directory to judge.
func (c *child) goneHere(ctx context.Context) func(owner string) bool {
	limit, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	list, err := c.host.List(limit)
	if err != nil {
		return func(string) bool { return false } // the sweep will find them
	}
	living := map[string]bool{}
	for _, x := range list.Children {
		if x.PID != 0 {
			living[x.Hello.ID] = true
		}
	}
	return func(owner string) bool {
		return strings.HasPrefix(owner, "worker-"+c.cfg.Node+"-") && !living[owner]
	}
}

// inherit takes the descriptors that the generation before left with the host.
func (c *child) inherit(ctx context.Context, prefix string) (map[string]*os.File, error) {
	kept, err := c.host.Inherit(ctx, prefix)
	if err != nil {
		return nil, err
	}
	files := make(map[string]*os.File, len(kept))
	for _, k := range kept {
		files[strings.TrimPrefix(k.Name, prefix)] = k.File
	}
	return files, nil
}

// othersLive reports whether a worker or the media plane of this host still
// runs: while there are calls they do.
func (c *child) othersLive() bool {
	for _, role := range []string{"worker", "media"} {
		if c.role != role && metrics.Answers(c.run, role) {
			return true
		}
	}
	return false
}
