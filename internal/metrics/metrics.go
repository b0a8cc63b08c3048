// Package metrics serves a process's Prometheus registry on a unix socket and
// gathers those of many processes into one page. It defines no metric: what is
// counted, and under which name, is decided where packages are wired together.
package metrics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// New returns a registry with the Go and process collectors.
func New() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Serve answers GET /metrics on a unix socket in dir until ctx ends. The process
// has a name that its successors share ("worker-1": the role, and a part after
// a hyphen if there are several), and a birth that sorts by time.
func Serve(ctx context.Context, dir, process, birth string, g prometheus.Gatherer) error {
	short, done, err := shortPath(filepath.Join(dir, process+"."+birth+suffix))
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	defer done()
	// It gets its name when it listens already: Gather takes one that nobody answers
	// on for a dead one's.
	_ = os.Remove(short + newMark)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short + newMark, Net: "unix"})
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Rename(short+newMark, short); err != nil {
		_ = l.Close()
		return fmt.Errorf("metrics: %w", err)
	}
	defer func() { _ = os.Remove(short) }()
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

const (
	suffix  = ".metrics"
	newMark = ".new"  // a socket that does not listen yet
	left    = ".left" // of what Leave has written
)

// leftFor is how long that is on the page: some scrapes long.
const leftFor = 5 * time.Minute

// Leave writes down what a process has counted, before it ends as planned: what
// came since the last scrape would be lost. Gauges end with their process.
func Leave(dir, process, birth string, g prometheus.Gatherer) error {
	families, err := g.Gather()
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	var page bytes.Buffer
	enc := expfmt.NewEncoder(&page, expfmt.NewFormat(expfmt.TypeProtoDelim))
	for _, f := range families {
		if t := f.GetType(); t == dto.MetricType_COUNTER || t == dto.MetricType_HISTOGRAM {
			err = errors.Join(err, enc.Encode(f))
		}
	}
	path := filepath.Join(dir, process+"."+birth+left)
	if err == nil {
		err = os.WriteFile(path+".next", page.Bytes(), 0o600)
	}
	if err == nil {
		err = os.Rename(path+".next", path)
	}
	if err != nil {
		_ = os.Remove(path + ".next") // a full disk is not kept full
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// Gather reads every process's page under dir and returns one set of families;
// each sample gets the labels role and process. A process keeps its label over
// restarts, so that the number of series is bounded (its counters begin at 0
// again, as rate() expects); of two that share a name the younger one counts.
// Sockets nobody answers on (their process is gone) are removed, and what the
// gone have left after five minutes.
func Gather(ctx context.Context, dir string) []*dto.MetricFamily {
	paths, _ := filepath.Glob(filepath.Join(dir, "*"+suffix))
	gone, _ := filepath.Glob(filepath.Join(dir, "*"+left))
	paths = append(paths, gone...)
	slices.Sort(paths)
	pages := make([]map[string]*dto.MetricFamily, len(paths))
	var wg sync.WaitGroup
	for i, path := range paths {
		wg.Go(func() {
			if strings.HasSuffix(path, left) {
				pages[i] = lastWords(path)
			} else {
				pages[i] = scrape(ctx, path)
			}
		})
	}
	wg.Wait()
	youngest := map[string]int{} // paths are in the order of birth
	for i, page := range pages {
		if page != nil {
			youngest[processOf(paths[i])] = i
		}
	}
	all := map[string]*dto.MetricFamily{}
	for i, page := range pages {
		process := processOf(paths[i])
		if youngest[process] != i {
			continue
		}
		role, _, _ := strings.Cut(process, "-")
		for name, family := range page {
			for _, m := range family.Metric {
				m.Label = append(m.Label, label("role", role), label("process", process))
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

// shortPath names a socket by way of its directory's descriptor when its path is
// longer than a sockaddr_un (108 bytes).
func shortPath(path string) (short string, done func(), err error) {
	if len(path) < 100 {
		return path, func() {}, nil
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), filepath.Base(path)), func() { _ = d.Close() }, nil
}

func processOf(path string) string {
	process, _, _ := strings.Cut(filepath.Base(path), ".")
	return process
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
			short, done, err := shortPath(path)
			if err != nil {
				return nil, err
			}
			defer done()
			c, err := d.DialContext(ctx, "unix", short)
			if errors.Is(err, syscall.ECONNREFUSED) {
				_ = os.Remove(path) // its process has gone; the name is not used again
			}
			return c, err
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://process/metrics", nil)
	if err != nil {
		return nil
	}
	req.Header.Set("Accept", string(expfmt.NewFormat(expfmt.TypeProtoDelim))) // text has no native histograms
	resp, err := client.Do(req)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	return decode(resp.Body, expfmt.ResponseFormat(resp.Header))
}

// lastWords reads what a process has left.
func lastWords(path string) map[string]*dto.MetricFamily {
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	if time.Since(info.ModTime()) > leftFor {
		_ = os.Remove(path)
		return nil
	}
	page, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return decode(bytes.NewReader(page), expfmt.NewFormat(expfmt.TypeProtoDelim))
}

func decode(page io.Reader, format expfmt.Format) map[string]*dto.MetricFamily {
	families := map[string]*dto.MetricFamily{}
	for dec := expfmt.NewDecoder(page, format); ; {
		var f dto.MetricFamily
		err := dec.Decode(&f)
		if errors.Is(err, io.EOF) {
			return families
		}
		if err != nil {
			return nil
		}
		families[f.GetName()] = &f
	}
}

// Answers reports whether a process of that role serves its page under dir.
func Answers(dir, role string) bool {
	paths, _ := filepath.Glob(filepath.Join(dir, role+"*"+suffix))
	for _, path := range paths {
		if process := processOf(path); process != role && !strings.HasPrefix(process, role+"-") {
			continue
		}
		short, done, err := shortPath(path)
		if err != nil {
			continue
		}
		c, err := net.Dial("unix", short)
		done()
		if err == nil {
			_ = c.Close()
			return true
		}
	}
	return false
}

// Handler serves the gathered page.
func Handler(dir string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		format := expfmt.NegotiateAccept(r.Header, expfmt.DefaultAcceptedFormats()...)
		w.Header().Set("Content-Type", string(format))
		enc := expfmt.NewEncoder(w, format)
		for _, f := range Gather(r.Context(), dir) {
			if enc.Encode(f) != nil {
				return
			}
		}
	})
}
