package codecore

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// reasonInCode finds the codes that the call logic gives: behind a status, as a
// cause, in a hang-up, beside an error.
var reasonInCode = regexp.MustCompile(`\b[3-6]\d\d, "([a-z][a-z-]*)"|[cC]ause(?: = |: )"([a-z-]+)"|hangUp\([^,]+, "([a-z-]+)"|\{Err\w+, "([a-z-]+)"\}|e\.Reason = "([a-z-]+)"`)

// finishes name the party that ended a call, not a reason.
var finishes = regexp.MustCompile(`finish\("[a-z-]+", \d{3}, "[a-z]+"`)

// TestReasonsAreListed walks code, list and table: who reads a code finds what it
// means.
func TestReasonsAreListed(t *testing.T) {
	var listed []string
	for code := range answersOf(t) {
		listed = append(listed, code)
	}
	if slices.Sort(listed); !slices.Equal(listed, reasonCodes) {
		t.Errorf("reasons.md and reasonCodes differ, or the latter are not in order:\n%v\n%v", listed, reasonCodes)
	}
	files, _ := filepath.Glob("*.go")
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") || name == "reasons.go" {
			continue
		}
		code, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range reasonInCode.FindAllStringSubmatch(finishes.ReplaceAllString(string(code), ""), -1) {
			if c := strings.Join(m[1:], ""); !IsReason(c) {
				t.Errorf("%s gives %q, which is not in reasons.md: say there when", name, c)
			}
		}
	}
}

// answersOf reads reasons.md: the answer that each code stands in.
func answersOf(t *testing.T) map[string]string {
	text, err := os.ReadFile("reasons.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\| ([a-z0-9-]+) \| (\d{3}|-|\*) \| .+ \|$`).FindAllStringSubmatch(string(text), -1) {
		out[m[1]] = m[2]
	}
	return out
}

