package edge

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// succeed puts everything in place in an heir, before it runs: what has to be done
// about it is in e.resume.
func (e *Edge) succeed(state []byte, files []File) error {
	var h handed
	if err := json.Unmarshal(state, &h); err != nil {
		return fmt.Errorf("%w: %w", errHanded, err)
	}
	if h.V != handedVersion {
		return fmt.Errorf("%w: version %d, this release reads %d", errHanded, h.V, handedVersion)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cfg.Boot, e.born, e.conns.last = h.Boot, time.Now().Add(-h.Age), h.Last
	s := succession{Edge: e, links: map[string]*streamLink{}, files: map[string]File{}}
	for _, f := range files {
		s.files[f.Name] = f
	}
	for i := range h.Conns {
		if err := s.conn(&h.Conns[i]); err != nil {
			return fmt.Errorf("%w: connection %s: %w", errHanded, h.Conns[i].ID, err)
		}
	}
	for i := range h.Calls {
		s.call(&h.Calls[i])
	}
	for i := range h.Servers {
		if err := s.server(&h.Servers[i]); err != nil {
			return fmt.Errorf("%w: %w", errHanded, err)
		}
	}
	for i := range h.Clients {
		if err := s.client(&h.Clients[i]); err != nil {
			return fmt.Errorf("%w: %w", errHanded, err)
		}
	}
	for i := range h.Calls {
		if err := s.queue(&h.Calls[i]); err != nil {
			return fmt.Errorf("%w: %w", errHanded, err)
		}
	}
	for _, r := range h.Registers {
		tx := &registerTx{key: r.Key, flow: s.flow(r.Flow), last: r.Last}
		e.registers[tx.key] = tx
		e.stats.Open.Add(1)
		e.armAt(tx, r.At)
	}
	if h.Over > 0 {
		e.stats.reasons[outlived].Add(uint64(h.Over))
		e.log.Info("edge: connections in TLS have ended with the oldest generation that carried any; their clients come back", "connections", h.Over)
	}
	s.contacts(h.Footholds)
	for a, until := range h.Friends {
		if a, err := netip.ParseAddr(a); err == nil {
			e.friends.by[a] = until
		}
	}
	for a, until := range h.NoTCP {
		if a, err := netip.ParseAddrPort(a); err == nil {
			e.noTCP[a] = until
		}
	}
	if e.cfg.Auth != nil && h.Nonces != nil {
		e.cfg.Auth.Resume(*h.Nonces)
	}
	e.resume = append(e.resume, s.begin...)
	e.resume = append(e.resume, s.then...)
	return nil
}

// A succession is an heir while it puts things in place.
type succession struct {
	*Edge
	links map[string]*streamLink
	files map[string]File
	begin []func() // connections
	then  []func() // what goes over them
}

// armAt arms what was armed, if it was. e.mu is held.
func (e *Edge) armAt(t timed, at int64) {
	if at != 0 {
		e.arm(t, time.Unix(0, at))
	}
}

func (s *succession) conn(h *handedConn) error {
	p := protos[h.Proto]
	if p == nil {
		return fmt.Errorf("protocol %q", h.Proto)
	}
	c := &streamLink{
		e: s.Edge, proto: p, id: h.ID, remote: h.Remote, own: h.Own, name: h.Name,
		dialed: h.Dialed, stranger: h.Stranger, known: h.Known, half: h.Half, out: h.Out, ending: h.Ending,
	}
	for _, b := range c.out {
		c.waits += len(b)
	}
	s.links[c.id] = c
	switch h.Fate {
	case connGone:
		c.gone = true
		if c.known {
			s.then = append(s.then, func() { s.linkLost(c) })
		}
		return nil
	case connAgain:
		s.begin = append(s.begin, func() {
			s.wg.Add(1)
			go s.connect(c, dialWithin)
		})
	case connMoves:
		f, ok := s.files[h.ID]
		if !ok {
			return fmt.Errorf("no descriptor")
		}
		conn, err := net.FileConn(f.File)
		if err != nil {
			return err
		}
		c.raw, c.conn, c.carried, c.stage = conn, conn, h.Carried, connOpen
		if h.Upgrade {
			c.stage = connUpgrading
		}
		s.begin = append(s.begin, func() {
			c.reach(c.stage) // what waits is written
			s.wg.Add(1)
			go s.serveOn(c)
		})
	default:
		return fmt.Errorf("fate %q", h.Fate)
	}
	s.conns.mu.Lock()
	defer s.conns.mu.Unlock()
	s.enterConn(c)
	return nil
}

// serveOn is the life of a connection that was handed over.
func (e *Edge) serveOn(c *streamLink) {
	defer e.wg.Done()
	defer e.dropConn(c)
	if c.ending {
		c.linger()
		return
	}
	e.read(c)
}

// flow finds a flow that was named; one whose link this generation has no more is
// a broken one.
func (s *succession) flow(h handedFlow) flow {
	if h.ID == "" {
		return flow{}
	}
	if c := s.links[h.ID]; c != nil {
		return flow{c, h.Remote}
	}
	if f, ok := s.flowByID(h.ID); ok {
		return f
	}
	return flow{&streamLink{e: s.Edge, proto: overTCP, id: h.ID, remote: h.Remote, gone: true}, h.Remote}
}

func (s *succession) call(h *handedCall) {
	c := &call{id: h.ID, token: h.Token, tag: h.Tag, num: h.Num, last: h.Last, told: h.Told, idleAt: h.IdleAt, confirm: h.Confirm, later: h.Later}
	for _, a := range h.Acks {
		c.acks = append(c.acks, sentAck{a.CallID, a.ToTag, a.CSeq, a.Bytes, s.flow(a.Flow), a.Until})
	}
	s.calls[c.id] = c
	s.stats.Calls.Add(1)
	c.rearm(s.Edge)
}

func (s *succession) server(h *handedServer) error {
	c := s.calls[h.Call]
	if c == nil {
		return fmt.Errorf("transaction of the unknown call %s", h.Call)
	}
	tx := &serverTx{
		key: h.Key, call: c, invite: h.Invite, final: h.Final, status: h.Status, acked: h.Acked, cseq: h.CSeq, callID: h.CallID, merge: h.Merge,
		flow: s.flow(h.Flow), moved: h.Moved, last: h.Last, every: h.Every, nextAt: h.NextAt, endAt: h.EndAt,
	}
	if tx.flow.link == nil {
		return fmt.Errorf("transaction without a flow, of call %s", h.Call)
	}
	if p := h.Prov; p != nil {
		tx.prov = &reliable{p.RSeq, p.Bytes, p.Every, p.NextAt, p.EndAt}
	}
	s.Edge.server[tx.key] = tx
	if tx.merge != 0 {
		s.merge[tx.merge] = tx
	}
	c.open++
	s.stats.Open.Add(1)
	if tx.invite {
		c.invites = append(c.invites, tx)
	}
	s.armAt(tx, h.At)
	return nil
}

func (s *succession) client(h *handedClient) error {
	c := s.calls[h.Call]
	if c == nil {
		return fmt.Errorf("transaction of the unknown call %s", h.Call)
	}
	tx := &clientTx{
		key: h.Key, call: c, state: h.State, invite: h.Invite, branch: h.Branch, flow: s.flow(h.Flow), udp: s.flow(h.UDP), moved: h.Moved,
		hop: hop{h.Proto, h.Addr}, others: h.Others, left: h.Left, req: h.Req, bytes: h.Bytes, ack: h.Ack, cancel: h.Cancel,
		seen: h.Seen, rseqs: h.RSeqs, every: h.Every, nextAt: h.NextAt, quiet: h.Quiet, endAt: h.EndAt,
	}
	if tx.state <= proceeding && tx.req == nil || tx.state != resolving && tx.flow.link == nil {
		return fmt.Errorf("half a transaction of call %s", h.Call)
	}
	s.Edge.client[tx.key] = tx
	c.open++
	s.stats.Open.Add(1)
	s.armAt(tx, h.At)
	if tx.state == resolving {
		s.then = append(s.then, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.Edge.client[tx.key] == tx && tx.state == resolving {
				tx.find(s.Edge)
			}
		})
	}
	return nil
}

