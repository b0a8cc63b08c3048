package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/pion/rtp"
	"github.com/pion/srtp/v3"
)

// A party that begins anew with ever another SSRC is heard, and nothing that it said
// under those before can be played again: not here, and not in a process that goes on.
func TestWhoLostItsPlaceStaysOut(t *testing.T) {
	k, s := keys{profile: suites["AEAD_AES_128_GCM"], key: bytes.Repeat([]byte{3}, 28)}, make(slot, slotWords)
	party, err := srtp.CreateContext(k.key[:16], k.key[16:], k.profile)
	if err != nil {
		t.Fatal(err)
	}
	o, err := newOpener(k, s)
	if err != nil {
		t.Fatal(err)
	}
	hear := func(b []byte) (err error) {
		var h rtp.Header
		if b = bytes.Clone(b); isRTCP(b) {
			_, err = o.control(b)
		} else {
			_, _, err = o.rtp(b, &h)
		}
		return err
	}
	say := func(ssrc uint32, seq uint16) []byte {
		t.Helper()
		b, err := (&rtp.Packet{Header: rtp.Header{Version: 2, SSRC: ssrc, SequenceNumber: seq}, Payload: []byte("sound")}).Marshal()
		if err == nil {
			b, err = party.EncryptRTP(nil, b, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := hear(b); err != nil {
			t.Fatalf("SSRC %d: %v", ssrc, err)
		}
		return b
	}
	var said [][]byte
	for i := range uint16(20) {
		ssrc := uint32(i+1) * 79190919
		said = append(said, say(ssrc, i))
		rr := binary.BigEndian.AppendUint32([]byte{0x80, rtcpRR, 0, 1}, ssrc)
		if rr, err = party.EncryptRTCP(nil, rr, nil); err != nil {
			t.Fatal(err)
		}
		if err := hear(rr); err != nil {
			t.Fatal(err)
		}
		said = append(said, rr, say(5, i)) // who speaks all the time keeps its place
	}
	for _, who := range []string{"here", "in who goes on"} {
		for i, b := range said {
			if err := hear(b); !errors.Is(err, errUsed) {
				t.Errorf("%s: what was said as number %d: %v", who, i, err)
			}
		}
		if o, err = newOpener(k, s); err != nil {
			t.Fatal(err)
		}
	}
	say(5, 100)
	say(1<<31, 1)
	if s.forgetRx(); s.isOut(79190919) {
		t.Error("new keys, and old sources are remembered")
	}
}

// Who dies while it wipes a slot leaves none that is free and has words of another's,
// nor one whose leg would go on without them.
func TestSlotThatIsHalfWiped(t *testing.T) {
	for words := range slotWords {
		s := make(slot, slotWords)
		for w := range s {
			s.store(w, slotKeyed)
		}
		s.wipe(words)
		if s.load(wordState) == slotFree || words > 0 && s.load(wordWho) != 0 {
			t.Fatalf("after %d words: %d", words, s)
		}
	}
}

// Before there are keys anybody could have sealed a packet: those of who has not even
// answered for its address do not take the party's places.
func TestStrangersDoNotWaitForKeys(t *testing.T) {
	l, a, from, party := sealedLegs(t, true)
	other := from.withPort(9)
	sealed, err := party.EncryptRTP(nil, append([]byte{0x80}, make([]byte, 30)...), nil)
	if err != nil {
		t.Fatal(err)
	}
	for range parkMost {
		l.packet(a.rtp, bytes.Clone(sealed), &other, 1)
	}
	l.packet(a.rtp, bytes.Clone(sealed), &from, 1)
	if len(a.sec.wait) != 1 || a.counts.dropped[dropKeys] != parkMost {
		t.Errorf("%d wait, %d were dropped", len(a.sec.wait), a.counts.dropped[dropKeys])
	}
}
