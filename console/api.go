// Package console is the one way in for people and programs: the HTTP/JSON API
// behind the command line and the pages. It translates requests into calls of a
// Backend and errors into words and codes; it keeps nothing and decides nothing
// about calls.
package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

// Backend answers the API. cmd/switch wires it to the bus, the store and the host.
type Backend interface {
	Status(ctx context.Context) (Status, error)
	Processes(ctx context.Context) ([]Process, error)
	Calls(ctx context.Context) (Calls, error)
	Call(ctx context.Context, id codecore.CallID) (Call, error)
	HangUp(ctx context.Context, id codecore.CallID, cause string) error // id "": all calls
	Transfer(ctx context.Context, id codecore.CallID, t Transfer) error
	Inherit(ctx context.Context, in Inherit) (Inherited, error)
	Admit(ctx context.Context, on bool) error
	CDRs(ctx context.Context, since time.Time, fn func(codecore.CDR) error) error
	Plan(ctx context.Context) (codecore.Plan, error)
	SetPlan(ctx context.Context, source []byte) (codecore.Plan, error)
	Accounts(ctx context.Context) (Accounts, error)
	SetAccount(ctx context.Context, name string, hashes AccountHashes) error
	RemoveAccount(ctx context.Context, name string) error
	Trunks(ctx context.Context) (Trunks, error)
	Registrations(ctx context.Context, fn func(Registration) error) error
	Carriers(ctx context.Context) (Carriers, error)
	TestPlan(ctx context.Context, from, number string) (codecore.RouteResult, error)
	StartRollout(ctx context.Context, r RolloutStart) (Rollout, error)
	Rollout(ctx context.Context) (Rollout, error)
	SteerRollout(ctx context.Context, verb string, s Steer) (Rollout, error)
	Moves(ctx context.Context) (Moves, error)
}

// An Error of the API: the status says the kind, Code is stable, Fix says what to do.
type Error struct {
	Status int    `json:"-"`
	Code   string `json:"code"`
	Text   string `json:"error"`
	Fix    string `json:"fix,omitempty"`
}

func (e *Error) Error() string {
	if e.Fix == "" {
		return e.Text
	}
	return e.Text + "; " + e.Fix
}

// Refused makes an error of a request that is understood and not done (exit 5).
func Refused(code, text, fix string) error {
	return &Error{http.StatusConflict, code, text, fix}
}

const maxBody = 1 << 20

