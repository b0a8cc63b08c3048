package console

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A browser on this machine cannot be made to work the API by a page of another
// site, nor by one whose name was made to lead here.
func TestPagesOfOthersDoNotReachTheAPI(t *testing.T) {
	for _, c := range []struct {
		method, path, host string
		header             map[string]string
		status             int
	}{
		{"POST", "/v1/hangup-all", "127.0.0.1:8080", nil, 200},
		{"POST", "/v1/hangup-all", "localhost:8080", nil, 200},
		{"POST", "/v1/hangup-all", "[::1]:8080", nil, 200},
		{"POST", "/v1/hangup-all", "127.0.0.1:8080", map[string]string{"Origin": "http://evil.example"}, 403},
		{"POST", "/v1/hangup-all", "127.0.0.1:8080", map[string]string{"Origin": "null"}, 403},
		{"POST", "/v1/hangup-all", "127.0.0.1:8080", map[string]string{"Origin": "http://127.0.0.1:9999"}, 403}, // a page on another port is another's
		{"POST", "/v1/hangup-all", "localhost:8080", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		{"POST", "/v1/hangup-all", "localhost:8080", map[string]string{"Sec-Fetch-Site": "same-site"}, 403},
		{"PUT", "/v1/dialplan", "localhost:8080", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		{"DELETE", "/v1/accounts/bob", "localhost:8080", map[string]string{"Origin": "https://evil.example"}, 403},
		{"POST", "/v1/hangup-all", "evil.example:8080", map[string]string{"Origin": "http://evil.example:8080", "Sec-Fetch-Site": "same-origin"}, 421}, // rebound
		{"GET", "/v1/calls", "evil.example:8080", nil, 421},
		{"GET", "/v1/cdrs", "localhost.evil.example", nil, 421},
		{"GET", "/v1/calls", "192.0.2.1:8080", nil, 421},
		{"GET", "/v1/calls", "", nil, 421},
		{"GET", "/v1/calls", "127.0.0.1:8080", map[string]string{"Sec-Fetch-Site": "cross-site"}, 200}, // sent, but not shown to that page
	} {
		f := &fake{}
		r := httptest.NewRequest(c.method, c.path, strings.NewReader(""))
		r.Host = c.host
		for k, v := range c.header {
			r.Header.Set(k, v)
		}
		w := httptest.NewRecorder()
		Local(Handler(f)).ServeHTTP(w, r)
		if w.Code != c.status || (f.asked != "") != (c.status == http.StatusOK) {
			t.Errorf("%s %s at %q, %v: %d, asked %q", c.method, c.path, c.host, c.header, w.Code, f.asked)
		}
		for name := range w.Header() {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s is told to %v", name, c.header)
			}
		}
		if w.Header().Get("Cross-Origin-Resource-Policy") != "same-origin" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: headers %v", c.path, w.Header())
		}
	}
}
