package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"callswitch/codecore"
	"callswitch/console"
	"callswitch/host"
)

// hostPIDFile, in run/, has the pid of the host, for people and for releases before.
const hostPIDFile = "host.pid"

func serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "run the switch",
		Long: `Run the switch: this process is the host, which starts the others (NATS unless
nats.url names a cluster, edge, media, workers, api) and starts them again when they die.

SIGTERM admits nothing new, leaves the records and exits; the next serve resumes
the calls. The first Ctrl-C admits nothing new and waits for the calls to end;
the second hangs them all up, with their CDRs.`,
		Args: args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := LoadConfig(cmd)
			if err != nil {
				return codedError{exitUsage, err}
			}
			if show, _ := cmd.Flags().GetBool("print-config"); show {
				return printConfig(cmd.OutOrStdout(), cfg)
			}
			return serve(cmd, cfg)
		},
	}
	BindConfigFlags(cmd)
	cmd.Flags().Bool("demo", false, "two accounts and a page that makes this browser a phone: softphone.demo")
	cmd.Flags().Bool("print-config", false, "print the configuration in force and exit")
	cmd.Flags().Bool("check", false, "say what would keep the switch from starting, and exit")
	return cmd
}

func newLogger(cfg Config, w io.Writer) logger {
	o := &slog.HandlerOptions{Level: cfg.Log.SlogLevel()}
	if cfg.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

func serve(cmd *cobra.Command, cfg Config) error {
	log := newLogger(cfg, cmd.ErrOrStderr()).With("role", "host")
	if cfg.Metrics.Listen != "" && !isLoopback(cfg.Metrics.Listen) {
		log.Warn("metrics.listen is not on loopback: anybody who reaches it reads the metrics", "listen", cfg.Metrics.Listen)
	}
	state, err := filepath.Abs(cfg.State)
	if err != nil {
		return err
	}
	cfg.State = state
	if err := os.MkdirAll(filepath.Join(state, "run"), 0o700); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	if _, err := LoadClusterKey(state); err != nil {
		return err
	}
	if err := checkPlanFile(cfg); err != nil {
		return codedError{exitUsage, err}
	}
	raw, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	force, note, err := releaseOfWorkers(state)
	if err != nil {
		return err
	}
	if note != "" {
		log.Warn(note, "workers", force.Release, "serve", codecore.Release)
	}
	if check, _ := cmd.Flags().GetBool("check"); check {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "switch %s would start on %s, with workers of release %s\n", codecore.Release, state, force.Release)
		return err
	}
	begin := func() error { // another host's files are left alone
		if err := force.write(state); err != nil {
			return err
		}
		if err := writeAtomic(filepath.Join(state, "run", configFile), raw); err != nil {
			return err
		}
		if err := writeAtomic(filepath.Join(state, "run", hostPIDFile), []byte(strconv.Itoa(os.Getpid()))); err != nil {
			log.Warn("pid not written", "err", err) // a full disk is no reason to leave the calls alone
		}
		return nil
	}
	h, err := host.New(host.Config{
		Dir: state, Children: children(cfg, binary, force), Begin: begin, Log: log,
		Restore: func(s host.Spec) bool { return s.Role != "worker" || !force.upgraded && s.Argv[0] != force.Binary },
	})
	if err != nil {
		return err
	}

	ctx, stop := context.WithCancel(context.WithoutCancel(cmd.Context()))
	defer stop()
	go tendHeap(ctx)
	ready := make(chan struct{})
	go signals(ctx, cmd.Context(), cfg, log, ready, stop)
	go announce(ctx, cmd.OutOrStdout(), cfg, log, ready)
	err = h.Run(ctx)
	if errors.Is(err, host.ErrRunning) {
		return codedError{exitRefused, fmt.Errorf("another 'switch serve' runs on %s: stop it, or name another directory with --state", state)}
	}
	return err
}

// children lists what a node runs, in the order in which it starts them; they
// are stopped the other way round.
func children(cfg Config, binary string, force workersOf) []host.Spec {
	spec := func(name, role string) host.Spec {
		s := host.Spec{Name: name, Role: role, Argv: []string{binary, "child", role, "--state", cfg.State}}
		switch role {
		case "edge", "media": // nobody else can do their work
			s.Silent = 5 * time.Second
		}
		return s
	}
	var all []host.Spec
	if cfg.NATS.URL == "" {
		all = append(all, spec("nats", "nats"))
	}
	all = append(all, spec("media", "media"), spec("edge", "edge"))
	for i := range cfg.Workers {
		name := fmt.Sprintf("worker-%d", i+1)
		if force.Rollout != "" { // as the rollout named them: those that live are the same
			name = fmt.Sprintf("%s%d", workerPrefix(force.Digest), i+1)
		}
		all = append(all, workerSpec(cfg, name, force.Binary))
	}
	return append(all, spec("api", "api"))
}

// workerSpec is a worker of the release in binary.
func workerSpec(cfg Config, name, binary string) host.Spec {
	return host.Spec{
		Name: name, Role: "worker", Argv: []string{binary, "child", "worker", "--state", cfg.State},
		Grace: cfg.Worker.DrainTimeout + 2*time.Second,
	}
}

// workersOf is the release whose workers a serve starts.
type workersOf struct {
	inForce
	upgraded bool // another than before: workers of the other are not started again
}

