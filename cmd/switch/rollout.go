package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"callswitch/console"
)

func rolloutCommand() *cobra.Command {
	return verbs("rollout", "move live calls to another release, and back",
		rolloutStart(), rolloutStatus(),
		steer("pause", "stop after the wave in hand"),
		steer("promote", "go on with the next wave now"),
		steer("abort", "stop, and move everything back; while finalizing: take the finalize back"),
		undo(),
		steer("confirm", "keep the new release: its calls stay, old workers leave when they own nothing"),
		finalize())
}

func rolloutStart() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "start BINARY",
		Short: "start workers of another release and move the calls to it, in waves",
		Long: `Start workers of another release and move the calls to it, in waves.

The executable is copied to <state>/releases; the copy is what runs, and what a
whole restart starts once the rollout is confirmed. Copies that nobody needs any
more are removed: this release's and the one's before stay.`,
		Args: args(1, "the path of the release's executable"),
		RunE: func(cmd *cobra.Command, paths []string) error {
			binary, err := filepath.Abs(paths[0])
			if err != nil {
				return err
			}
			if info, err := os.Stat(binary); err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
				return usagef("%s is not an executable file: build the release first, such as with 'go build -o switch-next ./cmd/switch'", binary)
			}
			steps, _ := cmd.Flags().GetIntSlice("steps")
			pause, _ := cmd.Flags().GetDuration("pause")
			within, _ := cmd.Flags().GetDuration("confirm-within")
			req := console.RolloutStart{Binary: binary, Steps: steps, Pause: pause.String(), ConfirmWithin: within.String()}
			var r console.Rollout
			if err := apiClient(cmd).Do(cmd.Context(), http.MethodPost, "/v1/rollouts", req, &r); err != nil {
				return apiError(err)
			}
			if detach, _ := cmd.Flags().GetBool("detach"); detach {
				return show(cmd, r, func(w io.Writer) { drawRollout(w, r) })
			}
			return watchRollout(cmd, verdict, console.RolloutDone)
		},
	}
	cmd.Flags().IntSlice("steps", []int{1, 10, 50, 100}, "per cent of the calls after each wave")
	cmd.Flags().Duration("pause", 30*time.Second, "between waves")
	cmd.Flags().Duration("confirm-within", 10*time.Minute, "go back by itself when not confirmed in this time after the last wave")
	cmd.Flags().Bool("detach", false, "do not wait for the waves")
	cmd.Flags().Duration("timeout", 0, "stop waiting after this long (exit 4); the rollout goes on")
	outputFlag(cmd)
	return cmd
}

func rolloutStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "show the running or the last rollout",
		Args:  args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch, _ := cmd.Flags().GetBool("watch"); watch {
				return watchRollout(cmd, verdict)
			}
			r, err := currentRollout(cmd.Context(), apiClient(cmd))
			if err != nil {
				return err
			}
			return show(cmd, r, func(w io.Writer) { drawRollout(w, r) })
		},
	}
	cmd.Flags().BoolP("watch", "w", false, "follow it until it is over")
	cmd.Flags().Duration("timeout", 0, "stop watching after this long (exit 4)")
	outputFlag(cmd)
	return cmd
}

// steer makes a verb that only names itself to the API.
func steer(verb, short string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   verb,
		Short: short,
		Args:  args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return sendVerb(cmd, verb, console.Steer{})
		},
	}
	cmd.Flags().Duration("timeout", 0, "stop waiting after this long (exit 4)")
	outputFlag(cmd)
	return cmd
}

func undo() *cobra.Command {
	cmd := steer("undo", "move the calls back to the release they came from, in one wave or --steps")
	cmd.Flags().IntSlice("steps", nil, "per cent moved back after each wave")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		steps, _ := cmd.Flags().GetIntSlice("steps")
		return sendVerb(cmd, "undo", console.Steer{Steps: steps})
	}
	return cmd
}

