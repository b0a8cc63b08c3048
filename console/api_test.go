package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

// fake is a Backend that remembers what it was asked, and answers err; late comes
// after two CDRs.
type fake struct {
	err, late error

	mu    sync.Mutex // a client asks again, on another connection, when an answer breaks off before its first byte
	asked string
}

func (f *fake) note(format string, a ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = fmt.Sprintf(format, a...)
	return f.err
}

func (f *fake) Status(context.Context) (Status, error) {
	return Status{Node: "n1", Ready: true}, f.note("status")
}

func (f *fake) Processes(context.Context) ([]Process, error) {
	return []Process{{Role: "edge"}}, f.note("processes")
}

func (f *fake) Calls(context.Context) (Calls, error) {
	return Calls{Calls: []CallInfo{{ID: "c1"}}, Silent: []string{"w2"}}, f.note("calls")
}

func (f *fake) Call(_ context.Context, id codecore.CallID) (Call, error) {
	return Call{CallInfo: CallInfo{ID: string(id)}}, f.note("call %s", id)
}

func (f *fake) HangUp(_ context.Context, id codecore.CallID, cause string) error {
	return f.note("hangup %q %s", id, cause)
}

func (f *fake) Transfer(_ context.Context, id codecore.CallID, t Transfer) error {
	return f.note("transfer %q %s %s", id, t.Leg, t.Target)
}

func (f *fake) Inherit(_ context.Context, in Inherit) (Inherited, error) {
	return Inherited{Role: in.Role, Before: 1, PID: 2}, f.note("inherit %s %s", in.Role, in.Binary)
}

func (f *fake) Admit(_ context.Context, on bool) error { return f.note("admit %v", on) }

func (f *fake) CDRs(_ context.Context, since time.Time, fn func(codecore.CDR) error) error {
	if err := f.note("cdrs %s", since.Format(time.RFC3339)); err != nil {
		return err
	}
	return errors.Join(fn(codecore.CDR{ID: "a"}), fn(codecore.CDR{ID: "b"}), f.late)
}

func (f *fake) Plan(context.Context) (codecore.Plan, error) {
	return codecore.Plan{Version: 3}, f.note("plan")
}

func (f *fake) SetPlan(_ context.Context, source []byte) (codecore.Plan, error) {
	return codecore.Plan{Version: 4}, f.note("set %s", source)
}

func (f *fake) Carriers(context.Context) (Carriers, error) {
	return Carriers{Carriers: []Carrier{{Peer: "club", State: "bound"}}}, nil
}

func (f *fake) TestPlan(_ context.Context, from, number string) (codecore.RouteResult, error) {
	return codecore.RouteResult{Number: number}, f.note("test %s %s", from, number)
}

func (f *fake) StartRollout(_ context.Context, r RolloutStart) (Rollout, error) {
	return Rollout{ID: "r1"}, f.note("start %s %v %s", r.Binary, r.Steps, r.Pause)
}

func (f *fake) Rollout(context.Context) (Rollout, error) { return Rollout{ID: "r1"}, f.note("rollout") }

func (f *fake) SteerRollout(_ context.Context, verb string, s Steer) (Rollout, error) {
	return Rollout{ID: "r1"}, f.note("steer %s %v", verb, s.Steps)
}

func (f *fake) Moves(context.Context) (Moves, error) { return Moves{Moved: 7}, f.note("moves") }

