package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

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
		Watch: func(figures func() nats.Figures) { c.metrics.MustRegister(natsCollector{figures}) },
	})
}

// writeAtomic replaces a file so that no reader sees half of it. One that says
// the same already is left alone: a full disk is then no reason to fail.
func writeAtomic(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	next := path + ".next"
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}

var (
	natsHeld     = prometheus.NewDesc("switch_nats_open", "What the embedded NATS server has open, by kind.", []string{"kind"}, nil)
	natsMessages = prometheus.NewDesc("switch_nats_messages", "Messages stored, by stream.", []string{"stream"}, nil)
)

// natsCollector shows the embedded server's figures as they stand.
type natsCollector struct{ figures func() nats.Figures }

func (c natsCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c natsCollector) Collect(ch chan<- prometheus.Metric) {
	f := c.figures()
	gauge := func(d *prometheus.Desc, v float64, label string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, label)
	}
	gauge(natsHeld, float64(f.Subscriptions), "subscriptions")
	gauge(natsHeld, float64(f.Connections), "connections")
	for stream, n := range f.Messages {
		gauge(natsMessages, float64(n), strings.ToLower(stream))
	}
}
