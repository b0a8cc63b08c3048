package codecore

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// pack writes a state in its stored form, beside the stub that was made of it.
func pack(s *State, stub *Stub) stored {
	n := &names{s: s}
	p := stored{
		Phase: s.Phase, Route: s.Route, versioned: s.versioned, Timers: s.Timers, MediaDue: s.MediaDue, AnswerAt: s.AnswerAt, Fork: s.Fork, Avoid: s.Avoid, Labels: s.Labels,
		A: n.packLeg(s, LegA, stub), B: n.packLeg(s, LegB, stub),
	}
	if p.Route.Peer == s.CDR.ToPeer {
		p.Route.Peer = ""
	}
	if p.B.Sound.Coding == p.A.Sound.Coding && p.B.Sound.Coding != "" {
		p.B.Sound.Coding = sameCoding
	}
	p.Transfer, p.Transferred = s.Transfer, s.CDR.transferred()
	for _, l := range s.More {
		p.More = append(p.More, n.packMore(s, &l, stub))
	}
	if p.Bridged = len(s.Media.Legs) == 2 && slices.EqualFunc(s.Media.Legs, bridged(s), MediaLeg.same); !p.Bridged {
		p.Media = s.Media.Legs
	}
	p.Early = packEarly(s.Early)
	if len(s.Pending) > 0 {
		p.Pending = make([]storedAction, len(s.Pending))
	}
	for i, a := range s.Pending {
		q := storedAction{To: a.To, Seq: a.Seq, Response: n.packResponse(a.Response), CDR: a.CDR}
		if r := a.Request; r != nil {
			q.Request = &storedRequest{
				storedMessage: n.packMessage(&r.Msg), Branch: n.packBranch(r.Branch), Target: n.pack(r.Target), Flow: n.pack(r.Flow),
				ContactUser: n.pack(r.ContactUser), Auth: r.Auth, Avoid: r.Avoid, Hurry: r.Hurry,
			}
		}
		if a.CDR != nil && *a.CDR == s.CDR {
			q.CDR = new(CDR)
		}
		p.Pending[i] = q
	}
	return p
}

func (n *names) packLeg(s *State, id LegID, stub *Stub) storedLeg {
	l := s.leg(id)
	p := storedLeg{
		Edge: l.Edge, Flow: l.Flow, CallID: l.CallID, Tag: l.Tag, Local: l.Local, Remote: l.Remote, CSeq: l.CSeq,
		Dialogs: l.Dialogs, Cli: l.Cli, Sound: l.Sound, Offer: l.Offer, Lines: l.Lines,
		Addr: l.Media.Addr, Port: l.Media.Port, SDPs: l.SDPs, Told: l.Told, Answers: l.Answers, ByeDue: l.ByeDue, AckDue: l.AckDue, Agreed: l.Agreed, Update: l.Update, Interval: l.Interval,
		Challenges: l.Challenges,
		Peer:       l.Peer, Terms: l.Terms,
	}
	if stub.leg(id) != nil {
		p.Edge, p.Flow, p.CallID, p.Tag, p.Local, p.Remote, p.CSeq = "", "", "", "", "", "", 0
		if p.Dialogs = nil; len(l.Dialogs) > 1 {
			p.Dialogs = slices.Clone(l.Dialogs)
			p.Dialogs[slices.IndexFunc(l.Dialogs, Dialog.alive)] = Dialog{}
		}
	}
	if len(l.Srv) > 0 {
		p.Srv = make([]storedServerTx, len(l.Srv))
	}
	for i, t := range l.Srv {
		q := storedServerTx{Tx: t.Tx, Flow: n.pack(t.Flow), Edge: t.Edge, Method: t.Method, CSeq: t.CSeq, Head: n.packHeaders(t.Head), Status: t.Status, RSeq: t.RSeq, Unacked: t.Unacked}
		if t.Last != s.pendingFinal(t.Tx) {
			q.Last = n.packResponse(t.Last)
		}
		p.Srv[i] = q
	}
	return p
}

func (n *names) packMore(s *State, l *Leg, stub *Stub) storedLeg {
	p := n.packLeg(s, l.Name, stub)
	p.Name, p.Slot, p.Target, p.Leaving = l.Name, l.Media.Leg, l.Target, l.Leaving
	p.Addr, p.Port = "", 0
	p.Early = packEarly(l.Early)
	return p
}

