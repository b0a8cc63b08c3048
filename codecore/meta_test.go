package codecore

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// choices are the lines that make sense, or nonsense of an interesting kind,
// where the call stands.
func (w *world) choices() []string {
	if w.s.Phase == "" {
		return []string{
			"a INVITE sdp", "a INVITE mux", "a INVITE video", "a INVITE hold", "a INVITE six", "a INVITE sdp hops=3", "a INVITE sdp to=9", "a INVITE", "a INVITE",
			"a INVITE sdp supported=100rel allow=UPDATE", "a INVITE sdp require=100rel", "a INVITE supported=100rel",
			"a INVITE sdp to=2", "a INVITE sdp to=2", "a INVITE sdp to=3", "a INVITE sdp to=3", "a INVITE sdp to=707", "a INVITE sdp to=807", "a INVITE sdp to=5", "a INVITE sdp to=0", "a INVITE sdp to=0", "a INVITE sdp supported=100rel to=0",
			"a INVITE to=2", "a INVITE supported=100rel to=3", "a INVITE sdp supported=100rel to=2", "a INVITE sdp require=100rel to=2", "a INVITE sdp supported=100rel to=3",
			"a INVITE webrtc,video", "a INVITE webrtc to=720", "a INVITE sdp to=720", "a INVITE sdes,gcm", "a INVITE sdp to=*1", "a INVITE sdp to=*2", "a INVITE sdes to=*5", "a INVITE webrtc to=*6",
			"a INVITE webrtc to=*7", "a INVITE to=*8", "a INVITE peer=page", "a INVITE sdes,plain peer=fred to=*2",
			"a INVITE sdp supported=timer se=120 allow=UPDATE", "a INVITE sdp supported=timer,100rel se=120;refresher=uas", "a INVITE sdp supported=timer se=60",
		}
	}
	out := []string{"accept", "accept", "stored", "applied", "wait 1s", "wait 41s", "wait 90s", "silent b", "hangup operator", "a again", "noprack"}
	if all := w.parties(); len(all) < 20 {
		next := string(rune(all[len(all)-1][0] + 1))
		out = append(out, next+" INVITE sdp replaces=b loop", next+" INVITE moved replaces=a peer=alice", "transfer b 600")
	}
	for _, leg := range w.parties() {
		for _, r := range w.asked[leg] {
			if m := r.Msg.Method; m == "INVITE" {
				for _, x := range []string{
					"180", "183 sdp", "200 sdp", "200 held", "200 sdp", "200 sdp tag=t2", "200 video", "200 six", "486", "487", "481", "200",
					"180 rseq=1", "183 sdp rseq=2 allow=UPDATE", "183 sdp rseq=3", "183 sdp rseq=2 tag=t2", "401 auth=n1", "407 auth=n2,stale",
					"603", "302 contact=<sip:600@198.51.100.1>", "302 contact=<sip:707@x> contact=<sip:123@x>;q=0.5",
					"503 at=1", "503 at=2", "timeout INVITE at=1", "timeout INVITE at=3", "timeout INVITE circuit-open at=2", "timeout INVITE circuit-open",
					"200 fax", "200 webrtc,active", "200 webrtc,passive", "200 webrtc,video,active", "200 sdes,1", "200 sdes,3", "200 sdes,again,held", "200 sdes,best", "183 webrtc,active", "183 sdes,3 rseq=1", "488",
					"200 sdp se=100;refresher=uac allow=UPDATE", "200 sdp se=100;refresher=uac", "200 sdp se=100;refresher=uas", "422 minse=2000", "491", "500 retry-After=1",
				} {
					out = append(out, string(leg)+" "+x)
				}
			} else {
				if m == "UPDATE" {
					out = append(out, string(leg)+" 200 sdp "+m, string(leg)+" 491 "+m)
				}
				out = append(out, string(leg)+" 200 "+m, string(leg)+" 200 "+m, string(leg)+" 481 "+m, string(leg)+" 407 auth=n3 "+m, string(leg)+" timeout "+m, string(leg)+" timeout "+m+" at=1")
			}
		}
		if w.over[leg] != nil {
			out = append(out, string(leg)+" 200 sdp tag=late late")
		}
		if w.toTag[leg] == "" {
			continue
		}
		for _, x := range []string{
			"INVITE webrtc", "INVITE webrtc,hold", "INVITE webrtc,restart", "INVITE webrtc,other", "INVITE sdes", "INVITE sdes,rekeyed,hold", "UPDATE webrtc,restart", "REFER refer=*4 quiet", "REFER refer=*2",
			"INVITE hold", "INVITE sdp", "INVITE moved", "INVITE fax", "INVITE", "INFO dtmf", "OPTIONS", "REFER", "REFER refer=600", "REFER refer=600", "REFER refer=707 quiet", "BYE", "PRACK", "PRACK sdp", "UPDATE", "UPDATE moved", "UPDATE hold allow=UPDATE", "UPDATE supported=timer se=100", "INVITE sdp supported=timer se=100;refresher=uas", "INVITE moved supported=timer se=10",
		} {
			out = append(out, string(leg)+" "+x)
		}
		if w.open[leg].Tx != "" {
			out = append(out, string(leg)+" ACK", string(leg)+" ACK sdp", string(leg)+" ACK webrtc,active", string(leg)+" ACK sdes,1", string(leg)+" CANCEL", "noack "+string(leg))
		}
	}
	return out
}

