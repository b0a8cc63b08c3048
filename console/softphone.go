package console

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"
)

//go:embed softphone/*.html softphone/*.css softphone/*.js softphone/*.svg
var softphoneFiles embed.FS

// Softphone serves the page that makes a browser a phone. Nothing of the
// operator's API is reachable through it: what it tells of a call it tells only
// to who names the call by a tag of its dialog.
type Softphone struct {
	Release string // of the process that serves it

	// Listen are the edge's transports, "ws:127.0.0.1:8081" those that matter.
	Listen func(context.Context) []string
	// Sockets, when there are any, are told instead: "wss://phone.example.com/sip".
	Sockets []string

	// Accounts are told, with their passwords, to whoever reads the page: for a
	// demo, and only under a name of this machine itself.
	Accounts []SoftphoneAccount
	Numbers  []SoftphoneNumber

	// Releases is the way of the call whose dialog has the tag, oldest first.
	// Any error is "no such call" to the page.
	Releases func(ctx context.Context, tag string) ([]OnRelease, error)
}

// SoftphoneAccount is an account that the page offers.
type SoftphoneAccount struct {
	Name     string `json:"name"`
	Password string `json:"password"`
}

// SoftphoneNumber is a number that the page offers.
type SoftphoneNumber struct {
	Number string `json:"number"`
	Label  string `json:"label"`
}

// OnRelease is a stay of a call on a release.
type OnRelease struct {
	Release  string    `json:"release"`
	Since    time.Time `json:"since"`
	FreezeMS float64   `json:"freeze_ms,omitempty"` // of the move that brought it there
}

// ErrNoCall: no call has this tag, or it is over and forgotten.
var ErrNoCall = errors.New("console: no such call")

// maxAsked bounds the readers of call stories at a time: a page asks every two
// seconds, and shares the store with the calls.
const maxAsked = 4

// Handler serves the page, its settings (phone.json) and the line about releases.
func (s Softphone) Handler() http.Handler {
	mux := http.NewServeMux()
	files, err := fs.Sub(softphoneFiles, "softphone")
	if err != nil {
		panic(err) // the directive above names it
	}
	static := http.FileServerFS(files)
	mux.HandleFunc("GET /{$}", static.ServeHTTP)
	mux.HandleFunc("GET /{file}", static.ServeHTTP)
	mux.HandleFunc("GET /phone.json", s.settings)
	asked := make(chan struct{}, maxAsked)
	mux.HandleFunc("GET /calls/{tag}/releases", func(w http.ResponseWriter, r *http.Request) {
		select {
		case asked <- struct{}{}:
			defer func() { <-asked }()
			s.releases(w, r)
		default:
			http.Error(w, "too many at once", http.StatusServiceUnavailable)
		}
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(s.Accounts) > 0 && !ownName(r.Host) {
			// Another site whose name was made to lead here would read the passwords.
			http.Error(w, "this page has demo accounts: open it as http://localhost", http.StatusMisdirectedRequest)
			return
		}
		s.guard(w.Header(), s.sockets(r))
		mux.ServeHTTP(w, r)
	})
}

// guard: the page loads nothing from elsewhere, runs no script in its text, and
// stands in no other page.
func (s Softphone) guard(h http.Header, sockets []string) {
	connect := []string{"'self'"}
	for _, url := range sockets {
		scheme, rest, _ := strings.Cut(url, "://")
		host, _, _ := strings.Cut(rest, "/")
		source := scheme + "://" + host
		if strings.HasPrefix(host, "[") { // CSP has no word for an IPv6 address
			source = scheme + ":"
		}
		if !slices.Contains(connect, source) {
			connect = append(connect, source)
		}
	}
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self' blob:; connect-src "+
		strings.Join(connect, " ")+"; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
	h.Set("Permissions-Policy", "microphone=(self), speaker-selection=(self), camera=(), geolocation=()")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-cache")
}

func (s Softphone) settings(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(struct {
		Release  string             `json:"release"`
		Sockets  []string           `json:"sockets"`
		Accounts []SoftphoneAccount `json:"accounts"`
		Numbers  []SoftphoneNumber  `json:"numbers"`
	}{s.Release, orNone(s.sockets(r)), orNone(s.Accounts), orNone(s.Numbers)}) // the client has gone: nobody to tell
}

// orNone makes JSON's [] of no list.
func orNone[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func (s Softphone) releases(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	list, err := s.Releases(r.Context(), r.PathValue("tag"))
	if err != nil {
		http.Error(w, "no such call", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"releases": orNone(list)}) // as above
}

// sockets are the WebSocket URLs for a browser that reached us by r's host name.
func (s Softphone) sockets(r *http.Request) []string {
	if len(s.Sockets) > 0 {
		return s.Sockets
	}
	host := hostOf(r.Host)
	var plain, secure []string
	for _, l := range s.Listen(r.Context()) {
		kind, at, _ := strings.Cut(l, ":")
		ap, err := netip.ParseAddrPort(at)
		if err != nil || kind != "ws" && kind != "wss" {
			continue
		}
		name := ap.Addr().Unmap().String()
		switch own := ownName(r.Host); {
		case ap.Addr().Unmap().IsLoopback() && !own:
			continue // nobody there hears us
		case ap.Addr().IsUnspecified() || ap.Addr().Unmap().IsLoopback():
			name = host
		}
		url := kind + "://" + net.JoinHostPort(name, portOf(ap))
		if kind == "ws" {
			plain = append(plain, url)
		} else {
			secure = append(secure, url)
		}
	}
	if r.TLS != nil {
		return append(secure, plain...)
	}
	return append(plain, secure...)
}

func portOf(ap netip.AddrPort) string {
	_, port, _ := net.SplitHostPort(ap.String())
	return port
}

// hostOf is a Host header without its port and brackets.
func hostOf(header string) string {
	if host, _, err := net.SplitHostPort(header); err == nil {
		return host
	}
	return strings.Trim(header, "[]")
}

// ownName reports whether a Host header names this machine by itself.
func ownName(header string) bool {
	host := hostOf(header)
	if host == "localhost" || path.Ext(host) == ".localhost" { // RFC 6761 6.3
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
