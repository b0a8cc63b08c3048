package edge

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"strings"
	"sync"

	"callswitch/codecore"
)

// cookie begins every branch of RFC 3261 (8.1.1.7).
const cookie = "z9hG4bK"

const (
	idLen    = 24 // hex digits of a call id
	macLen   = 12 // and of its MAC
	tokenLen = idLen + macLen
)

// ids mints and verifies what ties messages to calls. All edges of a cluster
// have the same key, so that any of them finds the call of any message.
type ids struct{ macs sync.Pool }

func newIDs(clusterKey []byte) *ids {
	h := hmac.New(sha256.New, clusterKey)
	h.Write([]byte("callswitch edge ids 1"))
	key := h.Sum(nil)
	return &ids{macs: sync.Pool{New: func() any { return hmac.New(sha256.New, key) }}}
}

// sum is the keyed hash of the parts, as n hex digits. Each part ends with a
// zero byte, which validated headers cannot contain.
func (i *ids) sum(n int, parts ...string) string {
	out := i.mac(parts)
	return hex.EncodeToString(out[:n/2])
}

// number is the keyed hash of the parts: the same in every generation.
func (i *ids) number(parts ...string) uint64 {
	out := i.mac(parts)
	return binary.BigEndian.Uint64(out[:])
}

func (i *ids) mac(parts []string) (out [sha256.Size]byte) {
	h := i.macs.Get().(hash.Hash)
	h.Reset()
	var in [256]byte
	for _, p := range parts {
		h.Write(append(append(in[:0], p...), 0))
	}
	h.Sum(out[:0])
	i.macs.Put(h)
	return out
}

// call is the id of the call that an INVITE begins: the same for its
// retransmissions and its CANCEL, through any edge.
func (i *ids) call(p *packet) codecore.CallID {
	return codecore.CallID(i.sum(idLen, "call", p.callID, p.fromTag, p.cseq, p.via.branch))
}

// token is the call id with its MAC.
func (i *ids) token(id codecore.CallID) string {
	return string(id) + i.sum(macLen, "token", string(id))
}

// Token is the token of what is addressed as calls are and begins with no INVITE:
// a registration at a carrier.
func Token(clusterKey []byte, id codecore.CallID) string { return newIDs(clusterKey).token(id) }

// verify finds the token that a To-tag, branch or Contact user of ours begins
// with. An invented one is refused.
func (i *ids) verify(s string) (id codecore.CallID, token string, ok bool) {
	s = strings.TrimPrefix(s, cookie)
	if len(s) < tokenLen {
		return "", "", false
	}
	id, token = codecore.CallID(s[:idLen]), s[:tokenLen]
	want := i.sum(macLen, "token", string(id))
	return id, token, subtle.ConstantTimeCompare([]byte(want), []byte(s[idLen:tokenLen])) == 1
}

// tx names a server transaction (RFC 3261 17.2.3): branch, sent-by and method,
// or, for a branch without the cookie or with nothing behind it (RFC 4475
// 3.2.1), what RFC 2543 had instead. The method of
// an ACK or CANCEL is that of the INVITE it is for.
func (i *ids) tx(p *packet, method string) string {
	if len(p.via.branch) > len(cookie) && strings.HasPrefix(p.via.branch, cookie) {
		return i.sum(24, "tx", method, p.via.sentBy, p.via.branch)
	}
	return i.sum(24, "tx", method, p.via.sentBy, p.via.branch, p.callID, p.fromTag, p.cseq)
}

// TagReader finds the call that a tag of ours names; "" and false for any other
// text, so that who knows such a tag has been in the call's dialog.
func TagReader(clusterKey []byte) func(tag string) (codecore.CallID, bool) {
	i := newIDs(clusterKey)
	return func(tag string) (codecore.CallID, bool) {
		id, _, ok := i.verify(tag)
		if !ok {
			return "", false
		}
		return id, true
	}
}
