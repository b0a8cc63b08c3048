package codecore

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// RouteResult says where a call goes; it is kept in State.
type RouteResult struct {
	Number string `json:"number" yaml:"number"`       // after Strip and Add
	Peer   string `json:"peer,omitempty" yaml:"peer"` // "" for a fixed URI
	Target string `json:"target" yaml:"target"`       // SIP URI of the next hop
	Prefix string `json:"prefix" yaml:"prefix"`       // of the rule that decided
}

// Errors of Route and Check.
var (
	ErrNoRoute = errors.New("codecore: no route to this number")
	ErrPlan    = errors.New("codecore: dialplan")
)

// Defaults of PlanLimits.
const (
	defaultNoAnswer Seconds = 60
	defaultMaxCall  Seconds = 4 * 3600
)

// Route finds where a peer's call to a number goes: the longest prefix that the
// peer may use, then the first listed.
func Route(p *Plan, from, number string) (RouteResult, error) {
	r, _, err := p.route(from, number)
	return r, err
}

// route is Route, with all targets; the first is the result's.
func (p *Plan) route(from, number string) (RouteResult, []Destination, error) {
	best := -1
	for i, r := range p.Routes {
		if strings.HasPrefix(number, r.Prefix) && r.takes(from) &&
			(best < 0 || len(r.Prefix) > len(p.Routes[best].Prefix)) {
			best = i
		}
	}
	if best < 0 {
		return RouteResult{}, nil, fmt.Errorf("%w: %q from %q", ErrNoRoute, number, from)
	}
	r := p.Routes[best]
	number = r.Add + number[min(r.Strip, len(number)):]
	var all []Destination
	for i, t := range r.targets() {
		d, err := p.destination(t.To, number)
		if err != nil {
			return RouteResult{}, nil, fmt.Errorf("%w: the route of prefix %q goes to %q, which is no peer", ErrNoRoute, r.Prefix, t.To)
		}
		if d.Seconds = t.Seconds; r.Fork != ForkParallel {
			d.Group = i
		}
		all = append(all, d)
	}
	return RouteResult{Number: all[0].Number, Peer: all[0].Peer, Target: all[0].Target, Prefix: r.Prefix}, all, nil
}

// Ways to call several targets.
const (
	ForkSerial   = "serial" // the default
	ForkParallel = "parallel"
)

// maxTargets bounds a route.
const maxTargets = 8

func (r *PlanRoute) targets() []PlanTarget {
	if len(r.Targets) > 0 {
		return r.Targets
	}
	return []PlanTarget{{To: r.To}}
}

// destination is where a "to" of the plan leads.
func (p *Plan) destination(to, number string) (Destination, error) {
	d := Destination{Number: number}
	if isURI(to) {
		d.Target = strings.ReplaceAll(to, "{number}", escapeUser(number))
		return d, nil
	}
	if account, ok := AccountOf(to); ok {
		d.Peer = AccountPeer(strings.ReplaceAll(account, "{number}", number))
		return d, nil
	}
	if IsService(to) {
		d.Peer = to
		return d, nil
	}
	peer := p.peer(to)
	if peer == nil {
		return d, ErrNoRoute
	}
	d.Number, d.Trusted, d.From = renumber(peer.Out.To, number), peer.Trusted, peer.Out.From
	d.SRTP, d.WebRTC = peer.SRTP, peer.Media == MediaWebRTC
	d.Peer, d.Target, d.Reliable = peer.Name, withUser(peer.Target, d.Number), peer.Reliable
	return d, nil
}

// withUser puts the number in front of a peer's address; a target that has a
// user of its own keeps it.
func withUser(target, number string) string {
	if strings.Contains(target, "@") || number == "" {
		return target
	}
	return "sip:" + escapeUser(number) + "@" + strings.TrimPrefix(target, "sip:")
}

// takes reports whether the route is for calls of this peer.
func (r *PlanRoute) takes(from string) bool {
	_, account := AccountOf(from)
	return r.From == "" || r.From == from || account && r.From == anyAccount
}

// accountLetters are what an account's name may be of (registrar.ValidName).
const accountLetters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_.!~*'+"

