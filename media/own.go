package media

import (
	"net"
	"net/netip"
	"slices"
)

// own is which addresses are sockets of this node. A party's SDP may name one of
// them: two calls of ours in a row are a chain, and sound passes through both. When
// the way of a packet closes to a ring, it would go round for ever.
type own struct {
	min   int
	ports []*port    // by number less min
	hosts []sockaddr // our IP addresses, port 0
}

func newOwn(listen, advertise netip.Addr, min, max int) own {
	o := own{min: min, ports: make([]*port, max-min+1)}
	addrs := []netip.Addr{listen, advertise}
	if listen.IsUnspecified() {
		all, _ := net.InterfaceAddrs()
		for _, a := range all {
			if ip, ok := a.(*net.IPNet); ok {
				b, _ := netip.AddrFromSlice(ip.IP)
				addrs = append(addrs, b.Unmap())
			}
		}
	}
	for _, a := range addrs {
		if h := sockaddrOf(netip.AddrPortFrom(a, 0)); !a.IsUnspecified() && !slices.Contains(o.hosts, h) {
			o.hosts = append(o.hosts, h)
		}
	}
	return o
}

// leg is whose socket an address is; nil: none of ours.
func (o *own) leg(a *sockaddr) *leg {
	i := int(a.port()) - o.min
	if i < 0 || i >= len(o.ports) || o.ports[i] == nil {
		return nil
	}
	for j := range o.hosts {
		if a.sameHost(&o.hosts[j]) {
			return o.ports[i].leg
		}
	}
	return nil
}

// chainMost is how many legs of ours a packet may pass through.
const chainMost = 32

// ring reports whether what comes to a leg from an address went out of that leg: it
// follows the packet back, from the leg that sent it to the one at which it came in.
func (o *own) ring(g *leg, from *sockaddr, control bool) bool {
	for range chainMost {
		h := o.leg(from)
		if h == nil {
			return false
		}
		if !h.echo {
			h = h.peer
		}
		if h == g {
			return true
		}
		if h == nil {
			return false
		}
		if from = &h.latch.addr; control && !h.mux {
			from = &h.rtcpTo
		}
	}
	return true
}
