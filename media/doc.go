// Package media carries the sound of calls: RTP and RTCP sockets, the relay
// between the two legs of a call, and what a successor needs to go on with it.
// It does what it is told as a desired state (sessions.DoMedia) and knows no
// call logic: which codec, who is on hold and when a call ends is decided by
// codecore, and it never speaks SIP or SDP.
//
// # One owner
//
// The relay is one goroutine over one epoll set (loop.go). It holds loop.mu
// while it treats a batch of packets and never while it waits; orders take the
// same lock for a moment, so an order costs no wake-up and a packet no contended
// lock. Whatever is behind loop.mu belongs to the relay; the rest (who has which
// port, what is to be stored) is behind Media.mu, which the relay never takes.
// Order of locks: Media.mu, then loop.mu.
//
// One relay goroutine is one core at most: 490,000 packets/s of 4,900 calls do
// not fit. A second loop needs both legs of a call on the same one, no more.
//
// # Sockets
//
// Sockets are bound ahead in blocks of pairs (pool.go) and duplicates go to the
// Keeper as they are bound, so that a call costs no system call of its own. A
// pair rests after its call before it is given out again; what arrives
// meanwhile is read and thrown away. The pool grows when half of Config.Ahead is
// left, and shrinks by what nobody needed for 30 s. With rtcp-mux (RFC 5761) the
// odd socket of the pair is idle, not closed.
//
// Sockets stay in blocking mode and every call says MSG_DONTWAIT: a non-blocking
// descriptor in an os.File would join the Go runtime's own poller, and each
// packet would wake two.
//
// # What comes later
//
// A leg that speaks SRTP opens a packet before [loop.rtp] looks at it and
// closes it in [loop.transmit]; STUN and DTLS arrive on the same socket and are
// told apart by the first byte (RFC 7983), where they are now counted and
// dropped. Keys and indexes need a hot slot beside the cold record.
package media
