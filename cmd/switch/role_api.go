package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"callswitch/codecore"
	"callswitch/console"
	"callswitch/handoff"
	"callswitch/host"
	"callswitch/internal/metrics"
	"callswitch/nats"
	"callswitch/sessions"
)

// runAPI is the one way in for people and programs. It also prepares the store,
// carries rollouts on, and gathers the metrics of all processes.
func runAPI(ctx context.Context, c *child) error {
	if err := nats.EnsureStreams(ctx, c.nats, nats.Streams{Replicas: c.cfg.NATS.Replicas, CDRAge: c.cfg.NATS.CDRAge}); err != nil {
		return err
	}
	docs := nats.NewDocs(c.nats)
	if err := firstPlan(ctx, c, docs); err != nil {
		return err
	}
	store := nats.NewStore(c.nats, nats.StoreConfig{})
	dir, err := nats.NewDirectory(ctx, c.nats, nats.DirectoryConfig{Healthy: store.Healthy, Log: c.log})
	if err != nil {
		return err
	}
	c.host.OnExit(func(e exit) { dir.Exited(e.ID) })
	accounts, err := watchAccounts(ctx, c)
	if err != nil {
		return err
	}
	b := &backend{child: c, store: store, docs: docs, dir: dir, accounts: accounts, shelf: nats.NewAccounts(c.nats, 0), registrations: registrations(c), carriers: nats.NewCarriers(c.nats, 0), moves: &moveTally{why: map[string]int{}}}
	if b.plan, err = watchPlan(ctx, docs, c.log); err != nil {
		return err
	}
	c.metrics.MustRegister(atHand(b.plan, accounts)...)
	if b.cluster, err = watchCluster(ctx, docs); err != nil {
		return err
	}
	if b.rollout, err = watchRolloutDoc(ctx, docs, c.log); err != nil {
		return err
	}
	if err := docs.Watch(ctx, nats.DocRollout, func(value []byte, _ uint64) {
		var r handoff.Rollout
		if json.Unmarshal(value, &r) == nil {
			b.keepRelease(r)
			if r.Over() {
				b.pruneReleases(ctx)
			}
		}
	}); err != nil {
		return err
	}
	if err := b.serveRestartable(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { c.beat(ctx); return nil })
	g.Go(func() error { b.sealAccounts(ctx); return nil })
	g.Go(func() error { return handoff.RunRollout(ctx, b.rolloutConfig()) })
	g.Go(func() error { return serveUnix(ctx, filepath.Join(c.run, apiSocket), console.Handler(b)) })
	if c.cfg.API.Listen != "" {
		g.Go(func() error {
			return c.serveWhenFree(ctx, "api.listen", tcp(c.cfg.API.Listen), console.Local(console.Handler(b)))
		})
	}
	if c.cfg.Softphone.Listen != "" {
		g.Go(func() error { return b.serveSoftphone(ctx) })
	}
	if c.cfg.Metrics.Listen != "" {
		g.Go(func() error {
			return c.serveWhenFree(ctx, "metrics.listen", tcp(c.cfg.Metrics.Listen), b.observability())
		})
	}
	c.ready()
	return g.Wait()
}

// firstPlan puts the configured dialplan in force when there is none yet.
func firstPlan(ctx context.Context, c *child, docs *nats.Docs) error {
	if c.cfg.Plan == "" && !c.cfg.Softphone.Demo {
		return nil
	}
	if _, _, err := docs.Get(ctx, nats.DocPlan); !errors.Is(err, sessions.ErrNotFound) {
		return err
	}
	source, name := []byte(demoPlan), "the demo's dialplan"
	if c.cfg.Plan != "" {
		var err error
		if source, err = os.ReadFile(c.cfg.Plan); err != nil {
			return err
		}
		name = c.cfg.Plan
	}
	p, err := parsePlan(source)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	_, err = storePlan(ctx, docs, p)
	return err
}

// observability is /metrics, /livez and /readyz.
func (b *backend) observability() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics.Handler(b.run))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		s, err := b.Status(r.Context())
		if err != nil || !s.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, s.Reason)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

func serveUnix(ctx context.Context, path string, h http.Handler) error {
	l, err := console.Listen(path)
	if err != nil {
		return err
	}
	return serveHTTP(ctx, l, h)
}

func tcp(addr string) func() (net.Listener, error) {
	return func() (net.Listener, error) { return net.Listen("tcp", addr) }
}

// serveWhenFree serves at what a key of the configuration names for as long as
// ctx lives. A port that is taken is waited for: the operator's way in, the unix
// socket, does not end for it.
func (c *child) serveWhenFree(ctx context.Context, key string, open func() (net.Listener, error), h http.Handler) error {
	for told := false; ctx.Err() == nil; {
		l, err := open()
		if err == nil {
			if told {
				c.log.Info("served now", "key", key)
			}
			return serveHTTP(ctx, l, h)
		}
		if !told {
			c.log.Error("not served yet, trying again", "key", key, "err", err)
			told = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return nil
}

func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// hostProcesses are the host and its children as the host lists them: those that
// do not beat (the NATS server) are among them.
func (b *backend) hostProcesses(ctx context.Context) ([]sessions.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	list, err := b.host.List(ctx)
	if err != nil {
		return nil, err
	}
	ps := []sessions.Process{{Role: "host", Node: b.cfg.Node, ID: "host-" + b.cfg.Node, PID: b.host.HostPID(), Release: codecore.Release}}
	if ps[0].PID == 0 {
		ps = nil
	}
	for _, c := range list.Children {
		if c.PID != 0 {
			p := sessions.Process{
				Role: c.Spec.Role, Node: b.cfg.Node, ID: c.Hello.ID, PID: c.PID, Release: c.Hello.Release, Digest: c.Hello.Digest,
			}
			if c.Hello.Stays {
				p.Role, p.Connections = roleStays, stays(&c)
			}
			ps = append(ps, p)
		}
	}
	return ps, nil
}

// stays is how many connections an edge that was replaced carries.
func stays(c *host.Child) int {
	var k carries
	_ = json.Unmarshal(c.Hello.Info, &k) // a later release may say it otherwise
	return k.Connections
}
