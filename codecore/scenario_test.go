package codecore

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var rewriteFlag = flag.Bool("rewrite", false, "write testdata/call/*.txt anew from what the code does; read the diff")

// TestCalls plays testdata/call/*.txt. A line at the margin is what happens; the
// indented lines under it are what the switch does then, and "= phase" where
// that has changed. "takeover" is a new owner, from the stored record: what it does
// is what was pending, again. Lines that begin with # are the story.
func TestCalls(t *testing.T) {
	files, err := filepath.Glob("testdata/call/*.txt")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d scenarios, %v", len(files), err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			old, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(old))
			if *rewriteFlag {
				if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(old) {
				t.Errorf("the call goes another way now; if that is right, run go test ./codecore -run TestCalls -rewrite and read the diff.\n%s", got)
			}
		})
	}
}

func play(t *testing.T, text string) string {
	w := newWorld(t)
	var out strings.Builder
	phase := Phase("")
	for _, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		if strings.HasPrefix(line, " ") {
			continue
		}
		fmt.Fprintln(&out, line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		media := w.s.Media
		var results []Result
		if line == "takeover" {
			results = []Result{{Actions: w.takenOver()}}
		} else if d, ok := strings.CutPrefix(line, "wait "); ok {
			span, err := time.ParseDuration(d)
			if err != nil {
				t.Fatal(err)
			}
			results = w.tick(span)
		} else {
			results = []Result{w.take(w.event(line))}
		}
		for _, r := range results {
			for _, a := range r.Actions {
				fmt.Fprintf(&out, "    %s\n", picture(w, a))
			}
		}
		if !slices.EqualFunc(media.Legs, w.s.Media.Legs, MediaLeg.same) {
			fmt.Fprintf(&out, "    media %s\n", flowing(w.s.Media.Legs))
		}
		if w.s.Phase != phase {
			phase = w.s.Phase
			fmt.Fprintf(&out, "    = %s\n", phase)
		}
		if w.s.Phase != "" {
			if err := Check(w.s); err != nil {
				t.Error(err)
			}
		}
	}
	if w.fault != nil {
		t.Error(w.fault)
	}
	if Settled(w.s) {
		fmt.Fprintln(&out, "    = settled")
	}
	return out.String()
}

// takenOver has another owner go on from the record as stored: in the lowest
// schema that says it, as one that is killed leaves it.
func (w *world) takenOver() []Action {
	var err error
	if w.s, err = move(w.saved, 0); err != nil {
		w.t.Fatal(err)
	}
	return w.s.Pending
}

func flowing(legs []MediaLeg) string {
	if len(legs) == 0 {
		return "freed"
	}
	var s []string
	for _, l := range legs {
		s = append(s, fmt.Sprintf("%s: remote %s send %v recv %v learn %d%s", l.Leg, l.Remote, l.Send, l.Recv, l.Learn, protectionOf(l)))
	}
	return strings.Join(s, "; ")
}

