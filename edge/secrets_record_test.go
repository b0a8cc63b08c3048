package edge

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"callswitch/codecore"
)

// TestNoSecretInARecord plays a browser's call to a phone with SDES, ICE restart
// included, through what the edge seals and fills, and looks for each secret of
// either party and of ours in all that is stored, moved or sent between processes.
func TestNoSecretInARecord(t *testing.T) {
	v := testVault(t)
	const token = "0123456789abcdef01234567ffff"
	id := codecore.CallID(token[:24])
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	pwd := func(n int) string { return fmt.Sprintf("browsersOwnIcePassword%02d", n) }
	key := base64.StdEncoding.EncodeToString([]byte("the phone's master key, 30 B.."))
	browser := func(n int) string {
		return "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111 0\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd" + fmt.Sprint(n) +
			"\r\na=ice-pwd:" + pwd(n) + "\r\na=fingerprint:sha-256 " + strings.Repeat("AB:", 31) + "AB\r\na=setup:actpass\r\na=mid:0\r\na=sendrecv\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\n" +
			"k=clear:" + pwd(n) + "\r\n"
	}
	phone := "v=0\r\no=- 1 1 IN IP4 192.0.2.2\r\ns=-\r\nc=IN IP4 192.0.2.2\r\nt=0 0\r\nm=audio 4000 RTP/SAVP 0\r\na=crypto:3 AES_CM_128_HMAC_SHA1_80 inline:" + key + "|2^20\r\n"
	var secret []string
	for n := range 3 {
		secret = append(secret, pwd(n), hex.EncodeToString([]byte(pwd(n))))
	}
	secret = append(secret, key, hex.EncodeToString([]byte(key)))
	for n := 1; n < 6; n++ {
		for _, slot := range []string{"a", "b"} {
			label := fmt.Sprintf("%s.%d", slot, n)
			_, ours := v.key.ICE(string(id), label)
			secret = append(secret, ours)
			for _, suite := range []string{"AEAD_AES_256_GCM", "AEAD_AES_128_GCM", "AES_CM_128_HMAC_SHA1_80"} {
				b := v.key.SRTP(string(id), label, suite)
				secret = append(secret, base64.StdEncoding.EncodeToString(b), hex.EncodeToString(b))
			}
		}
	}
	plan := &codecore.Plan{
		Peers:  []codecore.PlanPeer{{Name: "phone", Kind: "phone", Target: "sip:192.0.2.2:5060", SRTP: codecore.SRTPRequired}},
		Routes: []codecore.PlanRoute{{Prefix: "1", To: "phone"}},
	}
	headers := func(more ...codecore.Header) []codecore.Header {
		return append([]codecore.Header{
			{Name: "Via", Value: "SIP/2.0/WS x.invalid;branch=z9hG4bK1"},
			{Name: "From", Value: "<sip:7@x>;tag=1"},
			{Name: "Call-ID", Value: "c1"},
			{Name: "Contact", Value: "<sip:7@x.invalid;transport=ws>"},
			{Name: "Content-Type", Value: "application/sdp"},
		}, more...)
	}
	var s codecore.State
	var last codecore.Result
	seen := 0
	step := func(e codecore.Event) {
		t.Helper()
		var event []byte
		if event, _ = json.Marshal(e); len(event) == 0 {
			t.Fatal("an event that cannot be looked at")
		}
		s, last = codecore.Step(s, now, e)
		if len(last.Allocate) > 0 {
			s, last = codecore.Step(s, now, codecore.Allocated{Node: "n1", Legs: []codecore.MediaEndpoint{{Leg: "a", Addr: "198.51.100.1", Port: 2000}, {Leg: "b", Addr: "198.51.100.1", Port: 2002}}})
		}
		_, record, err := codecore.Encode(s, codecore.SchemaMin)
		if err != nil {
			t.Fatal(err)
		}
		media, _ := json.Marshal(s.Media)
		shown, _ := json.Marshal(codecore.Summary(s))
		var bodies []byte
		for _, a := range last.Actions {
			raw, _ := json.Marshal(a)
			bodies = append(bodies, raw...)
			if a.Request != nil {
				bodies = append(bodies, a.Request.Msg.Body...)
			}
			if a.Response != nil {
				bodies = append(bodies, a.Response.Msg.Body...)
			}
		}
		for what, b := range map[string][]byte{"event": event, "record": record, "media": media, "list": shown, "actions": bodies} {
			for _, x := range secret {
				if bytes.Contains(b, []byte(x)) || bytes.Contains(b, []byte(base64.StdEncoding.EncodeToString([]byte(x)))) {
					t.Errorf("%T: %q stands in the %s:\n%s", e, x, what, b)
				}
			}
		}
		for i := range last.Actions {
			if m := messageOf(&last.Actions[i]); bytes.Contains(m.Body, []byte("{own:")) {
				if !v.fill(id, m) || bytes.ContainsAny(m.Body, "{}") {
					t.Errorf("%T: what goes out is not complete: %s", e, m.Body)
				}
				seen++
			}
		}
	}
	invite := func(n int, to, body string) {
		e := codecore.SIPRequest{Edge: "n1", Flow: "ws1", Peer: "account:7", Token: token, Tx: fmt.Sprint("tx", n), At: now, Seed: 1, Plan: plan, Msg: codecore.Message{
			Method: "INVITE", URI: "sip:123@x", Headers: headers(codecore.Header{Name: "To", Value: to}, codecore.Header{Name: "CSeq", Value: fmt.Sprint(n, " INVITE")}), Body: []byte(body),
		}}
		v.seal(id, &e.Msg)
		step(e)
	}
	answer := func(body string) {
		var out *codecore.SendRequest
		for _, a := range s.Pending {
			if a.Request != nil && a.Request.Msg.Method == "INVITE" {
				out = a.Request
			}
		}
		if out == nil {
			t.Fatal("nobody was called")
		}
		e := codecore.SIPResponse{Branch: out.Branch, At: now, Msg: codecore.Message{Method: "INVITE", Status: 200, Headers: headers(), Body: []byte(body)}}
		for i, h := range e.Msg.Headers {
			if h.Name == "From" || h.Name == "Call-ID" {
				e.Msg.Headers[i].Value = out.Msg.Get(h.Name)
			}
		}
		to := out.Msg.Get("To")
		if tagOf(to) == "" {
			to += ";tag=2"
		}
		e.Msg.Add("To", to)
		e.Msg.Add("CSeq", out.Msg.Get("CSeq"))
		v.seal(id, &e.Msg)
		step(e)
	}
	invite(1, "<sip:123@x>", browser(0))
	answer(phone)
	us := s.A.Tag
	invite(2, "<sip:123@x>;tag="+us, browser(1))
	if s.Phase != codecore.PhaseTalking {
		t.Fatalf("%s", s.Phase)
	}
	answer(strings.Replace(phone, "crypto:3", "crypto:1", 1))
	if a := s.Media.Legs[0].Secure; a == nil || a.Own != "a.3" {
		t.Fatalf("%+v", a)
	}
	if plain, err := v.key.Reveal(string(id), s.Media.Legs[1].Secure.Key); err != nil || plain != key {
		t.Errorf("media cannot have the phone's key: %v", err)
	}
	if plain, err := v.key.Reveal(string(id), s.Media.Legs[0].Secure.Pwd); err != nil || plain != pwd(1) {
		t.Errorf("media cannot have the browser's password: %v", err)
	}
	if seen < 4 {
		t.Errorf("%d SDPs of ours", seen)
	}
}

func messageOf(a *codecore.Action) *codecore.Message {
	switch {
	case a.Request != nil:
		m := a.Request.Msg
		return &m
	case a.Response != nil:
		m := a.Response.Msg
		return &m
	}
	return new(codecore.Message)
}
