package main

import (
	"context"
	"os"
	"path/filepath"

	"callswitch/nats"
)

// runNATS is the embedded server, in a process of its own.
func runNATS(ctx context.Context, c *child) error {
	c.busy = c.othersLive
	return nats.RunServer(ctx, nats.ServerConfig{
		Dir: filepath.Join(c.cfg.State, "nats"), Host: c.cfg.NATS.Host(), Port: c.cfg.NATS.Port(),
		Token: natsToken(c.key), SyncInterval: c.cfg.NATS.SyncInterval, Log: c.log,
		Ready: func(url string) {
			if err := writeAtomic(filepath.Join(c.run, natsURLFile), []byte(url)); err != nil {
				c.log.Error("address not written", "err", err)
			}
			c.ready()
		},
	})
}

// writeAtomic replaces a file so that no reader sees half of it.
func writeAtomic(path string, data []byte) error {
	next := path + ".next"
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}
