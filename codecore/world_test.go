package codecore

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// world is the outside of one call as tests need it: two phones, an edge that
// takes every action, a media plane. It turns words like "b 200 sdp" into
// events, and remembers what reached the phones.
type world struct {
	t     testing.TB
	s     State
	saved State // as the record has it
	now   time.Time
	token string
	asked map[LegID][]*SendRequest // requests of ours that have no final answer yet
	last  map[LegID]SIPRequest     // last request of each party
	open  map[LegID]SIPRequest     // last INVITE of each party
	cseq  map[LegID]uint32
	toTag map[LegID]string // our tag, as learned
	rack  string           // of the last reliable provisional response to a
	txs   int
	step  func(State, time.Time, Event) (State, Result)
	wire  map[string]string // transaction -> bytes: a second form of it is a second transaction
	heard map[int]bool      // statuses of the parties' own answers
	fault error             // a second form has come, or a refusal of ours without a reason
	cdrs  []CDR
	calls map[string]LegID       // whose Call-ID: who is called first is b, then c, d, …
	first map[LegID]*SendRequest // what called each of them
	over  map[LegID]*SendRequest // the last INVITE to each that was told to be over, while it may be answered yet
}

const testToken = "0123456789abcdef01234567ffff"

var (
	testStart = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	testPlan  = &Plan{
		Version: 7,
		Peers: []PlanPeer{
			{Name: "alice", Kind: "phone", Sources: []string{"192.0.2.1"}, Target: "sip:192.0.2.1:5060"},
			{Name: "bob", Kind: "phone", Sources: []string{"192.0.2.2"}, Target: "sip:192.0.2.2:5060"},
			{Name: "carol", Kind: "phone", Sources: []string{"192.0.2.3"}, Target: "sip:192.0.2.3:5060"},
			{Name: "dave", Kind: "phone", Target: "sip:192.0.2.4:5060", Redirect: RedirectPass},
			{Name: "lcr", Kind: "trunk", Target: "sip:192.0.2.5:5060"},
			{Name: "eve", Kind: "phone", Sources: []string{"192.0.2.6"}, Target: "sip:192.0.2.6:5060", SRTP: SRTPRequired},
			{Name: "fred", Kind: "phone", Sources: []string{"192.0.2.7"}, Target: "sip:192.0.2.7:5060", SRTP: SRTPPreferred},
			{Name: "greta", Kind: "phone", Sources: []string{"192.0.2.17"}, Target: "sip:192.0.2.17:5060", SRTP: SRTPOff},
			{Name: "page", Kind: "phone", Sources: []string{"192.0.2.18"}, Target: "sip:192.0.2.18:5060", Media: MediaWebRTC},
			{Name: "named", Kind: "trunk", Target: "sip:carrier.example", Ping: 30},
			{Name: "carrier", Kind: "trunk", Target: "sip:192.0.2.8:5060", Trusted: true, In: national, Out: dialled},
			{Name: "club", Kind: "trunk", Target: "sip:club.example", Register: &Enlist{AOR: "sip:1234@club.example"}},
		},
		Routes: []PlanRoute{
			{Prefix: "1", To: "bob"},
			{Prefix: "2", Targets: []PlanTarget{{To: "bob"}, {To: "carol"}, {To: "dave"}}, Fork: ForkParallel},
			{Prefix: "3", Targets: []PlanTarget{{To: "bob", Seconds: 15}, {To: "carol"}, {To: "dave"}}},
			{Prefix: "4", To: "dave"},
			{Prefix: "5", To: "lcr"},
			{Prefix: "6", To: "carol"},
			{Prefix: "0", To: "named"},
			{Prefix: "7", To: "account:{number}"},
			{Prefix: "8", Targets: []PlanTarget{{To: "account:{number}"}, {To: "carol"}}},
			{Prefix: "*1", To: "eve"},
			{Prefix: "*2", To: "fred"},
			{Prefix: "*3", To: "greta"},
			{Prefix: "*4", To: "page"},
			{Prefix: "*7", To: "service:echo"},
			{Prefix: "*8", To: "service:tone"},
			{Prefix: "*5", Targets: []PlanTarget{{To: "bob"}, {To: "page"}, {To: "eve"}}, Fork: ForkParallel},
			{Prefix: "*6", Targets: []PlanTarget{{To: "eve", Seconds: 15}, {To: "bob"}, {To: "page"}}},
			{Prefix: "+", To: "carrier"},
			{Prefix: "+4930555", To: "bob"},
			{Prefix: "+4989", Targets: []PlanTarget{{To: "bob"}, {To: "carrier"}}},
		},
	}
)

