package codecore

// Leg is one party's side of a call: its dialogs (RFC 3261 12), the
// transactions in hand on it, and what was last agreed about its sound.
type Leg struct {
	Edge    string        `json:"edge,omitempty"` // node of its edge
	Flow    string        `json:"flow,omitempty"` // it last came by, or registered by; "" = reached by address
	CallID  string        `json:"call_id,omitempty"`
	Tag     string        `json:"tag,omitempty"`     // ours
	Local   string        `json:"local,omitempty"`   // our From/To value, without tag
	Remote  string        `json:"remote,omitempty"`  // theirs, without tag
	CSeq    uint32        `json:"cseq,omitempty"`    // our last
	SDPs    uint32        `json:"sdps,omitempty"`    // version of our last o= line
	Dialogs []Dialog      `json:"dialogs,omitempty"` // by their tag; the first confirmed one is the leg's
	Srv     []ServerTx    `json:"srv,omitempty"`     // their requests
	Cli     []ClientTx    `json:"cli,omitempty"`     // our requests
	Sound   Sound         `json:"sound,omitzero"`    // as they last described it
	Offer   *Sound        `json:"offer,omitempty"`   // theirs, not answered yet
	Lines   []string      `json:"lines,omitempty"`   // m= lines of the session with it, refused ones with what stands under them; "" = the audio; none = the audio alone
	Media   MediaEndpoint `json:"media,omitzero"`    // ours
	Told    string        `json:"told,omitempty"`    // hash of the SDP of that version
	Answers int           `json:"answers,omitempty"` // completed offer/answer exchanges: their address may be learned anew
	ByeDue  bool          `json:"bye_due,omitempty"` // BYE waits for the ACK to our 2xx (RFC 3261 15)

	// Agreed: the first offer has its answer, by a reliable provisional response
	// (reliable.go), while the INVITE has no final one.
	Agreed  bool `json:"agreed,omitempty"`
	Update  bool `json:"update,omitempty"`  // its Allow has UPDATE
	Leaving bool `json:"leaving,omitempty"` // it is being ended (legs in State.More alone)

	// AckDue is the CSeq of an INVITE of ours, in the live dialog, whose 2xx made the
	// offer: its ACK has to bring the answer, and waits for that. 0 = none does.
	AckDue uint32 `json:"ack_due,omitempty"`

	// Interval is that of its session (session.go), when we are to refresh it.
	Interval Seconds `json:"interval,omitempty"`

	Terms *Terms `json:"terms,omitempty"` // of protected media; none: plain, and no policy

	Challenges []Challenge `json:"challenges,omitempty"` // of their side, by realm (digest.go)

	// Of the legs in State.More alone.
	Name   LegID  `json:"name,omitempty"`   // handle; "" in a slot
	Target string `json:"target,omitempty"` // Request-URI of its INVITE; slot B's is State.Route's
	Peer   string `json:"peer,omitempty"`   // as RouteResult.Peer, likewise
	Early  *Early `json:"early,omitempty"`  // as State.Early, which is slot B's
}

// Dialog is one dialog of a leg. A fork gives the b-leg several.
type Dialog struct {
	Tag       string   `json:"tag"` // theirs
	Target    string   `json:"target"`
	Routes    []string `json:"routes,omitempty"`
	CSeq      uint32   `json:"cseq,omitempty"` // their last
	Confirmed bool     `json:"confirmed,omitempty"`
	Gone      bool     `json:"gone,omitempty"` // BYE sent or received
	RSeq      uint32   `json:"rseq,omitempty"` // their last reliable provisional response, while it is early
}

// ServerTx is a request of the party that awaits its final response, or has it
// and may come again.
type ServerTx struct {
	Tx     string   `json:"tx"`
	Flow   string   `json:"flow"`
	Edge   string   `json:"edge"`
	Method string   `json:"method"`
	CSeq   uint32   `json:"cseq"`
	Head   []Header `json:"head,omitempty"`   // Via, From, To, Call-ID, CSeq, Record-Route: what a response repeats; none once it is final
	Status int      `json:"status,omitempty"` // of the final response
	RSeq   uint32   `json:"rseq,omitempty"`   // of the last reliable provisional response
	// Unacked: its PRACK has not come.
	Unacked bool          `json:"unacked,omitempty"`
	Last    *SendResponse `json:"last,omitempty"` // final response, for a repeat; a 2xx to INVITE is in Pending until its ACK
}

// accepted reports whether t is an INVITE whose 2xx awaits its ACK.
func (t ServerTx) accepted() bool { return t.Method == "INVITE" && t.Status/100 == 2 }

// ClientTx is a request of ours without a final response.
type ClientTx struct {
	Branch string `json:"branch"`
	Method string `json:"method"`
	CSeq   uint32 `json:"cseq"`
	For    string `json:"for,omitempty"`   // the other leg's ServerTx it is passed on for
	Tag    string `json:"tag,omitempty"`   // dialog it is sent in; "" before there is one
	Bare   bool   `json:"bare,omitempty"`  // an INVITE without an offer: its 2xx makes one (late.go)
	Tries  int    `json:"tries,omitempty"` // challenges it has met (digest.go)
}

func (l *Leg) dialog(tag string) *Dialog {
	for i := range l.Dialogs {
		if l.Dialogs[i].Tag == tag {
			return &l.Dialogs[i]
		}
	}
	return nil
}

// live is the confirmed dialog that has not ended, if there is one.
func (l *Leg) live() *Dialog {
	for i := range l.Dialogs {
		if l.Dialogs[i].alive() {
			return &l.Dialogs[i]
		}
	}
	return nil
}

func (d Dialog) alive() bool { return d.Confirmed && !d.Gone }

func (l *Leg) srv(tx string) *ServerTx {
	for i := range l.Srv {
		if l.Srv[i].Tx == tx {
			return &l.Srv[i]
		}
	}
	return nil
}

// open is a request of the party of that method without a final response.
func (l *Leg) open(method string) *ServerTx {
	for i := range l.Srv {
		if l.Srv[i].Method == method && l.Srv[i].Status == 0 {
			return &l.Srv[i]
		}
	}
	return nil
}

func (l *Leg) cli(branch, method string) *ClientTx {
	for i := range l.Cli {
		if l.Cli[i].Branch == branch && (method == "" || l.Cli[i].Method == method) {
			return &l.Cli[i]
		}
	}
	return nil
}

// keep adds a server transaction, and lets go of older ones that are answered:
// a party that has gone on has its answers. Only a 2xx to INVITE awaits more.
func (l *Leg) keep(t ServerTx) {
	l.Srv = without(l.Srv, func(o ServerTx) bool { return o.Status != 0 && !o.accepted() })
	l.Srv = append(l.Srv, t)
}

// busy reports whether so much waits on the leg that it takes no more.
func (l *Leg) busy() bool { return len(l.Cli) >= maxWaiting || len(l.Srv) >= maxWaiting }

// A party may have so many transactions waiting on a leg, and a fork so many
// branches that answered: a record is bounded.
const (
	maxWaiting = 16
	maxDialogs = 16
)

func (l *Leg) endSrv(tx string) {
	l.Srv = without(l.Srv, func(o ServerTx) bool { return o.Tx == tx })
}