func finalize() *cobra.Command {
	cmd := steer("finalize", "write the new schema everywhere, then raise the floor: no way back to the old release after this")
	cmd.Long = `Finalize a confirmed rollout, in two steps. First every worker writes the new
release's schema, also for calls in which nothing happens, until no record of an
older schema is left; until then 'switch rollout abort' takes it back, and
'switch rollout undo' still moves the calls to the old release. Then the schema
floor rises: no older release starts again on these records.

Refused while a worker of the old release lives: its calls end or move first.
Refused too, unless --force, when the file that 'switch serve' was started from
reads no such records: replace it first, or the next start fails. Each host of
the cluster is asked; of one that does not run nobody knows.
Whoever stops watching (Ctrl-C, --timeout) does not stop it.`
	cmd.Flags().Bool("force", false, "also when the file of 'switch serve' is too old to start again")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		force, _ := cmd.Flags().GetBool("force")
		return sendVerb(cmd, "finalize", console.Steer{Force: force})
	}
	return cmd
}

func sendVerb(cmd *cobra.Command, verb string, s console.Steer) error {
	var r console.Rollout
	if err := apiClient(cmd).Do(cmd.Context(), http.MethodPost, "/v1/rollouts/current/"+verb, s, &r); err != nil {
		return apiError(err)
	}
	switch {
	case verb == "finalize" && r.State != console.RolloutFinalized:
		return watchRollout(cmd, func(r console.Rollout) error {
			if r.State == console.RolloutFinalized {
				return nil
			}
			return codedError{exitRefused, fmt.Errorf("not finalized: the rollout is %s again, somebody took the finalize back", r.State)}
		})
	case (verb == "undo" || verb == "abort") && !console.Over(r.State):
		err := watchRollout(cmd, verdict)
		if rolledBack(err) {
			return nil // that is what was asked for
		}
		return err
	}
	return show(cmd, r, func(w io.Writer) { drawRollout(w, r) })
}

func currentRollout(ctx context.Context, api *console.Client) (r console.Rollout, err error) {
	return r, apiError(api.Do(ctx, http.MethodGet, "/v1/rollouts/current", nil, &r))
}

// watchRollout follows the rollout until it is over, or in one of the states
// given, and judges it then. The table format redraws one line per change; json prints the end.
func watchRollout(cmd *cobra.Command, judge func(console.Rollout) error, until ...string) error {
	patience := cmd.Context() // of the watcher; one look at the rollout has its own
	if limit, _ := cmd.Flags().GetDuration("timeout"); limit > 0 {
		var cancel context.CancelFunc
		patience, cancel = context.WithTimeout(patience, limit)
		defer cancel()
	}
	api, last := apiClient(cmd), ""
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		r, err := currentRollout(cmd.Context(), api)
		if err != nil {
			return err
		}
		if line := waveLine(r); line != last {
			fmt.Fprintln(cmd.ErrOrStderr(), line)
			last = line
		}
		stop := console.Over(r.State)
		for _, s := range until {
			stop = stop || r.State == s
		}
		if stop {
			if err := show(cmd, r, func(w io.Writer) { drawRollout(w, r) }); err != nil {
				return err
			}
			return judge(r)
		}
		select {
		case <-patience.Done():
			if cmd.Context().Err() != nil { // Ctrl-C
				return fmt.Errorf("no longer watching; the rollout is %s and goes on", r.State)
			}
			return codedError{exitTimeout, fmt.Errorf("the rollout is still %s; follow it with 'switch rollout status --watch'", r.State)}
		case <-tick.C:
		}
	}
}

func verdict(r console.Rollout) error {
	switch r.State {
	case console.RolloutRolledBack:
		return codedError{exitRolledBack, fmt.Errorf("rolled back: %s", r.Error)}
	case console.RolloutFailed:
		return codedError{exitRefused, fmt.Errorf("the rollout did not begin: %s", r.Error)}
	}
	return nil
}

func rolledBack(err error) bool {
	var coded codedError
	return errors.As(err, &coded) && coded.code == exitRolledBack
}

