package edge

import (
	"crypto/x509"
	"log/slog"
	"os"
	"time"

	"callswitch/codecore"
	"callswitch/registrar"
	"callswitch/sessions"
)

// Config is what an Edge needs. Node, Boot, Listen, ClusterKey, Bus, Plan and
// Weights have no default.
type Config struct {
	Node   string   // "n1": the edge is receiver and sender "edge.n1"
	Boot   string   // incarnation of this process; sorts after those of its predecessors
	Listen []string // "udp:127.0.0.1:5060", "tcp:[::1]:5060", "tls:…", "ws:…", "wss:…"; port 0 lets the system choose

	// Advertise is the host, or host:port, that goes into Via and Contact.
	// Default: the address of the listening socket. Needed when listening on an
	// unspecified address (0.0.0.0) and behind a 1:1 NAT.
	Advertise string

	// Certificate is shown by tls: and wss: listeners, which need it, and to next
	// hops that ask for one. Default: none.
	Certificate *Certificate
	// Roots vouch for the next hops that we reach by TLS. Default: the system's.
	Roots *x509.CertPool
	// Origins are the web pages ("https://phone.example.com") that may open a
	// WebSocket; "*": any. Default: those of our own addresses (Edge.allows).
	Origins []string

	// Sockets are inherited sockets by their Listen entry; used instead of
	// binding. They are duplicated: the caller may close them after New.
	Sockets map[string]*os.File

	// Handed is what a predecessor's Freeze returned, with the Connections; Boot is
	// then its, too. The caller may close the files after New.
	Handed      []byte
	Connections []File

	// Unmarked leaves the DSCP of our packets at 0. Default: CS3 (RFC 4594 4.2).
	Unmarked bool

	ClusterKey []byte // at least 16 bytes; all edges of a cluster have the same
	Bus        sessions.Bus
	Plan       func() *codecore.Plan // current plan: who may call from where; nil = nobody
	Weights    func() []Weight       // releases that take new calls

	// Auth, Accounts and Directory let accounts in, who register and call with
	// digest. Default: none; who is no peer gets 403, as when there is no account.
	Auth      *registrar.Auth
	Accounts  *registrar.Accounts
	Directory *registrar.Directory
	Keepalive time.Duration // 25 s: between OPTIONS to a phone behind NAT; negative: none

	// Secrets are the passwords of trunks that challenge us, by peer. Default: none;
	// a call that is challenged fails.
	Secrets map[string]registrar.Secret

	DNS []string // name servers, "ip" or "ip:port"; default: those of /etc/resolv.conf

	Limits Limits
	Log    *slog.Logger // default: discards
	Stats  *Stats       // default: a fresh one
}

// A File is a descriptor that is handed over, by name.
type File struct {
	Name string
	File *os.File
}

// A Weight is the share of new calls that a release takes.
type Weight struct {
	Digest  string // of its workers' executable, as in sessions.Process
	Percent int    // of new calls; those of all releases are scaled to their sum
}

// Limits bound what the network can make an Edge do. A zero value means the
// default named.
type Limits struct {
	MaxMessage   int // 65535: bytes of a message
	MaxLines     int // 256: header lines, continuation lines included
	MaxLine      int // 8192: bytes of one header with its continuation lines
	MaxCalls     int // 100000: calls with something open here; then 503
	MaxQueue     int // 64: events of one call that wait for delivery
	MaxConns     int // 10000: stream connections
	MaxPerSource int // 1000: stream connections of one address; 8 of a stranger

	Shake time.Duration // 5 s: a new connection has shaken hands (TLS, WebSocket) by then

	PeerRate     float64 // 20000: messages per second of one known address; the burst is a second's worth
	StrangerRate float64 // 10: messages per second of any other address

	T1 time.Duration // 500 ms: RFC 3261 17.1.1.1
	T2 time.Duration // 4 s
	T4 time.Duration // 5 s

	Silence time.Duration // 4 s: an INVITE of which nothing is heard by then goes elsewhere, if there is an elsewhere

	SaveWithin  time.Duration // 8 s: an INVITE not saved by then gets 503
	KeepFor     time.Duration // 5 min: a BYE, a CANCEL, an ACK or a final response is kept until delivered
	AnswerWait  time.Duration // 250 ms: first wait for an Answer; doubles to 1 s
	OrphanAfter time.Duration // 500 ms without responders: ask "orphan"
	Confirm     time.Duration // 200 ms: taken actions are confirmed by then
	Gather      time.Duration // 50 ms: events that nobody waits for are delivered for many calls at once, this often
	Forget      time.Duration // 64 s: an idle call leaves the edge's memory
	MaxPending  time.Duration // 15 min: a request that nobody answers leaves it too
}

func or[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (l Limits) withDefaults() Limits {
	or(&l.MaxMessage, 65535)
	or(&l.MaxLines, 256)
	or(&l.MaxLine, 8192)
	or(&l.MaxCalls, 100_000)
	or(&l.MaxQueue, 64)
	or(&l.MaxConns, 10_000)
	or(&l.MaxPerSource, 1000)
	or(&l.Shake, 5*time.Second)
	or(&l.PeerRate, 20_000)
	or(&l.StrangerRate, 10)
	or(&l.T1, 500*time.Millisecond)
	or(&l.T2, 4*time.Second)
	or(&l.T4, 5*time.Second)
	or(&l.Silence, 4*time.Second)
	or(&l.SaveWithin, 8*time.Second)
	or(&l.KeepFor, 5*time.Minute)
	or(&l.AnswerWait, 250*time.Millisecond)
	or(&l.OrphanAfter, 500*time.Millisecond)
	or(&l.Confirm, 200*time.Millisecond)
	or(&l.Gather, 50*time.Millisecond)
	or(&l.Forget, 64*time.Second)
	or(&l.MaxPending, 15*time.Minute)
	return l
}

// gone is how long a finished transaction is kept for retransmissions: timers
// B, D, F, H, J, L and M of RFC 3261 and RFC 6026, 32 s.
func (l *Limits) gone() time.Duration { return 64 * l.T1 }
