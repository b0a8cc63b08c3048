package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"callswitch/codecore"
	"callswitch/internal/wire"
	"callswitch/sessions"
)

// Errors of New.
var (
	ErrConfig = errors.New("edge: configuration")
	ErrListen = errors.New("edge: cannot listen")
)

// maxStrayCancels is how many CANCELs a second of unknown senders, for INVITEs
// that this edge does not have, are looked up.
const maxStrayCancels = 100

// announceEvery is how often the edge tells its incarnation.
const announceEvery = 5 * time.Second

// An Edge is one SIP front of the switch.
type Edge struct {
	cfg   Config
	lim   Limits
	name  string // "edge.<node>"
	ids   *ids
	stats *Stats
	log   *slog.Logger

	udp       []*udpLink
	listeners []*listener
	loop      *loopLink
	tlsServer *tls.Config      // nil: no certificate
	specs     []string         // of cfg.Listen, in order
	addrs     []netip.AddrPort // bound, in the same order

	born time.Time
	ctx  context.Context // ends with Run
	stop context.CancelFunc
	wg   sync.WaitGroup

	peers      *buckets
	strangers  *buckets
	shakes     *buckets // TLS handshakes of strangers
	complaints complaints
	conns      conns
	names      *names
	circuits   circuits
	trunks     trunks

	friends      friends
	pings        pings
	strayCancels *buckets      // one bucket for all
	registering  chan struct{} // slots

	vault vault

	gate    gate        // what goes through it stops while the edge is frozen
	resume  []func()    // of an heir: what Run begins with
	running atomic.Bool // and that is done

	mu        sync.Mutex // guards what follows
	calls     map[codecore.CallID]*call
	server    map[string]*serverTx         // by serverTx.key
	client    map[string]*clientTx         // by branch and method
	merge     map[uint64]*serverTx         // open INVITEs by mergeKey
	noTCP     map[netip.AddrPort]time.Time // where no TCP is listened to, and until when we believe it
	timers    timers
	footholds map[client]*foothold
	waiting   map[client]waiters
	waits     int // in waiting
	registers map[string]*registerTx
	idle      []chan *call // postmen that wait
}

