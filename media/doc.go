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
// pair rests after its call before it is given out again; what arrives meanwhile
// is read and thrown away. Who is sending there still when another call gets the
// pair is not learned as that one's party (leg.go, before), and a packet that comes
// back to the leg it went out of is dropped (own.go). The pool grows when half of
// Config.Ahead is left, and shrinks by what nobody needed for 30 s. With rtcp-mux
// (RFC 5761) the odd socket of the pair is idle, not closed.
//
// Sockets stay in blocking mode and every call says MSG_DONTWAIT: a non-blocking
// descriptor in an os.File would join the Go runtime's own poller, and each
// packet would wake two.
//
// # Secure legs
//
// A packet of a leg with [secure] is opened before [loop.rtp] looks at it and
// sealed in [loop.transmit]; between them it is as plain as any, so any two kinds
// of legs are bridged. STUN and DTLS arrive on the same socket and are told apart
// by the first byte (RFC 7983). Connectivity checks are answered by the relay
// itself (ice.go); a DTLS handshake has a goroutine for as long as it lasts
// (dtls.go) and leaves nothing but keys: no PeerConnection, no connection of DTLS,
// for neither could be rebuilt in another process. What stays of the handshake is
// its last flight, for a party that did not hear it. Packets that seal themselves
// as the party's need no latch: the party may move.
//
// pion/srtp is used as a cipher. Which index a packet has is decided here, by
// windows on both sides (window.go), and how far a key was used stands in its leg's
// hot slot before the packet leaves (slot.go). Keys of a handshake stand nowhere
// else, so cold records hold no secret: ours are derived anew from the cluster key,
// the party's come sealed with each order.
//
// A leg that cannot go on (its slot is lost, its handshake was cut, the certificate
// is not the one announced, no check came for 30 s) says so with
// codecore.MediaSilent and its reason, and the call logic hangs up.
//
// # Services
//
// An echo is a leg that is its own peer. A tone is played by the relay on one timer
// for all (service.go); its position stands in the cold record.
package media
