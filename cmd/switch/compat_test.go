package main

import (
	"testing"

	"callswitch/sessions"
)

func TestNoCommonProto(t *testing.T) {
	for _, c := range []struct {
		name     string
		min, max int // theirs; ours are 3 to 4
		refused  bool
	}{
		{"the same", 3, 4, false},
		{"one in common", 1, 3, false},
		{"older only", 1, 2, true},
		{"newer only: it goes itself", 5, 6, false},
		{"says nothing", 0, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := noCommonProto(sessions.Process{ProtoMin: c.min, ProtoMax: c.max}, 3, 4)
			if (err != nil) != c.refused {
				t.Errorf("got %v, want refused: %v", err, c.refused)
			}
		})
	}
}
