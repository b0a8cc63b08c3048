package edge

import (
	"slices"
	"strings"
	"sync/atomic"
)

// Stats counts what an Edge does. All fields may be read at any time.
type Stats struct {
	Received   atomic.Uint64 // messages that came in, keep-alives excluded
	Sent       atomic.Uint64 // messages sent, retransmissions included
	Absorbed   atomic.Uint64 // retransmissions of peers that a transaction answered
	Repeated   atomic.Uint64 // our own retransmissions
	Deliveries atomic.Uint64 // events acknowledged by a worker
	Resends    atomic.Uint64 // deliveries sent again
	Orphans    atomic.Uint64 // questions to "orphan"
	Actions    atomic.Uint64 // actions performed
	Gaps       atomic.Uint64 // actions refused for a gap in their numbers
	KeepAlives atomic.Uint64

	Challenges     atomic.Uint64 // 401 and 407
	Registers      atomic.Uint64 // granted
	RegisterWrites atomic.Uint64 // of them, those that took a write to the directory
	Pings          atomic.Uint64 // OPTIONS to phones behind NAT

	Failovers  atomic.Uint64 // requests that another address of their target may take
	TrunkPings atomic.Uint64 // OPTIONS to trunks

	Connections atomic.Int64 // stream connections now open
	Carried     atomic.Int64 // of them, those in TLS that an older generation carries
	Calls       atomic.Int64 // calls in memory now
	Open        atomic.Int64 // transactions in memory now

	reasons    [len(reasonNames)]atomic.Uint64
	transports [len(transportNames)]TransportStats
}

// TransportStats counts what comes and goes by one transport.
type TransportStats struct {
	Received    atomic.Uint64 // messages
	Sent        atomic.Uint64
	Accepted    atomic.Uint64 // connections whose hands were shaken
	Failed      atomic.Uint64 // handshakes that came to nothing, ours as a client too
	Connections atomic.Int64  // open now, in their handshake too
}

// transportNames are those of a Via.
var transportNames = [...]string{"UDP", "TCP", "TLS", "WS", "WSS"}

func (s *Stats) of(transport string) *TransportStats {
	return &s.transports[max(0, slices.Index(transportNames[:], transport))]
}

// Transports are the counts by transport: "udp", "tcp", "tls", "ws", "wss".
func (s *Stats) Transports() map[string]*TransportStats {
	m := map[string]*TransportStats{}
	for _, name := range transportNames {
		m[strings.ToLower(name)] = s.of(name)
	}
	return m
}

func (s *Stats) received(l link) {
	s.Received.Add(1)
	s.of(l.transport()).Received.Add(1)
}

func (s *Stats) sent(l link) {
	s.Sent.Add(1)
	s.of(l.transport()).Sent.Add(1)
}

// Reasons are the counts of refused, dropped or unusual input by reason code.
func (s *Stats) Reasons() map[string]uint64 {
	m := make(map[string]uint64, len(reasonNames))
	for i, name := range reasonNames {
		m[name] = s.reasons[i].Load()
	}
	return m
}

func (s *Stats) count(r reason) { s.reasons[r].Add(1) }

// A reason says why something was not served. The names are stable: metrics,
// logs and the SIP Reason header show them.
type reason int

const (
	okay reason = iota
	badSize
	badLines
	badLine
	badBytes
	badStart
	badEnd
	badVersion
	badMissing
	badTwice
	badHeader
	badAddress
	badCount
	badCSeq
	badHops
	noHops
	badLength
	badVia
	badURI
	badScheme
	flood
	stranger
	badToken
	strayAck
	strayResponse
	badMethod
	badExtension
	scanner
	merged
	looped
	tooLong
	edgeFull
	queueFull
	storeAway
	unknownCall
	stepFailed
	refused
	expired
	sendFailed
	noAddress
	noPassword
	badAction
	badEnvelope
	connLimit
	connBroken
	digestWrong
	digestSlowed
	notAccount
	badRegister
	registrarBusy
	directoryAway
	slowReader
	noStream
	circuitOpen
	noSign
	portClosed
	unavailable
	badTLS
	badUpgrade
	badOrigin
	badProtocol
	badFrame
	badUTF8
	badSTUN
	noFlow
	outlived
)

var reasonNames = [...]string{
	okay: "ok", badSize: "size", badLines: "lines", badLine: "line-length", badBytes: "bytes", badStart: "start-line", badEnd: "header-end",
	badVersion: "version", badMissing: "header-missing", badTwice: "header-twice", badHeader: "header", badAddress: "address", badCount: "header-count", badCSeq: "cseq",
	badHops: "max-forwards", noHops: "hops-out", badLength: "content-length", badVia: "via", badURI: "uri", badScheme: "uri-scheme",
	flood: "flood", stranger: "stranger", badToken: "token", strayAck: "ack-stray", strayResponse: "response-stray",
	badMethod: "method", badExtension: "extension", scanner: "scanner", merged: "merged", looped: "loop", tooLong: "unanswerable", edgeFull: "edge-full", queueFull: "queue-full", storeAway: "store-away", unknownCall: "unknown-call",
	stepFailed: "step-failed", refused: "refused", expired: "expired", sendFailed: "send-failed", noAddress: "no-address", noPassword: "no-password",
	badAction: "action", badEnvelope: "envelope", connLimit: "connection-limit", connBroken: "connection-broken",
	digestWrong: "digest-wrong", digestSlowed: "digest-slowed", notAccount: "from-not-account",
	badRegister: "register", registrarBusy: "registrar-busy", directoryAway: "directory-away",
	slowReader: "slow-reader", noStream: "no-tcp",
	circuitOpen: "circuit-open", noSign: "no-sign", portClosed: "port-closed", unavailable: "unavailable",
	badTLS: "tls", badUpgrade: "ws-handshake", badOrigin: "ws-origin", badProtocol: "ws-subprotocol", badFrame: "ws-frame", badUTF8: "ws-text",
	badSTUN: "stun", noFlow: "no-flow", outlived: "generation-over",
}

func (r reason) String() string { return reasonNames[r] }
