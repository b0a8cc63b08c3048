package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"callswitch/console"
	"callswitch/edge"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

// verbTrunks asks an edge what it knows of the trunks: []edge.TrunkView.
const verbTrunks = "trunks"

// serveTrunks answers it, and shows the circuits to Prometheus.
func serveTrunks(c *child, e *edge.Edge) error {
	c.metrics.MustRegister(trunkCollector{e.Trunks})
	_, err := c.nats.Subscribe(sessions.SubjectControl(c.id, verbTrunks), "", func(m sessions.Msg) {
		data, err := wire.Seal(e.Trunks())
		if err == nil && m.Reply != "" {
			err = c.nats.Publish(m.Reply, data)
		}
		if err != nil {
			c.log.Warn("order not answered", "verb", verbTrunks, "err", err)
		}
	})
	return err
}

// trunkCollector counts the addresses of each trunk by their circuits. It names
// trunks, which the dialplan bounds, and no address.
type trunkCollector struct{ trunks func() []edge.TrunkView }

var trunkAddresses = prometheus.NewDesc("switch_trunk_addresses", "Addresses of each trunk, by the state of their circuits.", []string{"trunk", "circuit"}, nil)

func (c trunkCollector) Describe(ch chan<- *prometheus.Desc) { ch <- trunkAddresses }

func (c trunkCollector) Collect(ch chan<- prometheus.Metric) {
	for _, t := range c.trunks() {
		n := map[string]int{"up": 0, "down": 0, "half-open": 0}
		for _, a := range t.Addresses {
			n[a.Circuit]++
		}
		for state, v := range n {
			ch <- prometheus.MustNewConstMetric(trunkAddresses, prometheus.GaugeValue, float64(v), t.Name, state)
		}
	}
}

// Trunks puts together what the dialplan, the edges, the workers and the
// registrations at carriers say of each trunk.
func (b *backend) Trunks(ctx context.Context) (console.Trunks, error) {
	out := console.Trunks{Trunks: []console.Trunk{}}
	calls, err := b.Calls(ctx)
	if err != nil {
		return out, err
	}
	carriers, err := b.Carriers(ctx)
	if err != nil {
		return out, err
	}
	seen := map[string][]console.TrunkAddress{}
	var mu sync.Mutex
	out.Silent = eachProcess(ctx, b, "edge", verbTrunks, func(ctx context.Context, p sessions.Process) error {
		views, err := ask[[]edge.TrunkView](ctx, b.nats, sessions.SubjectControl(p.ID, verbTrunks), struct{}{})
		mu.Lock()
		defer mu.Unlock()
		for _, v := range views {
			for _, a := range v.Addresses {
				seen[v.Name] = append(seen[v.Name], console.TrunkAddress{
					Node: p.Node, Address: a.Address, Circuit: a.Circuit, Since: a.Since, Pinged: a.Pinged,
					RTTMS: float64(a.RTT.Microseconds()) / 1000, Fails: a.Fails, Failed: a.Failed, Reason: a.Why,
				})
			}
		}
		return err
	})
	for _, p := range b.plan().Peers {
		if p.Kind != "trunk" {
			continue
		}
		t := console.Trunk{Name: p.Name, Target: p.Target, Ping: int(p.Ping), MaxCalls: p.MaxCalls, MaxRate: p.MaxRate, Addresses: seen[p.Name]}
		if t.Addresses == nil {
			t.Addresses = []console.TrunkAddress{}
		}
		slices.SortFunc(t.Addresses, func(x, y console.TrunkAddress) int {
			return cmp.Or(cmp.Compare(x.Node, y.Node), cmp.Compare(x.Address, y.Address))
		})
		for _, c := range calls.Calls {
			if c.FromPeer == p.Name {
				t.CallsIn++
			}
			if c.ToPeer == p.Name {
				t.CallsOut++
			}
		}
		for _, r := range carriers.Carriers {
			if r.Peer == p.Name {
				t.Registered = r.State
			}
		}
		out.Trunks = append(out.Trunks, t)
	}
	return out, nil
}

func trunksCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trunks [NAME]",
		Short: "list the trunks: where they are, whether they live, and how many calls they have",
		Args:  argsBetween(0, 1, "the name of a trunk, or nothing"),
		RunE: func(cmd *cobra.Command, names []string) error {
			all, err := trunks(cmd)
			if err != nil {
				return apiError(err)
			}
			for _, e := range all.Silent {
				fmt.Fprintf(cmd.ErrOrStderr(), "switch: %s does not answer: what it sees is missing here\n", e)
			}
			if len(names) > 0 {
				all.Trunks = slices.DeleteFunc(all.Trunks, func(t console.Trunk) bool { return t.Name != names[0] })
				if len(all.Trunks) == 0 {
					return fmt.Errorf("no trunk %s in the dialplan; 'switch trunks' lists them", names[0])
				}
			}
			return show(cmd, all.Trunks, func(w io.Writer) { drawTrunks(w, all.Trunks, time.Now()) })
		},
		ValidArgsFunction: func(cmd *cobra.Command, had []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(had) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			all, _ := trunks(cmd)
			var names []string
			for _, t := range all.Trunks {
				names = append(names, t.Name+"\t"+t.Target)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
	outputFlag(cmd)
	return cmd
}

func trunks(cmd *cobra.Command) (all console.Trunks, err error) {
	err = apiClient(cmd).Do(cmd.Context(), http.MethodGet, "/v1/trunks", nil, &all)
	return all, err
}

// drawTrunks has a line for each address, or one for a trunk that has none.
func drawTrunks(w io.Writer, all []console.Trunk, now time.Time) {
	row(w, "TRUNK", "TARGET", "NODE", "ADDRESS", "CIRCUIT", "PING", "IN", "OUT", "MAX", "REGISTERED", "LAST FAILURE")
	for _, t := range all {
		most := "-"
		if t.MaxCalls > 0 {
			most = fmt.Sprint(t.MaxCalls)
		}
		addresses := t.Addresses
		if len(addresses) == 0 {
			none := console.TrunkAddress{Node: "-", Address: "-", Circuit: "-"}
			if t.Target != "" {
				none.Address = "not found"
			}
			addresses = []console.TrunkAddress{none}
		}
		for i, a := range addresses {
			ping, failed := "-", ""
			if !a.Pinged.IsZero() {
				ping = fmt.Sprintf("%.1f ms", a.RTTMS)
			}
			if !a.Failed.IsZero() {
				failed = fmt.Sprintf("%s, %s ago", a.Reason, now.Sub(a.Failed).Round(time.Second))
			}
			head := []any{t.Name, cmp.Or(t.Target, "-")}
			tail := []any{t.CallsIn, t.CallsOut, most, cmp.Or(t.Registered, "-")}
			if i > 0 { // the same trunk
				head, tail = []any{"", ""}, []any{"", "", "", ""}
			}
			row(w, slices.Concat(head, []any{a.Node, strings.TrimSpace(a.Address), a.Circuit, ping}, tail, []any{failed})...)
		}
	}
}
