package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"callswitch/internal/metrics"
)

func serve(t *testing.T, dir, process, birth string, value float64) context.CancelFunc {
	t.Helper()
	r := prometheus.NewRegistry()
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "things", Help: "Things."})
	g.Set(value)
	r.MustRegister(g)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- metrics.Serve(ctx, dir, process, birth, r) }()
	for path := filepath.Join(dir, process+"."+birth+".metrics"); ; {
		if _, err := os.Stat(path); err == nil {
			break
		}
		select {
		case err := <-done:
			t.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// Two processes give one page; a process that has gone leaves no trace on it.
func TestGather(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 20)) // longer than the address of a socket
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	stopA, stopB := serve(t, dir, "worker-1", "b", 1), serve(t, dir, "edge", "a", 2)
	defer stopB()
	page := func() string {
		rec := httptest.NewRecorder()
		metrics.Handler(dir).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
		return rec.Body.String()
	}
	got := page()
	for _, want := range []string{`role="worker"`, `role="edge"`, "} 1\n", "} 2\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("page lacks %q:\n%s", want, got)
		}
	}
	if strings.Count(got, "# TYPE things gauge") != 1 {
		t.Errorf("the family is not one:\n%s", got)
	}
	if !metrics.Answers(dir, "worker") || metrics.Answers(dir, "media") {
		t.Error("Answers does not say who lives")
	}
	stopOld := serve(t, dir, "worker-1", "a", 7) // hung, and its successor lives
	if got := page(); strings.Contains(got, "} 7\n") || !strings.Contains(got, `things{process="worker-1",role="worker"} 1`) {
		t.Errorf("two of one name: want the younger one only\n%s", got)
	}
	stopOld()
	stopA()
	if got := page(); strings.Contains(got, `role="worker"`) {
		t.Errorf("the dead process is still on the page:\n%s", got)
	}
	if metrics.Answers(dir, "worker") {
		t.Error("the dead process answers")
	}
}

// What a process counted is on the page when it has left as planned, until a
// successor of its name counts or five minutes have passed; what it held is not.
func TestLastWords(t *testing.T) {
	dir := t.TempDir()
	r := prometheus.NewRegistry()
	held := prometheus.NewGauge(prometheus.GaugeOpts{Name: "held", Help: "Held."})
	done := prometheus.NewCounter(prometheus.CounterOpts{Name: "done_total", Help: "Done."})
	took := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "took_seconds", Help: "Took."})
	r.MustRegister(held, done, took)
	held.Set(1)
	done.Add(3)
	took.Observe(0.1)
	page := func() string {
		rec := httptest.NewRecorder()
		metrics.Handler(dir).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
		return rec.Body.String()
	}
	for _, birth := range []string{"a", "b"} { // the younger of two that have left
		if err := metrics.Leave(dir, "worker-1", birth, r); err != nil {
			t.Fatal(err)
		}
		done.Inc()
	}
	got := page()
	for _, want := range []string{`done_total{process="worker-1",role="worker"} 4`, `took_seconds_count{process="worker-1",role="worker"} 1`} {
		if !strings.Contains(got, want) {
			t.Errorf("page lacks %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "held") {
		t.Errorf("it still holds something:\n%s", got)
	}
	if metrics.Answers(dir, "worker") {
		t.Error("who has left answers")
	}
	stop := serve(t, dir, "worker-1", "c", 1)
	if got := page(); strings.Contains(got, "done_total") || !strings.Contains(got, "things") {
		t.Errorf("its successor counts:\n%s", got)
	}
	stop()
	long := time.Now().Add(-time.Hour)
	for _, birth := range []string{"a", "b"} {
		if err := os.Chtimes(filepath.Join(dir, "worker-1."+birth+".left"), long, long); err != nil {
			t.Fatal(err)
		}
	}
	if got := page(); got != "" {
		t.Errorf("an hour later:\n%s", got)
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "*")); len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
}

// The socket of a process that cannot be asked now is not taken from it: it
// would be off the page for the rest of its life.
func TestSocketOfTheLivingStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "worker-1.a.metrics")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for { // until its queue is full
		c, err := net.DialTimeout("unix", path, time.Second)
		if err != nil {
			break
		}
		defer func() { _ = c.Close() }()
	}
	metrics.Gather(t.Context(), filepath.Dir(path))
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

// Nor is it taken from one that has just been born: it has its name when it answers.
func TestSocketOfTheNewbornStays(t *testing.T) {
	dir := t.TempDir()
	for i := range 100 {
		birth := fmt.Sprintf("%03d", i)
		path := filepath.Join(dir, "edge."+birth+".metrics")
		refused := make(chan error, 1)
		go func() {
			for {
				c, err := net.Dial("unix", path)
				if err == nil {
					_ = c.Close()
				}
				if !errors.Is(err, unix.ENOENT) {
					refused <- err
					return
				}
			}
		}()
		stop := serve(t, dir, "edge", birth, 1)
		if err := <-refused; err != nil {
			t.Fatalf("number %d: %v", i, err)
		}
		stop()
	}
}