func isWait(line string) (time.Duration, bool) {
	if len(line) < 5 || line[:5] != "wait " {
		return 0, false
	}
	d, err := time.ParseDuration(line[5:])
	return d, err == nil
}

// move is what a handoff does to a state, here with a trip through the oldest
// schema that can say it and, every other time, the newest.
func move(s State, n int) (State, error) {
	floor := SchemaMin
	if n%2 == 1 {
		floor = Schema
	}
	schema, raw, err := Encode(s, floor)
	if err != nil {
		return s, err
	}
	if s, err = Decode(schema, raw); err != nil {
		return s, err
	}
	return s, Check(s)
}

// movedActsTheSame plays one random call twice: one stays, one moves after every
// event. It reports the first difference.
func movedActsTheSame(t *testing.T, seed uint64, move func(State, int) (State, error)) error {
	rnd := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t)
	moved := State{}
	one := func(e, same Event, n int) error {
		before, _ := json.Marshal(w.s)
		kept := w.s
		m, theirs := w.stepOne(moved, same)
		ours := w.take(e)
		if after, _ := json.Marshal(kept); string(after) != string(before) {
			return fmt.Errorf("%T changed its input:\n%s\n%s", e, before, after)
		}
		a, _ := json.Marshal([]any{ours, w.s})
		b, _ := json.Marshal([]any{theirs, m})
		if string(a) != string(b) {
			return fmt.Errorf("after %T:\nstays %s\nmoved %s", e, a, b)
		}
		if m.Phase == "" {
			return nil
		}
		if err := cmp.Or(Check(w.s), orphaned(w.s)); err != nil {
			return err
		}
		var err error
		moved, err = move(m, n)
		return err
	}
	for n := range 40 {
		all := w.choices()
		line := all[rnd.IntN(len(all))]
		span, waits := isWait(line)
		if !waits {
			e := w.event(line)
			if err := one(e, e, n); err != nil {
				return fmt.Errorf("event %d, %q: %w", n, line, err)
			}
			continue
		}
		for end := w.now.Add(span); ; {
			a, b := nextDeadline(w.s), nextDeadline(moved)
			if a != b {
				return fmt.Errorf("event %d: the next deadline is %v, of the moved one %v", n, a, b)
			}
			if a.Timer == "" || a.At.After(end) {
				w.now = end
				break
			}
			w.now = a.At
			if err := one(Fired{a.Timer}, Fired{b.Timer}, n); err != nil {
				return fmt.Errorf("event %d, %s: %w", n, a.Timer, err)
			}
		}
	}
	return nil
}

// orphaned reports a session timer of somebody who is not talked to any more: it
// would end the call, or be taken for that of who comes next under his name.
func orphaned(s State) error {
	for _, d := range s.Timers {
		if kind, leg := sessionOf(d.Timer); kind != "" && (s.leg(leg) == nil || s.leg(leg).live() == nil) {
			return fmt.Errorf("%s runs, and there is no dialog of that leg", d.Timer)
		}
	}
	return nil
}

