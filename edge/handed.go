package edge

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"time"

	"callswitch/codecore"
	"callswitch/registrar"
)

// handedVersion is the form of what is handed over. An heir that does not read
// it refuses, and nothing has happened.
const handedVersion = 1

// errHanded: what was handed over cannot be read, or not be carried on.
var errHanded = errors.New("edge: handed over")

type handed struct {
	V         int                      `json:"v"`
	Boot      string                   `json:"boot"`
	Age       time.Duration            `json:"age"`  // of the first generation of this incarnation
	Last      uint64                   `json:"last"` // connection
	Conns     []handedConn             `json:"conns,omitempty"`
	Over      int                      `json:"over,omitempty"` // of them, those that end with the generation that carries them
	Calls     []handedCall             `json:"calls,omitempty"`
	Servers   []handedServer           `json:"servers,omitempty"`
	Clients   []handedClient           `json:"clients,omitempty"`
	Registers []handedRegister         `json:"registers,omitempty"`
	Footholds []handedFoothold         `json:"footholds,omitempty"`
	Friends   map[string]time.Time     `json:"friends,omitempty"`
	NoTCP     map[string]time.Time     `json:"no_tcp,omitempty"`
	Nonces    *registrar.Seen          `json:"nonces,omitempty"` // without: those of before are stale
	seen      map[*streamLink]struct{} // in Conns
	carriers  []int                    // carried, of all that are in TLS, in order
}

// What becomes of a connection.
const (
	connMoves = "moves" // its descriptor is handed over under its id
	connAgain = "again" // made once more
	connGone  = "gone"  // known to what follows, and broken
)

type handedConn struct {
	ID       string         `json:"id"`
	Proto    string         `json:"proto"`
	Fate     string         `json:"fate"`
	Remote   netip.AddrPort `json:"remote"`
	Own      netip.AddrPort `json:"own"`
	Name     string         `json:"name,omitempty"`
	Dialed   bool           `json:"dialed,omitempty"`
	Upgrade  bool           `json:"upgrade,omitempty"` // moves: to a WebSocket, first
	Carried  int            `json:"carried,omitempty"` // moves: streamLink.carried in the heir
	Stranger bool           `json:"stranger,omitempty"`
	Known    bool           `json:"known,omitempty"`
	Ending   bool           `json:"ending,omitempty"`
	Half     half           `json:"half"`
	Out      [][]byte       `json:"out,omitempty"`
}

type handedFlow struct {
	ID     string         `json:"id"`
	Remote netip.AddrPort `json:"remote"`
}

type handedCall struct {
	ID      codecore.CallID `json:"id"`
	Token   string          `json:"token"`
	Tag     string          `json:"tag,omitempty"`
	Num     uint64          `json:"num"`
	Last    uint64          `json:"last,omitempty"`
	Told    uint64          `json:"told,omitempty"`
	Queue   []handedItem    `json:"queue,omitempty"`
	Acks    []handedAck     `json:"acks,omitempty"`
	IdleAt  time.Time       `json:"idle_at"`
	Confirm time.Time       `json:"confirm,omitzero"`
	Later   time.Time       `json:"later,omitzero"`
}

type handedItem struct {
	Kind    int               `json:"kind"`
	Event   codecore.AnyEvent `json:"event"`
	Num     uint64            `json:"num,omitempty"`
	Tx      string            `json:"tx,omitempty"`
	Flow    handedFlow        `json:"flow"`
	Method  string            `json:"method,omitempty"`
	Fresh   bool              `json:"fresh,omitempty"`
	Idle    bool              `json:"idle,omitempty"`
	Orphan  bool              `json:"orphan,omitempty"`
	Expires time.Time         `json:"expires"`
}

type handedAck struct {
	CallID string     `json:"call_id"`
	ToTag  string     `json:"to_tag"`
	CSeq   string     `json:"cseq"`
	Bytes  []byte     `json:"bytes"`
	Flow   handedFlow `json:"flow"`
	Until  time.Time  `json:"until"`
}

type handedServer struct {
	Key    string          `json:"key"`
	Call   codecore.CallID `json:"call"`
	Invite bool            `json:"invite,omitempty"`
	Final  bool            `json:"final,omitempty"`
	Status int             `json:"status,omitempty"`
	Acked  bool            `json:"acked,omitempty"`
	CSeq   string          `json:"cseq"`
	CallID uint64          `json:"call_id,omitempty"`
	Merge  uint64          `json:"merge,omitempty"`
	Flow   handedFlow      `json:"flow"`
	Moved  bool            `json:"moved,omitempty"`
	Last   []byte          `json:"last,omitempty"`
	Prov   *handedProv     `json:"prov,omitempty"`
	Every  time.Duration   `json:"every,omitempty"`
	NextAt time.Time       `json:"next_at,omitzero"`
	EndAt  time.Time       `json:"end_at"`
	At     int64           `json:"at"` // deadline
}