// reasonsGiven is a call for each code, whose last line is refused with it or has
// the call hung up. "talking" is a call that is answered.
var reasonsGiven = map[string]string{
	"accept":               "a INVITE sdp accept=text/plain",
	"aside":                "talking|b REFER refer=600|c 200 sdp|b INFO dtmf",
	"callee":               "a INVITE sdp|b 481",
	"circuit-open":         "a INVITE sdp to=0|b timeout INVITE circuit-open",
	"content-type":         "a INVITE dtmf",
	"cseq":                 "talking|a OPTIONS cseq=1",
	"dialog-lost":          "talking|a INFO dtmf|b 481 INFO",
	"dialog-over":          "talking|a BYE|c INVITE sdp replaces=b peer=bob",
	"directory-away":       "a INVITE sdp to=705",
	"early-dialog":         "a INVITE sdp|b 180|c INVITE sdp replaces=a peer=alice",
	"early-only":           "talking|c INVITE sdp replaces=b,early peer=bob",
	"expired":              "a INVITE sdp expires=20|b 180|wait 20s",
	"extension":            "a INVITE sdp require=mystery",
	"glare":                "talking|a INVITE hold|b INVITE hold",
	"invite-in-progress":   "talking|a INVITE hold|a INVITE sdp",
	"legs-out":             "talking|" + strings.Repeat("b REFER refer=600 quiet|wait 61s|", maxMore) + "b REFER refer=600",
	"max-call":             "talking|wait 4h",
	"max-forwards":         "a INVITE sdp hops=0",
	"media-away":           "a INVITE sdp to=1998",
	"method":               "talking|a MESSAGE",
	"no-ack":               "a INVITE sdp|b 200 sdp|noack a",
	"no-answer":            "a INVITE sdp|b 180|wait 61s",
	"no-codec":             "a INVITE webrtc,nosound",
	"no-contact":           "a INVITE sdp nocontact",
	"no-dialog":            "talking|a BYE|b 200 BYE|b INFO dtmf",
	"no-dialplan":          "a INVITE sdp noplan",
	"no-flow":              "a INVITE sdp|b noflow INVITE",
	"no-offer":             "talking|c INVITE replaces=b peer=bob",
	"no-peer-dialog":       "a INVITE sdp|b 180|a INFO dtmf",
	"no-plain-codec":       "a INVITE webrtc,opus to=720|b 200 webrtc,opus,passive|a ACK|coding unknown|b REFER refer=600",
	"no-prack":             "a INVITE sdp require=100rel|b 180|noprack",
	"no-reliable-response": "talking|a PRACK rack=1_1_INVITE",
	"no-response":          "a INVITE sdp|b timeout INVITE",
	"no-route":             "a INVITE sdp to=9",
	"no-transaction":       "talking|a CANCEL",
	"not-its-call":         "talking|c INVITE sdp replaces=b peer=alice",
	"not-registered":       "a INVITE sdp to=703",
	"offer-in-progress":    "a INVITE sdp|b 180|a UPDATE moved",
	"operator":             "a INVITE sdp|hangup operator",
	"ports-out":            "a INVITE sdp to=1999",
	"redirect-depth":       "a INVITE sdp|b 302 contact=<sip:61@x>|c 302 contact=<sip:62@x>|d 302 contact=<sip:63@x>|e 302 contact=<sip:64@x>|f 302 contact=<sip:65@x>|g 302 contact=<sip:66@x>",
	"redirect-loop":        "a INVITE sdp|b 302 contact=<sip:600@x>|c 302 contact=<sip:123@x>",
	"redirect-refused":     "a INVITE sdp|b 302 contact=<sip:900@x>",
	"refer-to":             "talking|a REFER",
	"replaces":             "talking|c INVITE sdp replaces=b replaces=b peer=bob",
	"rtp-timeout":          "talking|silent b",
	"sdp-answer":           "a INVITE sdp|b 200 broken",
	"sdp-candidates":       "a INVITE webrtc,many",
	"sdp-family":           "a INVITE six",
	"sdp-fingerprint":      "a INVITE webrtc,nofingerprint",
	"sdp-hash":             "a INVITE webrtc,sha1",
	"sdp-ice":              "a INVITE webrtc,lite",
	"sdp-malformed":        "a INVITE broken",
	"sdp-name":             "a INVITE named",
	"sdp-mismatch":         "a INVITE sdp|b 200 video",
	"sdp-no-audio":         "a INVITE nofax",
	"sdp-offer":            "a INVITE|b 200",
	"sdp-rtcp-mux":         "a INVITE webrtc,nomux",
	"sdp-secure":           "a INVITE secure",
	"sdp-setup":            "a INVITE webrtc,holdconn",
	"sdp-suite":            "a INVITE sdes,unknown",
	"service":              "talking|b REFER refer=*7",
	"session-expired":      "a INVITE sdp supported=timer se=600;refresher=uac|b 200 sdp|a ACK|wait 10m",
	"session-interval":     "a INVITE sdp supported=timer se=60",
	"srtp-no-fax":          "a INVITE sdp to=*1|b 200 sdes,3|a ACK|a INVITE fax",
	"srtp-required":        "a INVITE sdp peer=eve",
	"too-many":             "talking|" + strings.Repeat("a INFO dtmf|", maxWaiting) + "a INFO dtmf",
	"too-many-legs":        "a INVITE sdp to=710|b unreachable INVITE|c unreachable INVITE|d unreachable INVITE|e unreachable INVITE|f unreachable INVITE|g unreachable INVITE|h unreachable INVITE|i unreachable INVITE|j unreachable INVITE",
	"transfer-failed":      "talking|b REFER refer=600|b BYE|c 486",
	"transfer-under-way":   "talking|b REFER refer=600|b BYE|a INVITE hold",
	"trunk-auth":           "a INVITE sdp to=0|b nopassword INVITE",
	"trunk-full":           "a INVITE sdp to=+43123 full=carrier,trunk-full",
	"trunk-rate":           "a INVITE sdp to=+43123 full=carrier,trunk-rate",
	"unknown-account":      "a INVITE sdp to=704",
	"unreachable":          "a INVITE sdp|b unreachable INVITE",
}

// TestEveryReasonIsSaid: each code stands in the Reason header of an answer with
// the status of the table, or of a BYE, and is told to who steps the call, for its
// log and metrics.
func TestEveryReasonIsSaid(t *testing.T) {
	table := answersOf(t)
	for _, code := range Reasons() {
		lines := reasonsGiven[code]
		if code == "set-aside" { // of the caretaker, without any Step
			continue
		}
		t.Run(code, func(t *testing.T) {
			w := newWorld(t)
			var last Result
			for _, line := range strings.Split(strings.Replace(lines, "talking", "a INVITE sdp|b 200 sdp|a ACK", 1), "|") {
				if line == "coding unknown" { // a record of v0.1.0
					w.s.A.Sound.Coding, w.s.B.Sound.Coding = "", ""
					continue
				}
				last = w.do(line)
			}
			if !slices.Contains(last.Reasons, code) {
				t.Errorf("the reasons told are %q", last.Reasons)
			}
			for _, a := range last.Actions {
				answer, want, m := "-", "SIP", new(Message)
				switch {
				case a.Response != nil:
					m = &a.Response.Msg
					answer = strconv.Itoa(m.Status)
				case a.Request != nil && a.Request.Msg.Method == "BYE":
					want, m = "switch", &a.Request.Msg
				}
				for _, v := range m.All("Reason") {
					if strings.HasPrefix(v, want) && strings.HasSuffix(v, `;text="`+code+`"`) && (table[code] == answer || table[code] == "*") {
						return
					}
				}
			}
			t.Errorf("no answer of %s says so: %+v", table[code], last.Actions)
		})
	}
}