func nextDeadline(s State) (d Deadline) {
	for _, x := range s.Timers {
		if d.Timer == "" || x.At.Before(d.At) {
			d = x
		}
	}
	return d
}

const walks = 400

func TestCallThatMovesActsLikeOneThatStays(t *testing.T) {
	for seed := range uint64(walks) {
		if err := movedActsTheSame(t, seed, move); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// TestMutantsOfAMoveAreCaught proves that the test above can fail.
func TestMutantsOfAMoveAreCaught(t *testing.T) {
	for name, harm := range harms {
		caught := false
		for seed := uint64(0); seed < walks && !caught; seed++ {
			caught = movedActsTheSame(t, seed, func(s State, n int) (State, error) {
				s, err := move(s, n)
				harm(&s)
				return s, err
			}) != nil
		}
		if !caught {
			t.Errorf("a move that %s acts the same in %d calls", name, walks)
		}
	}
}

var harms = map[string]func(*State){
	"drops a timer": func(s *State) {
		s.Timers = slices.DeleteFunc(s.Timers, func(d Deadline) bool { return d.Timer != TimerAck })
	},
	"drops Pending":       func(s *State) { s.Pending = nil },
	"re-mints ids":        func(s *State) { s.Seed++ },
	"forgets numbers":     func(s *State) { s.Peers = nil },
	"forgets CSeq":        func(s *State) { s.B.CSeq = 1 },
	"drops further legs":  func(s *State) { s.More = nil },
	"drops the next ones": func(s *State) { s.Fork = nil },
	"forgets who leaves": func(s *State) {
		for i := range s.More {
			s.More[i].Leaving = false
		}
	},
	"forgets whom a leg calls": func(s *State) {
		for i := range s.More {
			s.More[i].Target = ""
		}
	},
	"forgets a challenge": func(s *State) {
		s.A.Challenges, s.B.Challenges = nil, nil
	},
	"forgets how often it was asked": func(s *State) {
		for i := range s.B.Cli {
			s.B.Cli[i].Tries = 0
		}
	},
	"forgets a transfer": func(s *State) { s.Transfer = nil },
	"drops a session timer": func(s *State) {
		s.Timers = slices.DeleteFunc(s.Timers, func(d Deadline) bool {
			return strings.HasPrefix(string(d.Timer), refreshTimer) || strings.HasPrefix(string(d.Timer), expireTimer)
		})
	},
	"drops RSeq": func(s *State) {
		for _, l := range []Leg{s.A, s.B} {
			for i := range l.Srv {
				l.Srv[i].RSeq = 0
			}
			for i := range l.Dialogs {
				l.Dialogs[i].RSeq = 0
			}
		}
	},
	"forgets that a PRACK is due": func(s *State) { s.A.Agreed, s.B.Offer = false, nil },
	"forgets that an ACK is due":  func(s *State) { s.A.AckDue, s.B.AckDue = 0, 0 },
	"forgets who refreshes":       func(s *State) { s.A.Interval, s.B.Interval = 0, 0 },
	"forgets who takes UPDATE":    func(s *State) { s.A.Update, s.B.Update = false, false },
	"forgets how a party codes":   func(s *State) { s.A.Sound.Coding, s.B.Sound.Coding = "", "" },
	"forgets the labels in use":   func(s *State) { s.Labels = 0 },
	"forgets how a leg was asked": func(s *State) {
		s.A.set(Terms{SRTP: s.A.policy()})
		s.B.set(Terms{SRTP: s.B.policy()})
	},
	"forgets a policy": func(s *State) {
		s.A.set(Terms{Ask: s.A.ask()})
		s.B.set(Terms{Ask: s.B.ask()})
	},
	"forgets how a leg is protected": func(s *State) { s.A.Sound.Line, s.B.Sound.Line = nil, nil },
	"forgets the SDP version": func(s *State) {
		s.A.Told, s.B.Told = "", ""
	},
}

// crashes plays one random call whose owner dies now and then: before the save,
// after it, between two actions. What the phones see must hold together, and the
// call must end.
func crashes(t *testing.T, seed uint64, restore func(State) State) error {
	rnd := rand.New(rand.NewPCG(seed, 2))
	w := newWorld(t)
	var saved State
	back := func() error {
		schema, raw, err := Encode(saved, SchemaMin)
		if err != nil {
			return err
		}
		if w.s, err = Decode(schema, raw); err != nil {
			return err
		}
		w.s = restore(w.s)
		for _, to := range slices.Sorted(maps.Keys(w.s.Peers)) {
			for _, a := range PendingFor(w.s, to, "b1") {
				w.perform(a)
			}
		}
		return nil
	}
	one := func(e Event) error {
		for {
			kind := rnd.IntN(8)
			s, res := w.stepOne(w.s, e)
			if s.Phase == "" || saved.Phase == "" && !res.Save {
				return nil
			}
			if kind == 0 && saved.Phase != "" { // before the save: the sender sends it again
				if err := back(); err != nil {
					return err
				}
				continue
			}
			w.s = s
			if res.Save {
				saved = s
			}
			for i, a := range res.Actions {
				if kind == 1 && i == len(res.Actions)/2 {
					break
				}
				w.perform(a)
			}
			if kind <= 2 {
				return back()
			}
			return nil
		}
	}
	for range 30 {
		all := w.choices()
		line := all[rnd.IntN(len(all))]
		if span, waits := isWait(line); waits {
			end := w.now.Add(span)
			for d := nextDeadline(w.s); d.Timer != "" && !d.At.After(end); d = nextDeadline(w.s) {
				w.now = d.At
				if err := one(Fired{d.Timer}); err != nil {
					return err
				}
			}
			w.now = end
			continue
		}
		if err := one(w.event(line)); err != nil {
			return err
		}
	}
	if err := back(); err != nil {
		return err
	}
	return w.finish()
}

// finish ends the call as living phones and planes do.
func (w *world) finish() error {
	for range 10 {
		if Settled(w.s) {
			break
		}
		if !Ended(w.s) {
			w.do("hangup operator")
		}
		for _, leg := range w.parties() {
			for len(w.asked[leg]) > 0 {
				r := w.asked[leg][0]
				status := "200"
				if r.Msg.Method == "INVITE" {
					status = "487"
				}
				w.do(fmt.Sprintf("%s %s %s", leg, status, r.Msg.Method))
			}
		}
		for to := range w.s.Peers {
			w.do("accept " + to)
		}
		w.do("applied", "wait 41s")
	}
	if !Settled(w.s) {
		return errors.New("the call does not end")
	}
	if w.fault != nil {
		return w.fault
	}
	if len(w.cdrs) != 1 {
		return fmt.Errorf("%d CDRs: %+v", len(w.cdrs), w.cdrs)
	}
	return nil
}

func TestCrashesLoseAndDoubleNothing(t *testing.T) {
	same := func(s State) State { return s }
	for seed := range uint64(walks) {
		if err := crashes(t, seed, same); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func TestMutantsOfACrashAreCaught(t *testing.T) {
	message := func(harm func(*Message)) func(State) State {
		return func(s State) State {
			for i, a := range s.Pending { // Decode made them: nobody else has them
				if a.Request != nil {
					harm(&s.Pending[i].Request.Msg)
				}
				if a.Response != nil {
					harm(&s.Pending[i].Response.Msg)
				}
			}
			return s
		}
	}
	for name, restore := range map[string]func(State) State{
		"drops Pending": func(s State) State { s.Pending = nil; return s },
		"writes a body anew": message(func(m *Message) {
			m.Body = bytes.Replace(m.Body, []byte("s=-"), []byte("s= "), 1)
		}),
		"writes a header anew": message(func(m *Message) {
			for i, h := range m.Headers {
				if h.Name == "From" {
					m.Headers[i].Value = strings.Replace(h.Value, ";tag", " ;tag", 1)
				}
			}
		}),
	} {
		caught := false
		for seed := uint64(0); seed < walks && !caught; seed++ {
			caught = crashes(t, seed, restore) != nil
		}
		if !caught {
			t.Errorf("a crash that %s shows nowhere in %d calls", name, walks)
		}
	}
}
