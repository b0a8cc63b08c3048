package edge

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"callswitch/codecore"
	"callswitch/sessions"
)

// wire is the far end of a TCP connection that speaks SIP.
type tcpFar struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func newTCPFar(t *testing.T, conn net.Conn, err error) *tcpFar {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &tcpFar{t, conn, bufio.NewReader(conn)}
}

func (f *tcpFar) send(msg string) {
	f.t.Helper()
	if _, err := f.conn.Write([]byte(msg)); err != nil {
		f.t.Fatal(err)
	}
}

// hear reads messages until one whose start line has want.
func (f *tcpFar) hear(want string) string {
	f.t.Helper()
	_ = f.conn.SetReadDeadline(time.Now().Add(guard))
	for {
		var msg strings.Builder
		length := 0
		for {
			line, err := f.in.ReadString('\n')
			if err != nil {
				f.t.Fatalf("waiting for %q: %v", want, err)
			}
			msg.WriteString(line)
			_, _ = fmt.Sscanf(line, "Content-Length: %d", &length)
			if line == "\r\n" {
				break
			}
		}
		body := make([]byte, length)
		for n := 0; n < length; {
			k, err := f.in.Read(body[n:])
			if err != nil {
				f.t.Fatal(err)
			}
			n += k
		}
		if begins(msg.String(), want) {
			return msg.String() + string(body)
		}
	}
}

// viaTCP is a request of a phone that listens on a TCP port.
func (r *rig) viaTCP(method, branch, port string) string {
	_, own, _ := strings.Cut(r.far.LocalAddr().String(), ":")
	return strings.Replace(strings.ReplaceAll(r.request(method, branch, ""), "SIP/2.0/UDP", "SIP/2.0/TCP"), "127.0.0.1:"+own+";rport", "127.0.0.1:"+port+";rport", 1)
}

func ringing(r *rig) {
	r.says(func(d sessions.Delivery) *sessions.Answer {
		if q, is := d.Event.Event().(codecore.SIPRequest); is && q.Msg.Method == "INVITE" {
			return ok(d, action(1, response(q, 180)))
		}
		return ok(d)
	})
}

func TestACallerWhoseConnectionDiesWhileItRingsIsCancelled(t *testing.T) {
	r := newRig(t, patient())
	ringing(r)
	c, err := net.Dial("tcp", r.edge.Addrs()[1].String())
	f := newTCPFar(t, c, err)
	f.send(r.viaTCP("INVITE", "1", "1")) // nobody listens on port 1
	f.hear("180")
	inv := event(r, func(q codecore.SIPRequest) bool { return q.Msg.Method == "INVITE" })
	c.Close()
	q := event(r, func(q codecore.SIPRequest) bool { return q.Msg.Method == "CANCEL" })
	if q.Tx != inv.Tx || q.Token != inv.Token || !strings.Contains(q.Msg.Get("Reason"), `"connection-broken"`) || q.Msg.Get("CSeq") != "7 CANCEL" {
		t.Fatalf("%+v", q)
	}
}

func TestACallerThatListensGetsItsAnswerOverANewConnection(t *testing.T) {
	r := newRig(t, patient())
	ringing(r)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := strings.Cut(ln.Addr().String(), ":")
	c, err := net.Dial("tcp", r.edge.Addrs()[1].String())
	f := newTCPFar(t, c, err)
	f.send(r.viaTCP("INVITE", "1", port))
	f.hear("180")
	q := event(r, func(q codecore.SIPRequest) bool { return q.Msg.Method == "INVITE" })
	c.Close()
	back, err := ln.Accept()
	g := newTCPFar(t, back, err)
	r.says(func(d sessions.Delivery) *sessions.Answer { return ok(d, action(2, response(q, 200))) })
	udp := r.request("OPTIONS", "2", "TOTAG="+q.Token+".t")
	r.send(udp) // any event of the call brings the answer's action
	g.hear("200 Fine")
}

// overTCP is our request to a TCP address.
func (r *rig) overTCP(token string, addr net.Addr) codecore.Effect {
	e := r.outgoing(token, "INVITE")
	e.Request.Target = "sip:2@" + addr.String() + ";transport=tcp"
	return e
}

func TestACalleeWhoseConnectionDiesWhileItRings(t *testing.T) {
	for _, back := range []bool{true, false} {
		t.Run(fmt.Sprint("listens again ", back), func(t *testing.T) {
			r := newRig(t, patient())
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			r.says(func(d sessions.Delivery) *sessions.Answer {
				if q, is := d.Event.Event().(codecore.SIPRequest); is && q.Msg.Method == "INVITE" {
					return ok(d, action(1, r.overTCP(q.Token, ln.Addr())))
				}
				return ok(d)
			})
			r.send(r.request("INVITE", "1", ""))
			c, err := ln.Accept()
			f := newTCPFar(t, c, err)
			inv := f.hear("INVITE")
			f.send("SIP/2.0 180 Ringing\r\n" + strings.SplitN(strings.Replace(inv, "To: <sip:2@x>", "To: <sip:2@x>;tag=far", 1), "\r\n", 2)[1])
			event(r, func(e codecore.SIPResponse) bool { return e.Msg.Status == 180 })
			if !back {
				ln.Close()
			}
			c.Close()
			if !back {
				if e := event[codecore.SIPTimeout](r, nil); e.Code != 503 {
					t.Fatalf("%+v", e)
				}
				return
			}
			c, err = ln.Accept()
			f = newTCPFar(t, c, err)
			if again := f.hear("INVITE"); again != inv {
				t.Fatalf("not the same transaction:\n%s\n%s", inv, again)
			}
			f.send("SIP/2.0 200 OK\r\n" + strings.SplitN(strings.Replace(inv, "To: <sip:2@x>", "To: <sip:2@x>;tag=far", 1), "\r\n", 2)[1])
			event(r, func(e codecore.SIPResponse) bool { return e.Msg.Status == 200 })
		})
	}
}

