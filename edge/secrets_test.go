package edge

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"callswitch/codecore"
)

func testVault(t testing.TB) *vault {
	t.Helper()
	v, err := newVault(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return &v
}

func sdpMessage(body string) *codecore.Message {
	return &codecore.Message{Method: "INVITE", Headers: []codecore.Header{{Name: "Content-Type", Value: "application/sdp"}}, Body: []byte(body)}
}

const sdpHead = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 4000 RTP/SAVP 0\r\n"

// TestSecretsOfAPartyAreSealed: none is in what goes on to codecore, and each can be
// had again from that by media alone.
func TestSecretsOfAPartyAreSealed(t *testing.T) {
	v := testVault(t)
	key := func(n int) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0xa5}, n)) }
	pwd := strings.Repeat("pass", 6)
	const cm = "a=crypto:1 AES_CM_128_HMAC_SHA1_80 "
	for _, c := range []struct {
		line, want string // § is the key, sealed
		key        string
	}{
		{"a=ice-pwd:" + pwd, "a=ice-pwd:§", pwd},
		{"a=ICE-PWD: " + pwd, "a=ICE-PWD:§", pwd},
		{"a=ice-pwd:short", "a=ice-pwd:{bad}", ""},
		{cm + "inline:" + key(30), cm + "inline:§", key(30)},
		{cm + "inline:" + key(30) + "|2^20|1:4 UNENCRYPTED_SRTCP", cm + "inline:§|2^20|1:4 UNENCRYPTED_SRTCP", key(30)},
		{"a=crypto:1 AEAD_AES_256_GCM inline:" + strings.TrimRight(key(44), "="), "a=crypto:1 AEAD_AES_256_GCM inline:§", key(44)},
		{"a=crypto:1 AEAD_AES_256_GCM inline:" + key(30), "a=crypto:1 AEAD_AES_256_GCM inline:{bad}", ""},
		{"a=crypto:1 OTHER inline:" + key(9), "a=crypto:1 OTHER inline:§", key(9)},
		{cm + "inline:" + key(30) + "|1:1;inline:" + key(30) + "|2:1", cm + "inline:§|1:1;inline:§|2:1", key(30)},
		{cm + "inline:" + key(30) + "|" + key(30), cm + "{bad}", ""},
		{cm + "inline: " + key(30), cm + "inline:{bad} {bad}", ""},
		{cm + "inline:" + key(30) + " FEC_KEY=inline:" + key(30), cm + "inline:§ {bad}", key(30)},
		{cm + "uri:https://x/" + key(30), cm + "{bad}", ""},
		{"k=base64:" + key(30), "k=prompt", ""},
		{"a=key-mgmt:mikey " + key(30), "k=prompt", ""},
		{"a:key-mgmt:mikey " + key(30), "k=prompt", ""}, // no attribute, but who knows who reads it
		{"a:ice-pwd:" + pwd, "a:ice-pwd:§", pwd},
		{"A:Crypto:1 AES_CM_128_HMAC_SHA1_80 inline:" + key(30), "A:Crypto:1 AES_CM_128_HMAC_SHA1_80 inline:§", key(30)},
		{"a=fmtp:0 {own:pwd:a.1}", "a=fmtp:0 (own:pwd:a.1}", ""},
		{"a=ice-pwd:{sealed:" + pwd + "}", "a=ice-pwd:§", "(sealed:" + pwd + "}"},
	} {
		for _, end := range []string{"\r\n", "\n", ""} {
			m := sdpMessage(sdpHead + c.line + end)
			v.seal("call", m)
			sealed := v.key.Hide("call", c.key)
			want := sdpHead + strings.ReplaceAll(c.want, "§", "{sealed:"+sealed+"}") + end
			if got := string(m.Body); got != want {
				t.Errorf("%q became\n%q, want\n%q", c.line, got[len(sdpHead):], want[len(sdpHead):])
			}
			if plain, err := v.key.Reveal("call", sealed); err != nil || plain != c.key {
				t.Errorf("%q: %q, %v", c.line, plain, err)
			}
		}
	}
}

