package media

// window remembers which indexes of a stream were used: the highest, and each of
// the 128 up to it (RFC 3711 section 3.3.2). What is older counts as used.
type window struct {
	top  uint64 // highest index; with any
	any  bool
	bits [2]uint64 // bit 0 of the first is top
}

const (
	windowSize = 128
	never      = 1 << 48 // no index is as high
)

// guess is the index of a packet by its sequence number: the one nearest to the
// highest (RFC 3711 section 3.3.1).
func (w *window) guess(seq uint16) uint64 {
	if !w.any {
		return uint64(seq)
	}
	step := int64(int16(seq - uint16(w.top)))
	if step < 0 && uint64(-step) > w.top {
		return never // before the first
	}
	return w.top + uint64(step)
}

// fresh reports whether index i may be used.
func (w *window) fresh(i uint64) bool {
	if !w.any || i > w.top {
		return i < never
	}
	age := w.top - i
	return age < windowSize && w.bits[age/64]>>(age%64)&1 == 0
}

// mark notes that i was used.
func (w *window) mark(i uint64) {
	if !w.any {
		*w = window{top: i, any: true, bits: [2]uint64{1}}
		return
	}
	if i <= w.top {
		if age := w.top - i; age < windowSize {
			w.bits[age/64] |= 1 << (age % 64)
		}
		return
	}
	switch step := i - w.top; {
	case step >= windowSize:
		w.bits = [2]uint64{}
	case step >= 64:
		w.bits = [2]uint64{0, w.bits[0] << (step - 64)}
	default:
		w.bits = [2]uint64{w.bits[0] << step, w.bits[1]<<step | w.bits[0]>>(64-step)}
	}
	w.top = i
	w.bits[0] |= 1
}

// used is the window of a stream of which only the highest index is known: all
// up to it count as used.
func used(top uint64) window {
	return window{top: top, any: true, bits: [2]uint64{^uint64(0), ^uint64(0)}}
}
