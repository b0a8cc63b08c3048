package edge

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Locating servers (RFC 3263).
//
//	sip:192.0.2.1              that address, port 5060, UDP
//	sip:host:5080              A and AAAA of host, UDP
//	sip:host;transport=tcp     SRV _sip._tcp.host, else A and AAAA, port 5060
//	sips:host, ;transport=tls  SRV _sips._tcp.host, else A and AAAA, port 5061
//	sip:host                   NAPTR of host and the SRV it names, else SRV _sip._udp
//	                           and _sip._tcp of host, else A and AAAA, UDP, port 5060
//
// A name without a dot, or of the hosts file, has addresses only. Of several
// servers those of the lowest SRV priority come first, among them by weight (RFC
// 2782), of several addresses of one IPv4 before IPv6; what is left to chance
// there is the seed's: the same call meets the same order, through any edge.

// A hop is where a request can go: "udp/192.0.2.1:5060".
type hop struct {
	proto string // "udp", "tcp", "tls"
	addr  netip.AddrPort
}

func (h hop) String() string { return h.proto + "/" + h.addr.String() }

// hopOf is where a flow leads.
func hopOf(f flow) hop {
	if f.link == nil {
		return hop{}
	}
	return hop{strings.ToLower(f.link.transport()), f.remote}
}

// question is what a URI asks of DNS.
type question struct {
	host  string
	port  uint16 // 0 = none was said
	proto string // "udp", "tcp", "tls"; "" = none was said
}

// transport is what is used without service records.
func (q question) transport() string { return cmp.Or(q.proto, "udp") }

// portOf likewise (RFC 3261 19.1.2).
func (q question) portOf() uint16 {
	if q.proto == "tls" {
		return cmp.Or(q.port, defaultPort+1)
	}
	return cmp.Or(q.port, defaultPort)
}

// server is one of those that an answer names.
type server struct {
	priority, weight uint16
	proto            string
	addrs            []netip.AddrPort
}

// located is an answer: servers, none of them when there is nobody to be found.
type located struct {
	servers []server
	ttl     time.Duration
	unknown bool // a question had no answer, neither records nor that there are none
}

const (
	maxSRV   = 16 // records of an answer that are used
	maxNAPTR = 8
	maxAddrs = 16 // of one server
	maxHops  = 32 // of one target
	// defaultPort is that of SIP over UDP and TCP (RFC 3261 19.1.2).
	defaultPort = 5060
)

// order lists the hops of an answer for one seed.
func (l *located) order(seed string) []hop {
	h := fnv.New128a()
	_, _ = h.Write([]byte(seed))
	mark := h.Sum(nil)
	r := rand.New(rand.NewPCG(binary.BigEndian.Uint64(mark), binary.BigEndian.Uint64(mark[8:])))
	left := slices.Clone(l.servers)
	var hops []hop
	for len(left) > 0 {
		same := 0
		var sum uint64
		for same < len(left) && left[same].priority == left[0].priority {
			sum += uint64(left[same].weight)
			same++
		}
		point, i := r.Uint64N(sum+1), 0 // RFC 2782: 0 to the sum, inclusive; the first whose running sum reaches it
		for run := uint64(left[0].weight); run < point; run += uint64(left[i].weight) {
			i++
		}
		hops = append(hops, shuffled(left[i], r)...)
		left = slices.Delete(left, i, i+1)
	}
	return hops[:min(len(hops), maxHops)]
}

// shuffled are the addresses of one server, IPv4 first.
func shuffled(s server, r *rand.Rand) []hop {
	hops := make([]hop, len(s.addrs))
	for i, at := range r.Perm(len(s.addrs)) {
		hops[i] = hop{s.proto, s.addrs[at]}
	}
	slices.SortStableFunc(hops, func(a, b hop) int { return cmp.Compare(a.addr.Addr().BitLen(), b.addr.Addr().BitLen()) })
	return hops
}

// numeric answers a question that needs no DNS.
func (q question) numeric() (l located, ok bool) {
	addr, err := netip.ParseAddr(q.host)
	if q.host == "localhost" {
		addr, err = netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
	}
	if err != nil {
		return l, false
	}
	s := server{proto: q.transport(), addrs: []netip.AddrPort{netip.AddrPortFrom(addr.Unmap(), q.portOf())}}
	return located{servers: []server{s}}, true
}

// locator answers questions.
type locator struct {
	nameServers
	kinds []uint16 // dns.TypeA, dns.TypeAAAA: what we have sockets for
	hosts string   // the hosts file
}

// locate answers a question; it takes as long as ctx lets it.
func (n *locator) locate(ctx context.Context, q question) located {
	if found := inHosts(n.hosts, q.host); len(found) > 0 {
		s := server{proto: q.transport()}
		for _, a := range found {
			if n.reachable(a) {
				s.addrs = append(s.addrs, netip.AddrPortFrom(a, q.portOf()))
			}
		}
		return located{servers: []server{s}, ttl: ttlOfHosts}
	}
	if !strings.Contains(strings.TrimSuffix(q.host, "."), ".") || q.port != 0 {
		return n.plain(ctx, q)
	}
	servers, _ := n.servers(q.host)
	l := located{ttl: maxTTL}
	for _, w := range n.ways(ctx, servers, q, &l) {
		if found := n.service(ctx, servers, w, &l); len(found) > 0 {
			l.servers = found
			return l
		}
	}
	p := n.plain(ctx, q)
	p.ttl, p.unknown = min(p.ttl, l.ttl), p.unknown || l.unknown
	return p
}

