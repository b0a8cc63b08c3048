package edge

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"callswitch/codecore"
)

func netipPort(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 5060)
}

// pinged makes trunk.example a trunk of the dialplan.
func (r *rig) pinged(seconds codecore.Seconds) {
	p := *r.plan.Load()
	p.Peers = append([]codecore.PlanPeer{{Name: "trunk", Kind: "trunk", Target: "sip:trunk.example", Ping: seconds}}, p.Peers...)
	r.plan.Store(&p)
}

// until waits for a view of the trunk.
func (r *rig) until(want string, ok func(TrunkView) bool) (v TrunkView) {
	r.t.Helper()
	for deadline := time.Now().Add(guard); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		for _, v = range r.edge.Trunks() {
			if ok(v) {
				return v
			}
		}
	}
	r.t.Fatalf("not %s: %+v", want, v)
	return v
}

func circuitOf(v TrunkView, h string) (a TrunkAddress) {
	for _, a = range v.Addresses {
		if a.Address == h {
			return a
		}
	}
	return TrunkAddress{}
}

// staysDown has a circuit that is down let nobody try, however long the test takes.
func (r *rig) staysDown(address string) {
	r.t.Helper()
	r.edge.circuits.mu.Lock()
	defer r.edge.circuits.mu.Unlock()
	for h, k := range r.edge.circuits.by {
		if h.String() == address && k.state == circuitDown {
			k.until = time.Now().Add(time.Hour)
			return
		}
	}
	r.t.Fatalf("%s is not down", address)
}

func TestPingsKeepTheCircuitTrue(t *testing.T) {
	p := newProxy(t)
	r := trunkRig(t, nil, p.port())
	r.pinged(1)
	v := r.until("answered", func(v TrunkView) bool {
		p.saysOnce(405) // a sign of life
		a := circuitOf(v, p.hop())
		return a.RTT > 0 && a.Circuit == circuitUp
	})
	if !v.Resolved || v.Target != "sip:trunk.example" {
		t.Errorf("%+v", v)
	}
	v = r.until("down for silence", func(v TrunkView) bool { return circuitOf(v, p.hop()).Circuit == circuitDown })
	if a := circuitOf(v, p.hop()); a.Why != "no-sign" || a.Fails < breakAfter {
		t.Errorf("%+v", a)
	}
	r.staysDown(p.hop())

	r.send(r.request("INVITE", "1", "")) // refused here, at once
	if n := event[codecore.SIPTimeout](r, nil); n.Code != 503 || n.Reason != "circuit-open" || n.Failed != "" {
		t.Errorf("%+v", n)
	}
	r.until("up by a ping", func(v TrunkView) bool {
		p.saysOnce(200)
		return circuitOf(v, p.hop()).Circuit == circuitUp
	})
}

func TestACircuitThatBreaksWhileItRingsLeadsElsewhere(t *testing.T) {
	first, second := newProxy(t), newProxy(t)
	r := patientRig(t, guard, nil, first.port(), second.port())
	r.send(r.request("INVITE", "1", ""))
	invite := first.hear("INVITE")
	first.says(invite, 180, "")
	event(r, func(p codecore.SIPResponse) bool { return p.Msg.Status == 180 })
	r.pinged(1)
	r.until("watched", func(v TrunkView) bool { return len(v.Addresses) == 2 })
	first.conn.Close() // it dies in mid-ring: its port answers pings with ICMP
	if n := event[codecore.SIPTimeout](r, nil); n.Code != 503 || n.Reason != "circuit-open" || n.Failed != first.hop() {
		t.Errorf("%+v", n)
	}
	second.hear("INVITE")
}

func TestTrunksWithoutPingsLearnFromCalls(t *testing.T) {
	p := newProxy(t)
	r := trunkRig(t, nil, p.port())
	r.pinged(0)
	r.until("watched", func(v TrunkView) bool { return len(v.Addresses) == 1 })
	for i := range breakAfter {
		r.send(strings.Replace(r.request("INVITE", fmt.Sprint(i), ""), "i: c-", fmt.Sprint("i: c", i), 1))
		p.says(p.hear("INVITE"), 503, "")
		p.hear("ACK")
		event(r, func(p codecore.SIPResponse) bool { return p.Msg.Status == 503 })
	}
	r.staysDown(p.hop())
	r.send(r.request("INVITE", "last", ""))
	if n := event[codecore.SIPTimeout](r, nil); n.Reason != "circuit-open" {
		t.Errorf("%+v", n)
	}
	if a := circuitOf(r.edge.Trunks()[0], p.hop()); a.Why != "unavailable" {
		t.Errorf("%+v", a)
	}
}
