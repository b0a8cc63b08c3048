package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
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
	c.checkPorts(bad)
	c.Registrar.check(bad)
	c.checkAccounts(bad)
	c.Trunks.check(bad)
	if c.Worker.DrainTimeout <= 0 {
		bad("worker.drain_timeout", "%s cannot be used: write a duration above 0, such as 8s", c.Worker.DrainTimeout)
	}
	if c.API.Listen != "" && !isAddrPort(c.API.Listen) {
		bad("api.listen", "%q cannot be used: write address:port, such as 127.0.0.1:8080, or nothing", c.API.Listen)
	} else if c.API.Listen != "" && !isLoopback(c.API.Listen) {
		bad("api.listen", "%q is not on loopback, and the API has no login: write 127.0.0.1:port and put a proxy with a login before it", c.API.Listen)
	}
	c.checkSoftphone(bad)
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
	switch _, err := os.ReadFile(c.Creds); {
	case c.Creds != "" && c.URL == "":
		bad("nats.creds", "the embedded server makes its own secret: set nats.url, or remove this")
	case c.Creds != "" && err != nil:
		bad("nats.creds", "%v", err)
	}
	if c.URL != "" {
		for _, server := range strings.Split(c.URL, ",") {
			u, err := url.Parse(strings.TrimSpace(server))
			if err != nil || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) || u.Hostname() == "" {
				bad("nats.url", "%q cannot be used: write servers like nats://192.0.2.1:4222, with commas between them", c.URL)
				break
			}
		}
	}
	if !isAddrPort(c.Listen) {
		bad("nats.listen", "%q cannot be used: write address:port, such as 127.0.0.1:0", c.Listen)
	}
	if c.CDRAge < 0 || c.CDRAge > 0 && c.CDRAge < time.Hour {
		bad("nats.cdr_age", "%s cannot be used: write 1h or more, or 0 for ever", c.CDRAge)
	}
	if c.SyncInterval == 0 {
		bad("nats.sync_interval", "0 cannot be used: write a duration, or a negative one for each write")
	}
	for key, set := range map[string]bool{
		"nats.listen": c.Listen != DefaultConfig().NATS.Listen, "nats.sync_interval": c.SyncInterval != DefaultConfig().NATS.SyncInterval,
	} {
		if set && c.URL != "" {
			bad(key, "is of the embedded server, and nats.url names another: remove one of them")
		}
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
	} else if l := c.unreachable(); l != "" {
		bad("edge.advertise", "%q is of another IP version than %s of edge.listen: who is told it cannot come back; write a name that has both, or run two switches", c.Advertise, l)
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		bad("edge.tls.cert", "and edge.tls.key belong together: write both, or none")
	} else if c.TLS.Cert != "" {
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
		if !(n.value > 0) || math.IsInf(n.value, 0) {
			bad("edge.limits."+n.key, "%v cannot be used: write a number above 0", n.value)
		}
	}
	if l.StrangerRate > l.PeerRate {
		bad("edge.limits.stranger_rate", "%v is more than edge.limits.peer_rate, %v: strangers would be let in before peers", l.StrangerRate, l.PeerRate)
	}
	if l.Silence < 500*time.Millisecond || l.Silence > 32*time.Second {
		bad("edge.limits.silence", "%s cannot be used: write 500ms to 32s", l.Silence)
	}
	if len(c.DNS.Servers) > 4 {
		bad("edge.dns.servers", "has %d servers: at most 4 are asked", len(c.DNS.Servers))
	}
	for _, s := range c.DNS.Servers {
		ap, err := netip.ParseAddrPort(s)
		if plain, noPort := netip.ParseAddr(s); noPort == nil {
			ap, err = netip.AddrPortFrom(plain, 53), nil
		}
		if err != nil || ap.Port() == 0 || ap.Addr().IsUnspecified() {
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
		host, port = s, "5060"
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return false
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return !ip.IsUnspecified() && ip.Zone() == ""
	}
	top := host[strings.LastIndexByte(host, '.')+1:]
	return hostName.MatchString(host) && !strings.Contains(host, "..") && strings.Trim(top, "0123456789") != "" // or it is a mistyped address
}

