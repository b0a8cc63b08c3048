package main

import "testing"

// TestSlackIsShortWhereASystemCallBlocks: the media plane waits for packets in
// one, a store that syncs each write does; both keep their only CPU meanwhile.
func TestSlackIsShortWhereASystemCallBlocks(t *testing.T) {
	var each Config
	each.NATS.SyncInterval = -1
	for _, c := range []struct {
		role string
		cfg  Config
		long bool
	}{{"worker", Config{}, true}, {"edge", each, true}, {"nats", Config{}, true}, {"nats", each, false}, {"media", Config{}, false}} {
		if got := slackOf(c.role, c.cfg); (got == timerSlack) != c.long {
			t.Errorf("%s, sync %v: %v", c.role, c.cfg.NATS.SyncInterval, got)
		}
	}
}
