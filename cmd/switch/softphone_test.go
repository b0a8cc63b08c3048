package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"callswitch/sessions"
)

// A call's releases are told in the order in which it was theirs, whichever
// worker's lines came first.
func TestStaysOfACall(t *testing.T) {
	at := time.Unix(1000, 0)
	line := func(epoch uint64, release, what string, freeze float64) sessions.StoryLine {
		return sessions.StoryLine{At: at.Add(time.Duration(epoch) * time.Second), Epoch: epoch, Release: release, What: what, Freeze: freeze}
	}
	story := []sessions.StoryLine{
		line(2, "r2", "moved", 3), line(2, "r2", "request INFO", 0), line(1, "r1", "request INVITE", 0), line(1, "r1", "response 200", 0),
		line(3, "r2", "taken over", 1), line(5, "r1", "request BYE", 0), line(4, "r1", "moved", 7), line(0, "", "", 0),
	}
	var got []string
	for _, s := range staysOf(story) {
		got = append(got, s.Release)
		if s.Release == "r2" && (s.FreezeMS != 3 || !s.Since.Equal(at.Add(2*time.Second))) {
			t.Errorf("%+v", s)
		}
	}
	if !slices.Equal(got, []string{"r1", "r2", "r1"}) {
		t.Errorf("%q", got)
	}
}

// A demo fills in what nobody has set, and its page stays on this machine.
func TestDemoConfig(t *testing.T) {
	c, err := readConfig("", nil, none, lookup(map[string]string{"softphone.demo": "true"}))
	if err != nil || c.Softphone.Listen != demoPage || !slices.Contains(c.Edge.Listen, demoSocket) || !slices.Contains(c.Edge.Listen, "udp:127.0.0.1:5060") {
		t.Errorf("%v, %+v %+v", err, c.Softphone, c.Edge.Listen)
	}
	c, err = readConfig("", nil, none, lookup(map[string]string{"softphone.demo": "true", "softphone.listen": "127.0.0.1:99", "edge.listen": "wss:127.0.0.1:98"}))
	if err != nil || c.Softphone.Listen != "127.0.0.1:99" || !slices.Equal(c.Edge.Listen, []string{"wss:127.0.0.1:98"}) {
		t.Errorf("%v, %+v %+v", err, c.Softphone, c.Edge.Listen)
	}
	_, err = readConfig("", nil, none, lookup(map[string]string{"softphone.demo": "true", "softphone.listen": "0.0.0.0:99"}))
	if err == nil || !strings.Contains(err.Error(), "a demo's page tells passwords") {
		t.Error(err)
	}
	_, err = readConfig("", nil, none, lookup(map[string]string{"softphone.tls": "true", "softphone.listen": "127.0.0.1:99"}))
	if err == nil || !strings.Contains(err.Error(), "add wss:") {
		t.Error(err)
	}
	for _, bad := range []string{"https://x/", "wss://", "wss://a b/", "wss://a/;script-src *"} {
		if _, err := readConfig("", nil, none, lookup(map[string]string{"softphone.sockets": bad})); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if _, err := parsePlan([]byte(demoPlan)); err != nil {
		t.Error(err)
	}
	if a, b := demoPassword([]byte("one key of a cluster"), "anna"), demoPassword([]byte("another key"), "anna"); a == b || a == demoPassword([]byte("another key"), "bert") {
		t.Error("passwords are alike")
	}
}