// way is an SRV name to ask for.
type way struct {
	name  string
	proto string
}

// ways are the services that a name may have, the best first (RFC 3263 4.1). What
// we do not speak is left out.
func (n *locator) ways(ctx context.Context, servers []string, q question, l *located) (ways []way) {
	host := dns.Fqdn(q.host)
	switch q.proto {
	case "":
	case "tls":
		return []way{{"_sips._tcp." + host, q.proto}}
	default:
		return []way{{"_sip._" + q.proto + "." + host, q.proto}}
	}
	both := []way{{"_sip._udp." + host, "udp"}, {"_sip._tcp." + host, "tcp"}}
	rrs, ttl, err := n.records(ctx, servers, host, dns.TypeNAPTR)
	if !l.note(ttl, err) {
		return both
	}
	var all []*dns.NAPTR
	for _, rr := range rrs[:min(len(rrs), maxNAPTR)] {
		if p, ok := rr.(*dns.NAPTR); ok && strings.EqualFold(p.Flags, "s") {
			all = append(all, p)
		}
	}
	slices.SortStableFunc(all, func(a, b *dns.NAPTR) int {
		return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.Preference, b.Preference))
	})
	for _, p := range all {
		switch strings.ToUpper(p.Service) {
		case "SIP+D2U":
			ways = append(ways, way{p.Replacement, "udp"})
		case "SIP+D2T":
			ways = append(ways, way{p.Replacement, "tcp"})
		}
	}
	if len(ways) == 0 {
		return both
	}
	return ways
}

// service are the servers of an SRV name that have addresses.
func (n *locator) service(ctx context.Context, servers []string, w way, l *located) (found []server) {
	rrs, ttl, err := n.records(ctx, servers, dns.Fqdn(w.name), dns.TypeSRV)
	if !l.note(ttl, err) {
		return nil
	}
	all := make([]server, min(len(rrs), maxSRV))
	parts := make([]located, len(all))
	var wg sync.WaitGroup
	for i := range all {
		s, ok := rrs[i].(*dns.SRV)
		if !ok || s.Target == "." || s.Port == 0 {
			continue
		}
		all[i] = server{priority: s.Priority, weight: s.Weight, proto: w.proto}
		wg.Go(func() {
			parts[i].ttl = maxTTL
			all[i].addrs = n.addresses(ctx, servers, dns.Fqdn(s.Target), s.Port, &parts[i])
		})
	}
	wg.Wait()
	for i, s := range all {
		if parts[i].ttl > 0 {
			l.ttl = min(l.ttl, parts[i].ttl)
		}
		l.unknown = l.unknown || parts[i].unknown
		if len(s.addrs) > 0 {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b server) int { // name servers turn answers round: what follows is to be the same for each
		return cmp.Or(cmp.Compare(a.priority, b.priority), cmp.Compare(a.weight, b.weight), a.addrs[0].Compare(b.addrs[0]))
	})
	return found
}

// plain are the addresses of a name that has no service records, or is not asked for them.
func (n *locator) plain(ctx context.Context, q question) located {
	servers, candidates := n.servers(q.host)
	l := located{ttl: maxTTL}
	for _, name := range candidates {
		if addrs := n.addresses(ctx, servers, name, q.portOf(), &l); len(addrs) > 0 {
			l.servers = []server{{proto: q.transport(), addrs: addrs}}
			return l
		}
	}
	return l
}

// addresses asks for the addresses of a name. That it has none of one kind limits
// nothing while it has some of the other.
func (n *locator) addresses(ctx context.Context, servers []string, name string, port uint16, l *located) (out []netip.AddrPort) {
	none := maxTTL
	for _, kind := range n.kinds {
		rrs, ttl, err := n.records(ctx, servers, name, kind)
		if errors.Is(err, errNoRecords) {
			none = min(none, ttl)
			continue
		}
		l.note(ttl, err)
		for _, rr := range rrs[:min(len(rrs), maxAddrs)] {
			var addr netip.Addr
			switch rr := rr.(type) {
			case *dns.A:
				addr, _ = netip.AddrFromSlice(rr.A)
			case *dns.AAAA:
				addr, _ = netip.AddrFromSlice(rr.AAAA)
			}
			if addr = addr.Unmap(); addr.IsValid() && !addr.IsUnspecified() && !addr.IsMulticast() {
				out = append(out, netip.AddrPortFrom(addr, port))
			}
		}
	}
	if len(out) == 0 {
		l.ttl = min(l.ttl, none)
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return slices.Compact(out)
}

func (n *locator) reachable(a netip.Addr) bool {
	return a.Is4() && slices.Contains(n.kinds, dns.TypeA) || a.Is6() && slices.Contains(n.kinds, dns.TypeAAAA)
}

// note takes down what an answer says of the time that all hold; it reports
// whether there are records.
func (l *located) note(ttl time.Duration, err error) bool {
	if err != nil && !errors.Is(err, errNoRecords) {
		l.unknown = true
		return false
	}
	l.ttl = min(l.ttl, ttl)
	return err == nil
}
