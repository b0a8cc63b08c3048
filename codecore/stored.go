package codecore

import "time"

// A record's body is {"stub": Stub, "state": stored}. The stored form is the
// plain twin of [State]: it says each thing once, for a record is written at each
// save, kept in each replica, and read in each move.
//
//   - What the stub says is not said again: ids, CDR, numbers of peers, and of a
//     leg with a live dialog its addresses and that dialog.
//   - What a message repeats of the call is said by name: $token, and of leg a
//     (b likewise) $a.us and $a.them (the From and To values with their tags),
//     $a.local and $a.remote (without), $a.call, $a.target, $a.flow. A branch
//     "$.1f" is z9hG4bK, the token, and ".1f". "$$" is a dollar at the beginning.
//   - A header is "Name: value"; a body is text where it can be.
//   - The desired media of a bridged call follow from the legs.
//   - A final response that is still pending stands only there; a pending CDR
//     that is the stub's is {}.
//
// These are rules of schema 1 and part of it: a repeated action must be the same
// bytes whichever release decodes it. None follows from how the call logic would
// compose a message today. Fields are stored: never rename.
type stored struct {
	Phase Phase       `json:"phase"`
	Route RouteResult `json:"route,omitzero"` // no peer = the CDR's
	A     storedLeg   `json:"a,omitzero"`
	B     storedLeg   `json:"b,omitzero"`
	More  []storedLeg `json:"more,omitempty"` // schema 2
	versioned

	Pending  []storedAction `json:"pending,omitempty"`
	Timers   []Deadline     `json:"timers,omitempty"`
	Bridged  bool           `json:"bridged,omitzero"` // Media.Legs are those of [bridged]; of protected legs since schema 2
	Media    []MediaLeg     `json:"media,omitempty"`  // Media.Legs that are not
	MediaDue bool           `json:"media_due,omitzero"`
	Early    *storedEarly   `json:"early,omitzero"`
	AnswerAt time.Time      `json:"answer_at,omitzero"`

	// Schema 2.
	Transfer    *Transfer `json:"transfer,omitempty"`
	Transferred bool      `json:"transferred,omitzero"` // the CDR says so: v0.1.0 would lose it
	Fork        *Fork     `json:"fork,omitzero"`
	Labels      uint32    `json:"labels,omitzero"`
	Avoid       []string  `json:"avoid,omitempty"`
}

type storedLeg struct {
	Edge     string           `json:"edge,omitzero"`
	Flow     string           `json:"flow,omitzero"`
	CallID   string           `json:"call_id,omitzero"`
	Tag      string           `json:"tag,omitzero"`
	Local    string           `json:"local,omitzero"`
	Remote   string           `json:"remote,omitzero"`
	CSeq     uint32           `json:"cseq,omitzero"`
	Dialogs  []Dialog         `json:"dialogs,omitempty"` // the stub's is {}; none = it alone
	Srv      []storedServerTx `json:"srv,omitempty"`
	Cli      []ClientTx       `json:"cli,omitempty"`
	Sound    Sound            `json:"sound,omitzero"`
	Offer    *Sound           `json:"offer,omitzero"`
	Lines    []string         `json:"lines,omitempty"`
	Addr     string           `json:"addr,omitzero"` // of Media
	Port     int              `json:"port,omitzero"`
	SDPs     uint32           `json:"sdps,omitzero"`
	Told     string           `json:"told,omitzero"`
	Answers  int              `json:"answers,omitzero"`
	ByeDue   bool             `json:"bye_due,omitzero"`
	AckDue   uint32           `json:"ack_due,omitzero"`
	Agreed   bool             `json:"agreed,omitzero"`
	Update   bool             `json:"update,omitzero"`
	Interval Seconds          `json:"interval,omitzero"`

	Challenges []Challenge `json:"challenges,omitempty"` // schema 2

	Terms *Terms `json:"terms,omitempty"` // schema 2

	// Schema 2, of a further leg.
	Name    LegID  `json:"name,omitzero"`
	Slot    LegID  `json:"slot,omitzero"` // whose port it has; Addr and Port are not said again
	Target  string `json:"target,omitzero"`
	Peer    string `json:"peer,omitzero"`
	Leaving bool   `json:"leaving,omitzero"`

	Early *storedEarly `json:"early,omitzero"`
}

type storedServerTx struct {
	Tx      string          `json:"tx"`
	Flow    string          `json:"flow,omitzero"`
	Edge    string          `json:"edge,omitzero"`
	Method  string          `json:"method"`
	CSeq    uint32          `json:"cseq,omitzero"`
	Head    []string        `json:"head,omitempty"`
	Status  int             `json:"status,omitzero"`
	RSeq    uint32          `json:"rseq,omitzero"`
	Unacked bool            `json:"unacked,omitzero"`
	Last    *storedResponse `json:"last,omitzero"`
}

type storedAction struct {
	To       string          `json:"to"`
	Seq      uint64          `json:"seq"`
	Request  *storedRequest  `json:"request,omitzero"`
	Response *storedResponse `json:"response,omitzero"`
	CDR      *CDR            `json:"cdr,omitzero"`
}

type storedRequest struct {
	storedMessage
	Branch      string `json:"branch"`
	Target      string `json:"target,omitzero"`
	Flow        string `json:"flow,omitzero"`
	ContactUser string `json:"contact_user,omitzero"`

	// Schema 2.
	Auth  []Authorize `json:"auth,omitempty"`
	Avoid []string    `json:"avoid,omitempty"`
	Hurry bool        `json:"hurry,omitzero"`
}

type storedResponse struct {
	Tx   string `json:"tx"`
	Flow string `json:"flow,omitzero"`
	storedMessage
	ContactUser string `json:"contact_user,omitzero"`
}

type storedMessage struct {
	Method  string   `json:"method,omitzero"`
	URI     string   `json:"uri,omitzero"`
	Status  int      `json:"status,omitzero"`
	Reason  string   `json:"reason,omitzero"`
	Headers []string `json:"headers,omitempty"`
	storedBody
}

type storedBody struct {
	Text  string `json:"text,omitzero"`
	Bytes []byte `json:"bytes,omitempty"` // a body that is not UTF-8
}

type storedEarly struct {
	Tag string `json:"tag"`
	storedBody
}
