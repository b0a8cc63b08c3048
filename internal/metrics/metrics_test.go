package metrics_test

import (
	"context"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

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
