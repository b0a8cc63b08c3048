package codecore

import "strings"

// accountPrefix marks a party that is an account, not a peer of the dialplan:
// the name of a peer has no colon.
const accountPrefix = "account:"

// AccountPeer is how an account is named where peers are: in SIPRequest.Peer, in
// RouteResult.Peer and in CDRs.
func AccountPeer(name string) string { return accountPrefix + name }

// AccountOf reads the account of such a name.
func AccountOf(peer string) (name string, ok bool) { return strings.CutPrefix(peer, accountPrefix) }

// Located answers Result.Locate: where the account can be reached, or why not.
// The choice is made once, before the first save, and lives in the record from
// then on: as the route's target, the b-leg's edge and flow, and the Route
// headers of its INVITE. So a move, a takeover and a new edge find it there.
type Located struct {
	Target string   `json:"target,omitempty"` // its contact: Request-URI
	Path   []string `json:"path,omitempty"`   // RFC 3327: Route set of the INVITE
	Edge   string   `json:"edge,omitempty"`   // node that has the flow; "" = the caller's
	Flow   string   `json:"flow,omitempty"`   // it registered by: the only way through a NAT; "" = by Target or Path
	SRTP   string   `json:"srtp,omitempty"`   // policy of the account (profile.go)
	Reason string   `json:"reason,omitempty"` // "unknown-account", "not-registered", "directory-away"

	// More are its other contacts, the newest first: all are called at once.
	More []Located `json:"more,omitempty"`
}

// routesBefore is the Route set of a request of ours before there is a dialog:
// the path of the registration; a CANCEL has that of its INVITE (RFC 3261 9.1).
func (c *call) routesBefore(leg LegID, method string, cseq uint32) []string {
	if method == "INVITE" {
		return c.path
	}
	branch := c.inForce(leg, "INVITE", cseq, "")
	for _, a := range c.Pending {
		if a.Request != nil && a.Request.Branch == branch && a.Request.Msg.Method == "INVITE" {
			return a.Request.Msg.All("Route")
		}
	}
	return nil
}