// anyAccount, as a route's From, stands for every account.
const anyAccount = "account"

func isAccount(s string) bool {
	name, ok := AccountOf(s)
	return ok && name != "" && strings.Trim(strings.ReplaceAll(name, "{number}", ""), accountLetters) == ""
}

func isURI(s string) bool { return strings.HasPrefix(s, "sip:") }

// canBeCalled reports whether a request can be sent to a URI of the plan: it has a
// host, a transport that there is, no headers, and nothing that ends it.
func canBeCalled(uri string) bool {
	if !isURI(uri) || strings.ContainsAny(uri, "<>\"\\?") || strings.ContainsFunc(uri, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return false
	}
	for _, p := range strings.Split(uri, ";")[1:] {
		name, v, _ := strings.Cut(strings.ToLower(p), "=")
		if name == "transport" && !slices.Contains([]string{"udp", "tcp", "tls", "ws", "wss"}, v) {
			return false
		}
	}
	host := hostOf(uri)
	if end := strings.LastIndexByte(host, ':'); end >= 0 && !strings.HasSuffix(host, "]") {
		if port, err := strconv.ParseUint(host[end+1:], 10, 16); err != nil || port == 0 {
			return false
		}
		host = host[:end]
	}
	if v6, ok := strings.CutPrefix(host, "["); ok {
		_, err := netip.ParseAddr(strings.TrimSuffix(v6, "]"))
		return err == nil && strings.HasSuffix(v6, "]")
	}
	return host != "" && !strings.ContainsAny(host, "[]:")
}

func (p *Plan) peer(name string) *PlanPeer {
	for i := range p.Peers {
		if p.Peers[i].Name == name {
			return &p.Peers[i]
		}
	}
	return nil
}

// Check reports the first rule that cannot be, with its place ("routes[3]").
func (p *Plan) Check() error {
	bad := func(place string, i int, format string, a ...any) error {
		return fmt.Errorf("%w: %s[%d]: %s", ErrPlan, place, i, fmt.Sprintf(format, a...))
	}
	names := map[string]bool{}
	for i, peer := range p.Peers {
		switch {
		case peer.Name == "" || strings.ContainsAny(peer.Name, " \t\r\n:"):
			return bad("peers", i, "name %q: give it a word without spaces or colons", peer.Name)
		case names[peer.Name]:
			return bad("peers", i, "name %q stands twice", peer.Name)
		case peer.Kind != "trunk" && peer.Kind != "phone":
			return bad("peers", i, "kind %q: trunk or phone", peer.Kind)
		case !isRedirect(peer.Redirect):
			return bad("peers", i, "redirect %q: follow, pass or refuse", peer.Redirect)
		case peer.Target != "" && !canBeCalled(peer.Target):
			return bad("peers", i, "target %q: write a URI like sip:192.0.2.1:5060", peer.Target)
		}
		if r := peer.Reliable; r != "" && r != ReliableOff && r != ReliableAllowed && r != ReliableRequired {
			return bad("peers", i, "reliable %q: off, allowed or required", r)
		}
		if why := peer.checkMedia(); why != "" {
			return bad("peers", i, "%s", why)
		}
		if why := peer.checkTrunk(); why != "" {
			return bad("peers", i, "%s", why)
		}
		names[peer.Name] = true
		for _, s := range peer.Sources {
			if _, ok := parseSource(s); !ok {
				return bad("peers", i, "source %q: write ip, ip:port or a network like 192.0.2.0/24", s)
			}
		}
	}
	if !isRedirect(p.Redirect) {
		return fmt.Errorf("%w: redirect %q: follow, pass or refuse", ErrPlan, p.Redirect)
	}
	for i, r := range p.Routes {
		switch {
		case strings.Trim(r.Prefix, "0123456789+*#abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_.") != "":
			return bad("routes", i, "prefix %q: digits, letters and + * # - _ . only", r.Prefix)
		case r.Strip < 0 || r.Strip > 64:
			return bad("routes", i, "strip %d: 0 to 64", r.Strip)
		}
		if why := p.checkTargets(&r); why != "" {
			return bad("routes", i, "%s", why)
		}
		if r.From != "" && !names[r.From] && r.From != anyAccount && (!isAccount(r.From) || strings.Contains(r.From, "{")) {
			return bad("routes", i, "from %q is no peer", r.From)
		}
	}
	if p.Limits.AccountCalls < 0 || !isRate(p.Limits.AccountRate) {
		return fmt.Errorf("%w: limits: account_calls and account_rate are numbers, and not negative", ErrPlan)
	}
	if p.Limits.NoAnswer < 0 || p.Limits.MaxCall < 0 || p.Limits.MinSE < 0 || p.Limits.SessionExpires < -1 {
		return fmt.Errorf("%w: limits: seconds cannot be negative", ErrPlan)
	}
	return p.contradiction()
}