func newWorld(t testing.TB) *world {
	return &world{
		t: t, now: testStart, step: Step, token: testToken,
		asked: map[LegID][]*SendRequest{}, last: map[LegID]SIPRequest{}, open: map[LegID]SIPRequest{},
		cseq: map[LegID]uint32{}, toTag: map[LegID]string{}, wire: map[string]string{}, heard: map[int]bool{},
		calls: map[string]LegID{}, first: map[LegID]*SendRequest{}, over: map[LegID]*SendRequest{},
	}
}

// party tells whose Call-ID it is.
func (w *world) party(callID string) LegID {
	if callID == "call-a" {
		return LegA
	}
	if _, known := w.calls[callID]; !known {
		w.calls[callID] = LegID(LegB[0] + byte(len(w.calls)))
	}
	return w.calls[callID]
}

// parties are all who have been called, after the caller.
func (w *world) parties() []LegID {
	out := []LegID{LegA}
	for i := range max(1, len(w.calls)) {
		out = append(out, LegID(LegB[0]+byte(i)))
	}
	return out
}

// addressOf is one of the addresses that a party's name stands for.
func addressOf(leg LegID, n string) string { return "udp/" + ipOf(leg) + n + ":5060" }

func ipOf(leg LegID) string { return fmt.Sprint("192.0.2.", 1+leg[0]-LegA[0]) }

// national are the rules for numbers of a trunk in Germany, dialled those back.
var (
	national = Rewrite{To: e164, From: e164}
	dialled  = Rewrite{To: plain, From: plain}
	e164     = []NumberRule{{Prefix: "+"}, {Prefix: "00", Strip: 2, Add: "+"}, {Prefix: "0", Strip: 1, Add: "+49"}}
	plain    = []NumberRule{{Prefix: "+49", Strip: 3, Add: "0"}, {Prefix: "+", Strip: 1, Add: "00"}}
)

// sdps are the bodies that words name.
func sdpOf(leg LegID, word string) []byte {
	if body := secureSDP(leg, word); body != nil {
		return body
	}
	ip := ipOf(leg)
	conn, attr, extra, port := ip, "", "", 40000
	switch word {
	case "hold":
		attr = "a=sendonly\r\n"
	case "held":
		attr = "a=recvonly\r\n"
	case "zero":
		conn = "0.0.0.0"
	case "named":
		conn = "phone.example"
	case "mux":
		attr = "a=rtcp-mux\r\n"
	case "video":
		extra = "m=video 40002 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
	case "moved":
		port = 41000
	case "fax":
		return fmt.Appendf(nil, "v=0\r\no=- 1 1 IN IP4 %s\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\nm=image 42000 udptl t38\r\na=T38FaxVersion:0\r\na=T38MaxBitRate:14400\r\na=T38FaxRateManagement:transferredTCF\r\na=T38FaxUdpEC:t38UDPRedundancy\r\n", ip, ip)
	case "nofax":
		return fmt.Appendf(nil, "v=0\r\no=- 1 1 IN IP4 %s\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\nm=image 0 udptl t38\r\n", ip, ip)
	case "six":
		return fmt.Appendf(nil, "v=0\r\no=- 1 1 IN IP6 2001:db8::1\r\ns=-\r\nc=IN IP6 2001:db8::1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0 8\r\n")
	case "opus": // RFC 7587 7.1
		return fmt.Appendf(nil, "v=0\r\no=- 1 1 IN IP4 %s\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\nm=audio 40000 RTP/AVP 96 0\r\na=rtpmap:96 opus/48000/2\r\na=fmtp:96 useinbandfec=1;maxplaybackrate=16000\r\n", ip, ip)
	case "secure":
		return []byte("v=0\r\no=- 1 1 IN IP4 " + ip + "\r\ns=-\r\nc=IN IP4 " + ip + "\r\nt=0 0\r\nm=audio 40000 RTP/SAVP 0\r\n")
	case "broken":
		return []byte("v=0\r\nm=")
	}
	return fmt.Appendf(nil, "v=0\r\no=- 1 1 IN IP4 %s\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\nm=audio %d RTP/AVP 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\n%s%s",
		ip, conn, port, attr, extra)
}

