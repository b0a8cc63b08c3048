// Package metrics serves a process's Prometheus registry on a unix socket and
// gathers those of many processes into one page. It defines no metric: what is
// counted, and under which name, is decided where packages are wired together.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// New returns a registry with the Go and process collectors.
func New() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Serve answers GET /metrics on a unix socket dir/<name>.metrics until ctx ends.
// The name is "<role>.<id>".
func Serve(ctx context.Context, dir, name string, g prometheus.Gatherer) error {
	path := filepath.Join(dir, name+suffix)
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{}))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

const suffix = ".metrics"

// Gather reads every process's page under dir and returns one set of families;
// each sample gets the labels role and instance. Sockets nobody answers on (their
// process is gone) are removed.
func Gather(ctx context.Context, dir string) []*dto.MetricFamily {
	paths, _ := filepath.Glob(filepath.Join(dir, "*"+suffix))
	pages := make([]map[string]*dto.MetricFamily, len(paths))
	var wg sync.WaitGroup
	for i, path := range paths {
		wg.Go(func() { pages[i] = scrape(ctx, path) })
	}
	wg.Wait()
	all := map[string]*dto.MetricFamily{}
	for i, page := range pages {
		role, instance, _ := strings.Cut(strings.TrimSuffix(filepath.Base(paths[i]), suffix), ".")
		for name, family := range page {
			for _, m := range family.Metric {
				m.Label = append(m.Label, label("role", role), label("instance", instance))
				slices.SortFunc(m.Label, func(a, b *dto.LabelPair) int { return strings.Compare(a.GetName(), b.GetName()) })
			}
			if all[name] == nil {
				all[name] = family
			} else {
				all[name].Metric = append(all[name].Metric, family.Metric...)
			}
		}
	}
	families := make([]*dto.MetricFamily, 0, len(all))
	for _, f := range all {
		families = append(families, f)
	}
	sort.Slice(families, func(i, j int) bool { return families[i].GetName() < families[j].GetName() })
	return families
}

func label(name, value string) *dto.LabelPair {
	return &dto.LabelPair{Name: &name, Value: &value}
}

func scrape(ctx context.Context, path string) map[string]*dto.MetricFamily {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, "unix", path)
			if err != nil && ctx.Err() == nil {
				_ = os.Remove(path) // its process has gone; the name is not used again
			}
			return c, err
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://process/metrics", nil)
	if err != nil {
		return nil
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		return nil
	}
	return families
}

// Answers reports whether a process of that role serves its page under dir.
func Answers(dir, role string) bool {
	paths, _ := filepath.Glob(filepath.Join(dir, role+".*"+suffix))
	for _, path := range paths {
		if c, err := net.Dial("unix", path); err == nil {
			_ = c.Close()
			return true
		}
	}
	return false
}

// Handler serves the gathered page.
func Handler(dir string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		format := expfmt.Negotiate(r.Header)
		w.Header().Set("Content-Type", string(format))
		enc := expfmt.NewEncoder(w, format)
		for _, f := range Gather(r.Context(), dir) {
			if enc.Encode(f) != nil {
				return
			}
		}
	})
}
