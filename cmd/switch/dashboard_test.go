package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"callswitch/edge"
	"callswitch/media"
	"callswitch/nats"
)

// described is a registry that only remembers what is registered.
type described map[string][]string // labels by metric

var descText = regexp.MustCompile(`fqName: "([^"]+)".*variableLabels: \{([^}]*)\}`)

func (d described) Register(c prometheus.Collector) error {
	descs := make(chan *prometheus.Desc, 1000)
	c.Describe(descs)
	close(descs)
	for desc := range descs {
		m := descText.FindStringSubmatch(desc.String())
		labels := []string{"role", "process"} // the gathered page adds them
		if m[2] != "" {
			labels = append(labels, strings.Split(m[2], ",")...)
		}
		d[m[1]] = labels
	}
	return nil
}

func (d described) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		_ = d.Register(c)
	}
}

func (d described) Unregister(prometheus.Collector) bool { return false }

func allMetrics() described {
	d := described{"up": {"job", "instance"}}
	newWorkerMetrics(d, "v1")
	newCarrierMetrics(d, time.Now)
	d.MustRegister(atHand(nil, nil)...)
	d.MustRegister(releaseInfo("v1"), edgeCollector{&edge.Stats{}}, trunkCollector{func() []edge.TrunkView { return nil }},
		mediaCollector{func() media.Stats {
			return media.Stats{Dropped: map[string]uint64{"x": 1}, Control: map[string]uint64{"x": 1}}
		}},
		natsCollector{func() nats.Figures { return nats.Figures{Messages: map[string]uint64{"REC": 1}} }},
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return d
}

var (
	metricName = regexp.MustCompile(`\b((?:switch|process|go)_[a-z_]+|up)(\{[^}]*\})?`)
	matcher    = regexp.MustCompile(`([a-z_]+)\s*[=!]~?`)
	grouping   = regexp.MustCompile(`\b(?:by|without|on)\s*\(([^)]*)\)`)
	legend     = regexp.MustCompile(`\{\{\s*([a-z_]+)\s*\}\}`)
)

// checkExpr reports metrics and labels of an expression that nobody exports.
func checkExpr(t *testing.T, where, expr, text string, known described) {
	t.Helper()
	labels := []string{"le"}
	found := metricName.FindAllStringSubmatch(expr, -1)
	if len(found) == 0 {
		t.Errorf("%s: no metric in %q", where, expr)
	}
	for _, m := range found {
		name := m[1]
		of, ok := known[name]
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base, cut := strings.CutSuffix(name, suffix); cut && !ok {
				of, ok = known[base]
			}
		}
		if !ok {
			t.Errorf("%s: there is no metric %s: register it, or mend the expression", where, name)
			continue
		}
		labels = append(labels, of...)
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(of, l[1]) {
				t.Errorf("%s: %s has no label %s, only %v", where, name, l[1], of)
			}
		}
	}
	for _, g := range grouping.FindAllStringSubmatch(expr, -1) {
		for l := range strings.SplitSeq(g[1], ",") {
			if l = strings.TrimSpace(l); !slices.Contains(labels, l) {
				t.Errorf("%s: groups by %s, which none of its metrics has: %v", where, l, labels)
			}
		}
	}
	for _, l := range legend.FindAllStringSubmatch(text, -1) {
		if !slices.Contains(labels, l[1]) {
			t.Errorf("%s: legend shows %s, which none of its metrics has: %v", where, l[1], labels)
		}
	}
}

// Every metric and label of the dashboard exists.
func TestDashboardShowsWhatIsCounted(t *testing.T) {
	raw, err := os.ReadFile("../../deploy/grafana/switch.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			ID      int    `json:"id"`
			Title   string `json:"title"`
			Targets []struct{ Expr, LegendFormat string }
		} `json:"panels"`
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	known := allMetrics()
	for _, p := range d.Panels {
		for _, x := range p.Targets {
			checkExpr(t, p.Title, x.Expr, x.LegendFormat, known)
		}
	}
	if len(d.Panels) < 10 {
		t.Errorf("only %d panels", len(d.Panels))
	}
}

func TestAlertsWatchWhatIsCounted(t *testing.T) {
	const dir = "../../deploy/prometheus"
	raw, err := os.ReadFile(filepath.Join(dir, "rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var r struct {
		Groups []struct {
			Rules []struct {
				Alert       string
				Expr        string
				For         string            `yaml:"for"`
				Labels      map[string]string `yaml:"labels"`
				Annotations map[string]string `yaml:"annotations"`
			}
		}
	}
	if err := yaml.UnmarshalWithOptions(raw, &r); err != nil {
		t.Fatal(err)
	}
	known := allMetrics()
	for _, g := range r.Groups {
		for _, x := range g.Rules {
			checkExpr(t, x.Alert, x.Expr, "", known)
			if x.Annotations["summary"] == "" {
				t.Errorf("%s has no summary", x.Alert)
			}
		}
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed (Debian: prometheus): the syntax of the rules is not checked")
	}
	if out, err := exec.Command(promtool, "check", "config", filepath.Join(dir, "prometheus.yml")).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// A label with a call id, a number or an address would make a series per call.
func TestNoLabelNamesACall(t *testing.T) {
	for name, labels := range allMetrics() {
		for _, l := range labels {
			for _, bad := range []string{"call", "number", "from", "to", "addr", "peer", "id"} {
				if l == bad {
					t.Errorf("%s has the label %s", name, l)
				}
			}
		}
	}
}