// New binds the sockets; nothing is read before Run.
func New(cfg Config) (*Edge, error) {
	if cfg.Node == "" || cfg.Boot == "" || len(cfg.Listen) == 0 || len(cfg.ClusterKey) < 16 || cfg.Bus == nil || cfg.Plan == nil || cfg.Weights == nil {
		return nil, fmt.Errorf("%w: Node, Boot, Listen, ClusterKey (16 bytes), Bus, Plan and Weights are needed", ErrConfig)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	or(&cfg.Stats, new(Stats))
	e := &Edge{
		cfg: cfg, lim: cfg.Limits.withDefaults(), name: "edge." + cfg.Node, ids: newIDs(cfg.ClusterKey), stats: cfg.Stats, log: cfg.Log,
		calls: map[codecore.CallID]*call{}, server: map[string]*serverTx{}, client: map[string]*clientTx{}, merge: map[uint64]*serverTx{}, noTCP: map[netip.AddrPort]time.Time{},
		conns: newConns(),
	}
	var err error
	if e.vault, err = newVault(cfg.ClusterKey); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	e.born = time.Now()
	e.loop = &loopLink{e: e, queue: make(chan []byte, loopQueue)}
	e.friends.by = map[netip.Addr]time.Time{}
	e.strayCancels, e.registering = newBuckets(maxStrayCancels, 1), make(chan struct{}, maxRegisters)
	e.registers = map[string]*registerTx{}
	e.footholds, e.waiting = map[client]*foothold{}, map[client]waiters{}
	or(&e.cfg.Keepalive, 25*time.Second)
	e.peers, e.strangers = newBuckets(e.lim.PeerRate, peerCells), newBuckets(e.lim.StrangerRate, strangerCells)
	e.shakes = newBuckets(e.lim.StrangerRate, peerCells)
	e.timers.kick = make(chan struct{}, 1)
	e.timers.slot = int64(max(e.lim.T1/25, time.Millisecond))
	e.circuits.by = map[hop]*circuit{}
	e.ctx, e.stop = context.WithCancel(context.Background())
	if cfg.Certificate != nil {
		e.tlsServer = cfg.Certificate.Server()
	}
	for _, spec := range cfg.Listen {
		if err := e.listen(spec); err != nil {
			e.Close()
			return nil, fmt.Errorf("%w on %s: %w", ErrListen, spec, err)
		}
	}
	servers, err := dnsServers(cfg.DNS)
	if err != nil {
		e.Close()
		return nil, err
	}
	e.names = newNames(locator{nameServers: nameServers{servers}, kinds: e.families(), hosts: hostsFile})
	if cfg.Handed != nil {
		if err := e.succeed(cfg.Handed, cfg.Connections); err != nil {
			e.Close()
			return nil, err
		}
	}
	return e, nil
}

// families are the record types of addresses that we have sockets for.
func (e *Edge) families() (kinds []uint16) {
	for _, a := range e.addrs {
		kind := dns.TypeA
		if a.Addr().Is6() {
			kind = dns.TypeAAAA
		}
		if !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
	}
	slices.Sort(kinds)
	return kinds
}

func (e *Edge) listen(spec string) error {
	proto, addr, ok := strings.Cut(spec, ":")
	ap, err := netip.ParseAddrPort(addr)
	if !ok || err != nil {
		return fmt.Errorf("%w: want udp, tcp, tls, ws or wss, as in udp:IP:port", ErrConfig)
	}
	if ap.Addr().IsUnspecified() && e.cfg.Advertise == "" {
		return fmt.Errorf("%w: an unspecified address needs Advertise", ErrConfig)
	}
	file := e.cfg.Sockets[spec]
	switch proto {
	case "udp":
		c, err := udpSocket(ap, file)
		if err != nil {
			return err
		}
		_ = c.SetReadBuffer(4 << 20)  // a burst while we are stopped waits in the kernel
		_ = c.SetWriteBuffer(4 << 20) // and so does what goes to hosts that are off
		raw, err := c.SyscallConn()
		if err != nil {
			_ = c.Close()
			return err
		}
		e.mark(raw, ap.Addr().Is6())
		hearErrors(raw, ap.Addr().Is6())
		bound := c.LocalAddr().(*net.UDPAddr).AddrPort()
		bound = netip.AddrPortFrom(bound.Addr().Unmap(), bound.Port())
		e.udp = append(e.udp, &udpLink{conn: c, raw: raw, bound: bound, v6: bound.Addr().Is6(), errs: make(chan struct{}, 1)})
		e.addrs = append(e.addrs, bound)
	case "tcp", "tls", "ws", "wss":
		p := protos[proto]
		if p.secure && e.cfg.Certificate == nil {
			return fmt.Errorf("%w: TLS needs a Certificate", ErrConfig)
		}
		ln, err := tcpSocket(ap, file)
		if err != nil {
			return err
		}
		if raw, err := ln.SyscallConn(); err == nil {
			e.mark(raw, ap.Addr().Is6())
		}
		bound := ln.Addr().(*net.TCPAddr).AddrPort()
		bound = netip.AddrPortFrom(bound.Addr().Unmap(), bound.Port())
		e.listeners = append(e.listeners, &listener{p, ln, bound})
		e.addrs = append(e.addrs, bound)
	default:
		return fmt.Errorf("%w: transport %q", ErrConfig, proto)
	}
	e.specs = append(e.specs, spec)
	return nil
}

func udpSocket(ap netip.AddrPort, file *os.File) (*net.UDPConn, error) {
	if file == nil {
		return net.ListenUDP("udp", net.UDPAddrFromAddrPort(ap))
	}
	c, err := net.FilePacketConn(file)
	if err != nil {
		return nil, err
	}
	if u, ok := c.(*net.UDPConn); ok {
		return u, nil
	}
	c.Close()
	return nil, fmt.Errorf("%w: inherited socket is not UDP", ErrConfig)
}

func tcpSocket(ap netip.AddrPort, file *os.File) (*net.TCPListener, error) {
	if file == nil {
		return net.ListenTCP("tcp", net.TCPAddrFromAddrPort(ap))
	}
	ln, err := net.FileListener(file)
	if err != nil {
		return nil, err
	}
	if t, ok := ln.(*net.TCPListener); ok {
		return t, nil
	}
	ln.Close()
	return nil, fmt.Errorf("%w: inherited socket is not TCP", ErrConfig)
}

// Addrs are the bound addresses, in the order of Config.Listen.
func (e *Edge) Addrs() []netip.AddrPort { return e.addrs }

// Files gives duplicates of the listening sockets by their Listen entry, for
// the host to keep; the caller closes them. Do not call Fd on them: it would
// make the shared description blocking.
func (e *Edge) Files() (map[string]*os.File, error) {
	files, u, t := map[string]*os.File{}, 0, 0
	for _, spec := range e.specs {
		var f *os.File
		var err error
		if strings.HasPrefix(spec, "udp:") {
			f, err = e.udp[u].conn.File()
			u++
		} else {
			f, err = e.listeners[t].ln.File()
			t++
		}
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return nil, fmt.Errorf("edge: duplicating %s: %w", spec, err)
		}
		files[spec] = f
	}
	return files, nil
}

