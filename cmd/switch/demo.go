package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"callswitch/loadtest"
)

func demoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "see live calls survive a release and the way back",
		Long: `Build the switch and its next release from the tree, run it with a load rig on
loopback, move every live call to the next release and back while they talk,
and judge at the far ends. Exit code 0 only if nothing was lost.`,
		Args: args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if err := counts(cmd, 1, "calls", "seconds", "releases"); err != nil {
				return err
			}
			dir, err := os.MkdirTemp("", "switch-demo-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			f := cmd.Flags()
			this, next, err := releases(cmd, dir)
			if err != nil {
				return err
			}
			c := loadtest.DemoConfig{
				SwitchBinary: this, NextBinary: next, StateDir: filepath.Join(dir, "state"),
				Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr(),
			}
			says, err := versions(ctx, this, next)
			if err != nil {
				return err
			}
			c.Schema = min(says[0].Schema, says[1].Schema)
			if strings.HasSuffix(says[1].Release, "-next") && says[1].Schema > says[0].Schema { // it pins and refuses on purpose
				c.Pinned = loadtest.Mark{Headers: []string{"X-Call-Note: demo"}}
				c.Refused = loadtest.Mark{Number: "99900001"}
			}
			c.Calls, _ = f.GetInt("calls")
			c.Seconds, _ = f.GetInt("seconds")
			c.Releases, _ = f.GetInt("releases")
			c.RTP, _ = f.GetBool("rtp")
			c.TCP, _ = f.GetBool("tcp")
			c.JSON, _ = f.GetBool("json")
			verdict, err := loadtest.Demo(ctx, c)
			if err != nil {
				return err
			}
			if !verdict.Passed() {
				return errors.New("the demo lost something: " + strings.Join(verdict.Problems, "; "))
			}
			return nil
		},
	}
	cmd.Flags().Int("calls", 200, "talking calls")
	cmd.Flags().Int("seconds", 20, "of talk over all releases")
	cmd.Flags().Int("releases", 2, "steps, the next release and this one alternating")
	cmd.Flags().Bool("rtp", true, "sound both ways, 50 packets a second")
	cmd.Flags().Bool("tcp", false, "SIP over TCP")
	cmd.Flags().Bool("json", false, "one JSON object on standard output, nothing else there")
	releaseFlags(cmd)
	return cmd
}

func releaseFlags(cmd *cobra.Command) {
	cmd.Flags().String("binary", "", "executable of this release (default: built from the tree)")
	cmd.Flags().String("next", "", "executable of the next release (default: built from the tree)")
}

// releases are the executables of this release and the next, given by flags or
// built from the tree into dir.
func releases(cmd *cobra.Command, dir string) (this, next string, err error) {
	given, _ := cmd.Flags().GetString("binary")
	if this, err = release(cmd.Context(), cmd.ErrOrStderr(), dir, "switch", "", given); err != nil {
		return "", "", err
	}
	given, _ = cmd.Flags().GetString("next")
	next, err = release(cmd.Context(), cmd.ErrOrStderr(), dir, "switch-next", "nextrelease", given)
	return this, next, err
}

// release is the executable given, or one built from the tree.
func release(ctx context.Context, log io.Writer, dir, name, tags, given string) (string, error) {
	if given != "" {
		return filepath.Abs(given)
	}
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "callswitch").Output()
	if err != nil {
		return "", errors.New("the demo builds the switch from its source: run it inside the tree with Go installed, or name executables with --binary and --next")
	}
	out := filepath.Join(dir, name)
	fmt.Fprintf(log, "building %s\n", name)
	build := exec.CommandContext(ctx, "go", "build", "-tags", tags, "-o", out, "./cmd/switch")
	build.Dir = strings.TrimSpace(string(root))
	if text, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", name, err, text)
	}
	return out, nil
}

// said is what an executable says of itself.
type said struct {
	Release string `json:"release"`
	Schema  int    `json:"schema"` // newest it writes
}

func versions(ctx context.Context, binaries ...string) (says []said, err error) {
	for _, binary := range binaries {
		out, err := exec.CommandContext(ctx, binary, "version", "-o", "json").Output()
		if err != nil {
			return nil, fmt.Errorf("%s does not say its version: %w", binary, err)
		}
		var v said
		if err := json.Unmarshal(out, &v); err != nil {
			return nil, fmt.Errorf("%s does not say its version: %w", binary, err)
		}
		says = append(says, v)
	}
	return says, nil
}