type handedProv struct {
	RSeq   string        `json:"rseq"`
	Bytes  []byte        `json:"bytes"`
	Every  time.Duration `json:"every"`
	NextAt time.Time     `json:"next_at"`
	EndAt  time.Time     `json:"end_at"`
}

type handedClient struct {
	Key    string                `json:"key"`
	Call   codecore.CallID       `json:"call"`
	State  int                   `json:"state"`
	Invite bool                  `json:"invite,omitempty"`
	Branch string                `json:"branch"`
	Flow   handedFlow            `json:"flow"`
	UDP    handedFlow            `json:"udp"`
	Moved  bool                  `json:"moved,omitempty"`
	Proto  string                `json:"proto,omitempty"` // of the hop
	Addr   netip.AddrPort        `json:"addr"`
	Others bool                  `json:"others,omitempty"`
	Left   bool                  `json:"left,omitempty"`
	Req    *codecore.SendRequest `json:"req,omitempty"`
	Bytes  []byte                `json:"bytes,omitempty"`
	Ack    []byte                `json:"ack,omitempty"`
	Cancel *codecore.SendRequest `json:"cancel,omitempty"`
	Seen   []string              `json:"seen,omitempty"`
	RSeqs  map[string]uint64     `json:"rseqs,omitempty"`
	Every  time.Duration         `json:"every,omitempty"`
	NextAt time.Time             `json:"next_at,omitzero"`
	Quiet  time.Time             `json:"quiet,omitzero"`
	EndAt  time.Time             `json:"end_at"`
	At     int64                 `json:"at"`
}

type handedRegister struct {
	Key  string     `json:"key"`
	Flow handedFlow `json:"flow"`
	Last []byte     `json:"last,omitempty"`
	At   int64      `json:"at"`
}

type handedFoothold struct {
	Contact string     `json:"contact"`
	Account string     `json:"account"`
	Flow    handedFlow `json:"flow"`
	Lost    time.Time  `json:"lost,omitzero"`
}

// hand writes everything down. All is held.
func (e *Edge) hand() (h *handed, files []File, err error) {
	h = &handed{
		V: handedVersion, Boot: e.cfg.Boot, Age: time.Since(e.born), Last: e.conns.last,
		Friends: map[string]time.Time{}, NoTCP: map[string]time.Time{}, seen: map[*streamLink]struct{}{},
	}
	for _, c := range e.conns.byID {
		if i, had := slices.BinarySearch(h.carriers, c.carried); !had && c.inTLS() {
			h.carriers = slices.Insert(h.carriers, i, c.carried)
		}
	}
	for _, c := range e.conns.byID {
		fate, file, err := c.fate(h.next(c))
		if err != nil {
			return h, files, err
		}
		if file != nil {
			files = append(files, File{c.id, file})
		}
		h.conn(c, fate)
	}
	for _, c := range e.calls {
		h.call(e, c)
	}
	for _, tx := range e.server {
		h.server(e, tx)
	}
	for _, tx := range e.client {
		h.client(tx)
	}
	for _, tx := range e.registers {
		h.Registers = append(h.Registers, handedRegister{tx.key, h.flow(tx.flow), tx.last, tx.at})
	}
	for _, f := range e.footholds {
		h.Footholds = append(h.Footholds, handedFoothold{f.contact, f.account, h.flow(f.flow), f.lost})
	}
	e.friends.mu.Lock()
	defer e.friends.mu.Unlock()
	for a, until := range e.friends.by {
		h.Friends[a.String()] = until
	}
	for a, until := range e.noTCP {
		h.NoTCP[a.String()] = until
	}
	if e.cfg.Auth != nil {
		seen := e.cfg.Auth.Seen(time.Now())
		h.Nonces = &seen
	}
	return h, files, nil
}

// next is streamLink.carried in the heir: generations that carry nothing do not count.
func (h *handed) next(c *streamLink) int {
	i, had := slices.BinarySearch(h.carriers, c.carried)
	if !had || !c.inTLS() {
		return 0
	}
	return i + 1
}

