package edge

import (
	"net/netip"
	"time"
)

const (
	writeWithin = 10 * time.Second
	writeQueue  = 256     // messages that a connection holds for a slow reader
	writeBytes  = 1 << 20 // and their bytes

	farewellWithin = time.Second // for all browsers together; a socket takes a word at once, or nobody reads
)

func (c *streamLink) send(_ netip.AddrPort, b []byte) error {
	if c.proto.web {
		b = frame(b)
	}
	return c.put(b)
}

// put queues bytes as they are to stand on the wire.
func (c *streamLink) put(b []byte) error {
	c.mu.Lock()
	if c.gone || c.ending {
		c.mu.Unlock()
		return errLink
	}
	if len(c.out) >= writeQueue || c.waits+len(b) > writeBytes {
		c.mu.Unlock()
		c.e.complain(c.remote, slowReader, time.Now())
		c.close()
		return errLink
	}
	c.out, c.waits = append(c.out, b), c.waits+len(b)
	c.wake()
	c.mu.Unlock()
	return nil
}

// wake starts the writer. c.mu is held, and the connection is open: its reader,
// whom Run waits for, lives.
func (c *streamLink) wake() {
	if c.stage == connOpen && !c.writing && !c.gone && !c.e.gate.shut() {
		c.writing = true
		c.e.wg.Add(1)
		go c.write()
	}
}

// write is the writer: it goes when nothing is left, or the edge is frozen.
func (c *streamLink) write() {
	defer c.e.wg.Done()
	for {
		b, over := c.nextOut()
		if over {
			if side, ok := c.conn.(interface{ CloseWrite() error }); ok {
				_ = side.CloseWrite()
			}
		}
		if b == nil {
			return
		}
		n, err := c.conn.Write(b)
		_ = c.conn.SetWriteDeadline(time.Time{}) // TLS writes by itself, too
		if !c.wrote(n, err) {
			c.close()
		}
	}
}

// nextOut is what is to be written next, with time for it; nil ends the writer.
// over: our side is to be closed.
func (c *streamLink) nextOut() (b []byte, over bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone || len(c.out) == 0 || c.e.gate.shut() {
		c.writing = false
		return nil, c.ending && !c.gone && len(c.out) == 0
	}
	c.under = true
	c.by = time.Now().Add(writeWithin)
	_ = c.conn.SetWriteDeadline(c.by)
	return c.out[0], false
}

// wrote takes note of what became of the first of out: what was not written of it
// because the writer was called back for an heir stays. A record of TLS is not called
// back, it would be the end of its connection. false: the connection is broken.
func (c *streamLink) wrote(n int, err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.under = false
	switch {
	case c.written != nil: // and the heir has the rest
		close(c.written)
		return true
	case c.gone:
		return true
	case err == nil:
		c.waits -= len(c.out[0])
		c.out[0] = nil
		if c.out = c.out[1:]; len(c.out) == 0 {
			c.out = nil
		}
		return true
	case c.ours() || !c.e.gate.shut() && !calledBack(err, c.by):
		return false
	}
	c.out[0], c.waits = c.out[0][n:], c.waits-n
	return true
}

// end takes no more, and closes our side when all is written.
func (c *streamLink) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ending {
		c.ending = true
		c.wake()
	}
}

// farewell tells a browser that we go (RFC 6455 7.4.1), unless something else waits
// to be written: its client then comes back at once.
func (c *streamLink) farewell(until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proto.web && c.stage == connOpen && len(c.out) == 0 && !c.gone {
		_ = c.conn.SetWriteDeadline(until)
		_, _ = c.conn.Write(goodbye(closeCode(okay)))
	}
}
