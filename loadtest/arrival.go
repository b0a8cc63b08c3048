package loadtest

import (
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// A packet has come when it stands in its socket: the kernel says when that was
// (SO_TIMESTAMPNS, socket(7)). A rig that is held up reads late, and has heard nothing
// late.

// oobLen has room for the control message.
const oobLen = 64

// stampArrivals has the kernel take down when packets come.
func stampArrivals(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return fmt.Errorf("loadtest: time stamps: %w", err)
	}
	return nil
}

// arrival is when the packet of these control messages came, by the clock of the
// system; now where they do not say.
func arrival(oob []byte, now time.Time) time.Time {
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return now
		}
		if h.Level == unix.SOL_SOCKET && h.Type == unix.SCM_TIMESTAMPNS && len(data) >= 16 {
			sec, ns := binary.NativeEndian.Uint64(data), binary.NativeEndian.Uint64(data[8:])
			return time.Unix(int64(sec), int64(ns))
		}
		oob = rest
	}
	return now
}
