package nats

import (
	"encoding/json"
	"sync"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

// Lines of stories wait a little, so that a call's go in one message and all
// messages in one system call: sent one by one they cost a sixth of all CPU of a
// short call.
const (
	storyWait  = 250 * time.Millisecond
	storyLines = 1 << 16 // waiting; more are dropped
)

// stories gathers lines until they are sent. A process that is killed loses what
// waits: stories are for operators.
type stories struct {
	send func(id codecore.CallID, body []byte)

	mu    sync.Mutex
	lines map[codecore.CallID][]sessions.StoryLine
	n     int
	timer *time.Timer // runs while lines wait
}

func (s *stories) tell(id codecore.CallID, line sessions.StoryLine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n >= storyLines {
		return
	}
	if s.n++; s.n == 1 {
		s.lines = map[codecore.CallID][]sessions.StoryLine{}
		if s.timer == nil {
			s.timer = time.AfterFunc(storyWait, s.flush)
		} else {
			s.timer.Reset(storyWait)
		}
	}
	s.lines[id] = append(s.lines[id], line)
}

// flush sends what waits: for each call one message, an array of lines.
func (s *stories) flush() {
	s.mu.Lock()
	lines := s.lines
	s.lines, s.n = nil, 0
	s.mu.Unlock()
	for id, l := range lines {
		if body, err := json.Marshal(l); err == nil {
			s.send(id, body)
		}
	}
}
