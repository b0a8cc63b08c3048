// Package nats keeps the switch's records and carries its messages on NATS: it
// implements sessions.Store on JetStream streams and sessions.Bus on subjects,
// hears the heartbeats of all processes, and runs the embedded server. It does
// not know what a record means: bodies pass through it unread.
//
// Streams and their subjects (no subject of a stream is ever used for a
// request, because a stream answers whatever is published to it):
//
//	REC       rec.<call>          newest record of each call, compare-and-set
//	LEG       leg.<key>           cold media records, compare-and-set
//	CDR       cdr.<id>            each written once
//	STORY     story.<call>        lossy history for operators
//	ACCOUNT   acct.<key>          accounts, watched by the edges
//	REG       reg.<key>           registrations, compare-and-set, forgotten by themselves
//	CARRIER   carrier.<key>       our registrations at carriers, compare-and-set
//	KV_switch $KV.switch.<key>    small versioned documents (bucket "switch")
//
// All reads that a decision rests on go to the stream's leader; direct gets,
// which a replica may answer from the past, are not used.
//
// At low rates a write or a request costs wake-ups, not work. At 200 a second,
// over TCP on two shared cores, client and server together: a Put 0.57 ms with
// GOMAXPROCS=2 and 0.38 ms with 1; a request and its answer 0.66 and 0.34 ms.
// The library's own request path, one goroutine longer, costs 0.46 and 0.49 ms
// with GOMAXPROCS=1. So processes here run best on one processor each.
package nats
