package codecore

// An Action is one one-shot effect, numbered consecutively per receiver of the
// call (R3). A receiver performs number last+1 only and remembers the
// last; Seq 0 is a lossy effect (a provisional response) that is performed at
// most once and never kept in Pending: only the answer that brings it is said again.
type Action struct {
	To    string `json:"to"` // receiver: "edge.<node>", "cdr"
	Seq   uint64 `json:"seq"`
	First bool   `json:"first,omitempty"` // oldest pending for To: a receiver that holds nothing takes it as last+1
	Effect
}

// Effect is what an Action does: exactly one field is set. The names are stored
// and sent: never rename one.
type Effect struct {
	Request  *SendRequest  `json:"request,omitempty"`
	Response *SendResponse `json:"response,omitempty"`
	CDR      *CDR          `json:"cdr,omitempty"`
}

// SendRequest sends a request in a new client transaction. Msg is complete but
// for what only the edge knows: it puts its own Via (sent-by, transport,
// ;branch=Branch;rport) on top, and writes Contact as
// <sip:ContactUser@host:port;transport=…> with its advertised address.
//
// An INVITE is over at its final response, the others too; an ACK (to a 2xx) is
// over when accepted, and the edge repeats it by itself for each retransmission
// of the 2xx that it acknowledges (same Call-ID, To-tag and CSeq number).
// A CANCEL goes out with the branch of its INVITE, after a provisional response
// has come (RFC 3261 9.1: the edge waits). One without a branch cancels every INVITE
// of the call that calls somebody and has no final response; the edge completes it
// from that INVITE, and it is over when accepted.
type SendRequest struct {
	Msg         Message `json:"msg"`
	Branch      string  `json:"branch"`
	Target      string  `json:"target"`                 // SIP URI of the next hop (top Route or remote target); the edge resolves it
	Flow        string  `json:"flow,omitempty"`         // if set and alive, used instead of Target; if gone, an INVITE that begins a dialog reaches no other address
	ContactUser string  `json:"contact_user,omitempty"` // "" = no Contact
	// Account is whom it is for, if that is an account: the connection that takes the
	// place of one that is gone is one by which this account has registered the target.
	// It follows from the leg, and is put in when the action is handed out.
	Account string `json:"account,omitempty"`
	// Avoid are addresses of the target that failed (SIPTimeout.Failed); an INVITE
	// that begins a dialog fails when there is no other.
	Avoid []string `json:"avoid,omitempty"`
	// Hurry: somebody else is to be called when nothing is heard soon.
	Hurry bool `json:"hurry,omitempty"`
	// Auth are answers to a trunk's challenges, for the edge to compute. Without
	// the trunk's password it says so: a SIPTimeout with code 407.
	Auth []Authorize `json:"auth,omitempty"`
}

// SendResponse answers the server transaction Tx. Msg carries the request's
// whole Via list, so an edge that does not know Tx (it restarted) sends it by
// Via and Flow all the same. The edge keeps retransmitting a 2xx to INVITE until
// the ACK, and a failure until its ACK.
type SendResponse struct {
	Tx          string  `json:"tx"`
	Flow        string  `json:"flow"`
	Msg         Message `json:"msg"`
	ContactUser string  `json:"contact_user,omitempty"`
}
