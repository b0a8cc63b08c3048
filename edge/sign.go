package edge

import (
	"slices"

	"callswitch/codecore"
)

// signed are the headers that answer a trunk's challenges: name, value, … Of each
// realm's the topmost that we have the password or hash for is answered (RFC 8760
// 2.4); ok is false when there is none for one of them.
func (e *Edge) signed(a *codecore.SendRequest) (headers []string, ok bool) {
	var given []codecore.Authorize
	answered := func(q codecore.Authorize) bool {
		return slices.ContainsFunc(given, func(g codecore.Authorize) bool { return g.Realm == q.Realm && g.Proxy == q.Proxy })
	}
	for _, q := range a.Auth {
		if answered(q) {
			continue
		}
		if name, value, ok := e.cfg.Secrets[q.Trunk].Answer(q, a.Msg.Method, oneLine(a.Msg.URI)); ok {
			headers, given = append(headers, name, value), append(given, q)
		}
	}
	return headers, !slices.ContainsFunc(a.Auth, func(q codecore.Authorize) bool { return !answered(q) })
}
