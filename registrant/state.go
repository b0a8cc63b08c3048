package registrant

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strconv"
	"time"

	"callswitch/codecore"
)

// State is all that a registration needs to go on anywhere. Its steps are
// functions of it, the time and what happened. Stored: never rename a field.
type State struct {
	Peer    string          `json:"peer"`
	Plan    uint64          `json:"plan"`    // version of the dialplan that Account is from
	Account codecore.Enlist `json:"account"` // what is, or is being, registered
	Token   string          `json:"token"`   // of our branches and our Contact: EnlistID and its MAC
	Seed    uint64          `json:"seed"`
	CallID  string          `json:"call_id"` // one for ever
	Tag     string          `json:"tag"`
	CSeq    uint32          `json:"cseq"` // of the last REGISTER

	Edge    string           `json:"edge,omitempty"`    // node that it goes out by, and whose address is in the Contact
	Tx      *Tx              `json:"tx,omitempty"`      // the REGISTER without a final response
	Leaving bool             `json:"leaving,omitempty"` // the binding is to be removed
	Min     codecore.Seconds `json:"min,omitempty"`     // shortest that the registrar takes, by its 423

	Challenges []codecore.Challenge `json:"challenges,omitempty"` // answered in each REGISTER, the newest last

	Until time.Time `json:"until,omitzero"` // the binding lasts, counted from before it was asked for
	Since time.Time `json:"since,omitzero"` // bound without a gap
	Next  time.Time `json:"next,omitzero"`  // the next REGISTER is due

	Fails  int       `json:"fails,omitempty"` // in a row
	Reason string    `json:"reason,omitempty"`
	Status int       `json:"status,omitempty"` // SIP status of the last failure
	Failed time.Time `json:"failed,omitzero"`
}

// Tx is a REGISTER under way. Stored: never rename a field.
type Tx struct {
	Branch  string               `json:"branch"`
	CSeq    uint32               `json:"cseq"`
	At      time.Time            `json:"at"`              // decided
	Expires codecore.Seconds     `json:"expires"`         // 0 removes the binding
	Tries   int                  `json:"tries,omitempty"` // it follows on so many that were asked for more
	Auth    []codecore.Authorize `json:"auth,omitempty"`
	Avoid   []string             `json:"avoid,omitempty"` // addresses of the registrar that have failed in this round
}

// Reasons of failures: stable codes, for people, logs and metrics.
const (
	ReasonNoAnswer    = "no-answer"         // 408, the registrar's or the edge's
	ReasonUnreachable = "unreachable"       // the edge found no way to it
	ReasonNoPassword  = "no-password"       // trunks.passwords has none for this trunk
	ReasonWrong       = "wrong-password"    // it was answered, and asked for again
	ReasonChallenge   = "challenge-unknown" // nothing in it that can be answered
	ReasonForbidden   = "forbidden"         // 403
	ReasonBusy        = "registrar-busy"    // 480, 486, 5xx
	ReasonInterval    = "interval"          // 423 without end
	ReasonRefused     = "refused"           // any other failure
	ReasonNotBound    = "not-bound"         // a 2xx that grants nothing
)

const (
	// txGiveUp is later than any answer: the edge's own time-out is 32 s.
	txGiveUp = 45 * time.Second
	maxAvoid = 4 // addresses of a registrar that are given up in a round, and one more is tried
	maxTries = 5 // REGISTERs of one round: of two realms each stale once, and a 423

	quickFirst, quickMost = 30 * time.Second, 10 * time.Minute // between rounds that failed by chance
	slowRetry             = 15 * time.Minute                   // and by decision: asking more often gets one locked out
	mostAfter             = time.Hour                          // of a Retry-After that is believed
	mostGranted           = 7 * 24 * time.Hour                 // of a binding
	leaveTries            = 3                                  // rounds of removing a binding that ends by itself
)

// New is a registration that has never been asked for. random is any number, the
// seed of all that must be unlike another's.
func New(peer string, p *codecore.Plan, token string, random uint64, now time.Time) State {
	s := State{Peer: peer, Plan: p.Version, Account: p.Enlisted()[peer], Token: token, Seed: random, Next: now}
	s.CallID, s.Tag = s.hash(16, "call-id"), s.hash(8, "tag")
	return s
}

