package edge

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"time"
)

// A planned change of generation: this process stops between two messages and
// says all that it knows; its heir goes on with the same sockets, in which the
// kernel keeps what arrives meanwhile. It has the same memory, so it is the same
// incarnation (Boot) to the workers: an event that was under way is sent again
// with its number and is a repeat, an action that was taken is passed over, and
// nobody has to send anything anew. To the far ends it is one transaction still,
// with the same clocks.
//
//	handed over    calls, their events and ACKs, transactions of all kinds, REGISTERs
//	               answered lately, connections with half-read messages and what waits
//	               to be written, WebSockets half made, contacts on connections, friends,
//	               nonces that have been used
//	left behind    what is TLS: the old process carries it for the heir (pump.go)
//	made again     look-ups of names, connections that we were making
//	lost           connections in TLS that two generations had left behind: the clients
//	               come back by themselves, as after a crash of the edge; calls that ring
//	               at them, or that they are making, end; those that talk go on
//	begun anew     circuits and pings of trunks, buckets, answers of DNS, counters
//
// Frozen means that the gate is shut and both mutexes are held. REGISTERs that the
// directory has are let finish before, and what calls of ours say to each other.

// Freeze stops the edge and returns what its heir needs besides the listening
// sockets (Config.Handed, Config.Connections); the caller closes the files. After
// an error the edge goes on; after none it does nothing more until Thaw, or Stay. It
// waits for what cannot be cut in two as long as ctx allows.
func (e *Edge) Freeze(ctx context.Context) ([]byte, []File, error) {
	e.bridges()
	err := e.shutGate(ctx)
	if err == nil {
		err = e.settleDown(ctx)
	}
	if err != nil {
		e.reopen()
		return nil, nil, err
	}
	h, files, err := e.hand()
	var state []byte
	if err == nil {
		state, err = json.Marshal(h)
	}
	if err != nil {
		for _, f := range files {
			_ = f.File.Close()
		}
		e.Thaw()
		return nil, nil, fmt.Errorf("%w: %w", errHanded, err)
	}
	return state, files, nil
}

// shutGate waits until everybody has left, as long as ctx allows. Who sets a deadline
// of its own, or gets its connection, just after it was called back is called back again.
func (e *Edge) shutGate(ctx context.Context) error {
	empty := e.gate.bar()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		e.interrupt(time.Unix(1, 0))
		select {
		case <-empty:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("%w: a message is being dealt with: %w", errHanded, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// Thaw goes on after Freeze.
func (e *Edge) Thaw() {
	e.conns.mu.Unlock()
	e.mu.Unlock()
	e.reopen()
}

func (e *Edge) reopen() {
	for _, u := range e.udp {
		_ = u.conn.SetReadDeadline(time.Time{})
	}
	for _, l := range e.listeners {
		_ = l.ln.SetDeadline(time.Time{})
	}
	e.gate.open()
	for _, c := range e.openConns() { // their readers know how long they wait
		c.mu.Lock()
		if c.bridge != nil {
			c.bridge.close()
			c.bridge = nil
		}
		if len(c.out) > 0 || c.ending {
			c.wake()
		}
		c.mu.Unlock()
	}
}

// interrupt calls back who reads or writes.
func (e *Edge) interrupt(past time.Time) {
	for _, u := range e.udp {
		_ = u.conn.SetReadDeadline(past)
	}
	for _, l := range e.listeners {
		_ = l.ln.SetDeadline(past)
	}
	for _, c := range e.openConns() {
		c.mu.Lock()
		if c.stage >= connUpgrading {
			_ = c.conn.SetReadDeadline(past)
			if !c.ours() { // a record that is cut ends its connection
				_ = c.conn.SetWriteDeadline(past)
			}
		}
		c.mu.Unlock()
	}
}

func (e *Edge) openConns() []*streamLink {
	e.conns.mu.Lock()
	defer e.conns.mu.Unlock()
	open := make([]*streamLink, 0, len(e.conns.byID))
	for _, c := range e.conns.byID {
		open = append(open, c)
	}
	return open
}

// settleDown takes both mutexes at a moment when nothing is under way that could
// not be taken up again.
func (e *Edge) settleDown(ctx context.Context) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if len(e.registering) == 0 && e.loop.under.Load() == 0 {
			e.mu.Lock()
			e.conns.mu.Lock()
			if e.running.Load() && len(e.registering) == 0 && e.loop.under.Load() == 0 && !e.writing() {
				return nil
			}
			e.conns.mu.Unlock()
			e.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: registrations or messages are under way: %w", errHanded, context.Cause(ctx))
		case <-e.ctx.Done():
			return fmt.Errorf("%w: it has ended", errHanded)
		case <-tick.C:
		}
	}
}

// writing tells that a message is being written that can be cut in two: what is
// under way in TLS is ended by who has begun it. e.conns.mu is held.
func (e *Edge) writing() bool {
	for _, c := range e.conns.byID {
		c.mu.Lock()
		busy := c.writing && !(c.ours() && c.under)
		c.mu.Unlock()
		if busy {
			return true
		}
	}
	return false
}

// leave ends a frozen edge whose heir has everything, and returns what is left to
// carry. Edge.mu stays held for ever: who waits for it acts on nothing any more.
func (e *Edge) leave() (pumps []*pump) {
	e.stop()
	for _, u := range e.udp {
		_ = u.conn.Close()
	}
	for _, l := range e.listeners {
		_ = l.ln.Close()
	}
	until := time.Now().Add(farewellWithin)
	for _, c := range e.conns.byID {
		if p := c.stays(e.lim.Shake); p != nil {
			pumps = append(pumps, p)
			continue
		}
		if c.over {
			c.farewell(until)
		}
		c.close() // our descriptor of it
	}
	e.calls, e.server, e.client, e.merge, e.registers, e.footholds, e.timers.heap = nil, nil, nil, nil, nil, nil, nil
	e.gate.over.Store(true)
	e.conns.mu.Unlock()
	e.gate.open()
	return pumps
}

// stays makes a pump of a connection that the heir reaches over a bridge.
func (c *streamLink) stays(shake time.Duration) *pump {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone || c.bridge == nil {
		return nil
	}
	p := &pump{tls: c.conn.(*tls.Conn), shake: shake, near: c.bridge.near}
	if c.under {
		c.written = make(chan struct{})
		p.after = c.written
	}
	c.gone, c.out, c.bridge = true, nil, nil
	return p
}
