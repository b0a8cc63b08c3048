package edge

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// STUN on the SIP port is how a phone keeps its way through a NAT open, and
// learns when it has changed (RFC 5626 4.4.2, RFC 5389 section 12). Only that one
// question is answered, without authentication, as the RFC has it.

const (
	stunHead    = 20
	stunRequest = 0x0001 // Binding
	stunSuccess = 0x0101
	stunCookie  = 0x2112A442
	stunAddress = 0x0020 // XOR-MAPPED-ADDRESS
	stunFamily4 = 1
	stunFamily6 = 2
)

// isSTUN tells STUN from SIP by its first bits and the cookie (RFC 5389 section 8).
func isSTUN(data []byte) bool {
	return len(data) >= stunHead && data[0]&0xC0 == 0 && binary.BigEndian.Uint32(data[4:]) == stunCookie
}

// stunAnswer is what a Binding request is answered with; nil: nothing. Attributes
// that must be understood (those below 0x8000) are those of another usage.
func stunAnswer(data []byte, from netip.AddrPort) []byte {
	if binary.BigEndian.Uint16(data) != stunRequest || int(binary.BigEndian.Uint16(data[2:])) != len(data)-stunHead {
		return nil
	}
	for rest := data[stunHead:]; len(rest) > 0; {
		if len(rest) < 4 || rest[0] < 0x80 {
			return nil
		}
		n := 4 + (int(binary.BigEndian.Uint16(rest[2:]))+3)&^3
		if n > len(rest) {
			return nil
		}
		rest = rest[n:]
	}
	ip, family := from.Addr().AsSlice(), byte(stunFamily4)
	if len(ip) == 16 {
		family = stunFamily6
	}
	b := make([]byte, 0, stunHead+24)
	b = binary.BigEndian.AppendUint16(b, stunSuccess)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(ip)))
	b = append(b, data[4:stunHead]...)
	b = binary.BigEndian.AppendUint16(b, stunAddress)
	b = binary.BigEndian.AppendUint16(b, uint16(4+len(ip)))
	b = binary.BigEndian.AppendUint16(append(b, 0, family), from.Port()^stunCookie>>16)
	for i := range ip { // RFC 5389 15.2: the cookie, and behind it the transaction
		b = append(b, ip[i]^data[4+i])
	}
	return b
}

// onSTUN answers within the bucket of its source. To one that we do not know
// never more than was sent: the address may be anybody's.
func (e *Edge) onSTUN(f flow, data []byte) {
	now, bucket := time.Now(), e.peers
	_, known := e.identify(f.remote)
	if known = known || e.friends.has(f.remote.Addr(), now); !known {
		bucket = e.strangers
	}
	if !bucket.take(f.remote.Addr(), now) {
		e.complain(f.remote, flood, now)
		return
	}
	b := stunAnswer(data, f.remote)
	if b == nil || !known && len(b) > len(data) {
		e.complain(f.remote, badSTUN, now)
		return
	}
	e.stats.KeepAlives.Add(1)
	if err := f.link.send(f.remote, b); err != nil {
		e.stats.count(sendFailed)
	}
}
