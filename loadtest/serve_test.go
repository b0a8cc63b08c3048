package loadtest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// runRig starts a (fake) switch, says its pid and waits to be killed.
func runRig(state string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	site, err := NewSite(state, 1)
	if err != nil {
		return err
	}
	sw, err := StartSwitch(context.Background(), ServeConfig{
		Site: site, Config: func(s Site) []byte { b, _ := json.Marshal(s); return b },
		Argv: []string{exe, state + "/switch.yaml"}, Env: []string{"RIG_FAKE=serve"},
	})
	if err != nil {
		return err
	}
	fmt.Println(sw.cmd.Process.Pid)
	select {}
}

// A rig that is killed takes its switch along: no serve is left behind.
func TestKilledRigEndsItsSwitch(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	state, err := os.MkdirTemp("", "rig") // a short path, for the unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(state) })
	rig := exec.CommandContext(t.Context(), exe, state) //nolint:gosec // this very test
	rig.Env = append(os.Environ(), "RIG_FAKE=rig")
	rig.Stderr = os.Stderr
	out, err := rig.StdoutPipe()
	if err == nil {
		err = rig.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	pid, bad := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || bad != nil || !Alive(pid) {
		t.Fatalf("serve did not start: %q %v", line, err)
	}
	_ = rig.Process.Kill()
	_ = rig.Wait()
	for ctx := patient(t, time.Minute); Alive(pid); {
		if !pause(ctx, 10*time.Millisecond) {
			_ = os.RemoveAll(state)
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill()
			}
			t.Fatal("serve outlives the rig that started it")
		}
	}
}
