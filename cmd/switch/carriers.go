package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"callswitch/codecore"
	"callswitch/console"
	"callswitch/edge"
	"callswitch/handoff"
	"callswitch/nats"
	"callswitch/registrant"
	"callswitch/sessions"
)

// keeper takes this worker's part in the registrations at carriers.
func (c *child) keeper(plan func() *codecore.Plan, rollout func() *handoff.Rollout, dir *nats.Directory, now func() time.Time) *registrant.Keeper {
	m := newCarrierMetrics(c.metrics, now)
	k := registrant.NewKeeper(registrant.Config{
		ID: c.id, Release: codecore.Release, Store: nats.NewCarriers(c.nats, 2*time.Second), Bus: c.bus,
		Plan: plan, Now: now, Dead: dir.Dead, Log: c.log, Observe: m.observe,
		Token: func(id codecore.CallID) string { return edge.Token(c.key, id) },
		Living: func() []sessions.Process {
			ps := dir.Processes()
			if !slices.ContainsFunc(ps, func(p sessions.Process) bool { return p.ID == c.id }) {
				ps = append(ps, c.process())
			}
			return ps
		},
		Prefer: func() string {
			if w := weights(rollout(), dir.Processes()); len(w) > 0 && w[0].Percent > 50 {
				return w[0].Digest
			}
			return ""
		},
	})
	dir.OnDeath(func(nats.Death) { k.Kick() })
	m.owned = k.Owned
	return k
}

// carrierMetrics are what one worker counts of the registrations at carriers.
type carrierMetrics struct {
	now    func() time.Time
	events *prometheus.CounterVec
	bound  *prometheus.Desc
	owned  func(context.Context) []registrant.Record
}

func newCarrierMetrics(r prometheus.Registerer, now func() time.Time) *carrierMetrics {
	m := &carrierMetrics{
		now:    now,
		events: counters("switch_carrier_registrations_total", "What became of our registrations at carriers: sent, granted, removed, created, claimed, lost, or the reason of a failure.", "trunk", "what"),
		bound:  prometheus.NewDesc("switch_carrier_bound_seconds", "How long a carrier still has our binding, of those that this worker owns; negative: since when it has not, 0: never.", []string{"trunk"}, nil),
	}
	r.MustRegister(m, m.events)
	return m
}

func (m *carrierMetrics) observe(peer, what string) { m.events.WithLabelValues(peer, what).Inc() }

// Describe and Collect tell of the bindings when they are asked for.
func (m *carrierMetrics) Describe(ch chan<- *prometheus.Desc) { ch <- m.bound }

func (m *carrierMetrics) Collect(ch chan<- prometheus.Metric) {
	if m.owned == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, rec := range m.owned(ctx) {
		left := 0.0
		if until := rec.State.Until; !until.IsZero() {
			left = until.Sub(m.now()).Seconds()
		}
		ch <- prometheus.MustNewConstMetric(m.bound, prometheus.GaugeValue, left, rec.State.Peer)
	}
}

// Carriers lists the registrations of the dialplan, and those that are being left.
func (b *backend) Carriers(ctx context.Context) (console.Carriers, error) {
	out, have := console.Carriers{Carriers: []console.Carrier{}}, map[string]bool{}
	now := time.Now()
	err := b.carriers.Scan(ctx, func(_ string, value []byte, _ uint64) error {
		rec, err := registrant.Decode(value)
		if err != nil {
			b.log.Warn("registration at a carrier not readable", "err", err)
			return nil
		}
		s := &rec.State
		have[s.Peer] = true
		out.Carriers = append(out.Carriers, console.Carrier{
			Peer: s.Peer, AOR: s.Account.AOR, State: s.Doing(now), Until: s.Until, Since: s.Since, Next: s.Due(), Reason: s.Reason,
			Status: s.Status, Fails: s.Fails, Owner: rec.Owner, Epoch: rec.Epoch, Release: rec.Release, Edge: s.Edge, CSeq: s.CSeq,
		})
		return nil
	})
	for peer, r := range b.plan().Enlisted() {
		if !have[peer] {
			out.Carriers = append(out.Carriers, console.Carrier{Peer: peer, AOR: r.AOR, State: "none"})
		}
	}
	slices.SortFunc(out.Carriers, func(x, y console.Carrier) int { return cmp.Compare(x.Peer, y.Peer) })
	return out, err
}

// showCarriers is 'switch registrations --out'.
func showCarriers(cmd *cobra.Command) error {
	var all console.Carriers
	if err := apiClient(cmd).Do(cmd.Context(), http.MethodGet, "/v1/registrations/out", nil, &all); err != nil {
		return apiError(err)
	}
	return show(cmd, all.Carriers, func(w io.Writer) {
		row(w, "TRUNK", "AOR", "STATE", "ENDS", "NEXT", "EDGE", "OWNER", "NOTE")
		for _, r := range all.Carriers {
			ends, next, note := "", "", r.Reason
			if !r.Until.IsZero() {
				ends = time.Until(r.Until).Round(time.Second).String()
			}
			if !r.Next.IsZero() {
				next = time.Until(r.Next).Round(time.Second).String()
			}
			if r.Status != 0 {
				note = fmt.Sprintf("%s (%d), %d times", r.Reason, r.Status, r.Fails)
			}
			row(w, r.Peer, r.AOR, r.State, ends, next, r.Edge, r.Owner, note)
		}
	})
}