// isSDP reports whether a word names a body.
func isSDP(w string) bool {
	if kind, _, _ := strings.Cut(w, ","); kind == "webrtc" || kind == "sdes" {
		return true
	}
	return slices.Contains([]string{"sdp", "hold", "held", "zero", "mux", "video", "moved", "secure", "broken", "fax", "nofax", "opus", "six", "named"}, w)
}

// headersOf are the headers that a word like "rseq=1" stands for.
func headersOf(word string) []Header {
	name, value, _ := strings.Cut(word, "=")
	switch name {
	case "rseq":
		return []Header{{"Require", "100rel"}, {"RSeq", value}}
	case "rack":
		return []Header{{"RAck", strings.ReplaceAll(value, "_", " ")}}
	case "note":
		return []Header{{"X-Call-Note", value}}
	case "allow":
		return []Header{{"Allow", "INVITE, ACK, BYE, " + value}}
	case "se":
		return []Header{{"Session-Expires", value}}
	case "minse":
		return []Header{{"Min-SE", value}}
	}
	return []Header{{strings.ToUpper(name[:1]) + name[1:], value}}
}

// event makes the event of a line: "a INVITE sdp", "b 200 sdp tag=b2",
// "a 200 BYE", "b timeout INVITE", "wait 60s" is not one (see tick).
func (w *world) event(line string) Event {
	f := strings.Fields(line)
	switch f[0] {
	case "silent":
		return MediaSilent{Leg: LegID(f[1]), At: w.now, Reason: strings.Join(f[2:], "")}
	case "hangup":
		return HangUp{Cause: f[1]}
	case "applied":
		return MediaApplied{}
	case "accept":
		to := "edge.n1"
		if len(f) > 1 {
			to = f[1]
		}
		return Accepted{To: to, Boot: map[bool]string{true: "b1"}[to != receiverCDR], Seq: w.s.Peers[to].Minted}
	case "stored":
		return Accepted{To: "cdr", Seq: w.s.Peers["cdr"].Minted}
	case "noprack":
		t := w.s.A.open("INVITE")
		if t == nil {
			return NoPrack{At: w.now}
		}
		return NoPrack{Tx: t.Tx, RSeq: t.RSeq, At: w.now}
	case "transfer":
		return TransferTo{Leg: LegID(f[1]), Target: f[2], Plan: testPlan}
	case "noack":
		return NoAck{Tx: w.open[LegID(f[1])].Tx, At: w.now}
	}
	leg := LegID(f[0])
	switch {
	case f[1] == "again" && len(f) > 2: // its last INVITE
		return w.open[leg]
	case f[1] == "again":
		return w.last[leg]
	case unheard[f[1]] != 0:
		code := unheard[f[1]]
		if r := w.find(leg, f[2], true); r != nil {
			e := SIPTimeout{Branch: r.Branch, Code: code, At: w.now}
			for _, x := range f[3:] { // "at=1": the first address of the target, "circuit-open"
				if at, ok := strings.CutPrefix(x, "at="); ok {
					e.Failed = addressOf(leg, at)
					if f[2] == "INVITE" {
						w.over[leg] = r
					}
				} else {
					e.Code, e.Reason = 503, x
				}
			}
			return e
		}
		w.t.Fatalf("%q: nothing was asked", line)
	}
	if status, err := strconv.Atoi(f[1]); err == nil {
		return w.response(leg, status, f[2:], line)
	}
	return w.request(leg, f[1], f[2:])
}

