package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

var nodeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,31}$`)

// check reports each value that cannot be used.
func (c *Config) check(bad func(key, format string, a ...any)) {
	if !nodeName.MatchString(c.Node) {
		bad("node", "%q cannot be used: write letters, digits and hyphens, at most 32", c.Node)
	}
	if c.State == "" {
		bad("state", "is empty: name a directory")
	}
	if c.Procs < 0 || c.Procs > 1024 {
		bad("procs", "%d cannot be used: write 0 to 1024", c.Procs)
	}
	if c.Workers < 1 || c.Workers > 64 {
		bad("workers", "%d cannot be used: write 1 to 64", c.Workers)
	}
	c.NATS.check(bad)
	c.Edge.check(bad)
	c.Media.check(bad)
	c.Registrar.check(bad)
	c.Trunks.check(bad)
	if c.Worker.DrainTimeout <= 0 {
		bad("worker.drain_timeout", "%s cannot be used: write a duration above 0, such as 8s", c.Worker.DrainTimeout)
	}
	if c.API.Listen != "" && !isAddrPort(c.API.Listen) {
		bad("api.listen", "%q cannot be used: write address:port, such as 127.0.0.1:8080, or nothing", c.API.Listen)
	} else if c.API.Listen != "" && !isLoopback(c.API.Listen) {
		bad("api.listen", "%q is not on loopback, and the API has no login: write 127.0.0.1:port and put a proxy with a login before it", c.API.Listen)
	}
	c.Softphone.check(bad)
	if c.Softphone.TLS && !c.Edge.needsTLS() {
		bad("softphone.tls", "needs a certificate, and a browser on https needs wss: add wss:address:port to edge.listen")
	}
	if c.Metrics.Listen != "" && !isAddrPort(c.Metrics.Listen) {
		bad("metrics.listen", "%q cannot be used: write address:port, such as 127.0.0.1:9464, or nothing", c.Metrics.Listen)
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		bad("log.level", "%q is no level: write debug, info, warn or error", c.Log.Level)
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		bad("log.format", "%q is no format: write text or json", c.Log.Format)
	}
}

// isLoopback is for listeners without a login: who reaches them may do anything.
func isLoopback(s string) bool {
	ap, err := netip.ParseAddrPort(s)
	return err == nil && ap.Addr().Unmap().IsLoopback()
}

func isAddrPort(s string) bool {
	_, err := netip.ParseAddrPort(s)
	return err == nil
}

func (c *NATSConfig) check(bad func(key, format string, a ...any)) {
	switch {
	case c.Replicas != 1 && c.Replicas != 3 && c.Replicas != 5:
		bad("nats.replicas", "%d cannot be used: write 1, 3 or 5", c.Replicas)
	case c.Replicas > 1 && c.URL == "":
		bad("nats.replicas", "%d copies need a cluster: set nats.url, or write 1", c.Replicas)
	}
	if c.Creds != "" && c.URL == "" {
		bad("nats.creds", "the embedded server makes its own secret: set nats.url, or remove this")
	}
	if !isAddrPort(c.Listen) {
		bad("nats.listen", "%q cannot be used: write address:port, such as 127.0.0.1:0", c.Listen)
	}
}

func (c *EdgeConfig) check(bad func(key, format string, a ...any)) {
	if len(c.Listen) == 0 {
		bad("edge.listen", "is empty: name at least one transport, such as udp:127.0.0.1:5060")
	}
	seen := map[string]bool{}
	for _, l := range c.Listen {
		kind, at, _ := strings.Cut(l, ":")
		ap, err := netip.ParseAddrPort(at)
		switch {
		case !slices.Contains([]string{"udp", "tcp", "tls", "ws", "wss"}, kind) || err != nil:
			bad("edge.listen", "%q cannot be used: write udp, tcp, tls, ws or wss with address and port, such as udp:192.0.2.1:5060", l)
		case seen[l] && ap.Port() != 0:
			bad("edge.listen", "%q stands there twice: remove one", l)
		case ap.Addr().IsUnspecified() && c.Advertise == "":
			bad("edge.advertise", "is empty and edge.listen has %s: write the address at which others reach this host", l)
		}
		seen[l] = true
	}
	if c.Advertise != "" && !isAdvertise(c.Advertise) {
		bad("edge.advertise", "%q cannot be used: write host or host:port, such as 203.0.113.7", c.Advertise)
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		bad("edge.tls.cert", "and edge.tls.key belong together: write both, or none")
	} else if c.TLS.Cert != "" && c.needsTLS() {
		if _, err := tls.LoadX509KeyPair(c.TLS.Cert, c.TLS.Key); err != nil {
			bad("edge.tls.cert", "%v", err)
		}
	}
	if _, err := c.roots(); err != nil {
		bad("edge.tls.ca", "%v", err)
	}
	for _, o := range c.WS.Origins {
		if u, err := url.Parse(o); o != "*" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Scheme+"://"+u.Host != o) {
			bad("edge.ws.origins", "%q cannot be used: write scheme and host as a browser does, such as https://phone.example.com, or *", o)
		}
	}
	l := c.Limits
	for _, n := range []struct {
		key   string
		value float64
	}{
		{"max_calls", float64(l.MaxCalls)},
		{"max_conns", float64(l.MaxConns)},
		{"max_per_source", float64(l.MaxPerSource)},
		{"peer_rate", l.PeerRate},
		{"stranger_rate", l.StrangerRate},
	} {
		if !(n.value > 0) {
			bad("edge.limits."+n.key, "%v cannot be used: write a number above 0", n.value)
		}
	}
	if l.Silence < 500*time.Millisecond || l.Silence > 32*time.Second {
		bad("edge.limits.silence", "%s cannot be used: write 500ms to 32s", l.Silence)
	}
	if len(c.DNS.Servers) > 4 {
		bad("edge.dns.servers", "has %d servers: at most 4 are asked", len(c.DNS.Servers))
	}
	for _, s := range c.DNS.Servers {
		_, plain := netip.ParseAddr(s)
		if _, err := netip.ParseAddrPort(s); plain != nil && err != nil {
			bad("edge.dns.servers", "%q cannot be used: write an address or address:port, such as 192.0.2.53", s)
		}
	}
	if l.MaxMessage < 1500 || l.MaxMessage > 65535 {
		bad("edge.limits.max_message", "%d cannot be used: write 1500 to 65535", l.MaxMessage)
	}
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`)

