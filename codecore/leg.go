package codecore

import (
	"slices"
	"strconv"
	"strings"
)

// Leg is one party's side of a call: its dialogs (RFC 3261 12), the
// transactions in hand on it, and what was last agreed about its sound.
type Leg struct {
	Edge    string        `json:"edge,omitempty"` // node of its edge
	Flow    string        `json:"flow,omitempty"` // it came by (leg a)
	CallID  string        `json:"call_id,omitempty"`
	Tag     string        `json:"tag,omitempty"`     // ours
	Local   string        `json:"local,omitempty"`   // our From/To value, without tag
	Remote  string        `json:"remote,omitempty"`  // theirs, without tag
	CSeq    uint32        `json:"cseq,omitempty"`    // our last
	Dialogs []Dialog      `json:"dialogs,omitempty"` // by their tag; the first confirmed one is the leg's
	Srv     []ServerTx    `json:"srv,omitempty"`     // their requests
	Cli     []ClientTx    `json:"cli,omitempty"`     // our requests
	Sound   Sound         `json:"sound,omitzero"`    // as they last described it
	Offer   *Sound        `json:"offer,omitempty"`   // theirs, not answered yet
	Media   MediaEndpoint `json:"media,omitzero"`    // ours
	SDPs    uint64        `json:"sdps,omitempty"`    // version of our next o= line
	Answers int           `json:"answers,omitempty"` // completed offer/answer exchanges: their address may be learned anew
	Body    []byte        `json:"-"`                 // the caller's offer, between routing and allocation
	ByeDue  bool          `json:"bye_due,omitempty"` // BYE waits for the ACK to our 2xx (RFC 3261 15)
}

// Dialog is one dialog of a leg. A fork gives the b-leg several.
type Dialog struct {
	Tag       string   `json:"tag"` // theirs
	Target    string   `json:"target"`
	Routes    []string `json:"routes,omitempty"`
	CSeq      uint32   `json:"cseq,omitempty"` // their last
	Confirmed bool     `json:"confirmed,omitempty"`
	Gone      bool     `json:"gone,omitempty"` // BYE sent or received
}

// ServerTx is a request of the party that awaits its final response, or has it
// and may come again.
type ServerTx struct {
	Tx     string        `json:"tx"`
	Flow   string        `json:"flow"`
	Edge   string        `json:"edge"`
	Method string        `json:"method"`
	Head   []Header      `json:"head"`           // Via, From, To, Call-ID, CSeq, Record-Route: what a response repeats
	Last   *SendResponse `json:"last,omitempty"` // final response, for a repeat
}

// ClientTx is a request of ours without a final response.
type ClientTx struct {
	Branch string `json:"branch"`
	Method string `json:"method"`
	CSeq   uint32 `json:"cseq"`
	For    string `json:"for,omitempty"` // the other leg's ServerTx it is passed on for
	Tag    string `json:"tag,omitempty"` // dialog it is sent in; "" before there is one
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
		if d := &l.Dialogs[i]; d.Confirmed && !d.Gone {
			return d
		}
	}
	return nil
}

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
		if l.Srv[i].Method == method && l.Srv[i].Last == nil {
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

// keep adds a server transaction, and lets go of older ones that are answered.
func (l *Leg) keep(t ServerTx) {
	l.Srv = slices.DeleteFunc(l.Srv, func(o ServerTx) bool { return o.Last != nil && o.Method != "INVITE" })
	l.Srv = append(l.Srv, t)
}

func (l *Leg) endSrv(tx string) {
	l.Srv = slices.DeleteFunc(l.Srv, func(o ServerTx) bool { return o.Tx == tx })
}

// cseqOf reads "102 INVITE".
func cseqOf(m *Message) (n uint32, method string) {
	num, method, _ := strings.Cut(strings.TrimSpace(m.Get("CSeq")), " ")
	v, _ := strconv.ParseUint(num, 10, 32)
	return uint32(v), strings.TrimSpace(method)
}

// tagOf reads the tag parameter of a From or To value, and the value without it.
func tagOf(value string) (bare, tag string) {
	start := strings.LastIndexByte(value, '>') // parameters of the header stand behind it
	if start < 0 {
		start = 0
		if i := strings.IndexByte(value, ';'); i >= 0 {
			start = i
		}
	}
	head, params := value[:start], value[start:]
	var kept strings.Builder
	for i, p := range strings.Split(params, ";") {
		name, v, _ := strings.Cut(strings.TrimSpace(p), "=")
		if i > 0 && strings.EqualFold(strings.TrimSpace(name), "tag") {
			tag = strings.TrimSpace(v)
			continue
		}
		if i > 0 {
			kept.WriteByte(';')
		}
		kept.WriteString(p)
	}
	return strings.TrimSpace(head + kept.String()), tag
}

// uriOf reads the URI of a name-addr or addr-spec (RFC 3261 20.10).
func uriOf(value string) string {
	if _, rest, ok := cutName(value); ok {
		uri, _, _ := strings.Cut(rest, ">")
		return strings.TrimSpace(uri)
	}
	uri, _, _ := strings.Cut(value, ";")
	return strings.TrimSpace(uri)
}

// cutName splits `"Name" <uri>…` at the angle, quoted strings passed over.
func cutName(value string) (name, rest string, ok bool) {
	quoted := false
	for i := 0; i < len(value); i++ {
		switch {
		case quoted && value[i] == '\\':
			i++
		case value[i] == '"':
			quoted = !quoted
		case !quoted && value[i] == '<':
			return strings.TrimSpace(value[:i]), value[i+1:], true
		}
	}
	return "", "", false
}

// userOf reads the user part of a SIP or tel URI: the number.
func userOf(uri string) string {
	scheme, rest, ok := strings.Cut(uri, ":")
	if !ok {
		return ""
	}
	if strings.EqualFold(scheme, "tel") {
		num, _, _ := strings.Cut(rest, ";")
		return num
	}
	user, _, ok := strings.Cut(rest, "@")
	if !ok {
		return ""
	}
	user, _, _ = strings.Cut(user, ":")
	user, _, _ = strings.Cut(user, ";")
	return user
}

// hostOf reads host[:port] of a SIP URI.
func hostOf(uri string) string {
	_, rest, _ := strings.Cut(uri, ":")
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		rest = rest[i+1:]
	}
	end := strings.IndexAny(rest, ";?")
	if end >= 0 {
		rest = rest[:end]
	}
	return rest
}
