package codecore

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

const head = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"

func TestDescribe(t *testing.T) {
	yes := Sound{Addr: "192.0.2.1:4000", Payloads: []byte{0, 8}, Sends: true, Hears: true}
	change := func(f func(*Sound)) Sound { s := yes; f(&s); return s }
	for name, c := range map[string]struct {
		sdp  string
		want Sound
		err  error
	}{
		"plain":              {head + "m=audio 4000 RTP/AVP 0 8\r\n", yes, nil},
		"session direction":  {head + "a=sendonly\r\nm=audio 4000 RTP/AVP 0 8\r\n", change(func(s *Sound) { s.Hears = false }), nil},
		"media overrides it": {head + "a=sendonly\r\nm=audio 4000 RTP/AVP 0 8\r\na=inactive\r\n", change(func(s *Sound) { s.Hears, s.Sends = false, false }), nil},
		"media address":      {head + "m=audio 4000 RTP/AVP 0 8\r\nc=IN IP4 192.0.2.7\r\n", change(func(s *Sound) { s.Addr = "192.0.2.7:4000" }), nil},
		"hold of RFC 2543":   {head + "m=audio 4000 RTP/AVP 0 8\r\nc=IN IP4 0.0.0.0\r\n", change(func(s *Sound) { s.Addr, s.Hears = "", false }), nil},
		"rtcp port":          {head + "m=audio 4000 RTP/AVP 0 8\r\na=rtcp:4009\r\n", change(func(s *Sound) { s.RTCP = "192.0.2.1:4009" }), nil},
		"rtcp address":       {head + "m=audio 4000 RTP/AVP 0 8\r\na=rtcp:4009 IN IP4 192.0.2.8\r\n", change(func(s *Sound) { s.RTCP = "192.0.2.8:4009" }), nil},
		"mux and dtmf":       {head + "m=audio 4000 RTP/AVP 0 8\r\na=rtpmap:97 telephone-event/8000\r\na=rtcp-mux\r\n", change(func(s *Sound) { s.Mux, s.DTMF = true, 97 }), nil},
		"second audio line":  {head + "m=audio 0 RTP/AVP 0\r\nm=audio 4000 RTP/AVP 0 8\r\n", yes, nil},
		"secure beside it":   {head + "m=audio 5000 RTP/SAVP 0\r\nm=audio 4000 RTP/AVP 0 8\r\n", yes, nil},
		"secure":             {head + "m=audio 4000 RTP/SAVPF 0\r\n", Sound{}, ErrSecure},
		"video alone":        {head + "m=video 4000 RTP/AVP 96\r\n", Sound{}, ErrNoAudio},
		"host name":          {strings.ReplaceAll(head, "c=IN IP4 192.0.2.1", "c=IN IP4 example.com") + "m=audio 4000 RTP/AVP 0\r\n", Sound{}, ErrName},
		"no address":         {"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n", Sound{}, ErrSDP},
		"port out of range":  {head + "m=audio 70000 RTP/AVP 0\r\n", Sound{}, ErrSDP},
		"garbage":            {"hello", Sound{}, ErrSDP},
		"long":               {head + strings.Repeat("a=x\r\n", maxSDP), Sound{}, ErrSDP},
		"many lines":         {head + strings.Repeat("m=audio 4000 RTP/AVP 0\r\n", maxLines+1), Sound{}, ErrSDP},
	} {
		got, err := describe([]byte(c.sdp), want{})
		if !errors.Is(err, c.err) || err == nil && c.err != nil {
			t.Errorf("%s: error %v, want %v", name, err, c.err)
		}
		got.sound.Coding = "" // see TestCodingIsSaidAgain
		a, _ := json.Marshal(got.sound)
		if b, _ := json.Marshal(c.want); err == nil && string(a) != string(b) {
			t.Errorf("%s: %s, want %s", name, a, b)
		}
	}
}

// TestTopologyIsHidden: nothing of one party's address, keys or candidates
// reaches the other; what says how the sound is coded does, in its own numbers.
func TestTopologyIsHidden(t *testing.T) {
	s, err := describe([]byte(head+"a=ice-lite\r\nm=audio 4000 RTP/AVP 111 0\r\na=rtpmap:111 opus/48000/2\r\na=fmtp:111 useinbandfec=1;stereo=1\r\n"+
		"a=ptime:20\r\na=candidate:1 1 UDP 1 192.0.2.1 4000 typ host\r\na=crypto:1 x inline:key\r\na=rtcp:4001 IN IP4 192.0.2.1\r\na=ssrc:1 cname:me@192.0.2.1\r\n"), want{})
	if err != nil {
		t.Fatal(err)
	}
	got := s.write(s.sound, nil, MediaEndpoint{LegB, "2001:db8::1", 20000}, shape{})
	want := "s=-\r\nc=IN IP6 2001:db8::1\r\nt=0 0\r\nm=audio 20000 RTP/AVP 111 0\r\na=rtpmap:111 opus/48000/2\r\na=fmtp:111 useinbandfec=1;stereo=1\r\na=ptime:20\r\na=sendrecv\r\n"
	if got != want {
		t.Errorf("told\n%s\nwant\n%s", got, want)
	}
}

func TestAnswerFitsItsOffer(t *testing.T) {
	one, _ := describe([]byte(head+"m=audio 4000 RTP/AVP 0\r\n"), want{})
	two, _ := describe([]byte(head+"m=audio 4000 RTP/AVP 0\r\nm=video 0 RTP/AVP 96\r\n"), want{})
	turned, _ := describe([]byte(head+"m=video 0 RTP/AVP 96\r\nm=audio 4000 RTP/AVP 0\r\n"), want{})
	for _, c := range []struct {
		answer said
		lines  []string
		ok     bool
	}{
		{one, nil, true}, {two, nil, false}, {two, two.lines, true}, {one, two.lines, false}, {turned, two.lines, false},
	} {
		if err := c.answer.answers(c.lines); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrMismatch) {
			t.Errorf("%q for %q: %v", c.answer.lines, c.lines, err)
		}
	}
}

func FuzzSDP(f *testing.F) {
	for _, w := range []string{"sdp", "hold", "zero", "mux", "video", "secure", "broken", "webrtc", "webrtc,video,hold", "webrtc,active", "sdes", "sdes,best", "sdes,gcm", "sdes,mki"} {
		f.Add(sdpOf(LegA, w))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := describe(body, want{policy: SRTPPreferred})
		if err != nil {
			return
		}
		if x := s.sound.secure(); x != nil {
			x.Own = "a.1"
		}
		text := head[:strings.Index(head, "s=-")] + s.write(s.sound, s.lines, MediaEndpoint{LegB, "198.51.100.1", 20000}, s.sound.shape())
		again, err := describe([]byte(text), want{coding: true})
		if err != nil {
			t.Fatalf("what we say of %q cannot be read: %v\n%s", body, err, text)
		}
		if err := again.answers(s.lines); err != nil {
			t.Errorf("%q: %v\n%s", body, err, text)
		}
		if n := strings.Count(text, "{sealed:"); n > 0 {
			t.Errorf("%q: a party's secret is told to somebody\n%s", body, text)
		}
	})
}
