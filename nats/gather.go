package nats

import (
	"bytes"
	"net"
	"runtime"
	"sync"
	"time"
)

const (
	// subscribeWait is how long a call's subject, or the end of any, may wait for a
	// message to leave with: nobody sends to a call before he has heard of it, and
	// that goes by the same connection. Who asks sooner asks again.
	subscribeWait = 20 * time.Millisecond
	closeWait     = 100 * time.Millisecond // for what is still to be written
	maxGathered   = 1 << 20                // bytes; a writer waits beyond it
	keepBuf       = 64 << 10               // bytes of a buffer that may stay between writes

	// writeWait is how long a server may take nothing. Its missing pongs tell of it
	// too, but who counts them waits for the lock of a writer that waits for room.
	writeWait = 5 * time.Second
)

// gatherDialer opens connections that gather.
type gatherDialer struct{ net.Dialer }

func (d *gatherDialer) Dial(network, address string) (net.Conn, error) {
	c, err := d.Dialer.Dial(network, address)
	if err != nil {
		return nil, err
	}
	return newGather(c), nil
}

// A gather is a connection whose writes leave when the other goroutines that
// are ready have run, and with what those have written: the client library
// flushes after each message, and a system call, with the server's waking for it,
// is what a short message costs.
type gather struct {
	net.Conn

	mu    sync.Mutex
	room  sync.Cond // buf was taken, run is over, or the connection ended
	buf   []byte
	spare []byte
	busy  bool // run is about to write buf, or writes what it was
	timer *time.Timer
	timed bool // timer runs
	wait  time.Duration
	err   error
}

func newGather(c net.Conn) *gather {
	g := &gather{Conn: c, wait: writeWait}
	g.room.L = &g.mu
	return g
}

// Write keeps p for the next write. An error is an earlier one's.
func (g *gather) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.err == nil && len(g.buf) > maxGathered {
		g.room.Wait()
	}
	if g.err != nil {
		return 0, g.err
	}
	g.buf = append(g.buf, p...)
	switch {
	case g.busy:
	case mayWait(p):
		if !g.timed {
			g.timed = true
			if g.timer == nil {
				g.timer = time.AfterFunc(subscribeWait, g.late)
			} else {
				g.timer.Reset(subscribeWait)
			}
		}
	default:
		g.start()
	}
	return len(p), nil
}

// SetWriteDeadline does nothing: each write of run has its own.
func (g *gather) SetWriteDeadline(time.Time) error { return nil }

// mayWait reports whether p is one SUB of a call's subject or one UNSUB, and
// nothing else.
func mayWait(p []byte) bool {
	return (bytes.HasPrefix(p, []byte("SUB call.")) || bytes.HasPrefix(p, []byte("UNSUB "))) && bytes.IndexByte(p, '\n') == len(p)-1
}

// start has buf written. mu is held.
func (g *gather) start() {
	g.busy = true
	go g.run()
}

func (g *gather) late() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.timed = false
	if !g.busy && g.err == nil && len(g.buf) > 0 {
		g.start()
	}
}

// run writes until nothing waits.
func (g *gather) run() {
	runtime.Gosched()
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.buf) > 0 && g.err == nil {
		out := g.buf
		g.buf, g.spare = g.spare[:0], nil
		_ = g.Conn.SetWriteDeadline(time.Now().Add(g.wait))
		g.room.Broadcast()
		g.mu.Unlock()
		_, err := g.Conn.Write(out)
		g.mu.Lock()
		if cap(out) <= keepBuf {
			g.spare = out
		}
		if err != nil {
			g.end(err)
		}
	}
	g.busy = false
	g.room.Broadcast()
}

// end refuses all further writes. mu is held.
func (g *gather) end(err error) {
	if g.err != nil {
		return
	}
	g.err = err
	g.room.Broadcast()
	if g.timer != nil {
		g.timer.Stop()
	}
	_ = g.Conn.Close() // its reader sees it
}

// Close writes what still waits, unless the server takes nothing.
func (g *gather) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return nil
	}
	g.wait = closeWait
	_ = g.Conn.SetWriteDeadline(time.Now().Add(g.wait)) // of the write under way
	if !g.busy && len(g.buf) > 0 {
		g.start()
	}
	for g.busy {
		g.room.Wait()
	}
	g.end(net.ErrClosed)
	return nil
}
