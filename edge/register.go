package edge

import (
	"context"
	"strconv"
	"time"

	"callswitch/registrar"
)

const (
	// maxRegisters bounds the REGISTERs that wait for the directory at a time.
	maxRegisters = 256
	// registerWithin is how long one waits: longer, and the phone's own
	// retransmissions have been many.
	registerWithin = 3 * time.Second
)

// A registerTx is the server transaction of a REGISTER (RFC 3261 17.2.2): it
// belongs to no call.
type registerTx struct {
	deadline
	key  string
	flow flow
	last []byte // the answer, once there is one
}

func (tx *registerTx) fire(e *Edge, _ time.Time) {
	delete(e.registers, tx.key)
	e.stats.Open.Add(-1)
}

// onRegister takes a REGISTER from wherever it comes: no address stands for an
// account. It does not wait for the directory.
func (e *Edge) onRegister(f flow, p *packet, auth *registrar.Auth, now time.Time) {
	key := e.ids.tx(p, "REGISTER")
	back := p.back(f)
	e.mu.Lock()
	tx := e.registers[key]
	if tx != nil {
		e.stats.Absorbed.Add(1)
		if tx.last != nil {
			e.write(tx.flow, tx.last)
		}
	}
	e.mu.Unlock()
	if tx != nil {
		return
	}
	account, ok := e.authenticate(f, p, auth, answerHeader, now)
	if !ok {
		return
	}
	p.strip()
	req, no := registrar.Read(&p.msg, account)
	if no == nil && len(req.Path) > 0 && !e.onPath(f, req.Path[0]) {
		no = &registrar.Refusal{Status: 403, Cause: "path-elsewhere"}
	}
	if no != nil {
		e.write(back, e.registerAnswer(p, nil, no))
		return
	}
	req.Edge, req.Flow, req.Source = e.cfg.Node, f.id(), f.remote.String()
	select {
	case e.registering <- struct{}{}:
	default:
		e.stats.count(registrarBusy)
		e.write(back, e.registerAnswer(p, nil, busyRegistrar))
		return
	}
	tx = &registerTx{key: key, flow: back}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ctx.Err() != nil {
		<-e.registering
		return
	}
	e.registers[key] = tx
	e.stats.Open.Add(1)
	e.arm(tx, now.Add(e.lim.gone()))
	e.wg.Add(1)
	go func() {
		defer e.wg.Done()
		defer func() { <-e.registering }()
		e.register(tx, f, p, req, now)
	}()
}

// onPath reports whether a Path is believed (RFC 3327 6): its first entry, to which
// we send, is where the REGISTER came from, or that was a trunk of the dialplan,
// such as a proxy of ours with several addresses. Else an account could have its
// calls sent to whoever trusts our address.
func (e *Edge) onPath(f flow, first string) bool {
	q, ok := target(first)
	if !ok {
		return false
	}
	l, _ := q.numeric()
	for _, s := range l.servers {
		if s.addrs[0].Addr() == f.remote.Addr().Unmap() {
			return true
		}
	}
	return e.isTrunk(f.remote)
}

var (
	busyRegistrar = &registrar.Refusal{Status: 503, Cause: registrarBusy.String()}
	awayDirectory = &registrar.Refusal{Status: 503, Cause: directoryAway.String()}
)

// register has the directory perform a REGISTER, and answers.
func (e *Edge) register(tx *registerTx, f flow, p *packet, req registrar.Request, now time.Time) {
	ctx, cancel := context.WithTimeout(e.ctx, registerWithin)
	defer cancel()
	told, wrote, no, err := e.cfg.Directory.Register(ctx, req, now)
	if err != nil {
		if e.ctx.Err() != nil {
			return
		}
		e.stats.count(directoryAway)
		e.log.Warn("edge: registration not stored", "account", req.Account, "err", err)
		no = awayDirectory
	}
	if no == nil {
		e.stats.Registers.Add(1)
		if wrote {
			e.stats.RegisterWrites.Add(1)
		}
		e.pings.keep(req, told, e.cfg.Node, f, now)
	}
	var extra []string
	if no == nil {
		extra = outboundHeaders(p, req, f)
	}
	b := e.registerAnswer(p, told, no, extra...)
	e.mu.Lock()
	defer e.mu.Unlock()
	tx.last = b
	e.write(tx.flow, b)
	if no == nil { // what waited for the client goes behind its answer
		e.keepFootholds(req, told, f)
	}
	if tx.flow.link.reliable() && e.registers[tx.key] == tx {
		e.arm(tx, now) // timer J is 0: nobody asks again
	}
}

// registerAnswer writes the answer to a REGISTER (RFC 3261 10.3, step 8; RFC
// 3327 5.3: the path comes back).
func (e *Edge) registerAnswer(p *packet, told []registrar.Told, no *registrar.Refusal, extra ...string) []byte {
	status := 200
	if no != nil {
		if status = no.Status; status != 503 {
			e.stats.count(badRegister)
		}
		for _, h := range no.Header {
			extra = append(extra, h.Name, h.Value)
		}
		if status == 503 {
			extra = append(extra, "Retry-After", strconv.Itoa(5))
		}
		extra = append(extra, "Reason", reasonHeader(status, no.Cause))
	} else {
		for _, t := range told {
			h := t.Header()
			extra = append(extra, h.Name, h.Value)
		}
		for _, path := range p.msg.All("Path") {
			extra = append(extra, "Path", path)
		}
		extra = append(extra, "Date", time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"))
	}
	return reply(&p.msg, status, e.ids.sum(16, "stateless", p.callID, p.fromTag), extra...)
}
