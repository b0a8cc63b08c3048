package media

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"callswitch/codecore"
)

// A slot is the hot tier of a secure leg: what must be exact
// however this process ends. It lies in a memory file that the Keeper holds, so
// the keys of a DTLS handshake and the indexes used under them live and die
// together: who has the one has the other, and no index is ever used twice.
//
// The words, each 8 bytes in host order:
//
//	 0      state
//	 1- 2   whose: hash of call and leg
//	 3- 4   what our keys and the party's were made of: hashes
//	 5      SRTP profile of DTLS keys
//	 6-11   our master key and salt, of DTLS
//	12-17   the party's
//	18      SSRC we send under, bit 32 set once there is one
//	19      generation << 48, highest SRTP index sent plus one; 0: none yet
//	20      generation << 48, highest SRTCP index sent
//	21      SSRC that the stream comes from << 16, sequence offset
//	22      timestamp offset << 32, last timestamp
//	24-55   four SSRCs of the party, 8 words each:
//	        SSRC (bit 32 set), highest SRTP index plus one, two words of the
//	        window, their check, highest SRTCP index plus one, two words of a
//	        filter of those that had a place before
//	56-75   our last flight of the handshake, as it went; its length first
//	76-79   where the party's checks nominated, as the kernel writes addresses
//
// Words 19 and 20 move by compare-and-swap before the packet is encrypted, and
// each process that takes a leg over writes its generation into them. One that was
// stopped, and wakes when a successor has gone on, finds another's there and sends
// nothing. A torn window reads as "all received".
//
// Slot 0 is the head: word 0 says the form, word 1 the generation that owns all.
type slot []uint64

const (
	slotWords = 80
	slotBytes = 8 * slotWords

	wordState  = 0
	wordWho    = 1
	wordTxMade = 3
	wordRxMade = 4
	wordSuite  = 5
	wordTxKey  = 6
	wordRxKey  = 12
	wordTxSSRC = 18
	wordTxNext = 19
	wordTxRTCP = 20
	wordIn     = 21
	wordTime   = 22
	wordParty  = 24
	partyWords = 8
	parties    = 4
	wordOut    = 6 // of a party's words
	wordFlight = 56
	flightMost = 152
	wordAddr   = 76

	present = 1 << 32
)

// States of a slot.
const (
	slotFree   = 0
	slotUsed   = 1 // a leg has it, and no key has been used
	slotShakes = 2 // a DTLS handshake is under way
	slotKeyed  = 3 // its keys may have been used
)

func (s slot) load(w int) uint64     { return atomic.LoadUint64(&s[w]) }
func (s slot) store(w int, v uint64) { atomic.StoreUint64(&s[w], v) }

// own takes a counter over for a generation and returns where it was left.
func (s slot) own(w int, gen uint16) uint64 {
	return atomic.SwapUint64(&s[w], uint64(gen)<<48|s.load(w)&(never-1)) & (never - 1)
}

// advance moves a counter if it is still that generation's.
func (s slot) advance(w int, gen uint16, from, to uint64) bool {
	g := uint64(gen) << 48
	return atomic.CompareAndSwapUint64(&s[w], g|from, g|to)
}

// putKey and key keep up to 44 bytes of key and salt and their length.
func (s slot) putKey(w int, key []byte) {
	var b [48]byte
	b[0] = byte(len(key))
	copy(b[1:], key)
	for i := range 6 {
		s.store(w+i, binary.NativeEndian.Uint64(b[8*i:]))
	}
}

func (s slot) key(w int) []byte {
	var b [48]byte
	for i := range 6 {
		binary.NativeEndian.PutUint64(b[8*i:], s.load(w+i))
	}
	return append([]byte(nil), b[1:1+min(int(b[0]), 44)]...)
}

// putFlight and flight keep what the party may ask to hear again.
func (s slot) putFlight(last [][]byte) {
	s.store(wordFlight, 0)
	if len(last) != 1 || len(last[0]) > flightMost {
		return
	}
	var b [flightMost]byte
	copy(b[:], last[0])
	for i := range flightMost / 8 {
		s.store(wordFlight+1+i, binary.NativeEndian.Uint64(b[8*i:]))
	}
	s.store(wordFlight, uint64(len(last[0])))
}

