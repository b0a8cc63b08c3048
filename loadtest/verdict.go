package loadtest

import (
	"encoding/json"
	"fmt"
	"io"
	"sort"
	"strings"
)

// Verdict is what a demo found. Counts outside Kinds are of the talking calls,
// both directions; moved and moved back are distinct calls.
type Verdict struct {
	Calls         int                     `json:"calls"`
	Established   int                     `json:"established"`
	Moved         int                     `json:"moved"`      // have been on the next release after being elsewhere
	MovedBack     int                     `json:"moved_back"` // … and on the first one again
	Refused       int                     `json:"refused"`    // that stayed where they were when they should have moved
	Dropped       int                     `json:"dropped"`    // ended by the switch, or not ending when told to
	RTPSent       int                     `json:"rtp_sent"`
	RTPLost       int                     `json:"rtp_lost"` // missed by the receiving far end, by payload number
	RTPReordered  int                     `json:"rtp_reordered"`
	RTPDuplicated int                     `json:"rtp_duplicated"`
	RTPElsewhere  int                     `json:"rtp_wrong_source"` // not from the address and port of the SDP
	RTPForeign    int                     `json:"rtp_foreign"`      // of another call
	RTPBroken     int                     `json:"rtp_broken"`       // SSRC or sequence not continuous
	RTPGapMax     float64                 `json:"rtp_gap_ms_max"`   // longest silence at any ear
	RTPDelayMax   float64                 `json:"rtp_delay_ms_max"`
	FreezeMS      Quantiles               `json:"freeze_ms"`
	ByeOK         int                     `json:"bye_ok"`
	CDRs          int                     `json:"cdrs"`
	CDRDuplicates int                     `json:"cdr_duplicates"` // of all kinds
	Retransmitted int                     `json:"sip_retransmitted"`
	Kinds         map[string]*KindVerdict `json:"kinds"`
	Releases      []ReleaseStep           `json:"releases"`
	Workers       []WorkerSeen            `json:"workers"`
	MediaPorts    int                     `json:"media_ports"` // that belong to the media process, of 2 a call
	Seconds       float64                 `json:"seconds"`
	Problems      []string                `json:"problems"` // empty: passed

	rtp bool
}

// KindVerdict is the outcome of one kind of calls.
type KindVerdict struct {
	Calls    int      `json:"calls"`
	OK       int      `json:"ok"`
	Moved    int      `json:"moved"`             // at least once
	CDRs     int      `json:"cdrs"`              //
	Reasons  []string `json:"reasons,omitempty"` // why the switch left them where they were
	Problems []string `json:"problems,omitempty"`
}

// ReleaseStep is one step of the demo: forth to the next release or back.
type ReleaseStep struct {
	Step     int       `json:"step"`
	Release  string    `json:"release"`   // that the calls are to be on
	Digest   string    `json:"digest"`    // of its executable: this tells releases apart, names may be equal
	Talking  int       `json:"talking"`   // talking calls on it afterwards
	Moved    int       `json:"moved"`     // calls of all kinds, as the rollout says
	Refused  int       `json:"refused"`   //
	Seconds  float64   `json:"seconds"`   // start to last wave
	FreezeMS Quantiles `json:"freeze_ms"` // worst wave
}

// WorkerSeen is a worker as the process table has it.
type WorkerSeen struct {
	Step    int    `json:"step"`
	PID     int    `json:"pid"`
	Release string `json:"release"`
	Digest  string `json:"digest"` // SHA-256 of /proc/pid/exe
}

// Passed reports whether nothing was lost.
func (v *Verdict) Passed() bool { return len(v.Problems) == 0 }

