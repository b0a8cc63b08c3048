package edge

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

// A tortureCase is the right answer to one message of RFC 4475 or RFC 5118 from
// a known peer, to a switch without a registrar whose dialplan sends every
// number to a trunk that is busy: 486 means that the call got through.
type tortureCase struct {
	name   string
	status string // of the final answer; "" = silence
	code   string // our reason code: in the Reason header and in the counters; "" = none
	why    string
}

// torture4475 are the 49 messages, in the order of the RFC.
var torture4475 = []tortureCase{
	// 3.1.1 valid messages
	{"wsinv", "481", "token", "valid, but its To-tag names a dialog that we never had (RFC 3261 12.2.2)"},
	{"intmeth", "405", "method", "any token is a method, quoted pairs may hide NUL, BEL and DEL; but it is no method of ours"},
	{"esc01", "486", "", "escapes stay escapes: the number is sips:user@example.com, as written"},
	{"escnull", "405", "method", "%00 in a user part is legal; there is no registrar"},
	{"esc02", "405", "method", "a % in a method escapes nothing: RE%47IST%45R is another method"},
	{"lwsdisp", "200", "", "no blank is needed between the display name and <"},
	{"longreq", "486", "", "long, not too long; no branch: matched as RFC 2543 did"},
	{"dblreq", "405", "method", "the second request lies behind the Content-Length of the datagram: dropped unread"},
	{"semiuri", "200", "", "the user part has a semicolon"},
	{"transports", "200", "", "transports of other hops may be unknown to us"},
	{"mpart01", "405", "method", "binary bodies pass the parser; MESSAGE is not served"},
	{"unreason", "", "token", "a response to nothing of ours: silence (RFC 3261 18.1.2)"},
	{"noreason", "", "token", "the same, and its reason phrase may be empty"},
	// 3.1.2 invalid messages
	{"badinv01", "400", "via", "semicolons and commas where parameters belong"},
	{"clerr", "400", "content-length", "more promised than the datagram has"},
	{"ncl", "400", "content-length", "negative"},
	{"scalar02", "400", "cseq", "CSeq over 2^31"},
	{"scalarlg", "", "cseq", "a response: nothing may answer it"},
	{"quotbal", "400", "address", "the quote of the display name never ends"},
	{"ltgtruri", "400", "uri", "the Request-URI stands in angles"},
	{"lwsruri", "400", "start-line", "a blank in the Request-URI"},
	{"lwsstart", "400", "start-line", "two blanks in the start line"},
	{"trws", "400", "start-line", "blanks behind the start line"},
	{"escruri", "400", "uri", "headers in a Request-URI (RFC 3261 19.1.1)"},
	{"baddate", "486", "", "the Date is not GMT; nobody here reads it, and it is not passed on"},
	{"regbadct", "400", "address", "a bare address with headers in Contact (RFC 3261 20.10)"},
	{"badaspec", "400", "address", "blanks inside the angles"},
	{"baddn", "400", "address", "a comma outside quotes in a display name"},
	{"badvers", "505", "version", "SIP/7.0"},
	{"mismatch01", "400", "cseq", "the method of the CSeq is another"},
	{"mismatch02", "400", "cseq", "the same, and both unknown"},
	{"bigcode", "", "start-line", "a response with status 4294967301: silence"},
	// 3.2 transaction layer
	{"badbranch", "200", "", "a cookie with nothing behind it: matched as RFC 2543 did"},
	// 3.3 application layer
	{"insuf", "400", "header-missing", "no From, To, Call-ID; the answer copies what there is"},
	{"unkscm", "416", "uri-scheme", "unknown URI scheme"},
	{"novelsc", "416", "uri-scheme", "a known scheme that is not SIP's"},
	{"unksm2", "405", "method", "other schemes in From, To, Contact are no error; there is no registrar"},
	{"bext01", "420", "extension", "Require and Proxy-Require of what nobody supports"},
	{"invut", "415", "content-type", "a body that is no SDP; Accept says what is"},
	{"regaut01", "405", "method", "an unknown authentication scheme; there is no registrar"},
	{"multi01", "400", "header-twice", "two Call-IDs, CSeqs, Froms, Tos"},
	{"mcl01", "400", "header-twice", "two Content-Lengths"},
	{"bcast", "", "token", "a 200 whose second Via is the broadcast address: not ours, sent nowhere"},
	{"zeromf", "200", "", "Max-Forwards 0: it has arrived, and goes no further"},
	{"cparam01", "405", "method", "unknown Contact parameters are no error; there is no registrar"},
	{"cparam02", "405", "method", "the same, inside the URI"},
	{"regescrt", "405", "method", "an escaped Route in a Contact is no error; there is no registrar"},
	{"sdp01", "406", "accept", "it accepts no SDP: the answer could not be said"},
	// 3.4 backward compatibility
	{"inv2543", "486", "", "no From-tag, no branch, no Max-Forwards, no Contact: RFC 2543"},
}