func (s slot) flight() []byte {
	n := s.load(wordFlight)
	if n == 0 || n > flightMost {
		return nil
	}
	b := make([]byte, flightMost)
	for i := range flightMost / 8 {
		binary.NativeEndian.PutUint64(b[8*i:], s.load(wordFlight+1+i))
	}
	return b[:n]
}

// putAddr and addr keep the address that the party nominated.
func (s slot) putAddr(a *sockaddr) {
	var b [32]byte
	copy(b[:], a[:])
	for i := range 4 {
		s.store(wordAddr+i, binary.NativeEndian.Uint64(b[8*i:]))
	}
}

func (s slot) addr() (a sockaddr) {
	var b [32]byte
	for i := range 4 {
		binary.NativeEndian.PutUint64(b[8*i:], s.load(wordAddr+i))
	}
	copy(a[:], b[:])
	return a
}

// forgetTx and forgetRx are for new keys: every index is free again.
func (s slot) forgetTx() {
	s.store(wordTxSSRC, 0)
	s.store(wordTxNext, 0)
	s.store(wordTxRTCP, 0)
}

func (s slot) forgetRx() {
	for w := wordParty; w < wordParty+parties*partyWords; w++ {
		s.store(w, 0)
	}
}

// shutOut notes an SSRC of the party that loses its place, and its window with it: were
// it to come again, everything of it could be played again. isOut knows each of them,
// and takes one in 2,500 of others for them when there are 20, one in 40 at 64. A party
// has one, another with each source that its sound is switched to.
func (s slot) shutOut(ssrc uint32) {
	for _, b := range outBits(ssrc) {
		s.store(outWord(b), s.load(outWord(b))|1<<(b%64))
	}
}

func (s slot) isOut(ssrc uint32) bool {
	for _, b := range outBits(ssrc) {
		if s.load(outWord(b))>>(b%64)&1 == 0 {
			return false
		}
	}
	return true
}

// outBits are an SSRC's four of the filter's 512 bits, and outWord is where one stands.
func outBits(ssrc uint32) [4]int {
	h := uint64(ssrc) * 0x9e3779b97f4a7c15
	return [4]int{int(h >> 55), int(h >> 46 & 511), int(h >> 37 & 511), int(h >> 28 & 511)}
}

func outWord(b int) int { return wordParty + b/128*partyWords + wordOut + b/64%2 }

// hot is all slots of a node. It is behind Media.mu but for the slots' words.
type hot struct {
	gen    uint16 // of this process
	most   int    // slots
	keep   *keepers
	words  []uint64
	left   map[who]int // of the generation before, nobody has asked yet
	free   []int
	f      *os.File // nil: plain memory, which ends with the process
	mapped []byte
}

// who is whose a slot is.
type who [2]uint64

const (
	hotName  = "hot"                  // at the Keeper
	hotMagic = 0x63616c6c736c6f00 | 1 // the last byte is the form of slots
)

// openHot takes over the memory of another generation, if it is of any use.
func openHot(had *os.File, most int, keep *keepers) *hot {
	h := &hot{most: most, keep: keep, left: map[who]int{}}
	if had == nil {
		return h
	}
	if err := h.adopt(had); err != nil {
		keep.log.Warn("media: hot memory is of no use, secure legs of before are lost", "err", err)
		_ = had.Close()
		*h = hot{most: most, keep: keep, left: map[who]int{}}
		return h
	}
	keep.push(keepOp{hotName, h.f}) // again: a host that starts later gets it from us
	return h
}

// make makes the slots, when the first is needed.
func (h *hot) make() error {
	size := (h.most + 1) * slotBytes
	if h.keep.to == nil {
		h.words = make([]uint64, size/8)
	} else {
		fd, err := unix.MemfdCreate("media-hot", unix.MFD_CLOEXEC)
		if err != nil {
			return fmt.Errorf("media: hot memory: %w", err)
		}
		h.f = os.NewFile(uintptr(fd), hotName)
		if err = unix.Ftruncate(fd, int64(size)); err == nil {
			err = h.mmap(size)
		}
		if err != nil {
			_ = h.f.Close()
			h.f = nil
			return fmt.Errorf("media: hot memory: %w", err)
		}
		h.keep.push(keepOp{hotName, h.f})
	}
	h.words[0], h.words[1], h.gen = hotMagic, 1, 1
	for i := h.most; i > 0; i-- {
		h.free = append(h.free, i)
	}
	return nil
}