// unreachable is a listener whose far ends cannot use the address that they are
// told, because it is of the other IP version; "": none.
func (c *EdgeConfig) unreachable() string {
	host, _, err := net.SplitHostPort(c.Advertise)
	if err != nil {
		host = c.Advertise
	}
	told, err := netip.ParseAddr(host)
	if err != nil {
		return "" // a name
	}
	for _, l := range c.Listen {
		ap, err := netip.ParseAddrPort(strings.TrimPrefix(l, transport(l)+":"))
		if at := ap.Addr().Unmap(); err == nil && at != netip.IPv6Unspecified() && at.Is4() != told.Unmap().Is4() {
			return l
		}
	}
	return ""
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
	} else if c.Advertise != "" && listen.IsValid() && listen.Unmap().Is4() != a.Unmap().Is4() { // media has one version, on :: too
		bad("media.advertise", "%q is of another IP version than media.listen, %s: no sound would arrive", c.Advertise, listen)
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

// checkPorts reports two listeners that want one port.
func (c *Config) checkPorts(bad func(key, format string, a ...any)) {
	type socket struct {
		key, spec, kind string
		at              netip.AddrPort
	}
	var all []socket
	add := func(key, spec, kind, at string) {
		if ap, err := netip.ParseAddrPort(at); err == nil && ap.Port() != 0 {
			all = append(all, socket{key, spec, kind, netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())})
		}
	}
	for _, l := range slices.Compact(slices.Sorted(slices.Values(c.Edge.Listen))) { // one that stands there twice has been reported
		kind, at, _ := strings.Cut(l, ":")
		if kind != "udp" {
			kind = "tcp"
		}
		add("edge.listen", l, kind, at)
	}
	if c.NATS.URL == "" {
		add("nats.listen", c.NATS.Listen, "tcp", c.NATS.Listen)
	}
	add("softphone.listen", c.Softphone.Listen, "tcp", c.Softphone.Listen)
	add("api.listen", c.API.Listen, "tcp", c.API.Listen)
	add("metrics.listen", c.Metrics.Listen, "tcp", c.Metrics.Listen)
	meet := func(a, b netip.Addr) bool {
		return a == b || a.IsUnspecified() || b.IsUnspecified() // Go opens 0.0.0.0 for both IP versions
	}
	first, last := c.Media.PortRange()
	listen, _ := netip.ParseAddr(c.Media.Listen)
	for i, s := range all {
		for _, before := range all[:i] {
			if s.kind == before.kind && s.at.Port() == before.at.Port() && meet(s.at.Addr(), before.at.Addr()) {
				bad(s.key, "%q wants the port of %s %q: give each its own", s.spec, before.key, before.spec)
			}
		}
		if n := int(s.at.Port()); s.kind == "udp" && first <= n && n <= last && listen.IsValid() && meet(s.at.Addr(), listen.Unmap()) {
			bad("media.ports", "%q has the port of edge.listen %s: choose others", c.Media.Ports, s.spec)
		}
	}
}

func (c *Config) checkSoftphone(bad func(key, format string, a ...any)) {
	p := &c.Softphone
	wss := func(l string) bool { return transport(l) == "wss" }
	switch {
	case p.Listen == "" && (p.TLS || len(p.Sockets) > 0):
		bad("softphone.listen", "is empty, and softphone.tls or softphone.sockets is set: write where the page is served, such as 127.0.0.1:8080, or remove them")
	case p.Listen == "":
	case !isAddrPort(p.Listen):
		bad("softphone.listen", "%q cannot be used: write address:port, such as 127.0.0.1:8080, or nothing", p.Listen)
	case p.Demo && !isLoopback(p.Listen):
		bad("softphone.listen", "%q is not on loopback, and a demo's page tells passwords: write 127.0.0.1:port, or no softphone.demo", p.Listen)
	case p.TLS && (!c.Edge.needsTLS() || !slices.ContainsFunc(c.Edge.Listen, wss) && !slices.ContainsFunc(p.Sockets, wss)):
		bad("softphone.tls", "needs a certificate, and a browser on https needs wss: add wss:address:port to edge.listen")
	}
	for _, s := range p.Sockets {
		if u, err := url.Parse(s); err != nil || u.Scheme != "ws" && u.Scheme != "wss" || u.Host == "" || strings.ContainsAny(s, " ;,'\"") {
			bad("softphone.sockets", "%q cannot be used: write a URL such as wss://phone.example.com/sip", s)
		} else if p.TLS && u.Scheme == "ws" {
			bad("softphone.sockets", "%q cannot be used: a browser on https (softphone.tls) opens wss only", s)
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
}

func (c *Config) checkAccounts(bad func(key, format string, a ...any)) {
	if c.Registrar.Accounts == "" {
		return
	}
	accounts, err := readAccounts(c.Registrar.Accounts)
	if err != nil {
		bad("registrar.accounts", "%v", err)
	}
	for _, a := range accounts {
		if c.Softphone.Demo && slices.Contains(demoNames, a.Name) {
			bad("registrar.accounts", "%s has %s, and so has softphone.demo, whose page tells its password: rename it, or serve without the demo", c.Registrar.Accounts, a.Name)
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
