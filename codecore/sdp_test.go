package codecore

import (
	"errors"
	"strings"
	"testing"
)

// TestDescriptionsAsPhonesWriteThem: what is written out of order, or not at all,
// or in words of no list, costs nobody a call.
func TestDescriptionsAsPhonesWriteThem(t *testing.T) {
	const whole = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0 8\r\na=sendonly\r\n"
	with := func(old, now string) string {
		t.Helper()
		if !strings.Contains(whole, old) {
			t.Fatal(old)
		}
		return strings.Replace(whole, old, now, 1)
	}
	for name, body := range map[string]string{
		"whole":                whole,
		"no s=":                with("s=-\r\n", ""),
		"no t=":                with("t=0 0\r\n", ""),
		"no o=":                with("o=- 1 1 IN IP4 192.0.2.1\r\n", ""),
		"o= below zero":        with("- 1 1 IN", "- -1 -1 IN"),
		"LF":                   strings.ReplaceAll(whole, "\r\n", "\n"),
		"last line open":       strings.TrimSuffix(whole, "\r\n"),
		"empty lines":          whole + "\r\n\r\n",
		"blanks at the end":    strings.ReplaceAll(whole, "\r\n", " \r\n"),
		"b= before c=":         with("c=IN", "b=AS:64\r\nc=IN"),
		"a= before t=":         with("t=0 0", "a=tool:x\r\nt=0 0"),
		"c= behind a=":         with("c=IN IP4 192.0.2.1\r\n", "") + "c=IN IP4 192.0.2.1\r\n",
		"lines of GB/T 28181":  with("t=0 0", "y=0100000001\r\nf=\r\nt=0 0"),
		"several ports":        with("40000", "40000/2"),
		"an unknown medium":    whole + "m=control 1 UDP/BFCP *\r\n",
		"an unknown profile":   whole + "m=application 1 UDP/X/Y 5\r\n",
		"fax over TCP":         whole + "m=image 40012 TCP t38\r\n",
		"refused, no formats":  whole + "m=video 0 RTP/AVP\r\n",
		"control in attribute": whole + "a=x-note:\x01\r\n",
	} {
		s, err := describe([]byte(body), want{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := s.sound; got.Addr != "192.0.2.1:40000" || len(got.Payloads) != 2 || got.Hears || !got.Sends {
			t.Errorf("%s: %+v", name, got)
		}
		if n := strings.Count(body, "\nm="); n > 1 && len(s.lines) != n {
			t.Errorf("%s: %d of %d lines", name, len(s.lines), n)
		}
	}
	for name, body := range map[string]string{
		"no version":         with("v=0\r\n", ""),
		"another version":    with("v=0", "v=1"),
		"two versions":       whole + whole,
		"CR alone":           whole + "a=fmtp:0 x\ra=inactive\r\n",
		"NUL":                whole + "a=fmtp:0 x\x00\r\n",
		"no type":            whole + "sendrecv\r\n",
		"no port":            with("40000", "x"),
		"port below zero":    with("40000", "-1"),
		"port too high":      with("40000", "70000"),
		"no formats":         with(" 0 8", ""),
		"no address":         with("c=IN IP4 192.0.2.1\r\n", ""),
		"an address of five": with("c=IN IP4 192.0.2.1", "c=IN IP4 192.0.2.1.5"),
		"to many":            with("c=IN IP4 192.0.2.1", "c=IN IP4 224.2.1.1/127"),
		"to many, no TTL":    with("c=IN IP4 192.0.2.1", "c=IN IP4 224.2.1.1"),
		"of one link":        with("c=IN IP4 192.0.2.1", "c=IN IP6 fe80::1%eth0"),
		"of another network": with("c=IN", "c=ATM"),
	} {
		if _, err := describe([]byte(body), want{}); !errors.Is(err, ErrSDP) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
