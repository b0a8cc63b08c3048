package codecore

import (
	"errors"
	"strings"
	"testing"
)

// TestBadWords: each thing that is wrong with a protected SDP has its own error and
// its own reason code.
func TestBadWords(t *testing.T) {
	good := string(secureSDP(LegA, "webrtc"))
	codes := map[string]bool{}
	for name, c := range map[string]struct {
		sdp  string
		want error
	}{
		"no fingerprint":     {string(secureSDP(LegA, "webrtc,nofingerprint")), ErrFingerprint},
		"sha-1":              {string(secureSDP(LegA, "webrtc,sha1")), ErrHash},
		"sha-256 cut short":  {strings.Replace(good, "AB:AB:", "", 1), ErrHash},
		"no mux":             {string(secureSDP(LegA, "webrtc,nomux")), ErrMux},
		"holdconn":           {string(secureSDP(LegA, "webrtc,holdconn")), ErrSetup},
		"no setup":           {strings.Replace(good, "a=setup:actpass\r\n", "", 1), ErrSetup},
		"no ufrag":           {strings.Replace(good, "a=ice-ufrag", "a=x", 1), ErrICE},
		"short ufrag":        {strings.Replace(good, "ice-ufrag:ufraga", "ice-ufrag:abc", 1), ErrICE},
		"password in clear":  {strings.Replace(good, "{sealed:pwd-ufraga}", "pwd-ufragapwd-ufragapwd", 1), ErrICE},
		"bad password":       {strings.Replace(good, "{sealed:pwd-ufraga}", "{bad}", 1), ErrICE},
		"both are lite":      {strings.Replace(good, "a=extmap-allow-mixed", "a=ice-lite", 1), ErrICE},
		"too many":           {string(secureSDP(LegA, "webrtc,many")), ErrCandidates},
		"no sound":           {string(secureSDP(LegA, "webrtc,nosound")), ErrCodec},
		"keys with an MKI":   {string(secureSDP(LegA, "sdes,mki")), ErrSuite},
		"unknown suite":      {string(secureSDP(LegA, "sdes,unknown")), ErrSuite},
		"a key that is none": {string(secureSDP(LegA, "sdes,bad")), ErrSuite},
		"key in clear":       {strings.NewReplacer("{sealed:", "", "}", "").Replace(string(secureSDP(LegA, "sdes"))), ErrSuite},
		"no keys":            {string(sdpOf(LegA, "secure")), ErrSecure},
		"good":               {good, nil},
		"good sdes":          {string(secureSDP(LegA, "sdes")), nil},
	} {
		_, err := describe([]byte(c.sdp), want{})
		if !errors.Is(err, c.want) || err != nil && c.want == nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if err != nil {
			status, code := statusOf(err)
			if codes[code] = true; status != 488 {
				t.Errorf("%s: %d %s", name, status, code)
			}
		}
	}
	if len(codes) != 9 {
		t.Errorf("%d codes: %v", len(codes), codes)
	}
}

// TestPoliciesChoose: which line of an offer is taken, and how it is protected.
func TestPoliciesChoose(t *testing.T) {
	for _, c := range []struct{ sdp, policy, kind, err string }{
		{"sdp", "", "", ""},
		{"sdp", SRTPRequired, "", "srtp-required"},
		{"sdp", SRTPPreferred, "", ""},
		{"sdp", SRTPOff, "", ""},
		{"sdes", "", SecureSDES, ""},
		{"sdes", SRTPRequired, SecureSDES, ""},
		{"sdes", SRTPOff, "", "sdp-secure"},
		{"sdes,best", "", "", ""},
		{"sdes,best", SRTPPreferred, SecureSDES, ""},
		{"sdes,best", SRTPRequired, SecureSDES, ""},
		{"sdes,best", SRTPOff, "", ""},
		{"sdes,plain", "", "", ""},
		{"sdes,plain", SRTPPreferred, SecureSDES, ""},
		{"sdes,plain", SRTPOff, "", ""},
		{"webrtc", "", SecureDTLS, ""},
		{"webrtc", SRTPRequired, SecureDTLS, ""},
		{"webrtc", SRTPOff, "", "sdp-secure"},
		{"fax", SRTPRequired, "", "sdp-no-audio"},
	} {
		s, err := describe(sdpOf(LegA, c.sdp), want{policy: c.policy})
		kind, code := "", ""
		if err != nil {
			_, code = statusOf(err)
		} else if x := s.sound.secure(); x != nil {
			kind = x.Kind
		}
		if kind != c.kind || code != c.err {
			t.Errorf("%s with policy %q: %q %q, want %q %q", c.sdp, c.policy, kind, code, c.kind, c.err)
		}
	}
}

// TestPlanSaysHowMediaIsCarried: a wrong word is an error with its place.
func TestPlanSaysHowMediaIsCarried(t *testing.T) {
	for _, p := range []PlanPeer{{SRTP: "yes"}, {Media: "video"}, {Media: MediaWebRTC, SRTP: SRTPOff}} {
		p.Name, p.Kind = "x", "phone"
		if err := (&Plan{Peers: []PlanPeer{p}}).Check(); !errors.Is(err, ErrPlan) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	for _, to := range []PlanRoute{{To: "service:lottery"}, {Targets: []PlanTarget{{To: "service:echo"}, {To: "service:tone"}}}} {
		if err := (&Plan{Routes: []PlanRoute{to}}).Check(); !errors.Is(err, ErrPlan) {
			t.Errorf("%+v: %v", to, err)
		}
	}
}