// Each endpoint asks for what it says, and answers with JSON.
func TestEndpoints(t *testing.T) {
	for _, c := range []struct{ method, path, body, asks, answers string }{
		{"GET", "/v1/status", "", "status", `"node":"n1"`},
		{"GET", "/v1/processes", "", "processes", `"role":"edge"`},
		{"GET", "/v1/calls", "", "calls", `"silent":["w2"]`},
		{"GET", "/v1/calls/c9", "", "call c9", `"id":"c9"`},
		{"POST", "/v1/calls/c9/hangup", "", `hangup "c9" operator`, `{}`},
		{"POST", "/v1/calls/c9/transfer", `{"target":"600","leg":"a"}`, `transfer "c9" a 600`, `{}`},
		{"POST", "/v1/hangup-all", "", `hangup "" shutdown`, `{}`},
		{"POST", "/v1/inherit", `{"role":"media","binary":"/x"}`, "inherit media /x", `"pid":2`},
		{"POST", "/v1/admit", "false", "admit false", `{}`},
		{"GET", "/v1/moves", "", "moves", `"moved":7`},
		{"GET", "/v1/dialplan", "", "plan", `"version":3`},
		{"PUT", "/v1/dialplan", "peers: []", "set peers: []", `"version":4`},
		{"GET", "/v1/dialplan/test?from=a&number=12%2B3", "", "test a 12+3", `"number":"12+3"`},
		{"POST", "/v1/rollouts", `{"binary":"/x","steps":[5],"pause":"1s"}`, "start /x [5] 1s", `"id":"r1"`},
		{"GET", "/v1/rollouts/current", "", "rollout", `"id":"r1"`},
		{"POST", "/v1/rollouts/current/undo", `{"steps":[50,100]}`, "steer undo [50 100]", `"id":"r1"`},
		{"POST", "/v1/rollouts/current/pause", "", "steer pause []", `"id":"r1"`},
		{"GET", "/v1/accounts", "", "accounts", `"realm":"r"`},
		{"PUT", "/v1/accounts/bob", `{"ha1_sha256":"aa","ha1_md5":"bb"}`, "account bob aa bb", "{}"},
		{"DELETE", "/v1/accounts/bob", "", "account bob goes", "{}"},
		{"GET", "/v1/registrations", "", "registrations", `"account":"bob"`},
		{"GET", "/v1/trunks", "", "trunks", `"circuit":"up"`},
		{"GET", "/v1/cdrs?since=2026-01-02T15:04:05Z", "", "cdrs 2026-01-02T15:04:05Z", "}\n{"},
	} {
		f := &fake{}
		rec := httptest.NewRecorder()
		Handler(f).ServeHTTP(rec, httptest.NewRequest(c.method, c.path, strings.NewReader(c.body)))
		if rec.Code != 200 || f.asked != c.asks || !strings.Contains(rec.Body.String(), c.answers) {
			t.Errorf("%s %s: %d, asked %q, answered %s", c.method, c.path, rec.Code, f.asked, rec.Body)
		}
	}
}

// A dialplan that is too long is refused: its beginning could be one too.
func TestTooLongADialplan(t *testing.T) {
	f := &fake{}
	rec := httptest.NewRecorder()
	Handler(f).ServeHTTP(rec, httptest.NewRequest("PUT", "/v1/dialplan", strings.NewReader("peers: []\n"+strings.Repeat("#\n", maxBody/2))))
	if rec.Code != 413 || f.asked != "" {
		t.Errorf("%d, asked %.20q", rec.Code, f.asked)
	}
}

// An error becomes a status, a stable code and words, on every endpoint alike.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{errors.New("anything"), 500, "error"},
		{fmt.Errorf("x: %w", sessions.ErrNotFound), 404, "not-found"},
		{sessions.ErrUnavailable, 503, "store-away"},
		{sessions.ErrBusAway, 503, "store-away"},
		{sessions.ErrTimeout, 504, "time-out"},
		{context.DeadlineExceeded, 504, "time-out"},
		{Refused("rollout-running", "one runs", "end it"), 409, "rollout-running"},
	} {
		for _, path := range []string{"/v1/status", "/v1/calls/x", "/v1/cdrs"} {
			rec := httptest.NewRecorder()
			Handler(&fake{err: c.err}).ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
			if rec.Code != c.status || !strings.Contains(rec.Body.String(), `"code":"`+c.code+`"`) {
				t.Errorf("%v on %s: %d %s", c.err, path, rec.Code, rec.Body)
			}
		}
	}
}

