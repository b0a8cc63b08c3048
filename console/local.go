package console

import "net/http"

// Local guards a handler without a login on a TCP port of this machine from the
// browsers that run on it. A page of another site can send requests there, and
// reads their answers too once its name leads here (DNS rebinding): so who asks
// must call us by a name of this machine itself, and what changes something must
// not come from a page of elsewhere.
func Local(h http.Handler) http.Handler {
	p := http.NewCrossOriginProtection()
	p.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fail(w, &Error{http.StatusForbidden, "cross-origin", "a page of another site sent this", "use 'switch', or a client that is no browser"})
	}))
	h = p.Handler(h)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
		if !ownName(r.Host) {
			fail(w, &Error{http.StatusMisdirectedRequest, "foreign-name", "this is the API of a switch, and " + r.Host + " is no name of its machine", "call it 127.0.0.1 or localhost; a proxy before it sets that as Host"})
			return
		}
		h.ServeHTTP(w, r)
	})
}