// portOfBoth gives the phone a UDP port that nobody else has by TCP. It listens there,
// or only holds it.
func (r *rig) portOfBoth(listens bool) (ln net.Listener) {
	r.t.Helper()
	for range 100 {
		far, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() { far.Close() })
		r.far = far
		if listens {
			if ln, err = net.Listen("tcp", far.LocalAddr().String()); err == nil {
				return ln
			}
			continue
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() { _ = unix.Close(fd) })
		if unix.Bind(fd, &unix.SockaddrInet4{Port: far.LocalAddr().(*net.UDPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}) == nil {
			return nil
		}
	}
	r.t.Fatal("no port is free")
	return nil
}

func TestALongRequestGoesByTCPWhereThePeerListens(t *testing.T) {
	for _, c := range []struct {
		name        string
		listens     bool
		params, via string
	}{
		{"it listens", true, "", "TCP"},
		{"it does not", false, "", "UDP"},
		{"its URI says udp", true, ";transport=udp", "UDP"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, patient())
			ln := r.portOfBoth(c.listens)
			if ln != nil {
				defer ln.Close()
			}
			r.says(func(d sessions.Delivery) *sessions.Answer {
				if q, is := d.Event.Event().(codecore.SIPRequest); is && q.Msg.Method == "INVITE" {
					e := r.outgoing(q.Token, "INVITE")
					e.Request.Msg.Add("X-Long", strings.Repeat("x", maxUDP))
					e.Request.Target += c.params
					return ok(d, action(1, e))
				}
				return ok(d)
			})
			r.send(r.request("INVITE", "1", ""))
			var inv string
			if c.via == "TCP" {
				conn, err := ln.Accept()
				f := newTCPFar(t, conn, err)
				inv = f.hear("INVITE")
				f.send("SIP/2.0 486 Busy Here\r\n" + strings.SplitN(inv, "\r\n", 2)[1])
				f.hear("ACK")
			} else {
				inv = r.hear("INVITE sip:2@")
			}
			if !strings.Contains(inv, "Via: SIP/2.0/"+c.via+" ") {
				t.Error(inv)
			}
		})
	}
}

func TestAConnectionWhoseLengthsLieIsAnsweredAndClosed(t *testing.T) {
	r := newRig(t, patient())
	good := r.viaTCP("OPTIONS", "1", "1")
	for name, msg := range map[string]string{
		"negative": strings.Replace(good, "l: 0", "l: -1", 1),
		"none":     strings.Replace(good, "l: 0\r\n", "", 1),
		"two":      strings.Replace(good, "l: 0", "l: 0\r\nl: 400", 1),
		"huge":     strings.Replace(good, "l: 0", "l: 4000000000", 1),
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", r.edge.Addrs()[1].String())
			f := newTCPFar(t, c, err)
			f.send(good + msg + good)
			f.hear("200")
			if got := f.hear("SIP/2.0 "); !strings.HasPrefix(got, "SIP/2.0 400") || !strings.Contains(got, "Reason: SIP;cause=400") {
				t.Error(got)
			}
			if b, err := f.in.ReadByte(); err == nil {
				t.Errorf("something came behind: %q", b)
			}
		})
	}
}

func TestAReaderThatIsTooSlowLosesItsConnectionAndHoldsUpNobody(t *testing.T) {
	r := newRig(t, patient())
	c, err := net.Dial("tcp", r.edge.Addrs()[1].String())
	f := newTCPFar(t, c, err)
	f.send(r.viaTCP("OPTIONS", "0", "1"))
	f.hear("200")
	_ = c.(*net.TCPConn).SetReadBuffer(4096)
	msg := []byte(strings.Replace(r.viaTCP("OPTIONS", "1", "1"), "<sip:1@x>", "<sip:"+strings.Repeat("x", 7000)+"@x>", 1))
	_ = c.SetWriteDeadline(time.Now().Add(guard))
	for r.edge.stats.Reasons()["slow-reader"] == 0 {
		if _, err := c.Write(msg); err != nil && r.edge.stats.Reasons()["slow-reader"] == 0 {
			time.Sleep(time.Millisecond)
			if r.edge.stats.Reasons()["slow-reader"] == 0 {
				t.Fatal("closed for another reason: ", err)
			}
		}
	}
	r.send(r.request("OPTIONS", "2", ""))
	r.hear("200")
}

func TestNewCallsFollowTheWeights(t *testing.T) {
	r := newRig(t, patient())
	r.edge.cfg.Weights = func() []Weight { return []Weight{{"a", 10}, {"b", 30}, {"c", 0}, {"d", 60}} }
	n := map[string]int{}
	for i := range 4000 {
		id := codecore.CallID(r.edge.ids.sum(idLen, "x", fmt.Sprint(i)))
		first := r.edge.release(id, 0)
		if again := r.edge.release(id, 0); again != first {
			t.Fatal("a re-sent INVITE goes elsewhere")
		}
		n[first]++
	}
	for digest, want := range map[string]int{"a": 400, "b": 1200, "c": 0, "d": 2400} {
		if got := n[digest]; got < want*8/10 || got > want*12/10 {
			t.Errorf("%s: %d of 4000, want about %d", digest, got, want)
		}
	}
}
