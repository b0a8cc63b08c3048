package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"callswitch/console"
	"callswitch/host"
	"callswitch/nats"
)

// Times of a change of generation.
const (
	freezeWithin = 5 * time.Second // handshakes under way may end first
	heirPatience = 5 * time.Second // what the heir may take with the state, frozen
)

// heir has this process begin where its predecessor stops, if it has one: start
// is called with what that one said, when it is frozen, and must not act on it
// yet. Without predecessor it is called with nil. An error of the first kind ends
// this process, and its predecessor goes on. It goes on, too, until the heir knows
// what it would refuse for otherwise (nil: nothing), if that is not too long.
func (c *child) heir(ctx context.Context, knows <-chan struct{}, start func(state []byte, files []host.Kept) error) error {
	pair, err := host.Heir()
	if err != nil {
		return err
	}
	if pair == nil {
		return start(nil, nil)
	}
	if knows != nil {
		select {
		case <-knows:
		case <-time.After(heirPatience):
		case <-ctx.Done():
		}
	}
	if err := host.TakeOver(ctx, pair, start); err != nil {
		return fmt.Errorf("nothing inherited: %w", err)
	}
	c.log.Info("inherited from the generation before")
	go func() {
		if err := c.host.Took(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("the host will be told later who is at work", "err", err)
		}
	}()
	return nil
}

// yields lets this process be replaced by an heir: freeze stops its work and says
// everything, thaw goes on. Replaced, it says goodbye and ends at once, closing
// nothing; or it ends when stay, which says goodbye, has returned.
func (c *child) yields(freeze func(ctx context.Context) (state []byte, files []host.Kept, err error), thaw func(), stay func(goodbye func())) {
	c.host.OnYield(func(pair *net.UnixConn) error {
		began := time.Now()
		var frozen time.Time
		err := host.HandOver(context.Background(), pair, freezeWithin+heirPatience, func() ([]byte, []host.Kept, error) {
			limit, cancel := context.WithTimeout(context.Background(), freezeWithin)
			state, files, err := freeze(limit)
			cancel()
			if err != nil {
				return nil, nil, err
			}
			frozen = time.Now()
			ctx, cancel := context.WithTimeout(context.Background(), heirPatience)
			defer cancel()
			if _, err := c.host.List(ctx); err != nil { // answered: it has all that was kept before
				thaw()
				return nil, nil, err
			}
			return state, files, nil
		}, thaw)
		if err != nil {
			c.log.Error("not handed over, going on", "err", err)
			return err
		}
		c.replaced.Store(true)
		c.log.Info("handed over to the next generation", "prepared_ms", frozen.Sub(began).Milliseconds(), "frozen_ms", time.Since(frozen).Milliseconds())
		goodbye := func() {
			c.quiet()
			_ = os.Remove(c.metricsPath())
			nats.Farewell(context.Background(), c.nats, c.process) // nobody waits 3 s for it
		}
		if stay == nil {
			stay = func(goodbye func()) { goodbye() }
		}
		stay(goodbye)
		os.Exit(0)
		return nil
	})
}

// inheritable are the roles that can be replaced under calls.
var inheritable = []string{"media", "edge", "host"}

// Inherit replaces the process of a role by its next generation, of the running
// executable or of another.
func (b *backend) Inherit(ctx context.Context, in console.Inherit) (console.Inherited, error) {
	var out console.Inherited
	if in.Role == "host" {
		return b.renewHost(ctx, in)
	}
	old, err := b.atWork(ctx, in.Role)
	if err != nil {
		return out, err
	}
	if old == nil {
		return out, console.Refused("not-running", "no "+in.Role+" is at work here", "switch status shows what runs")
	}
	var argv []string
	if in.Binary != "" {
		side, err := b.install(ctx, in.Binary)
		if err != nil {
			return out, err
		}
		argv = append([]string{side.Binary}, old.Spec.Argv[1:]...)
	}
	began := time.Now()
	if err := b.host.Replace(ctx, old.Spec.Name, argv); err != nil {
		if errors.Is(err, host.ErrNotTaken) || errors.Is(err, host.ErrExists) {
			return out, console.Refused("not-taken-over", err.Error(), "the old process goes on; its log says why")
		}
		return out, err
	}
	out = console.Inherited{Role: in.Role, Before: old.PID, MS: time.Since(began).Milliseconds()}
	b.successor(ctx, old, &out)
	return out, nil
}