// check fills Problems from the counts.
func (v *Verdict) check(back bool) {
	must := func(ok bool, format string, args ...any) {
		if !ok {
			v.Problems = append(v.Problems, fmt.Sprintf(format, args...))
		}
	}
	must(v.Calls > 0, "no calls were placed")
	must(v.Established == v.Calls, "%d of %d calls came up", v.Established, v.Calls)
	must(v.Moved == v.Calls, "%d of %d calls moved to the next release", v.Moved, v.Calls)
	must(!back || v.MovedBack == v.Calls, "%d of %d calls moved back", v.MovedBack, v.Calls)
	must(v.Refused == 0, "%d moves of talking calls were refused", v.Refused)
	must(v.Dropped == 0, "%d calls were dropped", v.Dropped)
	must(v.ByeOK == v.Calls, "%d of %d calls could be hung up", v.ByeOK, v.Calls)
	must(v.CDRs == v.Calls, "%d CDRs of %d calls", v.CDRs, v.Calls)
	must(v.CDRDuplicates == 0, "%d CDRs came more than once", v.CDRDuplicates)
	if v.rtp {
		must(v.RTPSent > 0, "no sound was sent")
		must(v.RTPLost == 0, "%d of %d RTP packets were lost", v.RTPLost, v.RTPSent)
		must(v.RTPReordered == 0, "%d RTP packets came out of order", v.RTPReordered)
		must(v.RTPDuplicated == 0, "%d RTP packets came twice", v.RTPDuplicated)
		must(v.RTPElsewhere == 0, "%d RTP packets came from elsewhere than the SDP says", v.RTPElsewhere)
		must(v.RTPForeign == 0, "%d RTP packets of another call were heard", v.RTPForeign)
		must(v.RTPBroken == 0, "%d breaks of SSRC or sequence", v.RTPBroken)
		must(v.MediaPorts == 2*v.Calls, "%d of %d RTP ports belong to the media process", v.MediaPorts, 2*v.Calls)
	}
	for _, name := range sortedKeys(v.Kinds) {
		k := v.Kinds[name]
		must(k.OK == k.Calls && len(k.Problems) == 0, "%s: %d of %d calls ended as they should: %s", name, k.OK, k.Calls, first(k.Problems, 3))
		must(k.CDRs == k.Calls, "%s: %d CDRs of %d calls", name, k.CDRs, k.Calls)
	}
}

func first(s []string, n int) string {
	if len(s) > n {
		return strings.Join(s[:n], "; ") + fmt.Sprintf("; and %d more", len(s)-n)
	}
	return strings.Join(s, "; ")
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

// WriteJSON writes one object.
func (v *Verdict) WriteJSON(w io.Writer) error {
	if v.Problems == nil {
		v.Problems = []string{}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// WriteTable writes the verdict for people.
func (v *Verdict) WriteTable(w io.Writer) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
	p("")
	p("  talking calls     %6d   established %d, hung up %d, dropped %d", v.Calls, v.Established, v.ByeOK, v.Dropped)
	p("  moved             %6d   and back %d, refused %d", v.Moved, v.MovedBack, v.Refused)
	if v.rtp {
		p("  RTP sent        %8d   lost %d, out of order %d, twice %d", v.RTPSent, v.RTPLost, v.RTPReordered, v.RTPDuplicated)
		p("  longest silence %8.1f ms (a packet is due every 20)", v.RTPGapMax)
	}
	p("  freeze of a call  %6.1f ms p50, %.1f p99, %.1f max", v.FreezeMS.P50, v.FreezeMS.P99, v.FreezeMS.Max)
	p("  CDRs              %6d   more than once %d", v.CDRs, v.CDRDuplicates)
	p("")
	p("  other kinds              ok   of   moved  CDRs")
	for _, name := range sortedKeys(v.Kinds) {
		k := v.Kinds[name]
		p("  %-22s %4d %4d %7d %5d  %s", name, k.OK, k.Calls, k.Moved, k.CDRs, first(k.Reasons, 2))
	}
	p("")
	p("  step  release          talking   moved refused  seconds  freeze p99")
	for i, s := range v.Releases {
		if len(v.Releases) > 8 && i >= 3 && i < len(v.Releases)-3 {
			if i == 3 {
				p("   …")
			}
			continue
		}
		p("  %4d  %-16s %7d %7d %7d %8.2f %8.1f ms", s.Step, s.Release, s.Talking, s.Moved, s.Refused, s.Seconds, s.FreezeMS.P99)
	}
	p("")
	if v.Passed() {
		p("  PASSED: nothing was lost.")
		return
	}
	p("  FAILED:")
	for _, s := range v.Problems {
		p("   - %s", s)
	}
}