// unheard are the ways in which a request of ours comes to nothing.
var unheard = map[string]int{"timeout": 408, "nopassword": 407, "noflow": 480, "unreachable": 503}

// find is the newest request of ours to the party of that method.
func (w *world) find(leg LegID, method string, take bool) *SendRequest {
	for i, r := range slices.Backward(w.asked[leg]) {
		if r.Msg.Method == method {
			if take {
				w.asked[leg] = slices.Delete(slices.Clone(w.asked[leg]), i, i+1)
			}
			return r
		}
	}
	return nil
}

func (w *world) response(leg LegID, status int, words []string, line string) Event {
	method, tag, body := "INVITE", "t"+string(leg), []byte(nil)
	var more []Header
	var asks []string
	var to []string
	var full map[string]string
	failed := ""
	for _, x := range words {
		switch {
		case strings.HasPrefix(x, "contact="):
			to = append(to, x[8:])
		case strings.HasPrefix(x, "tag="):
			tag = x[4:]
		case x == "late":
		case strings.HasPrefix(x, "at="):
			failed = addressOf(leg, x[3:])
		case strings.HasPrefix(x, "full="):
			full = fullOf(x)
		case strings.HasPrefix(x, "auth="):
			asks = append(asks, x[5:])
		case strings.Contains(x, "="):
			more = append(more, headersOf(x)...)
		case isSDP(x):
			body = sdpOf(leg, x)
		default:
			method = x
		}
	}
	r := w.over[leg]
	if slices.Contains(words, "late") {
		status, method = 200, "INVITE"
	} else {
		r = w.find(leg, method, status >= 300 || status >= 200 && method != "INVITE")
	}
	if r == nil {
		w.t.Fatalf("%q: nothing was asked", line)
	}
	m := Message{Method: method, Status: status, Body: body, Headers: more}
	w.heard[status] = true
	for _, h := range r.Msg.Headers {
		switch h.Name {
		case "From", "Call-ID", "CSeq":
			m.Headers = append(m.Headers, h)
		case "To":
			if _, had := tagOf(h.Value); had == "" {
				h.Value += ";tag=" + tag
			}
			m.Headers = append(m.Headers, h)
		}
	}
	for _, ask := range asks { // auth=nonce[,realm=…][,MD5|SHA-256][,stale][,plain]
		name, value := "WWW-Authenticate", `Digest realm="carrier"`
		if status == 407 {
			name = "Proxy-Authenticate"
		}
		words := strings.Split(ask, ",")
		value += `, nonce="` + words[0] + `"`
		qop := `, qop="auth,auth-int"`
		for _, x := range words[1:] {
			switch {
			case strings.HasPrefix(x, "realm="):
				value = strings.Replace(value, "carrier", x[6:], 1)
			case x == "stale":
				value += ", stale=TRUE"
			case x == "plain":
				qop = ""
			default:
				value += ", algorithm=" + x
			}
		}
		m.Add(name, value+qop)
	}
	if method == "INVITE" {
		if len(to) == 0 {
			to = []string{"<sip:" + string(leg) + "@" + ipOf(leg) + ":5060>"}
		}
		for _, v := range to {
			m.Add("Contact", v)
		}
	}
	e := SIPResponse{Branch: r.Branch, At: w.now, Msg: m, Failed: failed}
	if status/100 == 3 {
		e.Plan, e.Full = testPlan, full
	}
	return e
}

// fullOf reads "full=carrier,trunk-full".
func fullOf(word string) map[string]string {
	party, why, _ := strings.Cut(strings.TrimPrefix(word, "full="), ",")
	return map[string]string{party: why}
}

