package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// terminal is the two ends of a pseudo-terminal: the user's and the program's.
func terminal(t *testing.T) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = user.Close() })
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	return user, program
}

func echoes(t *testing.T, tty *os.File) bool {
	t.Helper()
	s, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return s.Lflag&unix.ECHO != 0
}

// Ctrl-C at the password's prompt ends it, and the terminal shows again what is typed.
func TestCtrlCAtThePassword(t *testing.T) {
	t.Parallel()
	user, program := terminal(t)
	ctx, interrupt := context.WithCancel(t.Context())
	cmd := &cobra.Command{}
	cmd.SetContext(ctx)
	cmd.SetIn(program)
	cmd.SetErr(program)
	done := make(chan error)
	go func() {
		_, err := readPassword(cmd)
		done <- err
	}()
	prompt := make([]byte, len("password: "))
	if _, err := io.ReadFull(user, prompt); err != nil {
		t.Fatal(err)
	}
	if echoes(t, program) {
		t.Error("the password would be shown")
	}
	interrupt()
	select {
	case err := <-done:
		if err == nil {
			t.Error("a password that nobody gave")
		}
	case <-time.After(time.Minute):
		t.Fatal("Ctrl-C is not heard")
	}
	if !echoes(t, program) {
		t.Error("the terminal shows nothing any more")
	}
	_, _ = user.WriteString("\n") // ends the reader
}
