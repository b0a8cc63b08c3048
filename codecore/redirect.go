package codecore

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Redirections (RFC 3261 8.1.3.4): what a 3xx to our INVITE leads to. The plan's
// policy decides:
//
//	follow  call what the Contacts name, the highest q first, one after the
//	        other. Whom they name is found as if the redirecting party had
//	        dialled the number, so nobody reaches by a redirection what he may not
//	        call; a trunk may also name an address of a peer of the plan outright
//	        (a redirect server that chooses the carrier). Anything else is refused.
//	pass    the caller gets the 3xx with its Contacts. Only for callers that may
//	        know them: nothing is hidden then.
//	refuse  the caller gets 480.

// Policies of a redirection.
const (
	RedirectFollow = "follow" // the default
	RedirectPass   = "pass"
	RedirectRefuse = "refuse"
)

const (
	maxRedirects = 5 // one after the other in a call
	maxContacts  = 8 // of one of them
)

// redirect is the plan's policy for what a peer answers.
func (p *Plan) redirect(peer string) string {
	policy := p.Redirect
	if q := p.peer(peer); q != nil && q.Redirect != "" {
		policy = q.Redirect
	}
	if policy == "" {
		policy = RedirectFollow
	}
	return policy
}

// redirected takes a 3xx from a branch; false when nothing follows from it but
// that the branch has failed.
func (c *call) redirected(leg LegID, e SIPResponse) bool {
	if e.Plan == nil || c.A.Agreed || e.Msg.Status > 302 { // 305 and 380 name no other number
		return false
	}
	from := c.peerOf(leg)
	switch e.Plan.redirect(from) {
	case RedirectRefuse:
		return false
	case RedirectPass:
		to := e.Msg.All("Contact")
		c.branchFailed(leg, Failure{Status: e.Msg.Status, Cause: "callee", Contacts: to[:min(len(to), maxContacts)]}, e.At)
		return true
	}
	f := c.fork()
	if f.Depth++; f.Depth > maxRedirects {
		c.branchFailed(leg, Failure{Status: 482, Cause: "redirect-depth"}, e.At)
		return true
	}
	f.Tried = slices.Clone(f.Tried)
	for _, id := range c.legs()[1:] {
		f.Tried = append(f.Tried, c.target(id))
	}
	f.Tried = f.Tried[max(0, len(f.Tried)-maxDestinations):]
	places, status, cause := []Destination(nil), 480, "redirect-refused"
	for i, uri := range byWeight(e.Msg.All("Contact")) {
		found, ok := e.Plan.redirectTo(from, RequestURI(uri))
		if !ok || len(places)+len(found) > maxContacts {
			continue
		}
		for _, d := range found {
			if why := c.full(e.Full, d.Peer); why != "" {
				status, cause = 503, why
				continue
			}
			if d.Target != "" && slices.Contains(f.Tried, d.Target) || d.unknown() && d.Peer == from {
				status, cause = 482, "redirect-loop"
				continue
			}
			d.Group = f.Depth<<8 + i<<4 + d.Group // none of another redirection
			places = append(places, d)
		}
	}
	if len(places) == 0 {
		c.branchFailed(leg, Failure{Status: status, Cause: cause}, e.At)
		return true
	}
	c.left(leg)
	c.res.Save = true
	c.places = places
	c.settle()
	return true
}

// redirectTo is where a Contact of a redirecting party leads.
func (p *Plan) redirectTo(from, uri string) ([]Destination, bool) {
	number := userOf(uri)
	if q := p.peer(from); q != nil && q.Kind == "trunk" && isURI(uri) && !strings.ContainsAny(uri, "?<>\" ") && !strings.Contains(strings.ToLower(uri), ";maddr=") {
		for _, peer := range p.Peers {
			if peer.Target != "" && strings.EqualFold(hostOf(peer.Target), hostOf(uri)) {
				return []Destination{{Peer: peer.Name, Number: number, Target: uri, Reliable: peer.Reliable, Trusted: peer.Trusted, From: peer.Out.From, SRTP: peer.SRTP, WebRTC: peer.Media == MediaWebRTC}}, true
			}
		}
	}
	if number == "" {
		return nil, false
	}
	_, found, err := p.route(from, number)
	return found, err == nil && !IsService(found[0].Peer)
}

// byWeight are the URIs of Contacts, the highest q first (RFC 3261 20.10).
func byWeight(values []string) []string {
	type contact struct {
		uri string
		q   float64
	}
	var all []contact
	for _, v := range values[:min(len(values), maxContacts)] {
		c := contact{uriOf(v), 1}
		_, params, _ := strings.Cut(v[max(0, strings.LastIndexByte(v, '>')):], ";")
		for _, p := range strings.Split(params, ";") {
			name, value, _ := strings.Cut(p, "=")
			if !strings.EqualFold(strings.TrimSpace(name), "q") {
				continue
			}
			if q, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil {
				c.q = q
			}
		}
		all = append(all, c)
	}
	slices.SortStableFunc(all, func(x, y contact) int { return cmp.Compare(y.q, x.q) })
	uris := make([]string, len(all))
	for i, c := range all {
		uris[i] = c.uri
	}
	return uris
}

func contacts(values []string) []Header {
	out := make([]Header, len(values))
	for i, v := range values {
		out[i] = Header{"Contact", v}
	}
	return out
}
