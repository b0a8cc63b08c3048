package codec_test

import (
	"bytes"
	"math"
	"testing"

	"callswitch/media/codec"
)

func TestEachByteIsItsOwnSample(t *testing.T) {
	for i := range 256 {
		b := byte(i)
		if got := codec.EncodeA(codec.DecodeA(b)); got != b {
			t.Errorf("A-law %#x: %#x", b, got)
		}
		// Mu-law has two zeroes; the positive one is sent.
		if got := codec.EncodeMu(codec.DecodeMu(b)); got != b && b != 0x7f {
			t.Errorf("mu-law %#x: %#x", b, got)
		}
	}
}

// Values of the tables 1a, 1b, 2a and 2b of G.711, scaled to 16 bits.
func TestKnownValues(t *testing.T) {
	for _, v := range []struct {
		b     byte
		mu, a int16
	}{
		{0x80, 32124, 5504 /* 344 of 4096 */}, {0x00, -32124, -5504}, {0xff, 0, 848}, {0xaa, 0, 32256}, {0x2a, 0, -32256}, {0xd5, 0, 8}, {0x55, 0, -8},
	} {
		if got := codec.DecodeMu(v.b); v.mu != 0 && got != v.mu || v.b == 0xff && got != 0 {
			t.Errorf("mu-law %#x is %d, not %d", v.b, got, v.mu)
		}
		if got := codec.DecodeA(v.b); got != v.a {
			t.Errorf("A-law %#x is %d, not %d", v.b, got, v.a)
		}
	}
}

func TestNoSampleIsFarOff(t *testing.T) {
	for s := math.MinInt16; s <= math.MaxInt16; s++ {
		for name, got := range map[string]int16{
			"A": codec.DecodeA(codec.EncodeA(int16(s))), "mu": codec.DecodeMu(codec.EncodeMu(int16(s))),
		} {
			// Half a step: 1/32 of the value (mu-law: with its bias), or of the smallest segment.
			if off := math.Abs(float64(int(got) - s)); off > math.Max((math.Abs(float64(s))+132)/31, 9) && s < 32124 && s > -32124 {
				t.Fatalf("%s-law: %d becomes %d", name, s, got)
			}
		}
	}
}

func TestRecoding(t *testing.T) {
	for i := range 256 {
		b := byte(i)
		mu, a := []byte{b}, []byte{b}
		codec.MuToA(mu)
		codec.AToMu(a)
		if mu[0] != codec.EncodeA(codec.DecodeMu(b)) || a[0] != codec.EncodeMu(codec.DecodeA(b)) {
			t.Fatalf("%#x: %#x, %#x", b, mu, a)
		}
	}
	// A tone stays a tone there and back: 30 dB over what the way adds.
	var in, out, off float64
	for i := range 8000 {
		s := int16(10000 * math.Sin(2*math.Pi*440*float64(i)/8000))
		b := []byte{codec.EncodeMu(s)}
		codec.MuToA(b)
		codec.AToMu(b)
		d := float64(codec.DecodeMu(b[0]))
		in += float64(s) * float64(s)
		out += d * d
		off += (d - float64(s)) * (d - float64(s))
	}
	if snr := 10 * math.Log10(in/off); snr < 30 {
		t.Errorf("%.1f dB", snr)
	}
	if b := bytes.Repeat([]byte{0xff}, 160); testing.AllocsPerRun(10, func() { codec.MuToA(b); codec.AToMu(b) }) != 0 {
		t.Error("allocates")
	}
}
