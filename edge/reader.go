package edge

import (
	"errors"
	"os"
	"time"

	"github.com/gobwas/ws"
)

const (
	firstWithin   = 5 * time.Second  // a new connection, its hands shaken, says something sensible by then
	firstWebIn    = 30 * time.Second // a browser may wait for its user to log in
	messageWithin = 10 * time.Second // and ends each message that it has begun
	lingerFor     = time.Second      // after our last word, for the far end to read it
	pingEvery     = 30 * time.Second // of silence on a WebSocket
	pongWithin    = 10 * time.Second
)

// read deals with what comes on a connection until it ends.
func (e *Edge) read(c *streamLink) {
	if e.readOn(c) {
		c.linger()
	}
}

// wait says until when the reader waits; zero: for ever.
func (c *streamLink) wait(until time.Time) {
	c.until = until
	_ = c.conn.SetReadDeadline(until)
}

// more reads what comes next; while it waits it may be called back for an heir.
func (c *streamLink) more(buf []byte) (n int, err error) {
	again := c.e.gate.pause()
	for {
		if again {
			_ = c.conn.SetReadDeadline(c.until)
		}
		n, err = c.conn.Read(buf)
		if !errors.Is(err, os.ErrDeadlineExceeded) || !c.e.gate.pause() && !calledBack(err, c.until) {
			return n, err
		}
		again = true
	}
}

// calledBack tells that who had until then, zero: for ever, was called back for an
// heir, who may have been given up since.
func calledBack(err error, until time.Time) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) && (until.IsZero() || time.Now().Before(until))
}

// readOn is read until nothing more is to be read (true), or can be.
func (e *Edge) readOn(c *streamLink) (over bool) {
	e.gate.enter()
	defer e.gate.leave()
	if c.stage == connUpgrading {
		if why := e.upgrade(c); why != okay {
			e.notMade(c, why)
			return c.stage == connOpen // who is refused reads why
		}
		e.stats.of(c.proto.name).Accepted.Add(1)
	}
	buf := make([]byte, 4096)
	switch {
	case !c.known && c.proto.web:
		c.wait(time.Now().Add(firstWebIn))
	case !c.known:
		c.wait(time.Now().Add(firstWithin))
	case c.proto.web:
		c.wait(time.Now().Add(pingEvery))
	default:
		c.wait(time.Time{})
	}
	asked := false // a ping is out
	for first := true; ; first = false {
		begun := !c.half.empty()
		if !first || !begun { // bytes may have come behind the handshake
			n, err := c.more(buf)
			if err != nil {
				if !c.silent(err) || asked || c.put(pingFrame) != nil {
					return false
				}
				asked = true
				c.wait(time.Now().Add(pongWithin))
				continue
			}
			asked = false
			c.half.Raw = append(c.half.Raw, buf[:n]...)
		}
		cut, end := e.readPieces(c)
		if end {
			return true
		}
		switch {
		case !c.known: // the first deadline stands
		case c.half.empty():
			c.half = half{} // an idle connection keeps no buffer
			var quiet time.Time
			if c.proto.web {
				quiet = time.Now().Add(pingEvery)
			}
			c.wait(quiet)
		case cut || !begun || first:
			c.wait(time.Now().Add(messageWithin))
		}
	}
}

// silent tells that nothing has come on an idle WebSocket for a while.
func (c *streamLink) silent(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) && c.proto.web && c.known && c.half.empty()
}

// readPieces deals with what is whole. cut: something was; end: nothing more is
// to be read.
func (e *Edge) readPieces(c *streamLink) (cut, end bool) {
	for {
		p, why := c.proto.next(&c.half, &e.lim)
		if why != okay {
			e.refuseStream(c, why)
			return cut, true
		}
		if p.none() {
			return cut, false
		}
		cut = true
		if p.msg != nil {
			e.handle(flow{c, c.remote}, p.msg)
			continue
		}
		e.stats.KeepAlives.Add(1)
		if !e.admitPing(c) {
			e.refuseStream(c, flood)
			return cut, true
		}
		if p.reply != nil {
			_ = c.put(p.reply)
		}
		if p.over {
			c.end()
			return cut, true
		}
	}
}

// admitPing spends a token of the source for a keep-alive.
func (e *Edge) admitPing(c *streamLink) bool {
	if c.known {
		return e.peers.take(c.remote.Addr(), time.Now())
	}
	return e.strangers.take(c.remote.Addr(), time.Now())
}

// pingFrame asks the far end of a WebSocket whether it is there.
var pingFrame = ws.MustCompileFrame(ws.NewPingFrame(nil))

// linger reads on for nothing, so that our last word is not lost: a system that
// closes with bytes unread sends a reset, which overtakes it. It is not called back
// for an heir, who lingers, too.
func (c *streamLink) linger() {
	c.end()
	until := time.Now().Add(lingerFor)
	var sink [4096]byte
	for {
		_ = c.conn.SetReadDeadline(until)
		if _, err := c.conn.Read(sink[:]); err != nil && !calledBack(err, until) {
			return
		}
	}
}
