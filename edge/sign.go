package edge

import "callswitch/codecore"

// signs reports whether this edge has the passwords that a request asks for.
func (e *Edge) signs(a *codecore.SendRequest) bool {
	for _, q := range a.Auth {
		if _, _, ok := e.cfg.Secrets[q.Trunk].Answer(q, a.Msg.Method, oneLine(a.Msg.URI)); !ok {
			return false
		}
	}
	return true
}

// signed are the headers that answer a trunk's challenges: name, value, …
func (e *Edge) signed(a *codecore.SendRequest) (out []string) {
	for _, q := range a.Auth {
		if name, value, ok := e.cfg.Secrets[q.Trunk].Answer(q, a.Msg.Method, oneLine(a.Msg.URI)); ok {
			out = append(out, name, value)
		}
	}
	return out
}
