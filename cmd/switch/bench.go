package main

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"callswitch/loadtest"
)

var benchParts = []string{"setup", "held", "relay", "registrations", "peer"}

func benchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "measure CPU and memory per call, moves, takeover and relay on this machine",
		Args:  args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := counts(cmd, 0, "seconds", "calls", "held-seconds", "phones", "rounds", "workers"); err != nil {
				return err
			}
			f := cmd.Flags()
			c := loadtest.BenchConfig{Progress: cmd.ErrOrStderr()}
			c.Parts, _ = f.GetStringSlice("parts")
			for _, part := range c.Parts {
				if !slices.Contains(benchParts, part) {
					return usagef("there is no part %q; these are: %s", part, strings.Join(benchParts, ", "))
				}
			}
			dir, err := os.MkdirTemp("", "switch-bench-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			c.Rates, _ = f.GetIntSlice("rates")
			c.Seconds, _ = f.GetInt("seconds")
			c.Calls, _ = f.GetInt("calls")
			c.HeldSeconds, _ = f.GetInt("held-seconds")
			c.Workers, _ = f.GetInt("workers")
			c.Phones, _ = f.GetInt("phones")
			c.Rounds, _ = f.GetInt("rounds")
			if c.SwitchBinary, c.NextBinary, err = releases(cmd, dir); err != nil {
				return err
			}
			result, err := loadtest.Bench(cmd.Context(), c)
			enc := json.NewEncoder(cmd.OutOrStdout())
			enc.SetIndent("", "  ")
			return errors.Join(err, enc.Encode(result)) // what was measured before the failure, too
		},
	}
	cmd.Flags().StringSlice("parts", nil, "of setup, held, relay (RTP to RTP, to SDES and to WebRTC; default these three), registrations, and peer: setup through Kamailio and rtpengine, which must be installed")
	cmd.Flags().IntSlice("rates", nil, "calls a second of setup (default 200,1000)")
	cmd.Flags().Int("seconds", 0, "of each rate and of relay (default 20)")
	cmd.Flags().Int("calls", 0, "held calls (default 4000)")
	cmd.Flags().Int("held-seconds", 0, "before memory is read (default 45)")
	cmd.Flags().Int("phones", 0, "of registrations, each refreshing once a minute (default 10000)")
	cmd.Flags().Int("rounds", 0, "of moving the held calls there and back (default 3)")
	cmd.Flags().Int("workers", 0, "of the held calls (default 2)")
	cmd.Flags().Bool("json", true, "the result as JSON, the only format there is")
	releaseFlags(cmd)
	return cmd
}