// Handler serves the API of b.
func Handler(b Backend) http.Handler {
	mux := http.NewServeMux()
	get := func(path string, fn func(*http.Request) (any, error)) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) { answer(w, r, fn) })
	}
	post := func(path string, fn func(*http.Request) (any, error)) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) { answer(w, r, fn) })
	}
	get("/v1/status", func(r *http.Request) (any, error) { return b.Status(r.Context()) })
	get("/v1/processes", func(r *http.Request) (any, error) {
		ps, err := b.Processes(r.Context())
		return map[string]any{"processes": ps}, err
	})
	get("/v1/calls", func(r *http.Request) (any, error) { return b.Calls(r.Context()) })
	get("/v1/calls/{id}", func(r *http.Request) (any, error) {
		return b.Call(r.Context(), codecore.CallID(r.PathValue("id")))
	})
	post("/v1/calls/{id}/hangup", func(r *http.Request) (any, error) {
		return struct{}{}, b.HangUp(r.Context(), codecore.CallID(r.PathValue("id")), "operator")
	})
	post("/v1/calls/{id}/transfer", func(r *http.Request) (any, error) {
		var t Transfer
		if err := decode(r, &t); err != nil {
			return nil, err
		}
		return struct{}{}, b.Transfer(r.Context(), codecore.CallID(r.PathValue("id")), t)
	})
	post("/v1/hangup-all", func(r *http.Request) (any, error) { return struct{}{}, b.HangUp(r.Context(), "", "shutdown") })
	post("/v1/inherit", func(r *http.Request) (any, error) {
		var in Inherit
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		return b.Inherit(r.Context(), in)
	})
	post("/v1/admit", func(r *http.Request) (any, error) {
		var on bool
		if err := decode(r, &on); err != nil {
			return nil, err
		}
		return struct{}{}, b.Admit(r.Context(), on)
	})
	get("/v1/moves", func(r *http.Request) (any, error) { return b.Moves(r.Context()) })
	get("/v1/dialplan", func(r *http.Request) (any, error) { return b.Plan(r.Context()) })
	mux.HandleFunc("PUT /v1/dialplan", func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, func(r *http.Request) (any, error) {
			source, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
			switch {
			case err != nil:
				return nil, err
			case len(source) > maxBody: // cut off, it could still be read, as another one
				return nil, &Error{http.StatusRequestEntityTooLarge, "dialplan", fmt.Sprintf("the dialplan is longer than %d bytes", maxBody), "the plan in force has not changed"}
			}
			return b.SetPlan(r.Context(), source)
		})
	})
	get("/v1/accounts", func(r *http.Request) (any, error) { return b.Accounts(r.Context()) })
	mux.HandleFunc("PUT /v1/accounts/{name}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, func(r *http.Request) (any, error) {
			var h AccountHashes
			if err := decode(r, &h); err != nil {
				return nil, err
			}
			return struct{}{}, b.SetAccount(r.Context(), r.PathValue("name"), h)
		})
	})
	mux.HandleFunc("DELETE /v1/accounts/{name}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, func(r *http.Request) (any, error) {
			return struct{}{}, b.RemoveAccount(r.Context(), r.PathValue("name"))
		})
	})
	mux.HandleFunc("GET /v1/registrations", func(w http.ResponseWriter, r *http.Request) {
		lines(w, func(enc *json.Encoder) error {
			return b.Registrations(r.Context(), func(x Registration) error { return enc.Encode(x) })
		})
	})
	get("/v1/registrations/out", func(r *http.Request) (any, error) { return b.Carriers(r.Context()) })
	get("/v1/trunks", func(r *http.Request) (any, error) { return b.Trunks(r.Context()) })
	get("/v1/dialplan/test", func(r *http.Request) (any, error) {
		return b.TestPlan(r.Context(), r.FormValue("from"), r.FormValue("number"))
	})
	post("/v1/rollouts", func(r *http.Request) (any, error) {
		var req RolloutStart
		if err := decode(r, &req); err != nil {
			return nil, err
		}
		return b.StartRollout(r.Context(), req)
	})
	get("/v1/rollouts/current", func(r *http.Request) (any, error) { return b.Rollout(r.Context()) })
	post("/v1/rollouts/current/{verb}", func(r *http.Request) (any, error) {
		var s Steer
		if err := decode(r, &s); err != nil {
			return nil, err
		}
		return b.SteerRollout(r.Context(), r.PathValue("verb"), s)
	})
	mux.HandleFunc("GET /v1/cdrs", func(w http.ResponseWriter, r *http.Request) { cdrs(b, w, r) })
	return mux
}

// cdrs writes JSON lines, so that an export of any size streams.
func cdrs(b Backend, w http.ResponseWriter, r *http.Request) {
	var since time.Time
	if s := r.FormValue("since"); s != "" {
		var err error
		if since, err = time.Parse(time.RFC3339, s); err != nil {
			fail(w, &Error{http.StatusBadRequest, "usage", "since: " + err.Error(), "write it like 2026-01-02T15:04:05Z"})
			return
		}
	}
	lines(w, func(enc *json.Encoder) error {
		return b.CDRs(r.Context(), since, func(c codecore.CDR) error { return enc.Encode(c) })
	})
}

// lines writes one line for each value. What fails after the first breaks the answer
// off: its status has been sent, and a reader must not take what came for all.
func lines(w http.ResponseWriter, write func(*json.Encoder) error) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	sent := &counted{Writer: w}
	switch err := write(json.NewEncoder(sent)); {
	case err == nil:
	case sent.n == 0:
		fail(w, err)
	default:
		panic(http.ErrAbortHandler)
	}
}

// counted counts the bytes written.
type counted struct {
	io.Writer
	n int
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.n += n
	return n, err
}

func decode(r *http.Request, v any) error {
	d := json.NewDecoder(io.LimitReader(r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil && !errors.Is(err, io.EOF) {
		return &Error{http.StatusBadRequest, "usage", fmt.Sprintf("request body: %v", err), "send one JSON object"}
	}
	return nil
}

func answer(w http.ResponseWriter, r *http.Request, fn func(*http.Request) (any, error)) {
	v, err := fn(r)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client has gone: nobody to tell
}

func fail(w http.ResponseWriter, err error) {
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{http.StatusInternalServerError, "error", err.Error(), ""}
		switch {
		case errors.Is(err, sessions.ErrNotFound):
			e.Status, e.Code = http.StatusNotFound, "not-found"
		case errors.Is(err, sessions.ErrUnavailable), errors.Is(err, sessions.ErrBusAway):
			e.Status, e.Code, e.Fix = http.StatusServiceUnavailable, "store-away", "calls in progress keep their sound; try again when NATS is back"
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, sessions.ErrTimeout):
			e.Status, e.Code = http.StatusGatewayTimeout, "time-out"
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Status)
	_ = json.NewEncoder(w).Encode(e)
}