func (h *hot) mmap(size int) (err error) {
	h.mapped, err = unix.Mmap(int(h.f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err == nil {
		h.words = unsafe.Slice((*uint64)(unsafe.Pointer(&h.mapped[0])), size/8)
	}
	return err
}

// adopt reads what another process left. Another form of slots is of no use.
func (h *hot) adopt(f *os.File) error {
	h.f = f
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := int(info.Size())
	if size < 2*slotBytes || size%slotBytes != 0 || size > 1<<30 {
		return fmt.Errorf("media: hot memory of %d bytes", size)
	}
	if err := h.mmap(size); err != nil {
		return err
	}
	if h.words[0] != hotMagic {
		_ = unix.Munmap(h.mapped)
		h.mapped, h.words = nil, nil
		return errors.New("media: hot memory of another form")
	}
	h.own() // the one before is to stop
	for i := size/slotBytes - 1; i > 0; i-- {
		if s := h.at(i); s.load(wordState) != slotFree {
			h.left[who{s.load(wordWho), s.load(wordWho + 1)}] = i
		} else {
			h.free = append(h.free, i)
		}
	}
	return nil
}

// own makes this process the owner of all slots. Each counter is its own from the
// moment it says so (slot.own).
func (h *hot) own() {
	if h.gen = uint16(h.words[1]) + 1; h.gen == 0 {
		h.gen = 1
	}
	atomic.StoreUint64(&h.words[1], uint64(h.gen))
}

// fence is a word that changes when another process takes all slots over.
func (h *hot) fence() *uint64 {
	if h.words == nil {
		return nil
	}
	return &h.words[1]
}

func (h *hot) at(i int) slot { return h.words[i*slotWords : (i+1)*slotWords : (i+1)*slotWords] }

// take gives a leg its slot: the one it had, or an empty one. When there is none
// (there are as many as legs can be) it is on the heap, and ends with the process.
func (h *hot) take(call codecore.CallID, leg codecore.LegID) (i int, s slot, had bool) {
	w := whoIs(call, leg)
	if i, had = h.left[w]; had {
		delete(h.left, w)
		return i, h.at(i), true
	}
	if h.words == nil {
		if err := h.make(); err != nil {
			h.keep.log.Error("media: a secure leg will not outlive this process", "err", err)
		}
	}
	n := len(h.free)
	if n == 0 {
		return 0, make(slot, slotWords), false
	}
	i = h.free[n-1]
	h.free = h.free[:n-1]
	s = h.at(i)
	s.store(wordWho, w[0])
	s.store(wordWho+1, w[1])
	s.store(wordState, slotUsed)
	return i, s, false
}

// giveBack wipes a slot.
func (h *hot) giveBack(i int) {
	s := h.at(i)
	s.wipe(len(s))
	h.free = append(h.free, i)
}

// wipe clears words in this order: first whose they were, last that they are used. Who
// dies at one of them leaves a slot that no leg goes on with, and none that is free and
// has words of another's.
func (s slot) wipe(words int) {
	for w := range words {
		s.store((w+1)%len(s), 0)
	}
}

// sweep wipes what nobody has asked for.
func (h *hot) sweep() {
	for w, i := range h.left {
		delete(h.left, w)
		h.giveBack(i)
	}
}

func (h *hot) close() {
	if h.mapped != nil {
		_ = unix.Munmap(h.mapped)
		h.mapped, h.words = nil, nil
	}
	if h.f != nil {
		_ = h.f.Close()
	}
}

func whoIs(call codecore.CallID, leg codecore.LegID) who {
	a, b := hash2(string(call), string(leg))
	return who{a, b}
}

// hash2 is a hash of the words, never zero.
func hash2(words ...string) (a, b uint64) {
	h := sha256.New()
	for _, w := range words {
		h.Write([]byte(w))
		h.Write([]byte{0})
	}
	sum := h.Sum(nil)
	return binary.BigEndian.Uint64(sum) | 1, binary.BigEndian.Uint64(sum[8:])
}