func isAdvertise(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"), "5060"
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && !ip.IsUnspecified() || err != nil && hostName.MatchString(host)
}

func (c *MediaConfig) check(bad func(key, format string, a ...any)) {
	listen, err := netip.ParseAddr(c.Listen)
	if err != nil {
		bad("media.listen", "%q is no address: write one without a port, such as 192.0.2.1", c.Listen)
	}
	if err == nil && listen.IsUnspecified() && c.Advertise == "" {
		bad("media.advertise", "is empty and media.listen is %s: write the address at which others reach this host", listen)
	}
	if a, err := netip.ParseAddr(c.Advertise); c.Advertise != "" && (err != nil || a.IsUnspecified()) {
		bad("media.advertise", "%q cannot be used: write an address without a port, such as 203.0.113.7", c.Advertise)
	}
	first, last := c.PortRange()
	if first < 1024 || last > 65535 || first%2 != 0 || last%2 != 1 || last-first < 3 {
		bad("media.ports", "%q cannot be used: write the first (even, from 1024) and the last (odd, to 65535) port, such as 20000-39999", c.Ports)
	}
	if c.Timeout == 0 {
		bad("media.timeout", "0 cannot be used: write a duration, or a negative one for never")
	}
}

func (c *TrunksConfig) check(bad func(key, format string, a ...any)) {
	if c.Passwords != "" {
		if _, err := readSecrets(c.Passwords); err != nil {
			bad("trunks.passwords", "%v", err)
		}
	}
}

func (c *SoftphoneConfig) check(bad func(key, format string, a ...any)) {
	switch {
	case c.Listen != "" && !isAddrPort(c.Listen):
		bad("softphone.listen", "%q cannot be used: write address:port, such as 127.0.0.1:8080, or nothing", c.Listen)
	case c.Demo && !isLoopback(c.Listen):
		bad("softphone.listen", "%q is not on loopback, and a demo's page tells passwords: write 127.0.0.1:port, or no softphone.demo", c.Listen)
	}
	for _, s := range c.Sockets {
		if u, err := url.Parse(s); err != nil || u.Scheme != "ws" && u.Scheme != "wss" || u.Host == "" || strings.ContainsAny(s, " ;,'\"") {
			bad("softphone.sockets", "%q cannot be used: write a URL such as wss://phone.example.com/sip", s)
		}
	}
}

func (c *RegistrarConfig) check(bad func(key, format string, a ...any)) {
	if c.Realm == "" || len(c.Realm) > 64 || strings.Trim(c.Realm, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_@ ") != "" {
		bad("registrar.realm", "%q cannot be used: write up to 64 letters, digits, blanks and . - _ @, such as sip.example.com", c.Realm)
	}
	if c.MinExpires < time.Second || c.MaxExpires < c.MinExpires || c.MaxExpires > 7*24*time.Hour {
		bad("registrar.min_expires", "%s with registrar.max_expires %s cannot be used: write 1s or more, and as much or more for the longest, to 168h", c.MinExpires, c.MaxExpires)
	}
	if c.Keepalive >= 0 && c.Keepalive < time.Second {
		bad("registrar.keepalive", "%s cannot be used: write 1s or more, or a negative one for never", c.Keepalive)
	}
	if c.Accounts != "" {
		if _, err := readAccounts(c.Accounts); err != nil {
			bad("registrar.accounts", "%v", err)
		}
	}
}

// printConfig writes c as a switch.yaml with a comment at each key.
func printConfig(w io.Writer, c Config) error {
	for _, k := range configKeys(&c) {
		depth := strings.Count(k.path, ".")
		indent, name := strings.Repeat("  ", depth), strings.TrimPrefix(filepath.Ext("."+k.path), ".")
		if depth == 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s# %s\n", indent, k.doc)
		if k.group {
			fmt.Fprintf(w, "%s%s:\n", indent, name)
			continue
		}
		value, err := yaml.MarshalWithOptions(k.value.Interface(), yaml.Flow(true))
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "%s%s: %s\n", indent, name, strings.TrimSpace(string(value))); err != nil {
			return err
		}
	}
	return nil
}
