package edge

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Questions to name servers (RFC 1035), with the TTLs that the system's own
// resolver does not tell and the record types that it does not ask for.

// errNoRecords is a definite "there are none": of that name, or of that type.
var errNoRecords = errors.New("edge: no such records")

const (
	dnsTry      = time.Second // for one answer of one server
	dnsRounds   = 2           // over all servers
	dnsAliases  = 8           // CNAMEs followed
	dnsRecords  = 64          // of an answer that are looked at
	maxServers  = 4
	dnsMessage  = 1232 // of an answer over UDP (EDNS0); longer ones come by TCP
	hostsFile   = "/etc/hosts"
	resolvConf  = "/etc/resolv.conf"
	ttlOfHosts  = 30 * time.Second // of a name of the hosts file
	maxHostFile = 1 << 20
)

// nameServers asks DNS.
type nameServers struct {
	fixed []string // Config.DNS, "ip:port"; none = those of resolv.conf
}

// dnsServers reads Config.DNS.
func dnsServers(list []string) (out []string, err error) {
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil {
			s = netip.AddrPortFrom(a, 53).String()
		} else if _, err := netip.ParseAddrPort(s); err != nil {
			return nil, fmt.Errorf("%w: name server %q: want IP or IP:port", ErrConfig, s)
		}
		out = append(out, s)
	}
	return out[:min(len(out), maxServers)], nil
}

// servers are whom to ask, and the names to ask for in place of a short one.
func (n *nameServers) servers(host string) (servers, candidates []string) {
	if len(n.fixed) > 0 {
		return n.fixed, []string{dns.Fqdn(host)}
	}
	c, err := dns.ClientConfigFromFile(resolvConf)
	if err != nil || len(c.Servers) == 0 {
		return []string{"127.0.0.1:53"}, []string{dns.Fqdn(host)}
	}
	for _, s := range c.Servers[:min(len(c.Servers), maxServers)] {
		servers = append(servers, net.JoinHostPort(s, c.Port))
	}
	candidates = c.NameList(host)
	return servers, candidates[:min(len(candidates), 8)]
}

// records are the records of a type that a name has, aliases followed, and for
// how long that holds. errNoRecords has a time, too; after any other error
// nothing is known.
func (n *nameServers) records(ctx context.Context, servers []string, name string, kind uint16) (found []dns.RR, ttl time.Duration, err error) {
	ttl = maxTTL
	for range dnsAliases {
		m, err := ask(ctx, servers, name, kind)
		if err != nil {
			return nil, 0, err
		}
		if m.Rcode == dns.RcodeNameError {
			return nil, min(ttl, negativeTTL(m)), errNoRecords
		}
		name = dns.CanonicalName(name)
		answers := m.Answer[:min(len(m.Answer), dnsRecords)]
		for range dnsAliases { // those that this answer has
			next := ""
			for _, rr := range answers {
				if c, ok := rr.(*dns.CNAME); ok && dns.CanonicalName(c.Hdr.Name) == name {
					next, ttl = dns.CanonicalName(c.Target), min(ttl, seconds(c.Hdr.Ttl))
				}
			}
			if next == "" {
				break
			}
			name = next
		}
		for _, rr := range answers {
			if h := rr.Header(); h.Rrtype == kind && h.Class == dns.ClassINET && dns.CanonicalName(h.Name) == name {
				found, ttl = append(found, rr), min(ttl, seconds(h.Ttl))
			}
		}
		if len(found) > 0 {
			return found, ttl, nil
		}
		if name == dns.CanonicalName(m.Question[0].Name) {
			return nil, min(ttl, negativeTTL(m)), errNoRecords
		}
	}
	return nil, min(ttl, leastTTL), errNoRecords // a circle of aliases
}

// negativeTTL is how long a "no" holds (RFC 2308 5).
func negativeTTL(m *dns.Msg) time.Duration {
	for _, rr := range m.Ns[:min(len(m.Ns), dnsRecords)] {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(seconds(soa.Hdr.Ttl), seconds(soa.Minttl), maxNegativeTTL)
		}
	}
	return leastTTL
}

func seconds(ttl uint32) time.Duration { return time.Duration(ttl) * time.Second }

// ask asks the servers in turn until one answers: the records, or that there
// are none. What a server cannot or will not say is asked of the next.
func ask(ctx context.Context, servers []string, name string, kind uint16) (*dns.Msg, error) {
	q := new(dns.Msg)
	q.SetQuestion(name, kind)
	q.SetEdns0(dnsMessage, false)
	err := errors.New("edge: no name server")
	for range dnsRounds {
		for _, server := range servers {
			q.Id = dns.Id()
			var m *dns.Msg
			if m, err = exchange(ctx, server, q); err == nil {
				return m, nil
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
	}
	return nil, err
}

func exchange(ctx context.Context, server string, q *dns.Msg) (*dns.Msg, error) {
	m, _, err := (&dns.Client{Timeout: dnsTry, UDPSize: dnsMessage}).ExchangeContext(ctx, q, server)
	if err == nil && m.Truncated {
		m, _, err = (&dns.Client{Net: "tcp", Timeout: dnsTry}).ExchangeContext(ctx, q, server)
	}
	switch {
	case err != nil:
		return nil, err
	case !m.Response || len(m.Question) != 1 || m.Question[0].Qtype != q.Question[0].Qtype ||
		!strings.EqualFold(m.Question[0].Name, q.Question[0].Name):
		return nil, errors.New("edge: an answer to another question")
	case m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError:
		return nil, errors.New("edge: the name server says " + dns.RcodeToString[m.Rcode])
	}
	return m, nil
}

// inHosts are the addresses that the system's hosts file gives a name.
func inHosts(path, host string) (found []netip.Addr) {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() > maxHostFile {
		return nil
	}
	for s := bufio.NewScanner(f); s.Scan(); {
		line, _, _ := strings.Cut(s.Text(), "#")
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		for _, name := range words[1:] {
			if addr, err := netip.ParseAddr(words[0]); err == nil && strings.EqualFold(name, host) && len(found) < dnsRecords {
				found = append(found, addr.Unmap())
			}
		}
	}
	return found
}
