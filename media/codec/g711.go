// Package codec turns the two codings of G.711 into samples and into each other.
// It computes only; it knows no packets, clocks or payload types, and no other
// codec yet: where parties share none, the call is refused.
package codec

import "math/bits"

// The two laws are ITU-T G.711's: 8 bits for a sample of 8 kHz, a sign, a segment
// of doubled steps and a place in it. Both send inverted bits: mu-law all of them,
// A-law every other one.
const (
	muBias = 33 << 2 // added so that each segment begins at a power of two
	muClip = 0x7fff - muBias
	aFlip  = 0x55
)

var muDecode, aDecode [256]int16

// muToA and aToMu are by way of the nearest sample.
var muToA, aToMu [256]byte

func init() {
	for i := range 256 {
		muDecode[i], aDecode[i] = decodeMu(byte(i)), decodeA(byte(i))
	}
	for i := range 256 {
		muToA[i], aToMu[i] = EncodeA(muDecode[i]), EncodeMu(aDecode[i])
	}
}

func decodeMu(b byte) int16 {
	b = ^b
	v := (int(b&15)<<3+muBias)<<(b>>4&7) - muBias
	if b&0x80 != 0 {
		v = -v
	}
	return int16(v)
}

func decodeA(b byte) int16 {
	b ^= aFlip
	v, segment := int(b&15)<<4+8, b>>4&7
	if segment > 0 {
		v = (v + 0x100) << (segment - 1)
	}
	if b&0x80 == 0 {
		v = -v
	}
	return int16(v)
}

// DecodeMu returns the sample, 16 bits, of a mu-law byte.
func DecodeMu(b byte) int16 { return muDecode[b] }

// DecodeA returns the sample, 16 bits, of an A-law byte.
func DecodeA(b byte) int16 { return aDecode[b] }

// EncodeMu returns the mu-law byte of a sample.
func EncodeMu(s int16) byte {
	v, sign := int(s), byte(0)
	if v < 0 {
		v, sign = -v, 0x80
	}
	v = min(v, muClip) + muBias
	segment := bits.Len(uint(v)) - 8
	return ^(sign | byte(segment)<<4 | byte(v>>(segment+3))&15)
}

// EncodeA returns the A-law byte of a sample.
func EncodeA(s int16) byte {
	v, sign := int(s), byte(0x80)
	if v < 0 {
		v, sign = ^v, 0
	}
	segment := max(bits.Len(uint(v))-8, 0)
	place := v >> 4
	if segment > 0 {
		place = v >> (segment + 3)
	}
	return (sign | byte(segment)<<4 | byte(place)&15) ^ aFlip
}

// MuToA recodes a payload in place, mu-law to A-law.
func MuToA(b []byte) {
	for i, x := range b {
		b[i] = muToA[x]
	}
}

// AToMu recodes a payload in place, A-law to mu-law.
func AToMu(b []byte) {
	for i, x := range b {
		b[i] = aToMu[x]
	}
}
