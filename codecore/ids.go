package codecore

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strconv"
)

// All ids of ours are hashes of the call's seed and of what they name, so a
// repeated action is byte for byte the same transaction on the wire.

// hash is the first n bytes, in hex, of SHA-256 over the seed and the words.
func (c *call) hash(n int, words ...string) string {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 128), c.Seed)
	for _, w := range words {
		b = append(append(b, '/'), w...)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:n])
}

func (c *call) tag(leg LegID) string    { return c.Token + "." + c.hash(6, "tag", string(leg)) }
func (c *call) callID(leg LegID) string { return c.hash(16, "call-id", string(leg)) }

// branch names a client transaction of ours: one per leg, method and CSeq (and
// dialog, for the ACKs of a fork).
func (c *call) branch(leg LegID, method string, cseq uint32, tag string) string {
	return "z9hG4bK" + c.Token + "." + c.hash(8, "branch", string(c.key(leg)), method, strconv.FormatUint(uint64(cseq), 10), tag)
}

// key tells the transactions of legs apart: the two that a call begins with by
// their slot, every further one by its tag, wherever it stands today.
func (c *call) key(leg LegID) LegID {
	switch t := c.leg(leg).Tag; t {
	case c.tag(LegA):
		return LegA
	case c.tag(LegB):
		return LegB
	default:
		return LegID(t)
	}
}

// sessionID is the number of an o= line (RFC 8866 5.2), below 2^62: the slot's.
func (c *call) sessionID(leg LegID) uint64 {
	b, _ := hex.DecodeString(c.hash(8, "sdp", string(leg)))
	return binary.BigEndian.Uint64(b) >> 2
}