// torture5118 are the messages of RFC 5118, in its order. The Content-Length of
// three is corrected: the RFC's figures do not fit the bodies that it prints.
var torture5118 = []tortureCase{
	{"ipv6-good", "405", "method", "4.1: valid; there is no registrar"},
	{"ipv6-bad", "400", "uri", "4.2: an IPv6 address without brackets"},
	{"port-ambiguous", "405", "method", "4.3: 5070 is the end of the address: legal, and not what was meant"},
	{"port-unambiguous", "405", "method", "4.4"},
	{"via-received-param-with-delim", "481", "token", "4.5: brackets around received are taken; the dialog is none of ours"},
	{"via-received-param-no-delim", "200", "", "4.5"},
	{"ipv6-in-sdp", "488", "sdp-family", "4.6: our media is on IPv4"},
	{"mult-ip-in-header", "481", "token", "4.7"},
	{"mult-ip-in-sdp", "486", "", "4.8"},
	{"ipv4-mapped-ipv6", "486", "", "4.9"},
	{"ipv6-bug-abnf-3-colons", "400", "address", "4.10: three colons; RFC 5118 lets us be lenient, RFC 5954 does not"},
	{"ipv6-correct-abnf-2-colons", "200", "", "4.10"},
}

var (
	repeats = regexp.MustCompile(`<repeat count=(\d+)>(.*?)</repeat>`)
	hexes   = regexp.MustCompile(`<hex>([0-9a-f]*)</hex>`)
)

