package media

import (
	"encoding/binary"
	"errors"

	"github.com/pion/rtp"
	"github.com/pion/srtp/v3"
)

// keys are what one direction of a leg is protected with.
type keys struct {
	profile srtp.ProtectionProfile
	key     []byte // master key and salt together
	made    uint64 // hash of what they were made of; other words, other keys
}

// suites are those of SDES (RFC 4568 section 6.2, RFC 7714 section 14.2).
var suites = map[string]srtp.ProtectionProfile{
	"AES_CM_128_HMAC_SHA1_80": srtp.ProtectionProfileAes128CmHmacSha1_80,
	"AES_CM_128_HMAC_SHA1_32": srtp.ProtectionProfileAes128CmHmacSha1_32,
	"AEAD_AES_128_GCM":        srtp.ProtectionProfileAeadAes128Gcm,
	"AEAD_AES_256_GCM":        srtp.ProtectionProfileAeadAes256Gcm,
}

// context makes the cipher. It has no replay detector and its own counting is
// overruled for each packet: indexes are the sealer's and the opener's.
func (k *keys) context() (*srtp.Context, error) {
	n, err := k.profile.KeyLen()
	if err != nil {
		return nil, err
	}
	if len(k.key) < n {
		return nil, errKey
	}
	return srtp.CreateContext(k.key[:n], k.key[n:], k.profile)
}

var (
	errKey   = errors.New("media: SRTP key is too short")
	errUsed  = errors.New("media: this index was used")
	errMoved = errors.New("media: another process goes on with this leg")
	errOpen  = errors.New("media: packet is not the party's")
)

// ssrcsMost is for how many SSRCs a context may have a state before it is made
// anew; it forgets nothing that matters.
const ssrcsMost = 16

// sealer protects what goes to a leg. No index is used twice under one key: not
// by a repeat, not by a restart, not by a process that was thought dead.
type sealer struct {
	keys  keys
	ctx   *srtp.Context
	slot  slot
	gen   uint16
	ssrcs int

	ssrc uint32
	sent window
	odd  uint16 // a jump is believed if this number comes next
	rtcp uint32 // highest SRTCP index
	last uint64 // index used last
}

// newSealer goes on where the slot says the keys were left.
func newSealer(k keys, s slot, gen uint16) (*sealer, error) {
	ctx, err := k.context()
	if err != nil {
		return nil, err
	}
	e := &sealer{keys: k, ctx: ctx, slot: s, gen: gen, rtcp: uint32(s.own(wordTxRTCP, gen))}
	next := s.own(wordTxNext, gen)
	if v := s.load(wordTxSSRC); v&present != 0 && next > 0 {
		e.ssrc, e.sent = uint32(v), used(next-1)
	}
	return e, nil
}

// known has the context count another SSRC, and be made anew when it has many.
func (e *sealer) known(ok bool) error {
	if ok {
		return nil
	}
	if e.ssrcs++; e.ssrcs > ssrcsMost {
		ctx, err := e.keys.context()
		if err != nil {
			return err
		}
		e.ctx, e.ssrcs = ctx, 1
	}
	return nil
}

// rtp protects a packet in place; b has room behind it. The index is claimed in
// the slot before anything is encrypted.
func (e *sealer) rtp(b []byte, h *rtp.Header) ([]byte, error) {
	ssrc, seq := binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint16(b[2:])
	if !e.sent.any {
		e.ssrc = ssrc
		e.slot.store(wordTxSSRC, present|uint64(ssrc))
	} else if ssrc != e.ssrc {
		return nil, errUsed
	}
	i := e.sent.guess(seq)
	if !e.sent.fresh(i) {
		return nil, errUsed
	}
	var next uint64
	if e.sent.any {
		next = e.sent.top + 1
	}
	if !e.slot.advance(wordTxNext, e.gen, next, max(next, i+1)) {
		return nil, errMoved
	}
	e.sent.mark(i)
	e.last = i
	_, ok := e.ctx.ROC(ssrc)
	if err := e.known(ok); err != nil {
		return nil, err
	}
	e.ctx.SetROC(ssrc, uint32(i>>16))
	return e.ctx.EncryptRTP(b, b, h)
}

// control protects a compound RTCP packet in place. One counter serves all
// SSRCs, so it need not be remembered for each.
func (e *sealer) control(b []byte) ([]byte, error) {
	if e.rtcp >= 1<<31-1 {
		return nil, errUsed
	}
	if !e.slot.advance(wordTxRTCP, e.gen, uint64(e.rtcp), uint64(e.rtcp)+1) {
		return nil, errMoved
	}
	e.rtcp++
	e.last = uint64(e.rtcp)
	ssrc := binary.BigEndian.Uint32(b[4:])
	_, ok := e.ctx.Index(ssrc)
	if err := e.known(ok); err != nil {
		return nil, err
	}
	e.ctx.SetIndex(ssrc, e.rtcp-1) // it uses the next
	return e.ctx.EncryptRTCP(b, b, nil)
}

// jumped reports whether a packet is so far from the last that it is of another
// numbering; sure when the one before said so too (RFC 3550 A.1). The receiver
// could not follow, and the index may have been used.
func (e *sealer) jumped(seq uint16) (far, sure bool) {
	if !e.sent.any {
		return false, false
	}
	ahead := int16(seq - uint16(e.sent.top))
	if ahead > -windowSize && ahead <= dropout {
		return false, false
	}
	sure = seq == e.odd
	e.odd = seq + 1
	return true, sure
}