// TestPlainBodyIsNotCopied: most calls have nothing to seal.
func TestPlainBodyIsNotCopied(t *testing.T) {
	v := testVault(t)
	m := sdpMessage(sdpHead + "a=rtpmap:0 PCMU/8000\r\n")
	body := m.Body
	if n := testing.AllocsPerRun(100, func() { v.seal("call", m) }); n > 0 || &m.Body[0] != &body[0] {
		t.Errorf("%v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { v.fill("call", m) }); n > 0 {
		t.Errorf("%v allocations on the way out", n)
	}
}

// TestResponseWithoutATypeIsSealed: codecore reads it all the same.
func TestResponseWithoutATypeIsSealed(t *testing.T) {
	v := testVault(t)
	m := &codecore.Message{Method: "INVITE", Status: 200, Body: []byte(sdpHead + "k=clear:secret\r\n")}
	if v.seal("call", m); bytes.Contains(m.Body, []byte("secret")) {
		t.Errorf("%s", m.Body)
	}
}

// TestOurSecretsAreFilledIn: and in nothing that a party wrote.
func TestOurSecretsAreFilledIn(t *testing.T) {
	v := testVault(t)
	ufrag, pwd := v.key.ICE("call", "b.3")
	m := sdpMessage("a=ice-ufrag:{own:ufrag:b.3}\r\na=ice-pwd:{own:pwd:b.3}\r\na=fingerprint:{own:fingerprint}\r\na=crypto:1 AEAD_AES_128_GCM inline:{own:srtp:AEAD_AES_128_GCM:b.3}\r\n")
	want := "a=ice-ufrag:" + ufrag + "\r\na=ice-pwd:" + pwd + "\r\na=fingerprint:" + v.fingerprint + "\r\na=crypto:1 AEAD_AES_128_GCM inline:" +
		base64.StdEncoding.EncodeToString(v.key.SRTP("call", "b.3", "AEAD_AES_128_GCM")) + "\r\n"
	if !v.fill("call", m) || string(m.Body) != want {
		t.Errorf("%s", m.Body)
	}
	for _, bad := range []string{"{own:nothing}", "{own:srtp:F8:a.1}", "{own:pwd", "{own:}", "{own:pwd:a:b}"} {
		if m := sdpMessage("a=x:" + bad); v.fill("call", m) || strings.Contains(string(m.Body), "own") {
			t.Errorf("%s: %s", bad, m.Body)
		}
	}
	if m := sdpMessage("{own:fingerprint}"); true {
		m.Headers[0].Value = "text/plain"
		if !v.fill("call", m) || string(m.Body) != "{own:fingerprint}" {
			t.Errorf("a body that is no SDP: %s", m.Body)
		}
	}
	for _, kind := range []string{"application/sdp", "text/plain", ""} { // what comes in can never be filled
		m := sdpMessage("x {own:pwd:b.3} {own:{own:pwd:b.3}}")
		m.Headers[0].Value = kind
		v.seal("call", m)
		m.Headers[0].Value = "application/sdp"
		if v.fill("call", m); strings.Contains(string(m.Body), pwd) {
			t.Errorf("%q: a party gets our password: %s", kind, m.Body)
		}
	}
}

// FuzzSeal: whatever comes in, no line is lost, and nothing of it is filled.
func FuzzSeal(f *testing.F) {
	f.Add([]byte(sdpHead + "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:AAAA|2^20 WSH=64\r\nk=clear:x\na=ice-pwd:"))
	f.Add([]byte("v=0\na=crypto:\nk=\n\n{own:{sealed:}"))
	f.Add([]byte("v=0\na:crypto:\na:ice-pwd:\nk=:"))
	v := testVault(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		m := sdpMessage(string(body))
		v.seal("call", m)
		if a, b := bytes.Count(body, []byte("\n")), bytes.Count(m.Body, []byte("\n")); a != b {
			t.Errorf("%d lines became %d: %q", a, b, m.Body)
		}
		if before := slices.Clone(m.Body); !v.fill("call", m) || !bytes.Equal(before, m.Body) {
			t.Errorf("%q was filled: %q", before, m.Body)
		}
	})
}

func BenchmarkSealPlain(b *testing.B) {
	v := testVault(b)
	m := sdpMessage(sdpHead + strings.Repeat("a=rtpmap:0 PCMU/8000\r\n", 8))
	for b.Loop() {
		v.seal("call", m)
	}
}
