package main

import (
	"path/filepath"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"callswitch/internal/near"
)

// nearDir holds, in run/, the sockets on which the processes of a host ask each other.
const nearDir = "near"

// carriers opens the short way to the other processes of this host. Without it
// everything goes over NATS, as it does between hosts.
func (c *child) carriers() {
	b, err := near.New(near.Config{Far: c.nats, Dir: filepath.Join(c.run, nearDir), Name: birth(c.id), Kind: carriedBy, Log: c.log})
	if err != nil {
		c.log.Warn("no streams between the processes of this host, all goes over NATS", "err", err)
		return
	}
	c.bus, c.near = b, b
	c.metrics.MustRegister(nearCollector{&b.Stats})
}

// carriedBy says which subjects may go over a stream: those of single calls and
// receivers, where a repeat is known by its number, and of new calls. Orders of
// operators, heartbeats and whatever several listen to stay on NATS.
func carriedBy(subject string) near.Kind {
	plane, rest, _ := strings.Cut(subject, ".")
	switch plane {
	case "call":
		if strings.HasSuffix(rest, ".in") {
			return near.One
		}
	case "edge", "media":
		if strings.HasSuffix(rest, ".do") || strings.HasSuffix(rest, ".alloc") {
			return near.One
		}
	case "new":
		return near.Group
	}
	return near.Far
}

var (
	nearRequests = prometheus.NewDesc("switch_bus_requests_total", "Requests to other processes that a stream of this host may carry, by what carried them.", []string{"carrier"}, nil)
	nearLost     = prometheus.NewDesc("switch_bus_short_cuts_lost_total", "Streams of this host found unusable for a subject; NATS carried the message.", nil, nil)
)

// nearCollector shows how much went over the streams of this host.
type nearCollector struct{ stats *near.Stats }

func (c nearCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c nearCollector) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(nearRequests, prometheus.CounterValue, float64(c.stats.Near.Load()), "stream")
	ch <- prometheus.MustNewConstMetric(nearRequests, prometheus.CounterValue, float64(c.stats.Far.Load()), "nats")
	ch <- prometheus.MustNewConstMetric(nearLost, prometheus.CounterValue, float64(c.stats.Lost.Load()))
}
