package codecore

import "time"

// An Event is something that happened to a call. The set is closed; the names
// in [eventBox] are stored (postponed events) and sent: never rename one.
type Event interface{ event() }

// SIPRequest is a request that reached an edge and passed its validation:
// INVITE, ACK (to a 2xx), BYE, CANCEL, OPTIONS, INFO, or anything else inside a
// dialog of the call. A retransmission is absorbed by the edge's transaction
// unless the edge has restarted since; then it arrives again, with the same Tx.
type SIPRequest struct {
	Edge   string    `json:"edge"`   // node whose edge has the flow, "n1"
	Flow   string    `json:"flow"`   // "udp/<local ip:port>/<remote ip:port>" or a connection's id
	Source string    `json:"source"` // "ip:port" it came from
	Peer   string    `json:"peer"`   // trunk or phone by source address, or AccountPeer by digest; "" only inside a dialog
	Token  string    `json:"token"`  // call id and its MAC: prefix of our tags, branches and Contact users
	Tx     string    `json:"tx"`     // server transaction (RFC 3261 17.2.3), of the INVITE for a CANCEL
	At     time.Time `json:"at"`     // receive time at the edge
	Msg    Message   `json:"msg"`
	SRTP   string    `json:"srtp,omitempty"` // policy of the account it comes from (profile.go)
	Seed   uint64    `json:"seed,omitempty"` // random, from the edge; in the INVITE that begins a call
	Plan   *Plan     `json:"plan,omitempty"` // put in by the worker before the first Step; never stored

	// Full, put in likewise, are the parties that can have no further call, and why:
	// "trunk-full", "trunk-rate".
	Full map[string]string `json:"full,omitempty"`
}

// SIPResponse is a response to a request of ours, found by its branch. The edge
// passes each provisional (but 100) and final response once per To-tag (one that
// rings without SDP, and then with it, twice), and a 2xx to INVITE again when it is
// retransmitted and the edge has no ACK for it.
type SIPResponse struct {
	Branch string    `json:"branch"` // of the request, as in SendRequest
	At     time.Time `json:"at"`
	Msg    Message   `json:"msg"`
	Plan   *Plan     `json:"plan,omitempty"` // put in by the worker when Msg redirects an INVITE; never stored

	// Failed, of a 503, is the address that sent it ("udp/192.0.2.1:5060"), if the
	// request's target may have others (RFC 3263 4.3).
	Failed string `json:"failed,omitempty"`

	Full map[string]string `json:"full,omitempty"` // put in with Plan, as in SIPRequest
}

// SIPTimeout ends a client transaction without a final response: timer B or F,
// or the transport failed. Code is 408 or 503, or 407: not sent, for the edge has
// no password for the trunk. An INVITE with other addresses or in a Hurry ends
// so, too, when nothing at all is heard of it soon.
type SIPTimeout struct {
	Branch string    `json:"branch"`
	Code   int       `json:"code"`
	At     time.Time `json:"at"`
	Failed string    `json:"failed,omitempty"` // address, as in SIPResponse
	Reason string    `json:"reason,omitempty"` // the edge's reason code, where the CDR is to have it: "circuit-open"
}

// NoAck tells that the retransmissions of a 2xx to INVITE ended without an ACK
// (RFC 3261 13.3.1.4: the dialog is to be ended with a BYE).
type NoAck struct {
	Tx string    `json:"tx"`
	At time.Time `json:"at"`
}

// Allocated answers Allocate: one local address per leg, or why there is none.
type Allocated struct {
	Node   string          `json:"node,omitempty"`
	Legs   []MediaEndpoint `json:"legs,omitempty"`
	Reason string          `json:"reason,omitempty"` // "ports-out", "media-away"
}

// Fired is a deadline of State.Timers that has come.
type Fired struct {
	Timer Timer `json:"timer"`
}

// MediaSilent reports that no RTP has come from a leg for the configured time or,
// with a Reason, that none can come or go any more: "fingerprint", "dtls-failed",
// "handshake-cut", "keys-lost", "ice-consent".
type MediaSilent struct {
	Leg    LegID     `json:"leg"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
}

// Accepted tells that receiver To has taken the actions up to Seq (numbers of
// one incarnation of it, Boot). For "cdr" it means stored.
type Accepted struct {
	To   string `json:"to"`
	Boot string `json:"boot"`
	Seq  uint64 `json:"seq"`
}

// MediaApplied tells that the media plane has reached the desired state of
// generation Gen.
type MediaApplied struct {
	Gen Generation `json:"gen"`
}

// HangUp is the operator's wish to end the call, or the switch's (drain).
type HangUp struct {
	Cause string `json:"cause"` // reason code: "operator", "shutdown"
}

func (SIPRequest) event()   {}
func (SIPResponse) event()  {}
func (SIPTimeout) event()   {}
func (NoAck) event()        {}
func (Allocated) event()    {}
func (Fired) event()        {}
func (MediaSilent) event()  {}
func (Accepted) event()     {}
func (MediaApplied) event() {}
func (HangUp) event()       {}
func (Located) event()      {}

// AnyEvent is an Event as it travels: one field is set, and its name is the
// event's kind. Never rename one.
type AnyEvent struct {
	Request  *SIPRequest   `json:"request,omitempty"`
	Response *SIPResponse  `json:"response,omitempty"`
	Timeout  *SIPTimeout   `json:"timeout,omitempty"`
	NoAck    *NoAck        `json:"no_ack,omitempty"`
	Alloc    *Allocated    `json:"allocated,omitempty"`
	Fired    *Fired        `json:"fired,omitempty"`
	Silent   *MediaSilent  `json:"media_silent,omitempty"`
	Accepted *Accepted     `json:"accepted,omitempty"`
	Applied  *MediaApplied `json:"media_applied,omitempty"`
	HangUp   *HangUp       `json:"hang_up,omitempty"`
	Located  *Located      `json:"located,omitempty"`
	NoPrack  *NoPrack      `json:"no_prack,omitempty"`
	Transfer *TransferTo   `json:"transfer,omitempty"`
}

// Box makes an event ready to travel.
func Box(e Event) (b AnyEvent) {
	switch e := e.(type) {
	case SIPRequest:
		b.Request = &e
	case SIPResponse:
		b.Response = &e
	case SIPTimeout:
		b.Timeout = &e
	case NoAck:
		b.NoAck = &e
	case Allocated:
		b.Alloc = &e
	case Fired:
		b.Fired = &e
	case MediaSilent:
		b.Silent = &e
	case Accepted:
		b.Accepted = &e
	case MediaApplied:
		b.Applied = &e
	case HangUp:
		b.HangUp = &e
	case Located:
		b.Located = &e
	case NoPrack:
		b.NoPrack = &e
	case TransferTo:
		b.Transfer = &e
	}
	return b
}

// Event takes the event out; nil is of a kind that this release does not know.
func (b AnyEvent) Event() Event {
	switch {
	case b.Request != nil:
		return *b.Request
	case b.Response != nil:
		return *b.Response
	case b.Timeout != nil:
		return *b.Timeout
	case b.NoAck != nil:
		return *b.NoAck
	case b.Alloc != nil:
		return *b.Alloc
	case b.Fired != nil:
		return *b.Fired
	case b.Silent != nil:
		return *b.Silent
	case b.Accepted != nil:
		return *b.Accepted
	case b.Applied != nil:
		return *b.Applied
	case b.HangUp != nil:
		return *b.HangUp
	case b.Located != nil:
		return *b.Located
	case b.NoPrack != nil:
		return *b.NoPrack
	case b.Transfer != nil:
		return *b.Transfer
	}
	return nil
}
