package sessions_test

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"callswitch/codecore"
)

// script is the body of a request to toyStep: what the Step is to decide.
type script struct {
	Act    []string      `json:"act,omitempty"`   // receivers of one action each
	Lossy  []string      `json:"lossy,omitempty"` // receivers of an action that is not repeated
	Timer  string        `json:"timer,omitempty"`
	In     time.Duration `json:"in,omitempty"`
	Media  int           `json:"media,omitempty"` // local port of the leg desired; <0 = none
	Alloc  bool          `json:"alloc,omitempty"`
	Panic  bool          `json:"panic,omitempty"`
	NoSave bool          `json:"no_save,omitempty"`
	End    bool          `json:"end,omitempty"`
	CDR    bool          `json:"cdr,omitempty"`
	Reason string        `json:"reason,omitempty"` // of a refusal
}

// toyStep is call code that does what it is told, so that tests of the Runner
// speak of the Runner alone. An action is over when it is accepted.
func toyStep(s codecore.State, now time.Time, ev codecore.Event) (codecore.State, codecore.Result) {
	s.Peers, s.Pending, s.Timers = maps.Clone(s.Peers), slices.Clone(s.Pending), slices.Clone(s.Timers)
	if s.Peers == nil {
		s.Peers = map[string]codecore.Peer{}
	}
	var res codecore.Result
	switch e := ev.(type) {
	case codecore.SIPRequest:
		var do script
		_ = json.Unmarshal(e.Msg.Body, &do)
		if do.Reason != "" {
			res.Reasons = []string{do.Reason}
		}
		if s.Phase == "" {
			s.Phase = "talking"
		}
		if ended(s) {
			res.Actions = append(res.Actions, mint(&s, "edge.n1", e.Msg.Method))
			return s, res
		}
		res.Save = !do.NoSave
		obey(&s, &res, do, now, e.Msg.Method)
	case codecore.SIPResponse:
		res.Save = true
	case codecore.Allocated:
		s.Media.Node = e.Node
		res.Actions = append(res.Actions, mint(&s, "edge.n1", "allocated "+e.Reason))
	case codecore.Fired:
		s.Timers = slices.DeleteFunc(s.Timers, func(d codecore.Deadline) bool { return d.Timer == e.Timer })
		res.Actions = append(res.Actions, mint(&s, "edge.n1", "fired "+string(e.Timer)))
		res.Save = true
	case codecore.Accepted:
		p := s.Peers[e.To]
		if e.Boot > p.Boot {
			p = codecore.Peer{Boot: e.Boot, Minted: p.Minted}
		}
		p.Accepted = max(p.Accepted, e.Seq)
		s.Peers[e.To] = p
		s.Pending = slices.DeleteFunc(s.Pending, func(a codecore.Action) bool { return a.To == e.To && a.Seq <= e.Seq })
	case codecore.MediaApplied:
		s.MediaDue = false
	case codecore.HangUp:
		obey(&s, &res, script{End: true, CDR: true}, now, "HANGUP")
		res.Save = true
	}
	return s, res
}

func obey(s *codecore.State, res *codecore.Result, do script, now time.Time, name string) {
	if do.Panic {
		s.Phase = "wrecked"
		panic("told to")
	}
	for _, to := range do.Act {
		res.Actions = append(res.Actions, mint(s, to, name))
	}
	for _, to := range do.Lossy {
		res.Actions = append(res.Actions, codecore.Action{To: to, Effect: request(name)})
	}
	if do.Timer != "" {
		s.Timers = append(s.Timers, codecore.Deadline{Timer: codecore.Timer(do.Timer), At: now.Add(do.In)})
	}
	if do.Media != 0 {
		s.Media, s.MediaDue = codecore.Media{Node: "n1"}, true
		if do.Media > 0 {
			s.Media.Legs = []codecore.MediaLeg{{Leg: codecore.LegA, Port: do.Media}}
		}
	}
	if do.Alloc {
		res.Allocate = []codecore.LegID{codecore.LegA, codecore.LegB}
	}
	if do.CDR {
		a := mint(s, "cdr", "")
		a.Effect = codecore.Effect{CDR: &codecore.CDR{ID: string(theCall), Result: "answered"}}
		s.Pending[len(s.Pending)-1] = a
		res.Actions = append(res.Actions, a)
	}
	if do.End {
		s.Phase = phaseEnded
		s.Timers = nil
	}
}

func mint(s *codecore.State, to, name string) codecore.Action {
	p := s.Peers[to]
	p.Minted++
	s.Peers[to] = p
	a := codecore.Action{To: to, Seq: p.Minted, Effect: request(name)}
	s.Pending = append(s.Pending, a)
	return a
}

func request(method string) codecore.Effect {
	return codecore.Effect{Request: &codecore.SendRequest{Msg: codecore.Message{Method: method}}}
}

func ended(s codecore.State) bool { return s.Phase == phaseEnded }

const phaseEnded = "ended"