func (w *world) request(leg LegID, method string, words []string) Event {
	w.txs++
	e := SIPRequest{
		Edge: "n1", Flow: "udp/x/" + string(leg), Peer: map[LegID]string{LegA: "alice"}[leg],
		Token: w.token, Tx: fmt.Sprintf("tx%d", w.txs), At: w.now,
	}
	seq := w.cseq[leg] + 1
	if method == "ACK" || method == "CANCEL" {
		inv := w.open[leg]
		n, _ := cseqOf(&inv.Msg)
		seq = n
		if method == "CANCEL" {
			e.Tx = inv.Tx
		}
	} else {
		w.cseq[leg] = seq
	}
	from, to, callID := `"Alice" <sip:100@192.0.2.1>`, "<sip:123@198.51.100.1>", "call-a"
	if leg > LegB && w.first[leg] == nil { // it calls us
		ip := ipOf(leg)
		from, callID = "<sip:"+string(leg)+"@"+ip+">", "call-"+string(leg)
	}
	if r := w.first[leg]; r != nil {
		from, callID = r.Msg.Get("To"), r.Msg.Get("Call-ID")
		to, _ = tagOf(r.Msg.Get("From"))
	}
	if tag := w.toTag[leg]; tag != "" {
		to += ";tag=" + tag
	}
	number := "123"
	m := Message{Method: method}
	m.Headers = []Header{
		{"Via", "SIP/2.0/UDP 192.0.2.9;branch=z9hG4bK" + e.Tx},
		{"From", from + ";tag=t" + string(leg)},
		{"To", to},
		{"Call-ID", callID},
		{"CSeq", formatCSeq(seq, method)},
		{"Contact", "<sip:" + string(leg) + "@" + ipOf(leg) + ":5060>"},
	}
	hops, noPlan := "70", false
	for _, x := range words {
		switch {
		case strings.HasPrefix(x, "to="):
			number = x[3:]
		case strings.HasPrefix(x, "full="):
			e.Full = fullOf(x)
		case strings.HasPrefix(x, "peer="):
			e.Peer = x[5:]
		case strings.HasPrefix(x, "from="):
			m.Headers[1].Value = strings.Replace(m.Headers[1].Value, "100@", x[5:]+"@", 1)
		case strings.HasPrefix(x, "hops="):
			hops = x[5:]
		case strings.HasPrefix(x, "cseq="):
			n, _ := strconv.Atoi(x[5:])
			m.Headers[4].Value = formatCSeq(uint32(n), method)
		case strings.HasPrefix(x, "replaces="):
			l := w.s.leg(LegID(x[9:10]))
			d := append(slices.Clone(l.Dialogs), Dialog{Tag: "none"})[0]
			m.Add("Replaces", Replaces{CallID: l.CallID, To: l.Tag, From: d.Tag, Early: strings.HasSuffix(x, ",early")}.String())
		case x == "tls":
			e.Flow = "tls/7"
		case x == "untagged": // RFC 2543
			m.Headers[1].Value = from
		case x == "anonymous":
			m.Headers[1].Value = nobody + ";tag=t" + string(leg)
		case strings.HasPrefix(x, "nat="): // where it is seen, which its Via does not know
			e.Source = x[4:]
		case strings.HasPrefix(x, "source="): // where its Via says it is
			e.Source = x[7:]
			m.Headers[0].Value = "SIP/2.0/UDP " + e.Source + ";branch=z9hG4bK" + e.Tx
		case strings.HasPrefix(x, "contact="):
			m.Headers[5].Value = "<sip:" + string(leg) + "@" + x[8:] + ">"
		case x == "nocontact":
			m.Headers[5].Value = "<tel:1>" // names no SIP URI
		case x == "noplan":
			noPlan = true
		case x == "loop":
			e.Flow = LoopFlow
		case strings.HasPrefix(x, "peer="):
			e.Peer = x[5:]
		case strings.HasPrefix(x, "refer="):
			m.Add("Refer-To", "<sip:"+x[6:]+"@198.51.100.1>")
		case x == "quiet":
			m.Add("Refer-Sub", "false")
		case strings.Contains(x, "="):
			m.Headers = append(m.Headers, headersOf(x)...)
		case isSDP(x):
			m.Body = sdpOf(leg, x)
			m.Add("Content-Type", "application/sdp")
		case x == "dtmf":
			m.Body = []byte("Signal=5\r\n")
			m.Add("Content-Type", "application/dtmf-relay")
		}
	}
	if method == "PRACK" && m.Get("RAck") == "" {
		m.Add("RAck", w.rack)
	}
	m.Add("Max-Forwards", hops)
	m.URI = "sip:" + number + "@198.51.100.1"
	e.Msg = m
	if method == "REFER" {
		e.Plan = testPlan
	}
	if method == "INVITE" && w.s.Phase == "" {
		e.Seed, e.Plan = 42, testPlan
	}
	if noPlan {
		e.Plan = nil
	}
	w.last[leg] = e
	if method == "INVITE" {
		w.open[leg] = e
	}
	return e
}

