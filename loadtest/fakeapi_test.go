package loadtest

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

func (f *fake) handler() http.Handler {
	mux := http.NewServeMux()
	serve := func(path string, fn func(*http.Request) any) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			f.mu.Lock()
			defer f.mu.Unlock()
			_ = json.NewEncoder(w).Encode(fn(r))
		})
	}
	serve("GET /v1/status", func(*http.Request) any { return Status{Ready: true, Accepting: true, Release: f.now} })
	serve("GET /v1/calls", func(*http.Request) any {
		out := []CallInfo{}
		for _, c := range f.calls {
			out = append(out, c.info)
		}
		return map[string]any{"calls": out}
	})
	serve("GET /v1/processes", func(*http.Request) any {
		ps := []Process{{Role: RoleHost, PID: os.Getpid()}, {Role: RoleMedia, PID: os.Getpid()}}
		for _, p := range f.worker {
			ps = append(ps, p)
		}
		return map[string]any{"processes": ps}
	})
	serve("PUT /v1/dialplan", func(r *http.Request) any {
		_ = json.NewDecoder(r.Body).Decode(&f.plan)
		return f.plan
	})
	serve("GET /v1/moves", func(*http.Request) any { return Moves{FreezeMS: Quantiles{1, 2, 3}} })
	serve("GET /v1/rollouts/current", func(*http.Request) any { return f.r })
	serve("POST /v1/rollouts", func(r *http.Request) any {
		var s RolloutStart
		_ = json.NewDecoder(r.Body).Decode(&s)
		if _, ok := f.worker["v2"]; !ok {
			f.spawn("v2", s.Binary)
		}
		side := func(v string) Release { return Release{Name: f.name(v), Digest: f.worker[v].Digest} }
		f.r = Rollout{ID: "r", State: RolloutPreparing, From: side("v1"), To: side("v2")}
		go f.move(false, "v2")
		return f.r
	})
	serve("POST /v1/rollouts/current/{verb}", func(r *http.Request) any {
		f.r.State = RolloutUndoing
		go f.move(true, "v1")
		return f.r
	})
	mux.HandleFunc("GET /v1/cdrs", func(w http.ResponseWriter, _ *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, c := range f.cdrs {
			_ = json.NewEncoder(w).Encode(c)
		}
	})
	return mux
}

// move renames the release of all calls but those that its marks hold back.
func (f *fake) move(back bool, to string) {
	time.Sleep(50 * time.Millisecond)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.r.Refusals = nil
	w := Wave{Back: back, Percent: 100, Calls: len(f.calls), Started: time.Now(), Ended: time.Now(), FreezeMS: Quantiles{1, 2, 3}}
	for _, c := range f.calls {
		switch {
		case strings.HasPrefix(c.info.To, "79") && !back, strings.HasPrefix(c.info.To, "78") && back:
			f.r.Refusals = append(f.r.Refusals, Refusal{Call: c.info.ID, To: c.info.To, Reason: "marked"})
			w.Refused++
		case f.fault == "one-stays" && c.info.ID == "c000002":
		default:
			c.info.Release, c.info.Owner = f.name(to), "w-"+to
			c.info.Epoch++
			w.Moved++
		}
	}
	f.r.Waves = append(f.r.Waves, w)
	f.now, f.r.State = to, RolloutDone
	if back {
		f.r.State = RolloutRolledBack
	}
}

// fakeRelay is two sockets and what they do to packets.
type fakeRelay struct {
	a, b *fakeSide
	all  []*net.UDPConn
}

type fakeSide struct {
	conn *net.UDPConn
	to   target
}

type target struct {
	p atomic.Pointer[netip.AddrPort]
}

func (t *target) set(a netip.AddrPort) { t.p.Store(&a) }
func (s *fakeSide) addr() netip.AddrPort {
	return addrOf(s.conn.LocalAddr())
}

func newFakeRelay(ip netip.Addr, fault string, serial int) (*fakeRelay, error) {
	r := &fakeRelay{}
	for _, side := range []**fakeSide{&r.a, &r.b} {
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, 0)))
		if err != nil {
			return nil, err
		}
		*side = &fakeSide{conn: c}
		r.all = append(r.all, c)
	}
	odd, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, 0)))
	if err != nil {
		return nil, err
	}
	r.all = append(r.all, odd)
	if serial != 2 {
		fault = "" // one call of all suffers
	}
	go relayFrom(r.a, r.b, odd, fault)
	go relayFrom(r.b, r.a, odd, "")
	return r, nil
}

func (r *fakeRelay) close() {
	for _, c := range r.all {
		_ = c.Close()
	}
}

func relayFrom(from, to *fakeSide, odd *net.UDPConn, fault string) {
	buf := make([]byte, 2048)
	var kept []byte
	for n := 1; ; n++ {
		size, err := from.conn.Read(buf)
		if err != nil {
			return
		}
		at := to.to.p.Load()
		if at == nil {
			continue
		}
		out := to.conn
		if kept != nil {
			_, _ = out.WriteToUDPAddrPort(buf[:size], *at)
			_, _ = out.WriteToUDPAddrPort(kept, *at)
			kept = nil
			continue
		}
		if n == 20 {
			switch fault {
			case "rtp-lost":
				continue
			case "rtp-twice":
				_, _ = out.WriteToUDPAddrPort(buf[:size], *at)
			case "rtp-order":
				kept = append([]byte(nil), buf[:size]...)
				continue
			case "rtp-elsewhere":
				out = odd
			case "rtp-foreign":
				buf[rtpHeader+7] ^= 0x55
			case "rtp-ssrc":
				buf[8] ^= 1
			case "rtp-gap":
				time.Sleep(300 * time.Millisecond)
			}
		}
		_, _ = out.WriteToUDPAddrPort(buf[:size], *at)
	}
}
