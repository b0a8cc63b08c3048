package loadtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// ErrAPI is wrapped by every answer of the switch's API that is not 2xx.
var ErrAPI = errors.New("loadtest: api")

// APIError is the JSON body of a refused API request (any status >= 400).
type APIError struct {
	Status int    `json:"-"`               // HTTP status
	Code   string `json:"code"`            // stable reason code: "rollout-running", "not-found", …
	Text   string `json:"error"`           // what is wrong and what to do
	Where  string `json:"where,omitempty"` // "line 7" of a document that was refused
}

// Error says status, reason code and text.
func (e *APIError) Error() string {
	return fmt.Sprintf("loadtest: api: %d %s: %s %s", e.Status, e.Code, e.Text, e.Where)
}

// Unwrap makes every APIError an ErrAPI.
func (e *APIError) Unwrap() error { return ErrAPI }

// API speaks to the switch's HTTP/JSON API.
type API struct {
	http *http.Client
	base string
}

// NewAPI returns a client for the unix socket at path.
func NewAPI(path string) *API {
	var d net.Dialer
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", path)
		},
		MaxIdleConns:    2,
		IdleConnTimeout: 10 * time.Second,
	}
	return &API{http: &http.Client{Transport: t, Timeout: 30 * time.Second}, base: "http://switch"}
}

// Close drops idle connections.
func (a *API) Close() { a.http.CloseIdleConnections() }

// Status is GET /v1/status.
func (a *API) Status(ctx context.Context) (s Status, err error) {
	return s, a.do(ctx, http.MethodGet, "/v1/status", nil, &s)
}

// Calls is GET /v1/calls: every call that has not ended.
func (a *API) Calls(ctx context.Context) ([]CallInfo, error) {
	var r struct {
		Calls []CallInfo `json:"calls"`
	}
	return r.Calls, a.do(ctx, http.MethodGet, "/v1/calls", nil, &r)
}

// StartRollout is POST /v1/rollouts. It answers at once, with the document.
func (a *API) StartRollout(ctx context.Context, s RolloutStart) (r Rollout, err error) {
	return r, a.do(ctx, http.MethodPost, "/v1/rollouts", s, &r)
}

// Rollout is GET /v1/rollouts/current: the running or the last one (404: none yet).
func (a *API) Rollout(ctx context.Context) (r Rollout, err error) {
	return r, a.do(ctx, http.MethodGet, "/v1/rollouts/current", nil, &r)
}

// Steer is POST /v1/rollouts/current/{verb}: abort, undo, confirm, promote,
// pause or finalize. It answers at once, with the document.
func (a *API) Steer(ctx context.Context, verb string, s Steer) (r Rollout, err error) {
	return r, a.do(ctx, http.MethodPost, "/v1/rollouts/current/"+verb, s, &r)
}

// CDRs is GET /v1/cdrs: JSON lines (application/x-ndjson), oldest first.
func (a *API) CDRs(ctx context.Context) ([]CDR, error) {
	body, err := a.raw(ctx, http.MethodGet, "/v1/cdrs", nil)
	if err != nil {
		return nil, err
	}
	var out []CDR
	for dec := json.NewDecoder(bytes.NewReader(body)); ; {
		var c CDR
		if err := dec.Decode(&c); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, fmt.Errorf("%w: cdrs: %w", ErrAPI, err)
		}
		out = append(out, c)
	}
}

// PutDialplan is PUT /v1/dialplan; it answers with the plan as stored (its new version).
func (a *API) PutDialplan(ctx context.Context, p Dialplan) (out Dialplan, err error) {
	return out, a.do(ctx, http.MethodPut, "/v1/dialplan", p, &out)
}

// Carriers is GET /v1/registrations/out: where the switch has registered.
func (a *API) Carriers(ctx context.Context) ([]Carrier, error) {
	var r struct {
		Carriers []Carrier `json:"carriers"`
	}
	return r.Carriers, a.do(ctx, http.MethodGet, "/v1/registrations/out", nil, &r)
}

// Processes is GET /v1/processes: the host and its living children.
func (a *API) Processes(ctx context.Context) ([]Process, error) {
	var r struct {
		Processes []Process `json:"processes"`
	}
	return r.Processes, a.do(ctx, http.MethodGet, "/v1/processes", nil, &r)
}

// Moves is GET /v1/moves: all moves since the api child started.
func (a *API) Moves(ctx context.Context) (m Moves, err error) {
	return m, a.do(ctx, http.MethodGet, "/v1/moves", nil, &m)
}

// Inherit has the process of a role replaced by its next generation; binary "":
// of the same executable.
func (a *API) Inherit(ctx context.Context, role, binary string) error {
	var out struct{ PID int }
	return a.do(ctx, http.MethodPost, "/v1/inherit", struct {
		Role   string `json:"role"`
		Binary string `json:"binary,omitempty"`
	}{role, binary}, &out)
}

func (a *API) do(ctx context.Context, method, path string, in, out any) error {
	body, err := a.raw(ctx, method, path, in)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%w: %s %s: %w", ErrAPI, method, path, err)
	}
	return nil
}

func (a *API) raw(ctx context.Context, method, path string, in any) ([]byte, error) {
	var rd io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		rd = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, rd)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := a.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 256<<20))
	if err != nil {
		return nil, err
	}
	if res.StatusCode >= 300 {
		e := &APIError{Status: res.StatusCode}
		if json.Unmarshal(body, e) != nil || e.Text == "" {
			e.Text = string(body)
		}
		return nil, e
	}
	return body, nil
}
