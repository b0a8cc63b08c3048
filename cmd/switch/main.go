// Command switch is a telephone switch whose call logic is upgraded while
// people talk. One binary plays every part: `serve` runs the host, which starts
// the other processes from the same file; the other verbs speak to it over its
// HTTP/JSON API. This folder only wires packages together.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"callswitch/codecore"
)

// Exit codes of every verb.
const (
	exitOK         = 0
	exitError      = 1
	exitUsage      = 2
	exitRolledBack = 3
	exitTimeout    = 4
	exitRefused    = 5
)

// codedError is an error that knows its exit code.
type codedError struct {
	code int
	err  error
}

func (e codedError) Error() string { return e.err.Error() }
func (e codedError) Unwrap() error { return e.err }

// errLogged is an error of which the log has the words.
var errLogged = errors.New("logged")

func usagef(format string, a ...any) error {
	return codedError{exitUsage, fmt.Errorf(format, a...)}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	root := rootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if !errors.Is(err, errLogged) {
		fmt.Fprintln(os.Stderr, "switch: "+err.Error())
	}
	var coded codedError
	switch {
	case errors.As(err, &coded):
		return coded.code
	case errors.Is(err, context.DeadlineExceeded):
		return exitTimeout
	}
	return exitError
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "switch",
		Short: "a telephone switch whose call logic is upgraded while people talk",
		Long: `A telephone switch (SIP, RTP) whose call logic is upgraded while people talk:
every live call's state moves to workers of the new release, media stays up,
no call drops; going back works the same way.

Exit codes: 0 ok, 1 error, 2 usage, 3 rolled back, 4 time-out, 5 refused.`,
		Version:       codecore.Release,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noVerb,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w; see '%s --help'", err, cmd.CommandPath())
	})
	root.PersistentFlags().String("api", "", "unix socket (or http://host:port) of the switch's API (default <state>/run/api.sock)")
	root.SetHelpCommand(&cobra.Command{
		Use:   "help [VERB]",
		Short: "tell more about a verb",
		RunE: func(cmd *cobra.Command, words []string) error {
			of, rest, err := cmd.Root().Find(words)
			if err != nil || len(rest) > 0 {
				return noVerb(of, rest)
			}
			return of.Help()
		},
	})
	root.AddCommand(serveCommand(), childCommand(), demoCommand(), callsCommand(), callCommand(), transferCommand(), inheritCommand(), rolloutCommand(),
		cdrCommand(), dialplanCommand(), accountCommand(), registrationsCommand(), trunksCommand(), statusCommand(), loadtestCommand(), versionCommand())
	return root
}
