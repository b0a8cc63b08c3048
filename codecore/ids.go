package codecore

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// All ids of ours are hashes of the call's seed and of what they name, so a
// repeated action is byte for byte the same transaction on the wire.

// hash is the first n bytes, in hex, of SHA-256 over the seed and the words.
func (c *call) hash(n int, words ...any) string {
	h := sha256.New()
	var seed [8]byte
	binary.BigEndian.PutUint64(seed[:], c.Seed)
	h.Write(seed[:])
	for _, w := range words {
		fmt.Fprintf(h, "/%v", w)
	}
	return hex.EncodeToString(h.Sum(nil)[:n])
}

func (c *call) tag(leg LegID) string    { return c.Token + "." + c.hash(6, "tag", leg) }
func (c *call) callID(leg LegID) string { return c.hash(16, "call-id", leg) }

// branch names a client transaction of ours: one per leg, method and CSeq (and
// dialog, for the ACKs of a fork).
func (c *call) branch(leg LegID, method string, cseq uint32, tag string) string {
	return "z9hG4bK" + c.Token + "." + c.hash(8, "branch", leg, method, cseq, tag)
}

// sessionID is the number of an o= line (RFC 8866 5.2), below 2^62.
func (c *call) sessionID(leg LegID) uint64 {
	b, _ := hex.DecodeString(c.hash(8, "sdp", leg))
	return binary.BigEndian.Uint64(b) >> 2
}