// fate decides what becomes of a connection, and gives the descriptor by which the
// heir has it.
func (c *streamLink) fate(next int) (fate string, file *os.File, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = next > maxCarried
	switch {
	case c.gone, c.over:
		return connGone, nil, nil
	case c.stage == connMaking:
		return connAgain, nil, nil
	case c.ours():
		if c.bridge == nil {
			if c.bridge, err = newBridge(); err != nil {
				return connGone, nil, err
			}
		}
		return connMoves, c.bridge.far, nil
	}
	file, err = c.raw.(interface{ File() (*os.File, error) }).File()
	return connMoves, file, err
}

func (h *handed) conn(c *streamLink, fate string) {
	if _, had := h.seen[c]; had {
		return
	}
	h.seen[c] = struct{}{}
	c.mu.Lock()
	defer c.mu.Unlock()
	g := handedConn{
		ID: c.id, Proto: protoWord(c.proto), Fate: fate, Remote: c.remote, Own: c.own, Name: c.name,
		Dialed: c.dialed, Stranger: c.stranger, Known: c.known,
	}
	switch fate {
	case connMoves:
		g.Half, g.Out, g.Ending, g.Upgrade = c.half, c.out, c.ending, c.proto.web && c.stage < connOpen
		if c.under { // in TLS: who has begun it ends it
			g.Out = c.out[1:]
		}
		g.Carried = h.next(c)
	case connAgain:
		g.Out = c.out
	case connGone:
		if c.over && !c.gone {
			h.Over++
		}
	}
	h.Conns = append(h.Conns, g)
}

// flow names a flow; the connection under it is known to the heir, if only as a
// broken one.
func (h *handed) flow(f flow) handedFlow {
	if f.link == nil {
		return handedFlow{}
	}
	if c, ok := f.link.(*streamLink); ok {
		h.conn(c, connGone)
	}
	return handedFlow{f.id(), f.remote}
}

func (h *handed) call(e *Edge, c *call) {
	g := handedCall{ID: c.id, Token: c.token, Tag: c.tag, Num: c.num, Last: c.last, Told: c.told, IdleAt: c.idleAt, Confirm: c.confirm, Later: c.later}
	for _, it := range c.queue {
		i := handedItem{
			Kind: it.kind, Num: it.num, Flow: h.flow(it.flow), Method: it.method,
			Fresh: it.fresh, Idle: it.idle, Orphan: it.orphan, Expires: it.expires,
		}
		if it.event != nil {
			i.Event = codecore.Box(it.event)
		}
		if it.tx != nil && e.server[it.tx.key] == it.tx {
			i.Tx = it.tx.key
		}
		g.Queue = append(g.Queue, i)
	}
	for _, a := range c.acks {
		g.Acks = append(g.Acks, handedAck{a.callID, a.toTag, a.cseq, a.bytes, h.flow(a.flow), a.until})
	}
	h.Calls = append(h.Calls, g)
}

func (h *handed) server(e *Edge, tx *serverTx) {
	g := handedServer{
		Key: tx.key, Call: tx.call.id, Invite: tx.invite, Final: tx.final, Status: tx.status, Acked: tx.acked, CSeq: tx.cseq, CallID: tx.callID,
		Flow: h.flow(tx.flow), Moved: tx.moved, Last: tx.last, Every: tx.every, NextAt: tx.nextAt, EndAt: tx.endAt, At: tx.at,
	}
	if e.merge[tx.merge] == tx {
		g.Merge = tx.merge
	}
	if p := tx.prov; p != nil {
		g.Prov = &handedProv{p.rseq, p.bytes, p.every, p.nextAt, p.endAt}
	}
	h.Servers = append(h.Servers, g)
}

func (h *handed) client(tx *clientTx) {
	h.Clients = append(h.Clients, handedClient{
		Key: tx.key, Call: tx.call.id, State: tx.state, Invite: tx.invite, Branch: tx.branch, Flow: h.flow(tx.flow), UDP: h.flow(tx.udp),
		Moved: tx.moved, Proto: tx.hop.proto, Addr: tx.hop.addr, Others: tx.others, Left: tx.left, Req: tx.req, Bytes: tx.bytes, Ack: tx.ack,
		Cancel: tx.cancel, Seen: tx.seen, RSeqs: tx.rseqs, Every: tx.every, NextAt: tx.nextAt, Quiet: tx.quiet, EndAt: tx.endAt, At: tx.at,
	})
}
