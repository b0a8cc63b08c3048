package loadtest

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// Packets between two streams with nobody between: all of them arrive.
func TestSoundLosesNothingWithoutAnybodyBetween(t *testing.T) {
	t.Parallel()
	s, err := NewSound()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ip := netip.MustParseAddr("127.0.0.1")
	a, err := s.Open(ip, 7, 'a')
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Open(ip, 7, 'b')
	if err != nil {
		t.Fatal(err)
	}
	a.SetRemote(b.Addr())
	b.SetRemote(a.Addr())
	a.Talk()
	b.Talk()
	a.Digit(5)
	for ctx := patient(t, 20*time.Second); a.Sent() < 20 && pause(ctx, 10*time.Millisecond); {
	}
	a.Hush()
	b.Hush()
	pause(t.Context(), drain)
	h := b.Heard(a.Sent())
	for begin := time.Now(); h.Lost > 0 && time.Since(begin) < overdue && pause(t.Context(), 10*time.Millisecond); {
		h = b.Heard(a.Sent())
	}
	if h.Sent < 20 || h.Lost != 0 || h.Duplicated+h.Reordered+h.WrongSource+h.Foreign+h.Broken != 0 || h.Digits != "5" {
		t.Errorf("%+v", h)
	}
	if h := b.Heard(a.Sent() + 3); h.Lost != 3 {
		t.Errorf("three that never came: %+v", h)
	}
}

const hello = "BYE sip:x SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=%B\r\nFrom: <sip:a>;tag=1\r\nTo: <sip:b>;tag=2\r\nCall-ID: c\r\nCSeq: %C BYE\r\n\r\n"

func req(t *testing.T, branch, cseq, method string) *message {
	t.Helper()
	m, err := parseMessage([]byte(strings.NewReplacer("%B", branch, "%C", cseq, "BYE", method).Replace(hello)))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func res(t *testing.T, branch, cseq, method string, code, tag string) *message {
	t.Helper()
	m, err := parseMessage([]byte("SIP/2.0 " + code + " X\r\nVia: SIP/2.0/UDP h;branch=" + branch +
		"\r\nTo: <sip:b>;tag=" + tag + "\r\nCall-ID: c\r\nCSeq: " + cseq + " " + method + "\r\n\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestLedger(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		feed func(*testing.T, *Ledger)
		want string // part of a violation; "" = none
	}{
		"retransmissions are no second transaction": {func(t *testing.T, l *Ledger) {
			for range 3 {
				l.request(req(t, "z1", "2", "BYE"))
				l.response(res(t, "z9", "1", "INVITE", "200", "x"))
			}
		}, ""},
		"a BYE under another branch": {func(t *testing.T, l *Ledger) {
			l.request(req(t, "z1", "2", "BYE"))
			l.request(req(t, "z2", "2", "BYE"))
		}, "second transaction"},
		"two BYEs": {func(t *testing.T, l *Ledger) {
			l.request(req(t, "z1", "2", "BYE"))
			l.request(req(t, "z2", "3", "BYE"))
		}, "2 BYE transactions"},
		"a CSeq that falls": {func(t *testing.T, l *Ledger) {
			l.request(req(t, "z1", "5", "INFO"))
			l.request(req(t, "z2", "4", "INFO"))
		}, "after CSeq 5"},
		"a request after the end": {func(t *testing.T, l *Ledger) {
			l.ended = true
			l.request(req(t, "z1", "5", "INFO"))
		}, "after the end"},
		"a retransmission that changed": {func(t *testing.T, l *Ledger) {
			l.request(req(t, "z1", "5", "INFO"))
			m := req(t, "z1", "5", "INFO")
			m.raw = append(m.raw, 'x')
			l.request(m)
		}, "other bytes"},
		"two final responses": {func(t *testing.T, l *Ledger) {
			l.response(res(t, "z1", "1", "INVITE", "200", "x"))
			l.response(res(t, "z1", "1", "INVITE", "487", "x"))
		}, "second final"},
		"another To-tag": {func(t *testing.T, l *Ledger) {
			l.response(res(t, "z1", "1", "INVITE", "180", "x"))
			l.response(res(t, "z1", "1", "INVITE", "200", "y"))
		}, "another To-tag"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var l Ledger
			c.feed(t, &l)
			got := strings.Join(l.Violations(), "\n")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("violations %q, want %q", got, c.want)
			}
		})
	}
}

func TestGarbageIsNoMessage(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "\r\n\r\n", "x", "SIP/2.0 9999 X\r\n\r\n", "INVITE\r\n\r\n", "BYE a SIP/2.0\r\nnocolon\r\n\r\n"} {
		if m, err := parseMessage([]byte(s)); err == nil {
			t.Errorf("%q gave %+v", s, m)
		}
	}
}