// Close gives the sockets back; for an Edge that was never run. What such a one was
// handed is its predecessor's still: nobody is told goodbye.
func (e *Edge) Close() {
	e.stop()
	for _, u := range e.udp {
		_ = u.conn.Close()
	}
	for _, l := range e.listeners {
		_ = l.ln.Close()
	}
	until := time.Now().Add(farewellWithin)
	for _, c := range e.openConns() {
		if e.running.Load() {
			c.farewell(until)
		}
		c.close()
	}
}

// Run serves until ctx ends, then closes every socket and returns nil when all
// its goroutines have. What was not delivered is forgotten: its senders
// retransmit it, or the workers repeat it to the next incarnation.
func (e *Edge) Run(ctx context.Context) error {
	defer e.Close()
	sub, err := e.cfg.Bus.Subscribe(sessions.SubjectDo(e.name), "", e.onDo)
	if err != nil {
		return fmt.Errorf("edge: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	e.cfg.Bus.OnReconnect(e.announce)
	e.announce()
	e.wg.Add(3 + 2*len(e.udp) + len(e.listeners))
	go e.runTrunks(e.ctx)
	go e.runTimers()
	go e.serveLoop()
	if e.cfg.Directory != nil {
		e.wg.Add(1)
		go e.runPings(e.ctx)
	}
	for _, u := range e.udp {
		go e.serveUDP(u)
		go e.readErrors(u)
	}
	for _, l := range e.listeners {
		go e.accept(l)
	}
	for _, begin := range e.resume {
		begin()
	}
	e.resume = nil
	e.running.Store(true)
	tick := time.NewTicker(announceEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			e.announce()
		}
	}
	e.Close()
	e.wg.Wait()
	return nil
}

func (e *Edge) announce() {
	if e.ctx.Err() != nil {
		return
	}
	data, err := wire.Seal(sessions.Announce{Name: e.name, Boot: e.cfg.Boot})
	if err == nil {
		err = e.cfg.Bus.Publish(sessions.SubjectAnnounce(e.name), data)
	}
	if err != nil {
		e.log.Warn("edge: announcement not sent", "err", err)
	}
}

// identify finds the peer that a source address belongs to.
func (e *Edge) identify(from netip.AddrPort) (peer string, ok bool) {
	p := e.cfg.Plan()
	if p == nil {
		return "", false
	}
	return p.Identify(from)
}
