package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"callswitch/console"
	"callswitch/handoff"
	"callswitch/host"
	"callswitch/internal/wire"
	"callswitch/nats"
	"callswitch/sessions"
)

// apiOf is the api of a host that runs nothing but the given children.
func apiOf(t *testing.T, conn *nats.Conn, children ...host.Spec) (b *backend, stop func()) {
	t.Helper()
	state, log := t.TempDir(), slog.New(slog.DiscardHandler)
	h, err := host.New(host.Config{Dir: state, Children: children, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	stop = func() {
		if cancel(); ended != nil {
			<-ended
		}
		ended = nil
	}
	t.Cleanup(stop)
	client, err := host.Dial(t.Context(), state, host.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	c := &child{cfg: DefaultConfig(), id: "api-n1-a", host: client, nats: conn, log: log}
	c.cfg.State = state
	b = &backend{child: c}
	if conn != nil {
		b.docs = nats.NewDocs(conn)
		if b.dir, err = nats.NewDirectory(t.Context(), conn, nats.DirectoryConfig{Log: log}); err != nil {
			t.Fatal(err)
		}
	}
	return b, stop
}

// A release that was taken back once, and that a whole restart has put in force on
// this host since, stays here, though another host still has the one before.
func TestReleasePutInForceByRestartStays(t *testing.T) {
	digest, other := strings.Repeat("d", 64), strings.Repeat("e", 64)
	idle := func(digest string) host.Spec {
		return host.Spec{Name: workerPrefix(digest) + "1", Role: "worker", Argv: []string{"sleep", "1000"}}
	}
	b, _ := apiOf(t, embeddedNATS(t), idle(digest), idle(other))
	r := handoff.Rollout{ID: "r-1", Phase: handoff.PhaseRolledBack, From: handoff.Side{Digest: other}, To: handoff.Side{Digest: digest}}
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.docs.Put(t.Context(), nats.DocRollout, raw, 0); err != nil {
		t.Fatal(err)
	}
	if err := (inForce{Digest: digest, Rollout: "r-1", Undone: "r-1"}).write(b.cfg.State); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		stop string
		left int
	}{{digest, 2}, {other, 1}} {
		if err := (executor{b}).stopIdle(t.Context(), c.stop); err != nil {
			t.Fatal(err)
		}
		list, err := b.host.List(t.Context())
		if err != nil || len(list.Children) != c.left {
			t.Errorf("told to stop %s…: %+v, %v", c.stop[:3], list.Children, err)
		}
	}
}

// beating is a process that the directory has, by its id.
func beating(t *testing.T, conn *nats.Conn, b *backend, p sessions.Process) string {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	beats := make(chan struct{})
	go func() {
		defer close(beats)
		nats.Beat(ctx, conn, func() sessions.Process { return p })
	}()
	t.Cleanup(func() {
		stop()
		<-beats
	})
	for !b.dir.Alive(p.ID) { // of a birth the directory tells nobody
		time.Sleep(time.Millisecond)
	}
	return p.ID
}

// Finalize asks the apis of the other hosts whether serve would start again there.
func TestFinalizeAsksEveryHost(t *testing.T) {
	conn := embeddedNATS(t)
	b, stop := apiOf(t, conn)
	other := beating(t, conn, b, sessions.Process{Role: "api", Node: "n2", ID: "api-n2-b", Release: "v0"})
	to := handoff.Side{Release: "v2", Digest: strings.Repeat("d", 64), Schema: 2}
	refused := func(code, words string) {
		t.Helper()
		err := b.restartableElsewhere(t.Context(), to)
		var e *console.Error
		if code == "" && err != nil || code != "" && (!errors.As(err, &e) || e.Code != code || !strings.Contains(err.Error(), "host n2: ") || !strings.Contains(err.Error(), words)) {
			t.Errorf("%v, want %q", err, code)
		}
	}
	refused("serve-unknown", "of release v0, does not say") // of a release that does not know the question
	var answer atomic.Pointer[console.Error]
	answer.Store(&console.Error{Code: "serve-too-old", Text: "too old", Fix: "replace it"})
	s, err := conn.Subscribe(sessions.SubjectControl(other, verbRestartable), "", func(m sessions.Msg) {
		data, err := wire.Seal(answer.Load())
		if err == nil {
			err = conn.Publish(m.Reply, data)
		}
		if err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	refused("serve-too-old", "too old; replace it")
	answer.Store(new(console.Error))
	refused("", "")
	if err := s.Unsubscribe(); err != nil {
		t.Error(err)
	}
	// And is asked itself.
	stop() // no host: there is no file to look at
	if err := b.serveRestartable(t.Context()); err != nil {
		t.Fatal(err)
	}
	no, err := ask[console.Error](t.Context(), conn, sessions.SubjectControl(b.id, verbRestartable), to)
	if err != nil || no.Code != "serve-unknown" {
		t.Errorf("%+v, %v", no, err)
	}
}

// The pid that a dead host left may be another program's, and that is not started
// once more to see whether it would.
func TestAnotherProgramIsNotTheHost(t *testing.T) {
	b, stop := apiOf(t, nil)
	stop()
	marks := filepath.Join(b.cfg.State, "marks")
	cmd := exec.Command("sh", "-c", "echo x >>"+marks+"; read line")
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = in.Close()
		_ = cmd.Wait()
	}()
	for mark := []byte(nil); len(mark) == 0; mark, _ = os.ReadFile(marks) {
		time.Sleep(time.Millisecond)
	}
	if err := os.WriteFile(filepath.Join(b.cfg.State, "run", hostPIDFile), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.renewHost(t.Context(), console.Inherit{Role: "host"}); err == nil || !strings.Contains(err.Error(), "no host runs") {
		t.Error(err)
	}
	if mark, _ := os.ReadFile(marks); string(mark) != "x\n" {
		t.Errorf("it was started again: %q", mark)
	}
}