// queue puts the events of a call in order, when its transactions are in place.
func (s *succession) queue(h *handedCall) error {
	c := s.calls[h.ID]
	for _, i := range h.Queue {
		it := &item{
			kind: i.Kind, event: i.Event.Event(), num: i.Num, tx: s.Edge.server[i.Tx], flow: s.flow(i.Flow), method: i.Method,
			fresh: i.Fresh, idle: i.Idle, orphan: i.Orphan, expires: i.Expires,
		}
		if it.event == nil && it.kind != kindAccepted {
			return fmt.Errorf("an event of call %s that this release does not know", h.ID)
		}
		c.queue = append(c.queue, it)
	}
	if len(c.queue) > 0 && c.later.IsZero() {
		s.then = append(s.then, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.dispatch(c)
		})
	}
	return nil
}

// contacts puts in place which connection leads to whom.
func (s *succession) contacts(all []handedFoothold) {
	for _, f := range all {
		h := &foothold{client: client{f.Account, f.Contact}, flow: s.flow(f.Flow), lost: f.Lost}
		s.footholds[h.client] = h
		if !h.lost.IsZero() {
			s.arm(h, h.lost.Add(comesBack))
		} else if c, ok := h.flow.link.(*streamLink); ok {
			c.footholds = append(c.footholds, h)
		}
	}
}