func packEarly(e *Early) *storedEarly {
	if e == nil {
		return nil
	}
	return &storedEarly{e.Tag, packBody(e.SDP)}
}

func (p *storedEarly) early() *Early {
	if p == nil {
		return nil
	}
	return &Early{p.Tag, p.bytes()}
}

// pendingFinal is the pending final response of a server transaction.
func (s *State) pendingFinal(tx string) *SendResponse {
	for _, a := range s.Pending {
		if a.Response != nil && a.Response.Tx == tx && a.Response.Msg.Status >= 200 {
			return a.Response
		}
	}
	return nil
}

func (n *names) packResponse(r *SendResponse) *storedResponse {
	if r == nil {
		return nil
	}
	return &storedResponse{r.Tx, n.pack(r.Flow), n.packMessage(&r.Msg), n.pack(r.ContactUser)}
}

func (n *names) packMessage(m *Message) storedMessage {
	return storedMessage{m.Method, n.pack(m.URI), m.Status, m.Reason, n.packHeaders(m.Headers), packBody(m.Body)}
}

func (n *names) packHeaders(hs []Header) []string {
	if len(hs) == 0 {
		return nil
	}
	out := make([]string, len(hs))
	for i, h := range hs {
		out[i] = h.Name + ": " + n.pack(h.Value)
	}
	return out
}

func packBody(b []byte) storedBody {
	if utf8.Valid(b) {
		return storedBody{Text: string(b)}
	}
	return storedBody{Bytes: b}
}

// unpack is pack backwards.
func unpack(p *stored, stub *Stub) (State, error) {
	s := State{
		Phase: p.Phase, Token: stub.Token, Seed: stub.Seed, Route: p.Route, CDR: stub.CDR, versioned: p.versioned,
		Peers: stub.Peers, Timers: p.Timers, Media: Media{Node: stub.Node, Legs: p.Media}, MediaDue: p.MediaDue, AnswerAt: p.AnswerAt, Fork: p.Fork, Avoid: p.Avoid,
		Transfer: p.Transfer, Labels: p.Labels,
	}
	if s.Route.Peer == "" && s.Route != (RouteResult{}) {
		s.Route.Peer = s.CDR.ToPeer
	}
	unpackLeg(s.leg(LegA), &p.A, LegA, stub)
	unpackLeg(s.leg(LegB), &p.B, LegB, stub)
	if s.B.Sound.Coding == sameCoding {
		s.B.Sound.Coding = s.A.Sound.Coding
	}
	for i := range p.More {
		if q := &p.More[i]; q.Slot != LegA && q.Slot != LegB || q.Name == "" || s.leg(q.Name) != nil {
			return s, fmt.Errorf("%w: leg %q for slot %q", ErrBroken, q.Name, q.Slot)
		} else {
			s.More = append(s.More, unpackMore(&s, q, stub))
		}
	}
	if p.Bridged {
		s.Media.Legs = bridged(&s)
	}
	s.Early = p.Early.early()
	n := &names{s: &s}
	if len(p.Pending) > 0 {
		s.Pending = make([]Action, len(p.Pending))
	}
	for i, q := range p.Pending {
		a := Action{To: q.To, Seq: q.Seq, Effect: Effect{Response: n.response(q.Response), CDR: q.CDR}}
		if r := q.Request; r != nil {
			a.Request = &SendRequest{
				Msg: n.message(&r.storedMessage), Branch: n.branch(r.Branch), Target: n.value(r.Target), Flow: n.value(r.Flow),
				ContactUser: n.value(r.ContactUser), Auth: r.Auth, Avoid: r.Avoid, Hurry: r.Hurry,
			}
		}
		if q.CDR != nil && *q.CDR == (CDR{}) {
			cdr := s.CDR
			a.CDR = &cdr
		}
		s.Pending[i] = a
	}
	n.unpackSrv(&s, &s.A, p.A.Srv)
	n.unpackSrv(&s, &s.B, p.B.Srv)
	for i := range s.More {
		n.unpackSrv(&s, &s.More[i], p.More[i].Srv)
	}
	return s, n.err
}

