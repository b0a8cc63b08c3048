package codecore

import (
	"fmt"
	"slices"
	"strings"
)

// secureSDP is the body that a word like "webrtc,video,hold" or "sdes,gcm" names:
// what an edge makes of a browser's or a phone's SDP.
func secureSDP(leg LegID, word string) []byte {
	flags := strings.Split(word, ",")
	is := func(f string) bool { return slices.Contains(flags, f) }
	ip, direction := ipOf(leg), "sendrecv"
	switch {
	case is("hold"):
		direction = "sendonly"
	case is("held"):
		direction = "recvonly"
	}
	var b strings.Builder
	line := func(format string, a ...any) { fmt.Fprintf(&b, format+"\r\n", a...) }
	line("v=0\r\no=- 4611 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0")
	switch flags[0] {
	default:
		return nil
	case "sdes":
		proto := "RTP/SAVP"
		if is("best") {
			proto = "RTP/AVP"
		}
		line("m=audio 40000 %s 0 8 101\r\nc=IN IP4 %s", proto, ip)
		key := "{sealed:key-" + string(leg)
		if is("rekeyed") {
			key += "2"
		}
		switch {
		case is("1"): // an answer to all that we offer
			line("a=crypto:1 AEAD_AES_256_GCM inline:%s}", key)
		case is("3"):
			line("a=crypto:3 AES_CM_128_HMAC_SHA1_80 inline:%s}|2^31", key)
		case is("again"):
			line("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:%s}", key)
		case is("mki"):
			line("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:%s}|2^20|1:4", key)
		case is("unknown"):
			line("a=crypto:1 F8_128_HMAC_SHA1_80 inline:%s}", key)
		case is("bad"):
			line("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{bad}")
		case is("gcm"):
			line("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:%s}\r\na=crypto:7 AEAD_AES_128_GCM inline:%[1]s-gcm}", key)
		default:
			line("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:%s}\r\na=crypto:2 AES_CM_128_HMAC_SHA1_32 inline:%[1]s-32}", key)
		}
		line("a=rtpmap:101 telephone-event/8000\r\na=%s", direction)
		if is("plain") { // beside it
			line("m=audio 40002 RTP/AVP 0 8\r\nc=IN IP4 %s", ip)
		}
		return []byte(b.String())
	case "webrtc":
	}
	group, mid := "0", "0"
	if is("video") {
		group = "0 1 2"
	}
	ufrag, hash, print := "ufrag"+string(leg), "sha-256", strings.Repeat("AB:", 31)+strings.ToUpper(string(leg))+"0"
	switch {
	case is("restart"):
		ufrag += "2"
	case is("other"):
		ufrag, print = ufrag+"3", strings.Repeat("CD:", 31)+"00"
	case is("sha1"):
		hash, print = "sha-1", print[:59]
	}
	setup := "actpass"
	for _, s := range []string{"active", "passive", "holdconn"} {
		if is(s) {
			setup = s
		}
	}
	if is("lite") {
		line("a=ice-lite")
	}
	line("a=group:BUNDLE %s\r\na=extmap-allow-mixed\r\na=msid-semantic: WMS s", group)
	codecs := "111 63 9 0 8 13 110 126"
	if is("nosound") {
		codecs = "63 13 110"
	}
	if is("opus") {
		codecs = "111"
	}
	line("m=audio 9 UDP/TLS/RTP/SAVPF %s\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0", codecs)
	for i := range 1 + map[bool]int{true: maxCandidates}[is("many")] {
		line("a=candidate:%d 1 udp 2113937151 0123.local 5000%d typ host generation 0 network-cost 999", i, i%10)
	}
	line("a=ice-ufrag:%s\r\na=ice-pwd:{sealed:pwd-%[1]s}\r\na=ice-options:trickle", ufrag)
	if !is("nofingerprint") {
		line("a=fingerprint:%s %s", hash, print)
	}
	line("a=setup:%s\r\na=mid:%s\r\na=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\na=%s\r\na=msid:s t", setup, mid, direction)
	if !is("nomux") {
		line("a=rtcp-mux")
	}
	for _, m := range []string{
		"rtpmap:111 opus/48000/2", "rtcp-fb:111 transport-cc", "fmtp:111 minptime=10;useinbandfec=1", "rtpmap:63 red/48000/2", "fmtp:63 111/111", "rtpmap:9 G722/8000",
		"rtpmap:0 PCMU/8000", "rtpmap:8 PCMA/8000", "rtpmap:13 CN/8000", "rtpmap:110 telephone-event/48000", "rtpmap:126 telephone-event/8000", "ssrc:1 cname:x",
	} {
		line("a=%s", m)
	}
	if is("video") {
		line("m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:%s\r\na=ice-pwd:{sealed:pwd}\r\na=fingerprint:%s %s\r\na=setup:actpass\r\na=mid:1\r\na=rtcp-mux\r\na=rtpmap:96 VP8/90000", ufrag, hash, print)
		line("m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:2\r\na=sctp-port:5000")
	}
	return []byte(b.String())
}

// keysOf is what a scenario shows of how an SDP of ours is protected.
func keysOf(body string) string {
	out := ""
	for _, l := range strings.Split(body, "\r\n") {
		switch key, v, _ := strings.Cut(strings.TrimPrefix(l, "a="), ":"); key {
		case "ice-ufrag":
			out += " ice " + strings.TrimSuffix(v[strings.LastIndexByte(v, ':')+1:], "}")
		case "setup":
			out += " dtls " + v
		case "crypto":
			w := strings.Fields(v)
			out += " " + w[0] + " " + w[1] + " " + strings.TrimSuffix(v[strings.LastIndexByte(v, ':')+1:], "}")
		case "group":
			out += " " + strings.ToLower(v)
		}
	}
	if _, m, _ := strings.Cut(body, "m="); out != "" {
		m, _, _ = strings.Cut(m, "\r\n")
		out = " " + strings.Join(strings.Fields(m)[2:], " ") + out
	}
	return out
}

// protectionOf is what it shows of a leg's media.
func protectionOf(l MediaLeg) string {
	s := l.Secure
	switch {
	case s == nil:
		return ""
	case s.Kind == SecureSDES:
		return fmt.Sprintf(" sdes %s %s with %s", s.Own, s.Suite, s.Key)
	}
	return fmt.Sprintf(" dtls %s with %s active %v assoc %s", s.Own, s.Ufrag, s.Active, s.Assoc)
}