// hash is n bytes, in hex, that only this registration and these words have.
func (s *State) hash(n int, words ...string) string {
	b := binary.BigEndian.AppendUint64(nil, s.Seed)
	for _, w := range words {
		b = append(append(b, '/'), w...)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:n])
}

// spread is a part of d between half of it and all, another one for each REGISTER:
// trunks that failed together do not come back together.
func (s *State) spread(d time.Duration) time.Duration {
	b, _ := hex.DecodeString(s.hash(2, "spread", strconv.FormatUint(uint64(s.CSeq), 10)))
	return d/2 + d/2*time.Duration(binary.BigEndian.Uint16(b))/0xffff
}

// Contact is the user part of our Contact.
func (s *State) Contact() string {
	if s.Account.Contact != "" {
		return s.Account.Contact
	}
	return s.Token
}

// Bound reports whether the carrier has our binding.
func (s *State) Bound(now time.Time) bool { return s.Until.After(now) }

// Names of what a registration is doing, for people.
const (
	Asking     = "asking"  // a REGISTER is under way and nothing is bound
	Registered = "bound"   // calls come here
	Waiting    = "waiting" // it failed, and is tried again at Next
	Removing   = "leaving" // the binding is being removed
)

// Doing names what the registration does now.
func (s *State) Doing(now time.Time) string {
	switch {
	case s.Leaving:
		return Removing
	case s.Bound(now):
		return Registered
	case s.Tx != nil || s.Fails == 0:
		return Asking
	}
	return Waiting
}

// Request is the action that is wanted of an edge: the REGISTER without a final
// response. Its number is its CSeq, and nothing before it is wanted any more.
func (s *State) Request() (codecore.Action, bool) {
	t := s.Tx
	if t == nil {
		return codecore.Action{}, false
	}
	a := &s.Account
	m := codecore.Message{Method: "REGISTER", URI: a.Registrar()}
	target := m.URI
	if a.Proxy != "" {
		target = a.Proxy
		m.Add("Route", "<"+a.Proxy+";lr>")
	}
	m.Add("Max-Forwards", "70")
	m.Add("From", "<"+a.AOR+">;tag="+s.Tag)
	m.Add("To", "<"+a.AOR+">")
	m.Add("Call-ID", s.CallID)
	m.Add("CSeq", strconv.FormatUint(uint64(t.CSeq), 10)+" REGISTER")
	m.Add("Expires", strconv.Itoa(int(t.Expires)))
	m.Add("Allow", "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, PRACK, UPDATE, REFER")
	return codecore.Action{To: "edge." + s.Edge, Seq: uint64(t.CSeq), First: true, Effect: codecore.Effect{Request: &codecore.SendRequest{
		Msg: m, Branch: t.Branch, Target: target, ContactUser: s.Contact(), Auth: t.Auth, Avoid: t.Avoid,
	}}}, true
}

// send decides the next REGISTER; avoid are addresses that failed in this round.
func (s *State) send(expires codecore.Seconds, tries int, avoid []string, now time.Time) {
	s.CSeq++
	n := strconv.FormatUint(uint64(s.CSeq), 10)
	s.Tx = &Tx{Branch: "z9hG4bK" + s.Token + "." + s.hash(8, "branch", n), CSeq: s.CSeq, At: now, Expires: expires, Tries: tries, Avoid: avoid}
	s.Challenges = slices.Clone(s.Challenges)
	for i := range s.Challenges {
		q := &s.Challenges[i]
		q.Count++
		x := codecore.Authorize{Trunk: s.Peer, Realm: q.Realm, Nonce: q.Nonce, Opaque: q.Opaque, Algorithm: q.Algorithm, Proxy: q.Proxy}
		if !q.Plain {
			x.NC, x.Cnonce = q.Count, s.hash(8, "cnonce", n)
		}
		s.Tx.Auth = append(s.Tx.Auth, x)
	}
}
