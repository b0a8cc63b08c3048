package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"callswitch/codecore"
	"callswitch/console"
	"callswitch/registrar"
)

func accountCommand() *cobra.Command {
	add := &cobra.Command{
		Use:   "add NAME",
		Short: "let NAME register and call; the password is asked for, or read from standard input",
		Long: `Let NAME register and call, or give it a new password.

The password is asked for twice, or read as one line from standard input when
that is no terminal. Only its hashes leave this process.`,
		Args: args(1, "the name of an account"),
		RunE: func(cmd *cobra.Command, names []string) error {
			if !registrar.ValidName(names[0]) {
				return usagef("%q cannot be a name: write up to 64 letters, digits and - _ . ! ~ * ' +", names[0])
			}
			var body console.AccountHashes
			body.SRTP, _ = cmd.Flags().GetString("srtp")
			if !codecore.ValidSRTP(body.SRTP) {
				return usagef("--srtp %s: write required, preferred or off", body.SRTP)
			}
			var known console.Accounts
			if err := apiClient(cmd).Do(cmd.Context(), http.MethodGet, "/v1/accounts", nil, &known); err != nil {
				return apiError(err)
			}
			password, err := readPassword(cmd)
			if err != nil {
				return err
			}
			a := registrar.NewAccount(names[0], known.Realm, password)
			body.SHA256, body.MD5 = a.SHA256, a.MD5
			if old, _ := cmd.Flags().GetBool("md5-only"); old {
				body.SHA256 = ""
			}
			if err := apiClient(cmd).Do(cmd.Context(), http.MethodPut, "/v1/accounts/"+url.PathEscape(a.Name), body, nil); err != nil {
				return apiError(err)
			}
			return show(cmd, map[string]string{"name": a.Name, "realm": known.Realm}, func(w io.Writer) {
				row(w, "account "+a.Name+" of realm "+known.Realm+" may register")
			})
		},
	}
	add.Flags().Bool("md5-only", false, "keep no SHA-256 hash: for a phone that gives up when it is offered SHA-256 at all")
	add.Flags().String("srtp", "", "SRTP by SDES to and from its phones: required, preferred or off; by default as they offer, and offered plain")
	outputFlag(add)
	list := &cobra.Command{
		Use:   "list",
		Short: "list the accounts",
		Args:  args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var known console.Accounts
			if err := apiClient(cmd).Do(cmd.Context(), http.MethodGet, "/v1/accounts", nil, &known); err != nil {
				return apiError(err)
			}
			return show(cmd, known, func(w io.Writer) {
				row(w, "ACCOUNT", "REALM", "HASHES", "FROM")
				for _, a := range known.Accounts {
					from := "store"
					if a.Configured {
						from = "configuration"
					}
					row(w, a.Name, known.Realm, strings.Join(a.Algorithms, ","), from)
				}
			})
		},
	}
	outputFlag(list)
	remove := &cobra.Command{
		Use:   "remove NAME",
		Short: "let NAME register and call no more; calls in progress go on",
		Args:  args(1, "the name of an account"),
		RunE: func(cmd *cobra.Command, names []string) error {
			if err := apiClient(cmd).Do(cmd.Context(), http.MethodDelete, "/v1/accounts/"+url.PathEscape(names[0]), nil, nil); err != nil {
				return apiError(err)
			}
			return show(cmd, map[string]string{"name": names[0]}, func(w io.Writer) { row(w, "account "+names[0]+" is removed") })
		},
	}
	outputFlag(remove)
	return verbs("account", "who may register and call with a password", add, list, remove)
}

// readPassword asks at a terminal without showing it, or reads a line.
func readPassword(cmd *cobra.Command) (string, error) {
	f, isFile := cmd.InOrStdin().(*os.File)
	var old *unix.Termios // nil: no terminal
	if isFile {
		if t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			old = t
		}
	}
	in := bufio.NewReader(cmd.InOrStdin())
	line := func(ask string) (string, error) {
		if old != nil {
			fmt.Fprint(cmd.ErrOrStderr(), ask)
			defer fmt.Fprintln(cmd.ErrOrStderr())
		}
		s, err := interruptible(cmd.Context(), func() (string, error) { return in.ReadString('\n') })
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		return strings.TrimRight(s, "\r\n"), nil
	}
	if old != nil {
		silent := *old
		silent.Lflag &^= unix.ECHO
		if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &silent); err != nil {
			return "", err
		}
		defer func() { _ = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, old) }()
	}
	first, err := line("password: ")
	switch {
	case err != nil:
		return "", err
	case first == "":
		return "", usagef("no password: type one, or give it as a line on standard input")
	case old == nil:
		return first, nil
	}
	again, err := line("again: ")
	if err == nil && again != first {
		err = usagef("the two passwords differ")
	}
	return first, err
}

func registrationsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "registrations",
		Short: "list where the accounts can be reached, or (--out) where we have registered",
		Args:  args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out, _ := cmd.Flags().GetBool("out"); out {
				return showCarriers(cmd)
			}
			var page bytes.Buffer
			if err := apiClient(cmd).Stream(cmd.Context(), "/v1/registrations", &page); err != nil {
				return apiError(err)
			}
			all := []console.Registration{}
			for dec := json.NewDecoder(&page); ; {
				var r console.Registration
				if err := dec.Decode(&r); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					return err
				}
				all = append(all, r)
			}
			return show(cmd, all, func(w io.Writer) {
				row(w, "ACCOUNT", "CONTACT", "FROM", "EDGE", "ENDS", "NOTE", "AGENT")
				for _, r := range all {
					note := ""
					if r.NAT {
						note = "behind NAT"
					}
					if len(r.Path) > 0 {
						note = "by " + strings.Join(r.Path, ", ")
					}
					row(w, r.Account, r.Contact, r.Source, r.Edge, time.Until(r.Until).Round(time.Second), note, r.Agent)
				}
			})
		},
	}
	cmd.Flags().Bool("out", false, "the trunks at whose registrars this switch registers")
	outputFlag(cmd)
	return cmd
}