func unpackLeg(l *Leg, p *storedLeg, id LegID, stub *Stub) {
	*l = Leg{
		Edge: p.Edge, Flow: p.Flow, CallID: p.CallID, Tag: p.Tag, Local: p.Local, Remote: p.Remote, CSeq: p.CSeq,
		Dialogs: p.Dialogs, Cli: p.Cli, Sound: p.Sound, Offer: p.Offer, Lines: p.Lines,
		SDPs: p.SDPs, Told: p.Told, Answers: p.Answers, ByeDue: p.ByeDue, AckDue: p.AckDue, Agreed: p.Agreed, Update: p.Update, Interval: p.Interval,
		Challenges: p.Challenges,
		Peer:       p.Peer, Terms: p.Terms,
	}
	if p.Port != 0 {
		l.Media = MediaEndpoint{id, p.Addr, p.Port}
	}
	x := stub.leg(id)
	if x == nil {
		return
	}
	l.Edge, l.Flow, l.CallID, l.Tag, l.Local, l.Remote, l.CSeq = x.Edge, x.Flow, x.CallID, x.Tag, x.Local, x.Remote, x.CSeq
	live := x.dialog()
	for i, d := range l.Dialogs {
		if d.Tag == "" && d.Target == "" && !d.Confirmed {
			l.Dialogs[i] = live
			return
		}
	}
	l.Dialogs = append(l.Dialogs, live)
}

func unpackMore(s *State, p *storedLeg, stub *Stub) (l Leg) {
	unpackLeg(&l, p, p.Name, stub)
	l.Name, l.Target, l.Leaving = p.Name, p.Target, p.Leaving
	l.Early = p.Early.early()
	l.Media = s.leg(p.Slot).Media
	l.Media.Leg = p.Slot
	return l
}

func (n *names) unpackSrv(s *State, l *Leg, srv []storedServerTx) {
	if len(srv) > 0 {
		l.Srv = make([]ServerTx, len(srv))
	}
	for i, q := range srv {
		t := ServerTx{Tx: q.Tx, Flow: n.value(q.Flow), Edge: q.Edge, Method: q.Method, CSeq: q.CSeq, Head: n.headers(q.Head), Status: q.Status, RSeq: q.RSeq, Unacked: q.Unacked, Last: n.response(q.Last)}
		if t.Last == nil && t.Status != 0 && !t.accepted() {
			t.Last = s.pendingFinal(t.Tx)
		}
		l.Srv[i] = t
	}
}

func (n *names) response(p *storedResponse) *SendResponse {
	if p == nil {
		return nil
	}
	return &SendResponse{p.Tx, n.value(p.Flow), n.message(&p.storedMessage), n.value(p.ContactUser)}
}

func (n *names) message(p *storedMessage) Message {
	return Message{p.Method, n.value(p.URI), p.Status, p.Reason, n.headers(p.Headers), p.bytes()}
}

func (n *names) headers(hs []string) []Header {
	if len(hs) == 0 {
		return nil
	}
	out := make([]Header, len(hs))
	for i, h := range hs {
		name, v, _ := strings.Cut(h, ": ")
		out[i] = Header{name, n.value(v)}
	}
	return out
}

func (b storedBody) bytes() []byte {
	if b.Text != "" {
		return []byte(b.Text)
	}
	return b.Bytes
}

// bridged is the desired media that "bridged" stands for in schema 1. It says
// what side says today, and stays when that changes: then Media is stored whole.
func bridged(s *State) []MediaLeg {
	legs := make([]MediaLeg, 0, 2)
	for _, id := range []LegID{LegA, LegB} {
		l, far := s.leg(id), s.leg(other(id))
		m := MediaLeg{
			Leg: id, Port: l.Media.Port, Remote: l.Sound.Addr, RTCP: l.Sound.RTCP, Mux: l.Sound.Mux && far.Sound.Mux, Secure: l.Sound.secure(),
			Learn: l.Answers + 1, DTMF: l.Sound.DTMF, Payloads: l.Sound.Payloads,
			Send: l.Sound.Hears && far.Sound.Sends, Recv: l.Sound.Sends && far.Sound.Hears,
		}
		if l.Sound.secure().is(SecureDTLS) {
			m.Mux = true
		}
		for _, pt := range far.Sound.Payloads {
			if !slices.Contains(m.Payloads, pt) {
				m.Payloads = append(slices.Clip(m.Payloads), pt)
			}
		}
		legs = append(legs, m)
	}
	return legs
}