// successor finds who went on, and what its predecessor, which ends or says that it
// stays, still does.
func (b *backend) successor(ctx context.Context, old *host.Child, out *console.Inherited) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for {
		list, err := b.host.List(ctx)
		if err != nil {
			return
		}
		leaving := false
		for i, k := range list.Children {
			switch {
			case k.Spec.Name == old.Spec.Name:
				out.PID, out.Release = k.PID, k.Hello.Release
			case k.PID == old.PID && k.Hello.Stays:
				out.Stay = stays(&list.Children[i])
			case k.PID == old.PID:
				leaving = true
			}
		}
		if !leaving {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// atWork is the child of a role that does its work, nil if there is none. After the
// host itself has been replaced, or a child was killed, it takes a moment.
func (b *backend) atWork(ctx context.Context, role string) (*host.Child, error) {
	for end := time.Now().Add(5 * time.Second); ; {
		list, err := b.host.List(ctx)
		if err != nil {
			return nil, err
		}
		for i, k := range list.Children {
			if k.Spec.Role == role && k.Ready && !k.Hello.Stays {
				return &list.Children[i], nil
			}
		}
		if time.Now().After(end) {
			return nil, nil //nolint:nilnil // nobody is
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// renewHost has the host execute itself, or another release, in its own place.
func (b *backend) renewHost(ctx context.Context, in console.Inherit) (console.Inherited, error) {
	out := console.Inherited{Role: in.Role}
	if in.Binary != "" {
		side, err := b.install(ctx, in.Binary)
		if err != nil {
			return out, err
		}
		in.Binary, out.Release = side.Binary, side.Release
	}
	s, err := b.hostStarted(ctx)
	if err == nil {
		err = wouldServe(ctx, s, in.Binary)
	}
	if err != nil {
		return out, console.Refused("not-taken-over", err.Error(), "nothing has changed")
	}
	out.Before, out.PID = s.pid, s.pid
	began := time.Now()
	if err := b.host.Renew(ctx, in.Binary); err != nil {
		return out, console.Refused("not-taken-over", err.Error(), "the old host goes on")
	}
	out.MS = time.Since(began).Milliseconds()
	return out, nil
}

func inheritCommand() *cobra.Command {
	var in console.Inherit
	cmd := &cobra.Command{
		Use:   "inherit {media|edge|host}",
		Short: "replace a process that calls depend on by its next generation, while people talk",
		Long: `Replace a process that calls depend on by its next generation, of the same release
or another (--binary), while people talk.

media, edge: the next generation starts beside the old one, takes over its sockets and
all that it knows, and goes on. If it cannot, the old one does. Connections by TLS and
WSS stay with the old edge, which does nothing but carry them ('switch status' lists it
as edge-tls), and are reached through it. Two such edges stay at most: where one more
would, the connections of the oldest end, and their clients come back by themselves.

host: the process executes itself anew in its own place.`,
		Args:      args(1, "media, edge or host"),
		ValidArgs: inheritable,
		RunE: func(cmd *cobra.Command, words []string) error {
			if in.Role = words[0]; !slices.Contains(inheritable, in.Role) {
				return usagef("switch inherit takes media, edge or host, not %q; a worker's calls are moved by 'switch rollout'", in.Role)
			}
			if in.Binary != "" { // the API's process has a directory of its own
				var err error
				if in.Binary, err = filepath.Abs(in.Binary); err != nil {
					return err
				}
			}
			var out console.Inherited
			if err := apiClient(cmd).Do(cmd.Context(), http.MethodPost, "/v1/inherit", in, &out); err != nil {
				return apiError(err)
			}
			return show(cmd, out, func(w io.Writer) {
				if out.PID == out.Before {
					row(w, fmt.Sprintf("%s: pid %d executed itself anew (%d ms)", out.Role, out.PID, out.MS))
					return
				}
				row(w, fmt.Sprintf("%s: pid %d goes on where %d stopped (release %s, %d ms in all)", out.Role, out.PID, out.Before, out.Release, out.MS))
				if out.Stay > 0 {
					row(w, fmt.Sprintf("%d connections by TLS and WSS stay with pid %d and are reached through it", out.Stay, out.Before))
				}
			})
		},
	}
	cmd.Flags().StringVar(&in.Binary, "binary", "", "executable of the next generation (default: the one that runs)")
	outputFlag(cmd)
	return cmd
}
