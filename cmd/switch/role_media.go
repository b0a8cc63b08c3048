package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sync/errgroup"

	"callswitch/codecore"
	"callswitch/host"
	"callswitch/media"
	"callswitch/nats"
	"callswitch/secrets"
	"callswitch/sessions"
)

// keptMedia prefixes the names of media sockets at the host.
const keptMedia = "media/"

// runMedia carries sound. Its sockets are kept by the host from the start, so
// that they outlive it.
func runMedia(ctx context.Context, c *child) error {
	c.carriers()
	listen, err := netip.ParseAddr(c.cfg.Media.Listen)
	if err != nil {
		return fmt.Errorf("media.listen: %w", err)
	}
	advertise := listen
	if c.cfg.Media.Advertise != "" {
		if advertise, err = netip.ParseAddr(c.cfg.Media.Advertise); err != nil {
			return fmt.Errorf("media.advertise: %w", err)
		}
	}
	own, err := secrets.New(c.key)
	if err != nil {
		return err
	}
	first, last := c.cfg.Media.PortRange()
	var m *media.Media
	err = c.heir(ctx, nil, func(state []byte, _ []host.Kept) (err error) {
		inherited, err := c.inherit(ctx, keptMedia)
		if err != nil {
			return err
		}
		if len(inherited) == 0 && state == nil { // no call depends on us: now or never
			probe, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(listen, 0)))
			if err != nil {
				return fmt.Errorf("media.listen: %w", err)
			}
			_ = probe.Close()
		}
		m, err = media.New(media.Config{
			Node: c.cfg.Node, Boot: c.id, Listen: listen, Advertise: advertise, PortMin: first, PortMax: last, Unmarked: !c.cfg.Media.DSCP,
			Bus: c.bus, Legs: legs{nats.NewLegStore(c.nats, 0)}, Keep: keeper{c, keptMedia}, Inherited: inherited, Handed: state,
			Secrets: own, Timeout: c.cfg.Media.Timeout, Log: c.log,
		})
		return err
	})
	if err != nil {
		return err
	}
	c.yields(func(ctx context.Context) ([]byte, []host.Kept, error) {
		state, err := m.Freeze(ctx)
		return state, nil, err
	}, m.Thaw, nil)
	c.busy = func() bool { return m.Stats().Calls > 0 }
	c.metrics.MustRegister(mediaCollector{m.Stats})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.Run(ctx) })
	g.Go(func() error { c.beat(ctx); return nil })
	c.ready()
	return g.Wait()
}

// legs gives the media plane its cold records: one key for each call of a node.
type legs struct{ store *nats.LegStore }

func legKey(node string, call codecore.CallID) string { return node + "=" + string(call) }

func (l legs) Put(ctx context.Context, node string, call codecore.CallID, body []byte, rev uint64) (uint64, error) {
	return l.store.Put(ctx, legKey(node, call), body, rev)
}

func (l legs) Get(ctx context.Context, node string, call codecore.CallID) ([]byte, uint64, error) {
	return l.store.Get(ctx, legKey(node, call))
}

func (l legs) Scan(ctx context.Context, node string, fn func(codecore.CallID, []byte, uint64) error) error {
	return l.store.Scan(ctx, func(key string, value []byte, rev uint64) error {
		if call, mine := strings.CutPrefix(key, node+"="); mine {
			return fn(codecore.CallID(call), value, rev)
		}
		return nil
	})
}

func (l legs) Delete(ctx context.Context, node string, call codecore.CallID) error {
	_, rev, err := l.store.Get(ctx, legKey(node, call))
	if errors.Is(err, sessions.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return l.store.Delete(ctx, legKey(node, call), rev)
}

// keeper gives sockets to the host, under a prefix that says whose they are.
type keeper struct {
	c      *child
	prefix string
}

func (k keeper) Keep(name string, f *os.File) error { return k.c.host.Keep(k.prefix+name, f) }

func (k keeper) Drop(name string) {
	if err := k.c.host.Drop(k.prefix + name); err != nil {
		k.c.log.Warn("socket not dropped by the host", "name", name, "err", err)
	}
}