func TestBadRequests(t *testing.T) {
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/v1/rollouts", `{"binry":"/x"}`, 400},
		{"POST", "/v1/rollouts", `{`, 400},
		{"POST", "/v1/admit", `"yes"`, 400},
		{"GET", "/v1/cdrs?since=yesterday", "", 400},
		{"PUT", "/v1/accounts/bob", `{"password":"x"}`, 400},
		{"DELETE", "/v1/calls", "", 405},
		{"GET", "/v2/calls", "", 404},
	} {
		f := &fake{}
		rec := httptest.NewRecorder()
		Handler(f).ServeHTTP(rec, httptest.NewRequest(c.method, c.path, strings.NewReader(c.body)))
		if rec.Code != c.status || f.asked != "" {
			t.Errorf("%s %s %s: %d, asked %q", c.method, c.path, c.body, rec.Code, f.asked)
		}
	}
}

// The client gives back what the handler said, over a socket with a long path.
func TestClient(t *testing.T) {
	api := serve(t, Handler(&fake{}))
	var s Status
	if err := api.Do(t.Context(), http.MethodGet, "/v1/status", nil, &s); err != nil || s.Node != "n1" {
		t.Errorf("%+v, %v", s, err)
	}
	var lines strings.Builder
	if err := api.Stream(t.Context(), "/v1/cdrs", &lines); err != nil || strings.Count(lines.String(), "\n") != 2 {
		t.Errorf("%q, %v", lines.String(), err)
	}
	api = serve(t, Handler(&fake{late: sessions.ErrUnavailable})) // half of what a carrier is billed by is no success
	if err := api.Stream(t.Context(), "/v1/cdrs", &lines); err == nil {
		t.Errorf("an export that broke off is taken for whole: %q", lines.String())
	}
	api = serve(t, Handler(&fake{err: Refused("rollout-running", "one runs", "end it")}))
	var e *Error
	err := api.Do(t.Context(), http.MethodPost, "/v1/rollouts", RolloutStart{}, nil)
	if !errors.As(err, &e) || e.Status != 409 || e.Code != "rollout-running" || err.Error() != "one runs; end it" {
		t.Errorf("%v", err)
	}
}

// What is no switch, or no more, is told with what to do.
func TestClientWithoutSwitch(t *testing.T) {
	dir := t.TempDir()
	for _, addr := range []string{dir + "/api.sock", dir, "http://127.0.0.1:1"} {
		err := NewClient(addr).Do(t.Context(), http.MethodGet, "/v1/status", nil, nil)
		if err == nil || !strings.Contains(err.Error(), "start one with 'switch serve'") {
			t.Errorf("%s: %v", addr, err)
		}
	}
	api := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-r.Context().Done()
		}
		_, _ = io.WriteString(w, "<html>")
	}))
	var s Status
	if err := api.Do(t.Context(), http.MethodGet, "/v1/status", nil, &s); err == nil || !strings.Contains(err.Error(), "does not answer like a switch") {
		t.Errorf("a stranger: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := api.Do(ctx, http.MethodGet, "/slow", nil, &s); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a silent one: %v", err)
	}
}

func serve(t *testing.T, h http.Handler) *Client {
	t.Helper()
	dir := t.TempDir() + "/" + strings.Repeat("long/", 20)
	path := dir + "api.sock"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return NewClient(path)
}

func (f *fake) Accounts(context.Context) (Accounts, error) {
	return Accounts{Realm: "r", Accounts: []Account{{Name: "bob"}}}, f.note("accounts")
}

func (f *fake) SetAccount(_ context.Context, name string, h AccountHashes) error {
	return f.note("account %s %s %s", name, h.SHA256, h.MD5)
}

func (f *fake) RemoveAccount(_ context.Context, name string) error {
	return f.note("account %s goes", name)
}

func (f *fake) Trunks(context.Context) (Trunks, error) {
	return Trunks{Trunks: []Trunk{{Name: "carrier", Addresses: []TrunkAddress{{Node: "n1", Circuit: "up"}}}}}, f.note("trunks")
}

func (f *fake) Registrations(_ context.Context, fn func(Registration) error) error {
	if err := f.note("registrations"); err != nil {
		return err
	}
	return fn(Registration{Account: "bob"})
}