// take steps the call, allocates media when it asks, and notes what was done.
func (w *world) take(e Event) Result {
	s, res := w.stepOne(w.s, e)
	if w.s = s; res.Save {
		w.saved = s
	}
	for _, a := range res.Actions {
		w.perform(a)
	}
	return res
}

// whereabouts are the answers of a directory.
var whereabouts = map[string]Located{
	"700": {Target: "sip:700@10.0.0.5:5062", Edge: "n2", Flow: "udp/198.51.100.1:5060/203.0.113.9:1024"},
	"701": {Target: "sip:701@10.0.0.6", Path: []string{"<sip:p1.example.net;lr>", "<sip:p2.example.net;lr>"}},
	"703": {Reason: "not-registered"},
	"704": {Reason: "unknown-account"},
	"705": {Reason: "directory-away"},
	"707": {Target: "sip:707@10.0.0.7", Edge: "n2", Flow: "udp/x/c7", More: []Located{
		{Target: "sip:707@10.0.0.8", Flow: "udp/x/c8"}, {Target: "sip:707@10.0.0.9", Path: []string{"<sip:p1.example.net;lr>"}},
	}},
	"807": {Target: "sip:807@10.0.0.7", More: []Located{{Target: "sip:807@10.0.0.8"}}},
	"710": {Target: "sip:710@10.0.1.0", More: []Located{
		{Target: "sip:710@10.0.1.1"},
		{Target: "sip:710@10.0.1.2"},
		{Target: "sip:710@10.0.1.3"},
		{Target: "sip:710@10.0.1.4"},
		{Target: "sip:710@10.0.1.5"},
		{Target: "sip:710@10.0.1.6"},
		{Target: "sip:710@10.0.1.7"},
		{Target: "sip:710@10.0.1.8"},
		{Target: "sip:710@10.0.1.9"},
	}},
	"720": {Target: "sip:720@x.invalid;transport=ws", Edge: "n1", Flow: "c17"},
	"721": {Target: "sip:721@10.0.0.5:5062", SRTP: SRTPRequired},
	"803": {Reason: "not-registered"},
}