// waveLine is the progress of a rollout: what happens now, and the wave's bar.
func waveLine(r console.Rollout) string {
	switch r.State {
	case console.RolloutFinalizing:
		return fmt.Sprintf("%-11s %d records to be written in schema %d ('switch rollout abort' takes it back)", r.State, r.Left, r.To.Schema)
	case console.RolloutConfirmed, console.RolloutRaising, console.RolloutFinalized:
		return fmt.Sprintf("%-11s %s", r.State, r.To.Name)
	}
	if len(r.Waves) == 0 {
		switch {
		case r.State != console.RolloutPreparing:
			return r.State
		case r.DryRun == nil:
			return fmt.Sprintf("%-11s starting workers of %s", r.State, r.To.Name)
		}
		return fmt.Sprintf("%-11s dry run: %s", r.State, dryRunLine(r.DryRun))
	}
	w := r.Waves[len(r.Waves)-1]
	way := "to " + r.To.Name
	if w.Back {
		way = "back to " + r.From.Name
	}
	return fmt.Sprintf("%-11s wave %d %s %3d %% %s %d moved, %d refused, freeze p50 %.1f p99 %.1f max %.1f ms", r.State, len(r.Waves), way,
		w.Percent, bar(r.Waves), w.Moved, w.Refused, w.FreezeMS.P50, w.FreezeMS.P99, w.FreezeMS.Max)
}

// bar draws how much of the last wave is done: it moves what the waves of its
// direction have not moved before.
func bar(waves []console.Wave) string {
	const width = 30
	w := waves[len(waves)-1]
	want := (w.Calls*w.Percent + 99) / 100
	for _, before := range waves[:len(waves)-1] {
		if before.Back == w.Back {
			want -= before.Moved
		}
	}
	done := width
	if w.Ended.IsZero() && want > 0 {
		done = min(width, width*(w.Moved+w.Refused)/want)
	}
	return "[" + strings.Repeat("#", done) + strings.Repeat(".", width-done) + "]"
}

// dryRunLine is "would move 4298, cannot move 12, because 9 pinned, 3 migrate-refused".
func dryRunLine(d *console.DryRun) string {
	s := fmt.Sprintf("would move %d, cannot move %d", d.Would, d.Cannot)
	var why []string
	for _, code := range slices.Sorted(maps.Keys(d.Why)) {
		why = append(why, fmt.Sprintf("%d %s", d.Why[code], code))
	}
	if len(why) > 0 {
		s += ", because " + strings.Join(why, ", ")
	}
	return s
}

func drawRollout(w io.Writer, r console.Rollout) {
	row(w, "rollout", r.ID, r.State)
	row(w, "from", r.From.Name, short(r.From.Digest), fmt.Sprintf("schema %d", r.From.Schema))
	row(w, "to", r.To.Name, short(r.To.Digest), fmt.Sprintf("schema %d", r.To.Schema))
	if r.Confirm != nil {
		row(w, "confirm by", r.Confirm.Local().Format(time.TimeOnly), "'switch rollout confirm' keeps it, 'switch rollout undo' goes back")
	}
	if r.State == console.RolloutFinalizing {
		row(w, "records left", r.Left, "in an older schema")
	}
	if r.DryRun != nil {
		row(w, "dry run", dryRunLine(r.DryRun))
	}
	if r.Error != "" {
		row(w, "because", r.Error)
	}
	if len(r.Waves) > 0 {
		row(w)
		row(w, "WAVE", "WAY", "PER CENT", "CALLS", "MOVED", "REFUSED", "FREEZE P50", "P99", "MAX ms")
	}
	for i, wave := range r.Waves {
		way := "to " + r.To.Name
		if wave.Back {
			way = "back to " + r.From.Name
		}
		f := wave.FreezeMS
		row(w, i+1, way, wave.Percent, wave.Calls, wave.Moved, wave.Refused, fmt.Sprintf("%.1f", f.P50), fmt.Sprintf("%.1f", f.P99), fmt.Sprintf("%.1f", f.Max))
	}
	if len(r.Refusals) > 0 {
		row(w)
		row(w, "REFUSED", "TO", "REASON", "DETAIL")
	}
	for _, f := range r.Refusals {
		row(w, f.Call, f.To, f.Reason, f.Detail)
	}
}