// picture is one line for one action, as a ladder diagram would have it.
func picture(w *world, a Action) string {
	num := fmt.Sprintf("%d", a.Seq)
	if a.Seq == 0 {
		num = "-"
	}
	party := func(m *Message) string { return string(w.party(m.Get("Call-ID"))) }
	describeBody := func(m *Message) string {
		if len(m.Body) == 0 {
			return ""
		}
		s, err := describe(m.Body, want{coding: true})
		if err != nil {
			return fmt.Sprintf(" %q", m.Body)
		}
		if s.sound.Addr == "" { // it is in the candidate
			if _, at, ok := strings.Cut(string(m.Body), "a=candidate:1 1 UDP 2130706431 "); ok {
				s.sound.Addr = strings.Join(strings.Fields(at)[:2], ":")
			}
		}
		_, o, _ := strings.Cut(string(m.Body), "o=- ")
		version := strings.Fields(o)[1]
		more := ""
		if s.sound.Mux {
			more += " mux"
		}
		if s.sound.Fax {
			more += " t38"
		}
		if _, fmtp, ok := strings.Cut(string(m.Body), "a=fmtp:96 "); ok {
			fmtp, _, _ = strings.Cut(fmtp, "\r")
			more += " opus " + fmtp
		}
		for i, l := range s.lines {
			if l != "" {
				more += fmt.Sprintf(" line %d refused", i)
			}
		}
		more += keysOf(string(m.Body))
		return fmt.Sprintf(" [%s %s v%s%s]", s.sound.Addr, s.sound.direction(), version, more)
	}
	tail := func(m *Message) string {
		out := ""
		for _, n := range []string{"Reason", "Retry-After", "Unsupported", "Require", "RSeq", "RAck", "Session-Expires", "Min-SE", "Max-Forwards", "Route", "Referred-By", "Refer-Sub", "Event", "Subscription-State", "P-Asserted-Identity", "Privacy", "Diversion", "History-Info"} {
			if v := strings.Join(m.All(n), ", "); v != "" && v != "70" && v != "1800;refresher=uas" {
				out += fmt.Sprintf("  %s: %s", n, v)
			}
		}
		if from, _ := tagOf(m.Get("From")); m.IsRequest() && toTag(m) == "" && m.Method == "INVITE" && !strings.Contains(from, "sip:100@") {
			out += "  From: " + from
		}
		return out
	}
	switch {
	case a.Request != nil:
		m := &a.Request.Msg
		_, tag := tagOf(m.Get("To"))
		if tag != "" {
			tag = " in " + tag
		}
		way := ""
		if leg := party(m); a.Request.Flow != "" && a.Request.Flow != "udp/x/a" {
			way = " by " + a.Request.Flow
		} else if leg == "a" && a.Request.Flow == "" {
			way = " by its address"
		}
		for _, x := range a.Request.Auth {
			way += fmt.Sprintf("  answers %s of %s nc %d", x.Nonce, x.Realm, x.NC)
			if x.Algorithm != "" {
				way += " by " + x.Algorithm
			}
			if x.Method != "" {
				way += " as " + x.Method
			}
		}
		if len(a.Request.Avoid) > 0 {
			way += " not at " + strings.Join(a.Request.Avoid, ", ")
		}
		if a.Request.Hurry {
			way += " in a hurry"
		}
		if a.To != "edge.n1" {
			way += " at " + a.To
		}
		return fmt.Sprintf("%s %s <- %s %s%s%s%s%s", num, party(m), m.Get("CSeq"), m.URI, tag, describeBody(m), tail(m), way)
	case a.Response != nil:
		m := &a.Response.Msg
		to := strings.Join(m.All("Contact"), ", ")
		if to != "" {
			to = "  Contact: " + to
		}
		return fmt.Sprintf("%s %s <- %d %s (%s)%s%s%s", num, party(m), m.Status, m.Reason, m.Get("CSeq"), describeBody(m), tail(m), to)
	}
	d := a.CDR
	sent := ""
	if d.TransferredTo != "" {
		sent = fmt.Sprintf("  transferred to %s by %s at %s", d.TransferredTo, d.TransferredBy, d.Transferred.Format("15:04:05"))
	}
	return fmt.Sprintf("%s CDR %s %d %gs by %s %s%s", num, d.Result, d.Code, d.Seconds, d.HungUpBy, d.Cause, sent)
}

// The index of testdata/call names only what exists: scenarios, tests of ours, of
// the edge and of loadtest, and sipp plays.
func TestIndexOfCallsNamesWhatExists(t *testing.T) {
	index, err := os.ReadFile("testdata/call/README.md")
	if err != nil {
		t.Fatal(err)
	}
	var sources strings.Builder
	for _, glob := range []string{"*_test.go", "../edge/*_test.go", "../media/*_test.go", "../edge/*_test.go", "../loadtest/*_test.go"} {
		files, _ := filepath.Glob(glob)
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			sources.Write(b)
		}
	}
	named := 0
	for i, word := range strings.Split(string(index), "`") {
		if i%2 == 0 {
			for _, cell := range strings.Split(word, "|") {
				for _, play := range strings.Split(cell, ";") {
					if play, ok := strings.CutPrefix(strings.TrimSpace(play), "sipp: "); ok && !strings.Contains(sources.String(), `{"`+play+`", `) {
						t.Errorf("there is no sipp play %q", play)
					}
				}
			}
			continue
		}
		switch {
		case strings.HasSuffix(word, ".txt"):
			if _, err := os.Stat(filepath.Join("testdata/call", word)); err != nil {
				t.Error(err)
			}
			named++
		case strings.HasPrefix(word, "Test"):
			if !strings.Contains(sources.String(), "func "+word+"(t *testing.T)") {
				t.Errorf("there is no %s", word)
			}
			named++
		}
	}
	if named < 40 {
		t.Errorf("the index names %d scenarios and tests", named)
	}
}
