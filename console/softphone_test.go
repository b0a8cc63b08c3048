package console

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
)

func softphone() Softphone {
	return Softphone{
		Release: "r1", Listen: func(context.Context) []string {
			return []string{"udp:127.0.0.1:5060", "ws:127.0.0.1:8081", "wss:0.0.0.0:8443", "ws:192.0.2.1:80", "wss:[::1]:9443"}
		},
		Releases: func(_ context.Context, tag string) ([]OnRelease, error) {
			if tag != "good.1" {
				return nil, ErrNoCall
			}
			return []OnRelease{{Release: "r1"}, {Release: "r2", FreezeMS: 3.5}}, nil
		},
	}
}

func read(s Softphone, host, path string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Host = host
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w
}

func TestSoftphoneServesItsFilesAndNothingElse(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]int{
		"/": 200, "/main.js": 200, "/jssip.js": 200, "/style.css": 200, "/icon.svg": 200, "/phone.json": 200,
		"/README.md": 404, "/jssip/bundle": 404, "/v1/status": 404, "/v1/calls": 404, "/calls/bad/releases": 404, "/calls/good.1/releases": 200,
	} {
		w := read(softphone(), "localhost:8080", path)
		if w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
		for _, h := range []string{"Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy"} {
			if w.Header().Get(h) == "" {
				t.Errorf("%s has no %s", path, h)
			}
		}
	}
}

// The page may run its own files only, and these fetch nothing from elsewhere.
func TestSoftphoneIsStrict(t *testing.T) {
	t.Parallel()
	csp := read(softphone(), "localhost:8080", "/").Header().Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "script-src 'self';", "connect-src 'self' ws://localhost:8081 ws://192.0.2.1:80 wss://localhost:8443 wss://localhost:9443;"} {
		if !strings.Contains(csp, want) {
			t.Errorf("%q is not in %q", want, csp)
		}
	}
	if strings.Contains(csp, "unsafe") {
		t.Error(csp)
	}
	elsewhere := regexp.MustCompile(`(src|href|url|from|import|fetch)\s*[=(]?\s*['"(]?(https?:)?//`)
	inline := regexp.MustCompile(`<script>|<style|\sstyle=|\son[a-z]+=`)
	err := fs.WalkDir(softphoneFiles, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, "jssip.js") {
			return err
		}
		b, err := softphoneFiles.ReadFile(path)
		if m := elsewhere.Find(b); m != nil {
			t.Errorf("%s asks elsewhere: %s", path, m)
		}
		if m := inline.Find(b); m != nil && strings.HasSuffix(path, ".html") {
			t.Errorf("%s has %s, which the policy forbids", path, m)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSoftphoneSockets(t *testing.T) {
	t.Parallel()
	fixed := softphone()
	fixed.Sockets = []string{"wss://phone.example.com/sip"}
	for _, c := range []struct {
		s    Softphone
		host string
		want string
	}{
		{softphone(), "localhost:8080", "ws://localhost:8081 ws://192.0.2.1:80 wss://localhost:8443 wss://localhost:9443"},
		{softphone(), "127.0.0.1:8080", "ws://127.0.0.1:8081 ws://192.0.2.1:80 wss://127.0.0.1:8443 wss://127.0.0.1:9443"},
		{softphone(), "[::1]:8080", "ws://[::1]:8081 ws://192.0.2.1:80 wss://[::1]:8443 wss://[::1]:9443"},
		{softphone(), "192.0.2.9:8080", "ws://192.0.2.1:80 wss://192.0.2.9:8443"},
		{fixed, "phone.example.com", "wss://phone.example.com/sip"},
	} {
		var got struct{ Sockets []string }
		if err := json.Unmarshal(read(c.s, c.host, "/phone.json").Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if s := strings.Join(got.Sockets, " "); s != c.want {
			t.Errorf("%s: %s, want %s", c.host, s, c.want)
		}
	}
}

// A demo's passwords are told under this machine's own names alone: a foreign
// name that was made to lead here is another site's.
func TestSoftphoneTellsPasswordsUnderItsOwnNameOnly(t *testing.T) {
	t.Parallel()
	demo := softphone()
	demo.Accounts = []SoftphoneAccount{{"anna", "sesame"}}
	for host, told := range map[string]bool{
		"localhost:8080": true, "127.0.0.1:8080": true, "[::1]:8080": true, "localhost": true, "a.localhost": true,
		"evil.example:8080": false, "localhost.evil.example": false, "192.0.2.1:8080": false, "": false,
	} {
		w := read(demo, host, "/phone.json")
		if got := strings.Contains(w.Body.String(), "sesame"); got != told {
			t.Errorf("%q: told %v, want %v: %s", host, got, told, w.Body)
		}
	}
	if w := read(softphone(), "phone.example.com", "/phone.json"); w.Code != 200 {
		t.Errorf("without passwords any name will do: %d", w.Code)
	}
}

// Not more than a few stories are read at a time.
func TestSoftphoneIsBounded(t *testing.T) {
	t.Parallel()
	s := softphone()
	begun, end := make(chan bool), make(chan bool)
	s.Releases = func(context.Context, string) ([]OnRelease, error) {
		begun <- true
		<-end
		return nil, nil
	}
	h := s.Handler()
	ask := func() int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/calls/x/releases", nil))
		return w.Code
	}
	done := make(chan int)
	for range maxAsked {
		go func() { done <- ask() }()
		<-begun
	}
	if code := ask(); code != http.StatusServiceUnavailable {
		t.Errorf("one more: %d", code)
	}
	close(end)
	for range maxAsked {
		if code := <-done; code != 200 {
			t.Error(code)
		}
	}
}

func TestBundleIsTheDocumentedOne(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("softphone/README.md")
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := softphoneFiles.ReadFile("softphone/jssip.js")
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(bundle); !strings.Contains(string(readme), hex.EncodeToString(sum[:])+"  jssip.js") {
		t.Errorf("jssip.js has sha256 %x, and README.md says another: run softphone/jssip/bundle", sum)
	}
}
