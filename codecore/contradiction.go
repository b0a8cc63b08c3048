package codecore

import (
	"fmt"
	"strings"
)

// contradiction reports the first rule of a plan that can be for itself, but not
// beside another one: what the operator wrote second would never count.
func (p *Plan) contradiction() error {
	bad := func(place string, format string, a ...any) error {
		return fmt.Errorf("%w: %s: %s", ErrPlan, place, fmt.Sprintf(format, a...))
	}
	sources := map[source]string{}
	for i, peer := range p.Peers {
		place := fmt.Sprintf("peers[%d]", i)
		if peer.Name == anyAccount {
			return bad(place, "name %q: that word means every account, as a route's from; choose another", peer.Name)
		}
		for _, text := range peer.Sources {
			s, _ := parseSource(text)
			if s.net.Addr().Is4In6() {
				return bad(place, "source %q: write the IPv4 network itself", text)
			}
			if other, taken := sources[s]; taken {
				return bad(place, "source %q is that of %q already: one address cannot be two peers", text, other)
			}
			sources[s] = peer.Name
		}
		for _, q := range p.Peers[:i] {
			if r := peer.Register; r != nil && q.Register != nil && r.AOR == q.Register.AOR && r.Registrar() == q.Register.Registrar() {
				return bad(place, "register: %q registers as %s there already", q.Name, r.AOR)
			}
		}
		for _, rules := range [][]NumberRule{peer.In.To, peer.In.From, peer.Out.To, peer.Out.From} {
			for j, r := range rules {
				for _, before := range rules[:j] {
					if strings.HasPrefix(r.Prefix, before.Prefix) {
						return bad(place, "rule of prefix %q is never used: the rule of prefix %q before it fits first; write the longer prefix first", r.Prefix, before.Prefix)
					}
				}
			}
		}
	}
	for i, r := range p.Routes {
		for j, q := range p.Routes[:i] {
			_, account := AccountOf(r.From)
			account = account || r.From == anyAccount
			if q.Prefix == r.Prefix && (q.From == "" || q.From == r.From || q.From == anyAccount && account) {
				return bad(fmt.Sprintf("routes[%d]", i), "prefix %q is never used: routes[%d] takes it before; write targets to call several, or the narrower from first", r.Prefix, j)
			}
		}
	}
	l := p.Limits
	switch {
	case l.MinSE > maxSession || l.MinSE != 0 && l.MinSE < defaultMinSE:
		return bad("limits.min_se", "%d: write %d to %d", l.MinSE, defaultMinSE, maxSession)
	case l.SessionExpires > maxSession:
		return bad("limits.session_expires", "%d: write up to %d, or -1 for no session timers", l.SessionExpires, maxSession)
	case l.SessionExpires > 0 && l.SessionExpires < max(l.MinSE, defaultMinSE):
		return bad("limits.session_expires", "%d is less than min_se, %d: we would ask for what we refuse", l.SessionExpires, max(l.MinSE, defaultMinSE))
	}
	return nil
}
