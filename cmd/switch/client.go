package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"callswitch/console"
)

const apiSocket = "api.sock" // in <state>/run

// apiClient finds the API: --api, else SWITCH_API, else the socket in the state
// directory (SWITCH_STATE or the default).
func apiClient(cmd *cobra.Command) *console.Client {
	addr, _ := cmd.Flags().GetString("api")
	addr = cmp.Or(addr, os.Getenv("SWITCH_API"),
		filepath.Join(cmp.Or(os.Getenv("SWITCH_STATE"), DefaultConfig().State), "run", apiSocket))
	return console.NewClient(addr)
}

// apiError gives an answer of the API its exit code.
func apiError(err error) error {
	var e *console.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Status {
	case http.StatusBadRequest:
		return codedError{exitUsage, err}
	case http.StatusConflict:
		return codedError{exitRefused, err}
	case http.StatusGatewayTimeout:
		return codedError{exitTimeout, err}
	}
	return err
}

// outputFlag adds -o table|json and --json, its short way.
func outputFlag(cmd *cobra.Command) {
	cmd.Flags().StringP("output", "o", "table", "table or json")
	cmd.Flags().Bool("json", false, "the same as -o json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

// show prints v as JSON or as the table that draw writes.
func show(cmd *cobra.Command, v any, draw func(w io.Writer)) error {
	format, _ := cmd.Flags().GetString("output")
	if short, _ := cmd.Flags().GetBool("json"); short {
		format = "json"
	}
	switch format {
	case "json":
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case "table":
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
		draw(w)
		return w.Flush()
	}
	return usagef("-o %s: table or json", format)
}

// args checks the number of arguments with a usage error.
func args(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, got []string) error {
		if len(got) != n {
			return usagef("%s takes %s; see '%s --help'", cmd.CommandPath(), what, cmd.CommandPath())
		}
		return nil
	}
}

// verbs makes a command that only groups others.
func verbs(use, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args: func(cmd *cobra.Command, got []string) error {
			if len(got) > 0 {
				return usagef("%s has no verb %q; see '%s --help'", cmd.CommandPath(), got[0], cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			var names []string
			for _, sub := range cmd.Commands() {
				names = append(names, sub.Name())
			}
			return usagef("%s needs a verb: %s; see '%s --help'", cmd.CommandPath(), strings.Join(names, ", "), cmd.CommandPath())
		},
	}
	cmd.AddCommand(subs...)
	return cmd
}

func row(w io.Writer, cells ...any) {
	for i, c := range cells {
		if i > 0 {
			_, _ = fmt.Fprint(w, "\t")
		}
		_, _ = fmt.Fprint(w, c)
	}
	_, _ = fmt.Fprintln(w)
}