// torture reads a message in the notation of RFC 4475 section 2: line ends are
// CRLF, <repeat> and <hex> mean what they say there.
func torture(t *testing.T, dir, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", dir, name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n"))
	text = repeats.ReplaceAllFunc(text, func(m []byte) []byte {
		part := repeats.FindSubmatch(m)
		n, _ := strconv.Atoi(string(part[1]))
		return bytes.Repeat(part[2], n)
	})
	return hexes.ReplaceAllFunc(text, func(m []byte) []byte {
		b, err := hex.DecodeString(string(hexes.FindSubmatch(m)[1]))
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
}

// tortured is where the known peer of these tests lives: its answers come to
// the port of its Via, or to 5060 (RFC 3261 18.2.2), so it needs an address of
// its own, in each process that runs them.
var tortured = fmt.Sprintf("127.4.%d.%d", 1+os.Getpid()/250%250, 1+os.Getpid()%250)

// torturer is where the switch of these tests listens: on 5060, as most of the
// messages take for granted.
var torturer = fmt.Sprintf("127.5.%d.%d:5060", 1+os.Getpid()/250%250, 1+os.Getpid()%250)

// torturePorts are those that the messages name in their top Via.
var torturePorts = []int{5060, 6050, 19823}

func TestTortureRFC4475(t *testing.T) { runTorture(t, "rfc4475", torture4475, 49, "127.0.0.1") }
func TestTortureRFC5118(t *testing.T) { runTorture(t, "rfc5118", torture5118, 12, "127.0.0.1") }

// The same with media on IPv6: now it is the sound on IPv4 that cannot flow.
func TestTortureRFC5118WithMediaOnIPv6(t *testing.T) {
	cases := slices.Clone(torture5118)
	for i, c := range cases {
		switch c.name {
		case "ipv6-in-sdp":
			cases[i] = tortureCase{c.name, "486", "", "4.6"}
		case "mult-ip-in-sdp", "ipv4-mapped-ipv6":
			cases[i] = tortureCase{c.name, "488", "sdp-family", "4.8, 4.9: the audio is on IPv4"}
		}
	}
	runTorture(t, "rfc5118", cases, 12, "2001:db8::1")
}

func runTorture(t *testing.T, dir string, cases []tortureCase, want int, media string) {
	files, err := filepath.Glob(filepath.Join("testdata", dir, "*.txt"))
	if err != nil || len(files) != want || len(cases) != want {
		t.Fatalf("%d files, %d cases, want %d (%v)", len(files), len(cases), want, err)
	}
	e, heard := switchWithBusyTrunk(t, media)
	phone := heard.socks[0]
	for n, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			msg := torture(t, dir, c.name)
			before := e.stats.Reasons()[c.code]
			if _, err := phone.WriteToUDPAddrPort(msg, e.Addrs()[0]); err != nil {
				t.Fatal(err)
			}
			if c.status == "" { // what is sent behind it is answered, it is not
				ping := strings.ReplaceAll("OPTIONS sip:x@y SIP/2.0\nVia: SIP/2.0/UDP "+tortured+";branch=z9hG4bKp"+strconv.Itoa(n)+
					"\nFrom: <sip:a@b>;tag=1\nTo: <sip:b@c>\nCall-ID: ping"+strconv.Itoa(n)+"\nCSeq: 1 OPTIONS\nContent-Length: 0\n\n", "\n", "\r\n")
				if _, err := phone.WriteToUDPAddrPort([]byte(ping), e.Addrs()[0]); err != nil {
					t.Fatal(err)
				}
				heard.final(t, ping, string(msg))
			} else {
				got := heard.final(t, string(msg), "")
				if !strings.HasPrefix(got, "SIP/2.0 "+c.status+" ") {
					t.Errorf("want %s (%s)\n%s", c.status, c.why, got)
				}
				if c.code != "" && !strings.Contains(got, `;text="`+c.code+`"`) {
					t.Errorf("no reason code %q\n%s", c.code, got)
				}
			}
			_, ours := reasonByName(c.code)
			if ours && c.code != "" && e.stats.Reasons()[c.code] == before {
				t.Errorf("%q was not counted", c.code)
			}
		})
	}
}

func reasonByName(name string) (reason, bool) {
	for i, n := range reasonNames {
		if n == name {
			return reason(i), true
		}
	}
	return 0, false
}

// requestOf is the Call-ID and the number of a message: what a request and its answers
// have in common. Several messages of RFC 5118 have one Call-ID, and an answer to an
// INVITE is repeated while the next is asked.
func requestOf(msg string) (id string) {
	for _, header := range []string{`(?:call-id|i)\s*:\s*(.*?)\s*$`, `cseq\s*:\s*(\S+)`} {
		if m := regexp.MustCompile(`(?im)^` + header).FindStringSubmatch(msg); m != nil {
			id += m[1] + " "
		}
	}
	return id
}

// ears are the phone's sockets.
type ears struct {
	socks []*net.UDPConn
	in    chan string
}

// final waits for a final response to a request; one to the request never is a
// mistake.
func (h *ears) final(t *testing.T, to, never string) string {
	t.Helper()
	late := time.After(guard)
	for {
		select {
		case msg := <-h.in:
			id := requestOf(msg)
			if id == requestOf(to) && !strings.HasPrefix(msg, "SIP/2.0 1") {
				return msg
			}
			if never != "" && id == requestOf(never) {
				t.Fatalf("an answer to what has none:\n%s", msg)
			}
		case <-late:
			t.Fatalf("no answer to %q", requestOf(to))
		}
	}
}