// releaseOfWorkers finds what a whole restart goes on with; note is for the log.
func releaseOfWorkers(state string) (w workersOf, note string, err error) {
	own, err := ownRelease(state)
	if err != nil {
		return w, "", err
	}
	last, err := readInForce(state)
	if err != nil {
		return w, "", err
	}
	living := false
	for _, s := range host.Living(state) {
		living = living || s.Role == "worker"
	}
	w.inForce, note, err = choose(own, last, living)
	if err != nil {
		return w, "", codedError{exitRefused, err}
	}
	if w.Digest != own.Digest {
		err = w.isWhole()
	}
	w.upgraded = last.Digest != "" && w.Digest != last.Digest
	return w, note, err
}

// signals turns SIGTERM and Ctrl-C into their meanings. Before the switch is
// ready there is nobody to ask and no call to wait for: either ends it, also one
// that came before anybody listened here: early has been ended by it.
func signals(ctx, early context.Context, cfg Config, log logger, ready <-chan struct{}, stop context.CancelFunc) {
	ch := make(chan os.Signal, 4)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(ch)
	if early.Err() != nil {
		stop()
		return
	}
	api := console.NewClient(filepath.Join(cfg.State, "run", apiSocket))
	admit := func(on bool) {
		limit, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		if err := api.Do(limit, http.MethodPost, "/v1/admit", on, nil); err != nil {
			log.Warn("could not stop admitting calls", "err", err)
		}
	}
	interrupts := 0
	ended := make(chan struct{})
	for {
		select {
		case <-ctx.Done():
			return
		case <-ended:
			stop()
			return
		case s := <-ch:
			select {
			case <-ready:
			default:
				log.Info("not ready yet: leaving the records as they are")
				stop()
				return
			}
			if s == syscall.SIGTERM {
				admit(false)
				stop()
				return
			}
			interrupts++
			switch interrupts {
			case 1:
				admit(false)
				go waitForCalls(ctx, api, log, admit, ended)
			case 2:
				log.Info("hanging up all calls")
				if err := api.Do(ctx, http.MethodPost, "/v1/hangup-all", nil, nil); err != nil {
					log.Warn("could not hang up", "err", err)
				}
			default:
				stop()
				return
			}
		}
	}
}

// noneFor is how long a ready switch must have had no call before it is believed:
// a worker that has just been started again owns its calls only a moment later.
const noneFor = 3 * time.Second

// waitForCalls says how many calls are left until there is none. A worker that
// was started meanwhile is told to admit none either.
func waitForCalls(ctx context.Context, api *console.Client, log logger, admit func(bool), ended chan<- struct{}) {
	last, some := -1, time.Now()
	for tick := time.NewTicker(200 * time.Millisecond); ; {
		var s console.Status
		if err := api.Do(ctx, http.MethodGet, "/v1/status", nil, &s); err == nil {
			if s.Accepting {
				admit(false)
			}
			if s.Calls > 0 || !s.Ready {
				some = time.Now()
			} else if time.Since(some) > noneFor {
				close(ended)
				return
			}
			if s.Calls != last {
				log.Info("no new calls; waiting for those in progress to end (Ctrl-C again hangs them up)", "calls", s.Calls)
				last = s.Calls
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// stillNot is how long a start may take before it is explained, and then again.
const stillNot = 5 * time.Second

// announce says where the switch listens, once it is ready; while it is not, why.
func announce(ctx context.Context, w io.Writer, cfg Config, log logger, ready chan<- struct{}) {
	socket := filepath.Join(cfg.State, "run", apiSocket)
	api := console.NewClient(socket)
	told := time.Now()
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		var s console.Status
		err := api.Do(ctx, http.MethodGet, "/v1/status", nil, &s)
		if err == nil && s.Ready {
			close(ready)
			fmt.Fprintf(w, "switch %s, node %s, is ready\n  SIP      %s\n  API      %s\n", codecore.Release, cfg.Node, strings.Join(s.Listen, " "), socket)
			if cfg.Softphone.Listen != "" {
				fmt.Fprint(w, pageAddress(cfg.Softphone))
			}
			if cfg.Metrics.Listen != "" {
				fmt.Fprintf(w, "  metrics  http://%s/metrics\n", cfg.Metrics.Listen)
			}
			if s.Calls > 0 {
				fmt.Fprintf(w, "  resumed  %d calls\n", s.Calls)
			}
			return
		}
		if time.Since(told) > stillNot {
			told = time.Now()
			why := s.Reason
			if err != nil {
				why = "the api child does not answer yet"
			}
			log.Warn("not ready yet", "why", why)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func checkPlanFile(cfg Config) error {
	if cfg.Plan == "" {
		return nil
	}
	source, err := os.ReadFile(cfg.Plan)
	if err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	p, err := parsePlan(source)
	if err != nil {
		return fmt.Errorf("%s: %w", cfg.Plan, err)
	}
	if cfg.Registrar.Accounts == "" {
		return nil
	}
	accounts, err := readAccounts(cfg.Registrar.Accounts)
	for _, a := range accounts {
		if why := unringable(&p, a.Name); why != "" {
			return fmt.Errorf("%s: %s", cfg.Registrar.Accounts, why)
		}
	}
	return err
}