// opener checks and opens what comes from a leg.
type opener struct {
	keys     keys
	ctx      *srtp.Context
	slot     slot
	admitted int // SSRCs that ctx has a state for
	parties  [parties]party
	opened   uint64 // packets
}

// party is one SSRC of the far end.
type party struct {
	ssrc  uint32
	known bool
	rtp   window
	rtcp  window
	heard uint64 // how many packets were open when it was
}

func newOpener(k keys, s slot) (*opener, error) {
	ctx, err := k.context()
	if err != nil {
		return nil, err
	}
	o := &opener{keys: k, ctx: ctx, slot: s}
	for i := range o.parties {
		p, w := &o.parties[i], wordParty+i*partyWords
		v := s.load(w)
		if v&present == 0 {
			continue
		}
		p.ssrc, p.known, p.heard = uint32(v), true, 1
		if next := s.load(w + 1); next > 0 {
			p.rtp = used(next - 1)
			if b0, b1 := s.load(w+2), s.load(w+3); s.load(w+4) == checkOf(next, b0, b1) {
				p.rtp.bits = [2]uint64{b0, b1}
			}
		}
		if next := s.load(w + 5); next > 0 {
			p.rtcp = used(next - 1)
		}
	}
	return o, nil
}

// checkOf tells a whole window from a torn one.
func checkOf(next, b0, b1 uint64) uint64 {
	return (next*0x9e3779b97f4a7c15^b0)*0xbf58476d1ce4e5b9 ^ b1
}

func (o *opener) find(ssrc uint32) *party {
	for i := range o.parties {
		if p := &o.parties[i]; p.known && p.ssrc == ssrc {
			return p
		}
	}
	return nil
}

// admit gives an SSRC that has proved itself a place: when all are taken, that of
// the one heard least lately, which is let in no more.
func (o *opener) admit(ssrc uint32) (*party, int) {
	o.opened++
	least := 0
	for i := range o.parties {
		p := &o.parties[i]
		if p.known && p.ssrc == ssrc {
			p.heard = o.opened
			return p, wordParty + i*partyWords
		}
		if p.heard < o.parties[least].heard {
			least = i
		}
	}
	o.renew()
	w, p := wordParty+least*partyWords, &o.parties[least]
	if p.known {
		o.slot.shutOut(p.ssrc)
	}
	for k := range wordOut {
		o.slot.store(w+k, 0)
	}
	o.slot.store(w, present|uint64(ssrc))
	*p = party{ssrc: ssrc, known: true, heard: o.opened}
	return p, w
}

// rtp opens a packet in place. newest: none of its SSRC came with a higher index.
func (o *opener) rtp(b []byte, h *rtp.Header) (plain []byte, newest bool, err error) {
	if len(b) < 12 {
		return nil, false, errOpen
	}
	ssrc, seq := binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint16(b[2:])
	p := o.find(ssrc)
	i := uint64(seq)
	if p != nil {
		if i = p.rtp.guess(seq); !p.rtp.fresh(i) {
			return nil, false, errUsed
		}
		// Of an SSRC that nobody has proved, the context keeps nothing.
		o.ctx.SetROC(ssrc, uint32(i>>16))
	} else if o.slot.isOut(ssrc) {
		return nil, false, errUsed
	}
	if plain, err = o.ctx.DecryptRTP(b, b, h); err != nil {
		return nil, false, errOpen
	}
	p, w := o.admit(ssrc)
	newest = !p.rtp.any || i > p.rtp.top
	p.rtp.mark(i)
	next := p.rtp.top + 1
	o.slot[w+2], o.slot[w+3], o.slot[w+4] = p.rtp.bits[0], p.rtp.bits[1], checkOf(next, p.rtp.bits[0], p.rtp.bits[1])
	o.slot.store(w+1, next)
	return plain, newest, nil
}

// control opens a compound RTCP packet in place.
func (o *opener) control(b []byte) ([]byte, error) {
	tail := 4
	if n, err := o.keys.profile.AuthTagRTCPLen(); err == nil {
		tail += n
	}
	if len(b) < 8+tail {
		return nil, errOpen
	}
	ssrc := binary.BigEndian.Uint32(b[4:])
	i := uint64(binary.BigEndian.Uint32(b[len(b)-tail:]) &^ (1 << 31))
	if p := o.find(ssrc); p != nil && !p.rtcp.fresh(i) || p == nil && o.slot.isOut(ssrc) {
		return nil, errUsed
	}
	plain, err := o.ctx.DecryptRTCP(b, b, nil)
	if err != nil {
		return nil, errOpen
	}
	p, w := o.admit(ssrc)
	p.rtcp.mark(i)
	o.slot.store(w+5, p.rtcp.top+1)
	return plain, nil
}

// renew makes the context anew when it has a state for many SSRCs.
func (o *opener) renew() {
	if o.admitted++; o.admitted <= ssrcsMost {
		return
	}
	if ctx, err := o.keys.context(); err == nil {
		o.ctx, o.admitted = ctx, 1
	}
}