// switchWithBusyTrunk is an edge with a real worker behind it, a media plane
// that says yes, a phone, and a trunk that answers every call with 486.
func switchWithBusyTrunk(t *testing.T, media string) (*Edge, *ears) {
	t.Helper()
	r := newRig(t, patient())
	r.stop()
	heard := &ears{in: make(chan string, 256)}
	for _, port := range torturePorts {
		c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(tortured), Port: port})
		if err != nil {
			t.Skipf("the phone of these messages listens on %s:%d: %v", tortured, port, err)
		}
		heard.socks = append(heard.socks, c)
		t.Cleanup(func() { c.Close() })
		go func() {
			buf := make([]byte, 65536)
			for {
				n, _, err := c.ReadFromUDPAddrPort(buf)
				if err != nil {
					return
				}
				heard.in <- string(buf[:n])
			}
		}()
	}
	go busy(r.far)
	startWorker(t, r, media)
	r.start("b2", "udp:"+torturer, patient())
	r.plan.Store(&codecore.Plan{
		Peers: []codecore.PlanPeer{
			{Name: "phone", Kind: "phone", Sources: []string{tortured}},
			{Name: "trunk", Kind: "trunk", Sources: []string{"127.0.0.1"}, Target: "sip:" + r.far.LocalAddr().String()},
		},
		Routes: []codecore.PlanRoute{{Prefix: "", To: "trunk"}},
	})
	return r.edge, heard
}

// busy answers every INVITE with 486 and every other request with 200.
func busy(c *net.UDPConn) {
	buf := make([]byte, 65536)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		head, rest, _ := strings.Cut(string(buf[:n]), "\r\n")
		status := "200 OK"
		switch {
		case strings.HasPrefix(head, "INVITE "):
			status = "486 Busy Here"
		case strings.HasPrefix(head, "ACK "), strings.HasPrefix(head, "SIP/"):
			continue
		}
		rest = regexp.MustCompile(`(?m)^To: (.*)\r$`).ReplaceAllString(rest, "To: $1;tag=t\r")
		rest = regexp.MustCompile(`(?m)^Content-Length: .*\r$`).ReplaceAllString(rest, "Content-Length: 0\r")
		rest, _, _ = strings.Cut(rest, "\r\n\r\n")
		_, _ = c.WriteToUDPAddrPort([]byte("SIP/2.0 "+status+"\r\n"+rest+"\r\n\r\n"), from)
	}
}

// startWorker runs a worker of digest "r2" with a media plane at an address that
// says yes.
func startWorker(t *testing.T, r *rig, media string) {
	t.Helper()
	for subject, h := range map[string]func(sessions.Msg){
		sessions.SubjectDo("media.n1"): func(m sessions.Msg) {
			var do sessions.DoMedia
			_ = wire.Open(m.Data, &do)
			data, _ := wire.Seal(sessions.MediaDone{Boot: "m1", Gen: do.Gen})
			_ = r.bus.Publish(m.Reply, data)
		},
		sessions.SubjectAlloc("media.n1"): func(m sessions.Msg) {
			data, _ := wire.Seal(codecore.Allocated{Node: "n1", Legs: []codecore.MediaEndpoint{
				{Leg: codecore.LegA, Addr: media, Port: 40000}, {Leg: codecore.LegB, Addr: media, Port: 40002},
			}})
			_ = r.bus.Publish(m.Reply, data)
		},
	} {
		sub, err := r.bus.Subscribe(subject, "", h)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sub.Unsubscribe() })
	}
	w := sessions.NewRunner(sessions.Config{
		ID: "w-1", Node: "n1", Release: "test", Digest: "r2", Store: sessions.NewMemStore(), Bus: r.bus,
		Plan: func() *codecore.Plan { return r.plan.Load() },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-w.Ready()
	r.release = "r2"
	r.says(func(sessions.Delivery) *sessions.Answer { return nil }) // the other worker is silent
}
