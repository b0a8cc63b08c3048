package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
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
	if abs, err := filepath.Abs(addr); err == nil && !strings.Contains(addr, "://") {
		addr = abs // the words about it then say where it was looked for
	}
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

// outputFlag adds -o table|json and --json, its short way. What goes wrong is
// said in words on standard error and by the exit code, with --json too.
func outputFlag(cmd *cobra.Command) {
	format := format("table")
	cmd.Flags().VarP(&format, "output", "o", "table or json")
	cmd.Flags().Bool("json", false, "the same as -o json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

// show prints v as JSON or as the table that draw writes.
func show(cmd *cobra.Command, v any, draw func(w io.Writer)) error {
	if short, _ := cmd.Flags().GetBool("json"); short || cmd.Flag("output").Value.String() == "json" {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
	draw(w)
	return w.Flush()
}

// format is the value of -o.
type format string

func (f *format) String() string { return string(*f) }

func (f *format) Type() string { return "string" }

func (f *format) Set(s string) error {
	if s != "table" && s != "json" {
		return errors.New("table or json")
	}
	*f = format(s)
	return nil
}

// args checks the number of arguments, none of which is empty, with a usage error.
func args(n int, what string) cobra.PositionalArgs { return argsBetween(n, n, what) }

func argsBetween(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, got []string) error {
		if len(got) < least || len(got) > most || slices.Contains(got, "") {
			return usagef("%s takes %s; see '%s --help'", cmd.CommandPath(), what, cmd.CommandPath())
		}
		return nil
	}
}

// interruptible reads what a person types: Ctrl-C does not wait for the end of it.
// The reader ends with this process.
func interruptible[T any](ctx context.Context, read func() (T, error)) (T, error) {
	type answer struct {
		read T
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		v, err := read()
		done <- answer{v, err}
	}()
	select {
	case <-ctx.Done():
		var none T
		return none, errors.New("interrupted; nothing has changed")
	case a := <-done:
		return a.read, a.err
	}
}

// counts refuses flags that count something and are below the least.
func counts(cmd *cobra.Command, least int, flags ...string) error {
	for _, f := range flags {
		if n, _ := cmd.Flags().GetInt(f); n < least {
			return usagef("--%s %d: write %d or more", f, n, least)
		}
	}
	return nil
}

// verbs makes a command that only groups others.
func verbs(use, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  noVerb,
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

// noVerb is for a command that was given a word that is none of its verbs.
func noVerb(cmd *cobra.Command, words []string) error {
	if len(words) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(words[0]); len(near) > 0 {
		return usagef("%s has no verb %q; did you mean %s?", cmd.CommandPath(), words[0], strings.Join(near, " or "))
	}
	return usagef("%s has no verb %q; see '%s --help'", cmd.CommandPath(), words[0], cmd.CommandPath())
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
