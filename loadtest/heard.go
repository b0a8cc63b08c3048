package loadtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// What the API has stored, the processes of the switch watch for: they hear of it a
// little later, and one that is held up much later.

// unheard is how long a switch is given that does not tell what it goes by: an earlier
// release, or one without metrics.
const unheard = 300 * time.Millisecond

// heard waits until the edge, the API and every worker tell at least so much by a gauge.
func (s *Switch) heard(ctx context.Context, gauge string, least float64) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for begin := time.Now(); ; {
		told, err := s.series(ctx, gauge)
		silent := err == nil && len(told) == 0 || errors.Is(err, syscall.ECONNREFUSED)
		missing := "all"
		if err == nil && !silent {
			missing, err = s.deaf(ctx, told, least)
		}
		if missing == "" || silent && time.Since(begin) > unheard {
			return nil
		}
		if !pause(ctx, 10*time.Millisecond) {
			return fmt.Errorf("loadtest: %s is not %v yet at: %s: %w (%w)", gauge, least, missing, ctx.Err(), err)
		}
	}
}

// deaf names a role of which a process has not told that much; "": none. An edge that
// stays behind for its connections has the name of its heir.
func (s *Switch) deaf(ctx context.Context, told map[string]float64, least float64) (string, error) {
	ps, err := s.API.Processes(ctx)
	if err != nil {
		return "all", err
	}
	want := map[string]int{RoleEdge: 1, RoleAPI: 1}
	for _, p := range ps {
		if p.Role == RoleWorker && Alive(p.PID) {
			want[RoleWorker]++
		}
	}
	for series, v := range told { // who has left tells what it knew then
		for role := range want {
			if v >= least && strings.Contains(series, `role="`+role+`"`) {
				want[role]--
			}
		}
	}
	for role, n := range want {
		if n > 0 {
			return role, nil
		}
	}
	return "", nil
}

// series are the samples of a metric, by name and labels as the page has them.
func (s *Switch) series(ctx context.Context, name string) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.cfg.Site.Metrics.String()+"/metrics", nil)
	if err != nil {
		return nil, fmt.Errorf("loadtest: %w", err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("loadtest: %w", err)
	}
	defer func() { _, _ = io.Copy(io.Discard, res.Body); _ = res.Body.Close() }()
	out := map[string]float64{}
	for in := bufio.NewScanner(res.Body); in.Scan(); {
		if series, value, ok := cutLast(in.Text()); ok && (series == name || strings.HasPrefix(series, name+"{")) {
			out[series], _ = strconv.ParseFloat(value, 64)
		}
	}
	return out, nil
}