// stepOne is what a Runner does with one event before it saves.
func (w *world) stepOne(s State, e Event) (State, Result) {
	s, res := w.step(s, w.now, e)
	for res.Locate != "" {
		var more Result
		s, more = w.step(s, w.now, whereabouts[res.Locate])
		res.Allocate, res.Actions, res.Save = more.Allocate, append(res.Actions, more.Actions...), res.Save || more.Save
		res.Reasons = append(res.Reasons, more.Reasons...)
		res.Locate = more.Locate
	}
	if len(res.Allocate) > 0 {
		got := Allocated{Node: "n1", Legs: []MediaEndpoint{{LegA, "198.51.100.1", 20000}, {LegB, "198.51.100.1", 20002}}}
		if r, ok := e.(SIPRequest); ok && strings.Contains(r.Msg.URI, "sip:1999@") {
			got = Allocated{Reason: "ports-out"}
		} else if ok && strings.Contains(r.Msg.URI, "sip:1998@") {
			got = Allocated{}
		}
		var more Result
		s, more = w.step(s, w.now, got)
		res.Actions, res.Reasons, res.Save = append(res.Actions, more.Actions...), append(res.Reasons, more.Reasons...), true
	}
	return s, res
}

// perform is what an edge and the phones behind it make of an action.
func (w *world) perform(a Action) {
	if a.Request != nil { // whose it is stands in no message
		r := *a.Request
		r.Account = ""
		a.Request = &r
	}
	raw, _ := json.Marshal(a.Effect)
	once := func(key string) {
		if old, had := w.wire[key]; had && old != string(raw) {
			w.fault = fmt.Errorf("%s went out twice, and differs:\n%s\n%s", key, old, raw)
		}
		w.wire[key] = string(raw)
	}
	switch {
	case a.Request != nil:
		r := a.Request
		if _, had := w.wire[r.Branch+r.Msg.Method]; !had && r.Msg.Method != "ACK" {
			leg := w.party(r.Msg.Get("Call-ID"))
			if w.first[leg] == nil && leg != LegA && toTag(&r.Msg) == "" {
				w.first[leg] = r
			}
			w.asked[leg] = append(slices.Clone(w.asked[leg]), r)
			if _, tag := tagOf(r.Msg.Get("From")); tag != "" {
				w.toTag[leg] = tag
			}
		}
		if a.Seq > 0 { // an ACK said again follows a refreshed target
			once(r.Branch + r.Msg.Method)
		}
	case a.Response != nil:
		if _, tag := tagOf(a.Response.Msg.Get("To")); tag != "" && strings.HasPrefix(a.Response.Msg.Get("Call-ID"), "call-") {
			w.toTag[w.party(a.Response.Msg.Get("Call-ID"))] = tag
		}
		if r := a.Response.Msg.Get("RSeq"); r != "" {
			w.rack = r + " " + a.Response.Msg.Get("CSeq")
			once(a.Response.Tx + r)
		}
		if s := a.Response.Msg.Status; s >= 300 && s != 487 && a.Response.Msg.Get("Reason") == "" && !w.heard[s] {
			w.fault = fmt.Errorf("refused with %d, and nothing says why", s)
		}
		if a.Response.Msg.Status >= 200 {
			once(a.Response.Tx + a.Response.Msg.Method)
		}
	case a.CDR != nil:
		if len(w.cdrs) == 0 || w.cdrs[len(w.cdrs)-1] != *a.CDR {
			w.cdrs = append(w.cdrs, *a.CDR)
		}
	}
}

// tick lets time pass, and the deadlines come.
func (w *world) tick(d time.Duration) (out []Result) {
	end := w.now.Add(d)
	for {
		next := -1
		for i, t := range w.s.Timers {
			if !t.At.After(end) && (next < 0 || t.At.Before(w.s.Timers[next].At)) {
				next = i
			}
		}
		if next < 0 {
			w.now = end
			return out
		}
		if at := w.s.Timers[next].At; at.After(w.now) {
			w.now = at
		}
		out = append(out, w.take(Fired{w.s.Timers[next].Timer}))
	}
}

// do plays lines and returns what the last one did.
func (w *world) do(lines ...string) Result {
	w.t.Helper()
	var r Result
	for _, l := range lines {
		if d, ok := strings.CutPrefix(l, "wait "); ok {
			span, err := time.ParseDuration(d)
			if err != nil {
				w.t.Fatal(err)
			}
			for _, x := range w.tick(span) {
				r = x
			}
			continue
		}
		r = w.take(w.event(l))
	}
	return r
}
