package main

import (
	"context"
	"encoding/json"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"callswitch/edge"
	"callswitch/host"
	"callswitch/nats"
	"callswitch/registrar"
	"callswitch/sessions"
)

// keptEdge prefixes the names of the edge's listening sockets at the host.
const keptEdge = "edge/"

// runEdge speaks SIP. Its listening sockets are kept by the host, so that what
// arrives while it is away waits in them.
func runEdge(ctx context.Context, c *child) error {
	c.carriers()
	docs := nats.NewDocs(c.nats)
	plan, err := watchPlan(ctx, docs, c.log)
	if err != nil {
		return err
	}
	rollout, err := watchRolloutDoc(ctx, docs, c.log)
	if err != nil {
		return err
	}
	dir, err := nats.NewDirectory(ctx, c.nats, nats.DirectoryConfig{Log: c.log})
	if err != nil {
		return err
	}
	c.host.OnExit(func(e exit) { dir.Exited(e.ID) })
	accounts, err := watchAccounts(ctx, c)
	if err != nil {
		return err
	}
	c.metrics.MustRegister(atHand(plan, accounts)...)
	secrets, err := readSecrets(c.cfg.Trunks.Passwords)
	if err != nil {
		return err
	}
	cert, err := certificate(c.cfg, c.log)
	if err != nil {
		return err
	}
	roots, err := c.cfg.Edge.roots()
	if err != nil {
		return err
	}
	stats := &edge.Stats{}
	cfg := edge.Config{
		Node: c.cfg.Node, Boot: c.id, Listen: c.cfg.Edge.Listen, Advertise: c.cfg.Edge.Advertise, Unmarked: !c.cfg.Edge.DSCP,
		ClusterKey: c.key, Bus: c.bus, Plan: plan, Log: c.log, Stats: stats,
		Limits:   edgeLimits(c.cfg.Edge.Limits),
		Auth:     registrar.NewAuth(registrar.AuthConfig{Key: c.key, Realm: c.cfg.Registrar.Realm, Accounts: accounts, Born: time.Now()}),
		Accounts: accounts, Directory: registrations(c), Keepalive: c.cfg.Registrar.Keepalive,
		Secrets: secrets, DNS: c.cfg.Edge.DNS.Servers, Certificate: cert, Roots: roots, Origins: c.cfg.Edge.WS.Origins,
		Weights: func() []edge.Weight {
			var out []edge.Weight
			for _, s := range weights(rollout(), dir.Processes()) {
				out = append(out, edge.Weight{Digest: s.Digest, Percent: s.Percent})
			}
			return out
		},
	}
	var e *edge.Edge
	err = c.heir(ctx, accounts.Known(), func(state []byte, files []host.Kept) error {
		sockets, err := c.inherit(ctx, keptEdge)
		if err != nil {
			return err
		}
		cfg.Sockets, cfg.Handed = sockets, state
		for _, f := range files {
			cfg.Connections = append(cfg.Connections, edge.File{Name: f.Name, File: f.File})
		}
		e, err = edge.New(cfg)
		for _, f := range sockets {
			_ = f.Close()
		}
		closeKept(files)
		return err
	})
	if err != nil {
		return err
	}
	var kept []host.Kept
	c.yields(func(ctx context.Context) ([]byte, []host.Kept, error) {
		state, files, err := e.Freeze(ctx)
		kept = nil
		for _, f := range files {
			kept = append(kept, host.Kept{Name: f.Name, File: f.File})
		}
		return state, kept, err
	}, func() {
		closeKept(kept)
		e.Thaw()
	}, func(goodbye func()) {
		c.stay(e, kept, goodbye)
	})
	if err := c.keepSockets(e); err != nil {
		return err
	}
	c.describe = func(p *sessions.Process) {
		for i, a := range e.Addrs() {
			p.Listen = append(p.Listen, transport(c.cfg.Edge.Listen[i])+":"+a.String())
		}
	}
	c.busy = c.othersLive // a talking call leaves no trace here: the media plane knows
	c.metrics.MustRegister(edgeCollector{stats})
	if err := serveTrunks(c, e); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return e.Run(ctx) })
	g.Go(func() error { c.beat(ctx); return nil })
	c.ready()
	return g.Wait()
}

// roleStays is what an edge that has been replaced, and stays, is listed as.
const roleStays = "edge-tls"

// carries is what it tells the host of itself.
type carries struct {
	Connections int `json:"connections"` // in TLS, for the edge at work
}

