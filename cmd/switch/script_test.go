package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"switch": main})
}

// The scripts in testdata/script run this very binary as an operator would.
func TestScript(t *testing.T) {
	if testing.Short() {
		t.Skip("starts whole switches")
	}
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(env *testscript.Env) error {
			env.Setenv("SWITCH_STATE", filepath.Join(env.WorkDir, "state"))
			for _, name := range []string{"SIP", "METRICS", "API"} {
				port, err := freePort()
				if err != nil {
					return err
				}
				env.Setenv(name+"_PORT", strconv.Itoa(port))
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "await": await},
	})
}

// nextPort is where freePort goes on: no port is found twice.
var nextPort atomic.Int64

func init() { nextPort.Store(rand.Int64N(1000)) }

// freePort finds a port that is free for UDP and TCP. It is below the kernel's own
// range: no connection gets it for its own end before the switch listens; and below
// loadtest's, whose tests run beside these.
func freePort() (port int, err error) {
	for range 100 {
		port = 6000 + int(nextPort.Add(1)%1000)
		var u net.PacketConn
		if u, err = net.ListenPacket("udp", fmt.Sprint("127.0.0.1:", port)); err != nil {
			continue
		}
		var l net.Listener
		l, err = net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
		_ = u.Close()
		if err == nil {
			return port, l.Close()
		}
	}
	return 0, err
}

// exits CODE COMMAND… wants that exit code.
func exits(ts *testscript.TestScript, neg bool, words []string) {
	if neg || len(words) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	err := ts.Exec(words[1], words[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != words[0] {
		ts.Fatalf("%s exits with %s, want %s", strings.Join(words[1:], " "), got, words[0])
	}
}

// await TEXT COMMAND… repeats a command until its output has the text.
func await(ts *testscript.TestScript, neg bool, words []string) {
	if neg || len(words) < 2 {
		ts.Fatalf("usage: await TEXT COMMAND...")
	}
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		_ = ts.Exec(words[1], words[2:]...)
		if strings.Contains(ts.ReadFile("stdout"), words[0]) {
			return
		}
	}
	ts.Fatalf("%s never says %q", strings.Join(words[1:], " "), words[0])
}

// Every verb has a short text, and nothing that it prints of itself is on
// standard output but what was asked for.
func TestVerbs(t *testing.T) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGUSR1)
	defer stop()
	old := os.Stderr
	defer func() { os.Stderr = old }()
	os.Stderr, _ = os.Open(os.DevNull)
	for words, want := range map[string]int{
		"version": exitOK, "frobnicate": exitUsage, "--frobnicate": exitUsage, "calls extra": exitUsage, "rollout": exitUsage,
		"rollout begin": exitUsage, "cdr export --since yesterday": exitUsage, "rollout start /nowhere": exitUsage,
		"rollout undo --steps many": exitUsage, "status --api /nowhere": exitError,
	} {
		if got := run(ctx, strings.Fields(words)); got != want {
			t.Errorf("switch %s exits with %d, want %d", words, got, want)
		}
	}
	for _, cmd := range rootCommand().Commands() {
		if cmd.Short == "" {
			t.Errorf("%s says nothing of itself", cmd.Name())
		}
	}
}

// Every verb that says something says it as JSON, too.
func TestEveryVerbSpeaksJSON(t *testing.T) {
	mute := map[string]bool{"serve": true, "child": true, "help": true}
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		subs := cmd.Commands()
		for _, sub := range subs {
			walk(sub)
		}
		if (len(subs) == 0 || cmd.Name() == "call") && !mute[cmd.Name()] && cmd.Flag("json") == nil {
			t.Errorf("%s has no --json", cmd.CommandPath())
		}
	}
	for _, cmd := range rootCommand().Commands() {
		walk(cmd)
	}
}

// A signal that came while serve was reading its configuration is not lost.
func TestSignalBeforeAnybodyListens(t *testing.T) {
	early, came := context.WithCancel(t.Context())
	came()
	ctx, stop := context.WithCancel(t.Context())
	signals(ctx, early, DefaultConfig(), slog.New(slog.DiscardHandler), make(chan struct{}), stop)
	if ctx.Err() == nil {
		t.Error("serve goes on")
	}
}
