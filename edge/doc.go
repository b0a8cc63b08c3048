// Package edge is where SIP meets the switch: UDP, TCP, TLS and WebSocket,
// limits and validation, transactions (RFC 3261 section 17, RFC 6026), and the
// delivery of what was received to the call it belongs to. It does not decide
// anything about a call: every response but 100, 4xx for malformed or unknown
// requests, and the answer to an OPTIONS outside a dialog, is an action of a
// worker.
//
// A datagram goes through a token bucket per source, scan.go (bytes: lines,
// limits, smuggling), grammar.go (addresses, Via, CSeq) and validate.go
// (meaning), all before any lock or state. The grammar is our own: sipgo's
// parser refuses legal messages of RFC 4475 (wsinv, esc01, semiuri) and takes
// illegal ones; torture_test.go holds the right answer to all 49. Why something
// was refused is told by a stable code, listed in reasons.md. Then one mutex
// guards transactions, calls and the one timer heap; nothing is awaited under
// it: UDP sends do not block, those of connections are queued. Everything kept
// here may be lost at any moment: an edge that restarts finds calls again by
// the token in tags and branches (ids.go), and workers repeat the actions that
// are not over.
//
// Requests over 1300 bytes go by TCP where the peer listens (lost.go, which
// also says what a broken connection means for the calls on it).
//
// Connections of all kinds have one home (stream.go, conns.go, reader.go,
// writer.go). accept.go and upgrade.go shake hands, each in its connection's
// goroutine; cut.go and ws.go find messages in bytes, and what they have read of
// one is plain data (half), so that another generation can read on (inherit.go:
// a planned one inherits everything but TLS, which the old process carries for
// it: pump.go). Clients that only their own connection leads to, those in
// browsers first, are in outbound.go. An address is a peer by UDP, TCP and TLS,
// never on a WebSocket: behind it may be a browser with anybody's page in it.
//
// A name in a URI is looked up by RFC 3263 (locate.go, dns.go, names.go), never
// under the mutex. One action goes to one address: when that fails, the call is
// told which, and decides on the next by a new action (failover.go, and
// codecore/failover.go), so that the address in force is in the record before
// anything is sent to it. What is known of addresses, by calls and by pings of
// the dialplan's trunks, is each edge's own and may be lost (circuit.go,
// trunks.go, icmp.go): it changes the order in which they are tried, and lets a
// call that can only meet dead ones fail at once.
//
// Not done yet: a sips: Contact towards who called with sips:, a TLS hop that
// only NAPTR names, RFC 5626's 439, and flows of a client that came back to
// another host's edge. Merged requests and loops are seen by one edge, not
// across a cluster.
package edge