// stay has an edge that has been replaced carry its connections in TLS, and nothing
// else, to their end.
func (c *child) stay(e *edge.Edge, handed []host.Kept, goodbye func()) {
	closeKept(handed)
	left := make(chan struct{})
	go func() {
		defer close(left)
		goodbye()
		c.leave()
		if c.near != nil {
			go c.near.Close() // it waits for handlers, which wait for ever
		}
		c.nats.Close()
		debug.FreeOSMemory()
	}()
	said := false
	e.Stay(c.told, func(open int) {
		if !said {
			c.log.Info("carrying connections in TLS for the generation at work", "connections", open)
			said = true
		}
		info, err := json.Marshal(carries{open})
		if err == nil {
			c.host.Stays(info)
		}
	})
	<-left
	if said {
		c.log.Info("no connection is left to carry: leaving")
	}
}

func closeKept(files []host.Kept) {
	for _, k := range files {
		_ = k.File.Close()
	}
}

func (c *child) keepSockets(e *edge.Edge) error {
	files, err := e.Files()
	if err != nil {
		return err
	}
	for name, f := range files {
		if err := c.host.Keep(keptEdge+name, f); err != nil {
			return err
		}
	}
	return nil // the files stay open: a later host gets them again
}

var (
	edgeMessages  = prometheus.NewDesc("switch_sip_messages_total", "SIP messages, by direction and transport.", []string{"direction", "transport"}, nil)
	edgeRepeats   = prometheus.NewDesc("switch_sip_retransmissions_total", "Retransmissions absorbed (in) and sent (out).", []string{"direction"}, nil)
	edgeRefused   = prometheus.NewDesc("switch_sip_refused_total", "SIP input refused, dropped or unusual, by reason.", []string{"reason"}, nil)
	edgeEvents    = prometheus.NewDesc("switch_edge_events_total", "Events between edge and workers, by kind.", []string{"kind"}, nil)
	edgeRegisters = prometheus.NewDesc("switch_registrar_total", "Challenges, granted REGISTERs, their writes to the directory, OPTIONS to phones behind NAT.", []string{"what"}, nil)
	edgeTrunks    = prometheus.NewDesc("switch_trunks_total", "Requests that failed at one address and could go to another, and OPTIONS to trunks.", []string{"what"}, nil)
	edgeLinks     = prometheus.NewDesc("switch_edge_connections", "Connections open now, in their handshake too, by transport.", []string{"transport"}, nil)
	edgeShakes    = prometheus.NewDesc("switch_edge_handshakes_total", "Connections that came to be, and those that did not, by transport.", []string{"transport", "result"}, nil)
	edgeOpen      = prometheus.NewDesc("switch_edge_open", "What the edge has in memory, by kind.", []string{"kind"}, nil)
)

func edgeLimits(l LimitsConfig) edge.Limits {
	return edge.Limits{
		MaxCalls: l.MaxCalls, MaxConns: l.MaxConns, MaxPerSource: l.MaxPerSource, MaxMessage: l.MaxMessage,
		PeerRate: l.PeerRate, StrangerRate: l.StrangerRate, Silence: l.Silence,
	}
}

// transport is the first word of a listen entry.
func transport(entry string) string {
	t, _, _ := strings.Cut(entry, ":")
	return t
}

// edgeCollector shows an edge's counters as they stand.
type edgeCollector struct{ stats *edge.Stats }

func (c edgeCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c edgeCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.stats
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	for name, t := range s.Transports() {
		count(edgeMessages, t.Received.Load(), "in", name)
		count(edgeMessages, t.Sent.Load(), "out", name)
		if name == "udp" {
			continue
		}
		count(edgeShakes, t.Accepted.Load(), name, "done")
		count(edgeShakes, t.Failed.Load(), name, "failed")
		ch <- prometheus.MustNewConstMetric(edgeLinks, prometheus.GaugeValue, float64(t.Connections.Load()), name)
	}
	count(edgeRepeats, s.Absorbed.Load(), "in")
	count(edgeRepeats, s.Repeated.Load(), "out")
	for reason, n := range s.Reasons() {
		if reason != "" && reason != "ok" {
			count(edgeRefused, n, reason)
		}
	}
	count(edgeRegisters, s.Challenges.Load(), "challenged")
	count(edgeRegisters, s.Registers.Load(), "granted")
	count(edgeRegisters, s.RegisterWrites.Load(), "written")
	count(edgeRegisters, s.Pings.Load(), "pinged")
	count(edgeTrunks, s.Failovers.Load(), "failovers")
	count(edgeTrunks, s.TrunkPings.Load(), "pings")
	count(edgeEvents, s.Deliveries.Load(), "delivered")
	count(edgeEvents, s.Resends.Load(), "resent")
	count(edgeEvents, s.Orphans.Load(), "orphaned")
	count(edgeEvents, s.Actions.Load(), "actions")
	count(edgeEvents, s.Gaps.Load(), "gaps")
	for kind, n := range map[string]int64{"connections": s.Connections.Load(), "carried": s.Carried.Load(), "calls": s.Calls.Load(), "transactions": s.Open.Load()} {
		ch <- prometheus.MustNewConstMetric(edgeOpen, prometheus.GaugeValue, float64(n), kind)
	}
}
