package edge

import (
	"strings"
	"testing"
)

func TestDescriptionAmongParts(t *testing.T) {
	const sdp = "v=0\r\nm=audio 1 RTP/AVP 0\r\n"
	part := func(kind, more, body string) string {
		return "--b\r\nContent-Type: " + kind + "\r\n" + more + "\r\n" + body + "\r\n"
	}
	isup := part("application/isup;version=itu-t92+", "Content-Disposition: signal;handling=optional\r\n", "\x01\x10")
	must := part("application/isup", "Content-Disposition: signal;handling=required\r\n", "\x01")
	early := part("application/sdp", "Content-Disposition: early-session\r\n", "v=0\r\n")
	const invite = "INVITE sip:1@h SIP/2.0\r\n"
	for name, c := range map[string]struct {
		start, kind, body string
		found             bool
	}{
		"behind a location":        {invite, "multipart/mixed;boundary=b", part("application/pidf+xml", "", "<x/>") + part("application/sdp", "", sdp) + "--b--\r\n", true},
		"before ISUP":              {invite, `Multipart/Mixed; boundary="b"`, part("Application/SDP", "", sdp) + isup + "--b--", true},
		"beside an early session":  {invite, "multipart/mixed;boundary=b", early + part("application/sdp", "Content-Disposition: session\r\n", sdp) + "--b--", true},
		"of a response":            {"SIP/2.0 200 OK\r\n", "multipart/mixed;boundary=b", must + part("application/sdp", "", sdp) + "--b--", true},
		"with what must be known":  {invite, "multipart/mixed;boundary=b", part("application/sdp", "", sdp) + must + "--b--", false},
		"without an end":           {invite, "multipart/mixed;boundary=b", part("application/sdp", "", sdp), false},
		"of too many":              {invite, "multipart/mixed;boundary=b", part("application/sdp", "", sdp) + strings.Repeat(isup, maxParts) + "--b--", false},
		"not there":                {invite, "multipart/mixed;boundary=b", isup + "--b--", false},
		"without a boundary":       {invite, "multipart/mixed", part("application/sdp", "", sdp) + "--b--", false},
		"of what has no such body": {strings.Replace(invite, "INVITE", "INFO", 1), "multipart/mixed;boundary=b", part("application/sdp", "", sdp) + "--b--", false},
	} {
		method := "INVITE"
		if strings.HasPrefix(c.start, "INFO") {
			method = "INFO"
		}
		lim := (Limits{}).withDefaults()
		p, code, why := parse([]byte(c.start+"Via: SIP/2.0/UDP h;branch=z9hG4bKx\r\nFrom: <sip:a@h>;tag=1\r\nTo: <sip:b@h>\r\nCall-ID: c\r\nCSeq: 1 "+method+
			"\r\nContent-Type: "+c.kind+"\r\n\r\n"+c.body), &lim)
		if why != okay {
			t.Fatalf("%s: %d %v", name, code, why)
		}
		body, kind := string(p.msg.Body), p.msg.Get("Content-Type")
		if c.found && (strings.TrimSpace(body) != strings.TrimSpace(sdp) || kind != sdpType) || !c.found && (body != c.body || kind != c.kind) {
			t.Errorf("%s: %q of type %q", name, body, kind)
		}
	}
}
