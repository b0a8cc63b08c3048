package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"callswitch/loadtest"
)

func kindsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kinds",
		Short: "see every kind of call through a release and back, and kill -9 of worker and edge",
		Long: `Place calls of every kind at once on a switch of its own, hold each in its moment
(an answer, a PRACK, a password, a digit under way), let something happen to the
switch, and compare what both far ends see with a run in which nothing does.
Exit code 0 only if it is the same.`,
		Args: args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := counts(cmd, 1, "calls"); err != nil {
				return err
			}
			dir, err := os.MkdirTemp("", "switch-kinds-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			f := cmd.Flags()
			c := loadtest.MatrixConfig{Progress: cmd.ErrOrStderr()}
			c.Calls, _ = f.GetInt("calls")
			c.Kinds, _ = f.GetStringSlice("kinds")
			for _, k := range c.Kinds {
				if !loadtest.IsKind(k) {
					return usagef("there is no kind %q; these are: %s", k, strings.Join(loadtest.MatrixKinds(), ", "))
				}
			}
			if c.SwitchBinary, c.NextBinary, err = releases(cmd, dir); err != nil {
				return err
			}
			m, err := loadtest.RunMatrix(cmd.Context(), c)
			if err != nil {
				return err
			}
			if asJSON, _ := f.GetBool("json"); asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				err = enc.Encode(m)
			} else {
				m.WriteTable(cmd.OutOrStdout())
			}
			if err == nil && len(m.Problems) > 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), strings.Join(m.Problems, "\n"))
				err = errors.New("not every call ended as it does when nothing happens")
			}
			return err
		},
	}
	cmd.Flags().Int("calls", 20, "of each kind at once")
	cmd.Flags().StringSlice("kinds", nil, "some only (default: all)")
	cmd.Flags().Bool("json", false, "as JSON, not as a Markdown table")
	releaseFlags(cmd)
	return cmd
}
