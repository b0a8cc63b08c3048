package loadtest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Registrar is a carrier's, at which the switch registers: it asks for a
// password (SHA-256, a nonce for a few REGISTERs, each count once), and keeps
// account of everything that RFC 3261 10.3 makes of what comes.
type Registrar struct {
	conn           *udpTransport
	user, password string
	done           chan struct{}

	mu       sync.Mutex
	cond     chan struct{} // closed and made anew with each change
	grant    int           // seconds at most; 0 = what is asked for
	held     bool          // answers wait
	waiting  []func()
	nonce    string
	nonces   int
	counts   map[string]bool
	seen     map[string][]byte // request by branch
	answers  map[string][]byte // to it
	callID   string
	cseq     uint32
	contact  string
	until    time.Time
	granted  int
	removed  int
	repeated int
	faults   []string
}

// nonceUses is how many requests a nonce is good for.
const nonceUses = 3

// NewRegistrar starts one that knows one account.
func NewRegistrar(at, sw netip.AddrPort, user, password string) (*Registrar, error) {
	conn, err := newUDP(at, sw)
	if err != nil {
		return nil, err
	}
	r := &Registrar{
		conn: conn, user: user, password: password, done: make(chan struct{}), cond: make(chan struct{}),
		counts: map[string]bool{}, seen: map[string][]byte{}, answers: map[string][]byte{},
	}
	go func() {
		defer close(r.done)
		conn.serve(r.take)
	}()
	return r, nil
}

// Addr is where it listens.
func (r *Registrar) Addr() netip.AddrPort { return r.conn.local() }

// Close ends it.
func (r *Registrar) Close() {
	_ = r.conn.close()
	<-r.done
}

// Hold keeps answers back, or lets those that wait go.
func (r *Registrar) Hold(on bool) {
	r.mu.Lock()
	r.held = on
	waiting := r.waiting
	if !on {
		r.waiting = nil
	}
	r.mu.Unlock()
	for _, answer := range waiting {
		if !on {
			answer()
		}
	}
}

// RegistrarAccount is what has come so far.
type RegistrarAccount struct {
	Contact  string
	Until    time.Time
	CSeq     uint32
	Granted  int      // bindings made or refreshed
	Removed  int      // and taken back
	Repeated int      // retransmissions
	Waiting  int      // requests whose answer is kept back
	Faults   []string // what no client of RFC 3261 does, and every lapse of the binding
}

// Account tells it.
func (r *Registrar) Account() (RegistrarAccount, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lapse(time.Now())
	return RegistrarAccount{r.contact, r.until, r.cseq, r.granted, r.removed, r.repeated, len(r.waiting), append([]string(nil), r.faults...)}, r.cond
}

// lapse notes a binding that ended before it was refreshed; once. r.mu is held.
func (r *Registrar) lapse(now time.Time) {
	if !r.until.IsZero() && now.After(r.until) {
		r.faults = append(r.faults, fmt.Sprintf("the binding lapsed %v ago", now.Sub(r.until)))
		r.until = time.Time{}
	}
}

func (r *Registrar) take(b []byte, reply func([]byte) error) {
	m, err := parseMessage(b)
	if err != nil || m.code != 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() { close(r.cond); r.cond = make(chan struct{}) }()
	if m.method != "REGISTER" {
		r.faults = append(r.faults, "a "+m.method)
		return
	}
	branch := m.branch()
	if old, again := r.seen[branch]; again {
		r.repeated++
		if !bytes.Equal(old, m.raw) {
			r.faults = append(r.faults, "a retransmission with other bytes: "+string(m.raw))
		}
		if a := r.answers[branch]; a != nil {
			_ = reply(a)
		}
		return
	}
	r.seen[branch] = m.raw
	answer := r.answer(m, time.Now())
	send := func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.answers[branch] = answer
		_ = reply(answer)
	}
	if r.held {
		r.waiting = append(r.waiting, send)
		return
	}
	r.answers[branch] = answer
	_ = reply(answer)
}

// answer performs a new REGISTER.
func (r *Registrar) answer(m *message, now time.Time) []byte {
	cseq, _ := m.cseq()
	switch {
	case r.callID != "" && r.callID != m.callID():
		r.faults = append(r.faults, "another Call-ID")
	case cseq <= r.cseq:
		r.faults = append(r.faults, fmt.Sprintf("CSeq %d after %d in another transaction", cseq, r.cseq))
	}
	r.callID, r.cseq = m.callID(), max(r.cseq, cseq)
	if why := r.check(m); why != "" {
		r.nonces++
		r.nonce = strconv.Itoa(r.nonces) + "-" + strconv.FormatInt(now.UnixNano(), 36)
		return withHeader(respond(m, 401, "Unauthorized", "reg", "", nil),
			`WWW-Authenticate: Digest realm="carrier", nonce="`+r.nonce+`", qop="auth", algorithm=SHA-256`+why)
	}
	asked, err := strconv.Atoi(m.get("expires"))
	if err != nil {
		r.faults = append(r.faults, "no Expires")
	}
	contact := uriOf(m.get("contact"))
	r.lapse(now)
	if asked == 0 {
		if contact != r.contact {
			r.faults = append(r.faults, "another Contact is removed than was bound")
		}
		r.until, r.contact = time.Time{}, ""
		r.removed++
		return respond(m, 200, "OK", "reg", "", nil)
	}
	if r.contact != "" && contact != r.contact {
		r.faults = append(r.faults, "another Contact")
	}
	if r.grant > 0 {
		asked = min(asked, r.grant)
	}
	r.granted++
	r.contact, r.until = contact, now.Add(time.Duration(asked)*time.Second)
	return withHeader(respond(m, 200, "OK", "reg", "", nil), "Contact: <"+contact+">;expires="+strconv.Itoa(asked))
}

// withHeader puts a header line into a message that we have built.
func withHeader(b []byte, line string) []byte {
	first, rest, _ := bytes.Cut(b, []byte("\r\n"))
	return bytes.Join([][]byte{first, []byte(line), rest}, []byte("\r\n"))
}

// check says what a challenge has to say of an answer to the last one; "" = it is right.
func (r *Registrar) check(m *message) string {
	v, ok := strings.CutPrefix(m.get("authorization"), "Digest ")
	if !ok {
		return " " // nothing yet
	}
	p := map[string]string{}
	for _, part := range strings.Split(v, ", ") {
		name, value, _ := strings.Cut(part, "=")
		p[name] = strings.Trim(value, `"`)
	}
	h := func(parts ...string) string {
		return fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join(parts, ":"))))
	}
	want := h(h(r.user, "carrier", r.password), p["nonce"], p["nc"], p["cnonce"], "auth", h("REGISTER", m.uri))
	switch {
	case p["response"] != want || p["username"] != r.user:
		r.faults = append(r.faults, "a wrong password")
		return ", stale=false"
	case p["nonce"] != r.nonce, p["nc"] > fmt.Sprintf("%08x", nonceUses):
		return ", stale=true"
	case r.counts[p["nonce"]+p["nc"]]:
		r.faults = append(r.faults, "nc "+p["nc"]+" twice")
	}
	r.counts[p["nonce"]+p["nc"]] = true
	return ""
}