func isRedirect(s string) bool {
	return s == "" || s == RedirectFollow || s == RedirectPass || s == RedirectRefuse
}

// checkTargets says what is wrong with where a route leads.
func (p *Plan) checkTargets(r *PlanRoute) string {
	switch {
	case len(r.Targets) > 0 && r.To != "":
		return "to and targets: write one of them"
	case len(r.Targets) > maxTargets:
		return fmt.Sprintf("%d targets, at most %d", len(r.Targets), maxTargets)
	case r.Fork != "" && r.Fork != ForkSerial && r.Fork != ForkParallel:
		return fmt.Sprintf("fork %q: serial or parallel", r.Fork)
	}
	noAnswer, _ := p.limits()
	ringing, all := Seconds(0), r.targets()
	for i, t := range all {
		peer := p.peer(t.To)
		switch {
		case t.Seconds < 0 || t.Seconds > 0 && r.Fork == ForkParallel:
			return "seconds are for targets that are called one after the other"
		case IsService(t.To) && len(all) > 1:
			return fmt.Sprintf("%s answers at once: it stands alone", t.To)
		case isURI(t.To) && !canBeCalled(t.To):
			return fmt.Sprintf("to %q: write a URI like sip:{number}@192.0.2.1:5060", t.To)
		case isURI(t.To), isAccount(t.To), IsService(t.To):
		case peer == nil:
			return fmt.Sprintf("to %q is no peer; name one of peers, or write a sip: URI, account:{number}, account: and a name, service:echo or service:tone", t.To)
		case peer.Target == "":
			return fmt.Sprintf("peer %q has no target to send calls to", t.To)
		}
		if i < len(all)-1 && r.Fork != ForkParallel {
			ringing += max(t.Seconds, 0)
			if t.Seconds == 0 {
				ringing += groupTime
			}
		}
	}
	if ringing >= noAnswer && len(all) > 1 {
		return fmt.Sprintf("target %q is called after %d s, and limits.no_answer ends the call after %d", all[len(all)-1].To, ringing, noAnswer)
	}
	return ""
}

// source is "ip", "ip:port" or "cidr".
type source struct {
	net  netip.Prefix
	port uint16 // 0 = any
}

func parseSource(s string) (source, bool) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return source{netip.PrefixFrom(ap.Addr().Unmap(), ap.Addr().Unmap().BitLen()), ap.Port()}, ap.Port() != 0
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return source{netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), 0}, true
	}
	n, err := netip.ParsePrefix(s)
	return source{n.Masked(), 0}, err == nil
}

// Identify tells which peer calls from an address: the most exact source wins.
func (p *Plan) Identify(from netip.AddrPort) (peer string, ok bool) {
	addr, best := from.Addr().Unmap(), -1
	for _, q := range p.Peers {
		for _, text := range q.Sources {
			s, good := parseSource(text)
			if !good || !s.net.Contains(addr) || s.port != 0 && s.port != from.Port() {
				continue
			}
			exact := 2 * s.net.Bits()
			if s.port != 0 {
				exact++
			}
			if exact > best {
				peer, best = q.Name, exact
			}
		}
	}
	return peer, best >= 0
}

func (p *Plan) limits() (noAnswer, maxCall Seconds) {
	noAnswer, maxCall = p.Limits.NoAnswer, p.Limits.MaxCall
	if noAnswer == 0 {
		noAnswer = defaultNoAnswer
	}
	if maxCall == 0 {
		maxCall = defaultMaxCall
	}
	return noAnswer, maxCall
}
