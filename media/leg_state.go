package media

import (
	"encoding/json"
	"fmt"
	"time"

	"callswitch/codecore"
)

// recordVersion is the form of cold records written here. Append a case to
// decodeRecord for each older one; never change what a number means.
//
// 2: legs with Want.Secure, Echo or Tone. No key stands in it: what is ours and
// what the party said comes of package secrets again, and keys of a DTLS handshake
// live in the hot slot alone (slot.go).
const recordVersion = 2

// record is a call at rest: the plain twin of call and leg. A successor restores
// it, on inherited sockets or on ports bound again; the one difference is
// what the kernel has kept for it meanwhile.
type record struct {
	V    int                 `json:"v"`
	Call codecore.CallID     `json:"call"`
	Boot string              `json:"boot"` // incarnation that wrote it
	At   time.Time           `json:"at"`
	Gen  codecore.Generation `json:"gen"`
	Want codecore.Media      `json:"want"`
	Legs []legRecord         `json:"legs"`
}

type legRecord struct {
	Leg     codecore.LegID `json:"leg"`
	Port    int            `json:"port"`
	Source  string         `json:"source,omitempty"` // latched "ip:port"; "" = nobody yet
	Learned bool           `json:"learned,omitempty"`
	Fresh   bool           `json:"fresh,omitempty"`
	Was     string         `json:"was,omitempty"` // SDP's address before a hold by 0.0.0.0
	RTCP    string         `json:"rtcp,omitempty"`
	Out     *streamRecord  `json:"out,omitempty"`
	Tone    uint32         `json:"tone,omitempty"` // samples played
	Before  *oldICE        `json:"before,omitempty"`
}

// oldICE are the credentials that hold beside those of Want while the party restarts
// ICE: until it has our answer, and has nominated under the new ones.
type oldICE struct {
	Own    string `json:"own"` // label of ours
	Theirs string `json:"theirs,omitempty"`
}

// streamRecord is the stream towards a leg. Seq and TS are as old as the record.
type streamRecord struct {
	In     uint32 `json:"in"`
	Out    uint32 `json:"out"`
	SeqOff uint16 `json:"seq_off,omitempty"`
	TSOff  uint32 `json:"ts_off,omitempty"`
	Seq    uint16 `json:"seq"`
	TS     uint32 `json:"ts"`
}

// snapshot writes the call down. Both locks are held.
func (c *call) snapshot(boot string, at time.Time) record {
	r := record{V: 1, Call: c.id, Boot: boot, At: at, Gen: c.gen, Want: c.want}
	for _, w := range c.want.Legs {
		if w.Secure != nil || w.Echo || w.Tone {
			r.V = recordVersion // a release of before must not carry it on
		}
	}
	for _, g := range c.legs {
		lr := legRecord{Leg: g.id, Port: g.rtp.num, Source: g.latch.addr.String(), Learned: g.latch.learned, Fresh: g.latch.fresh}
		if g.latch.sdp.isZero() {
			lr.Was = g.latch.was.String()
		}
		if g.rtcpSure {
			lr.RTCP = g.rtcpTo.String()
		}
		if s := &g.out; s.started {
			lr.Out = &streamRecord{In: s.in, Out: s.out, SeqOff: s.seqOff, TSOff: s.tsOff, Seq: s.seq, TS: s.ts}
		}
		if g.tone != nil {
			lr.Tone = g.tone.pos
		}
		if s := g.sec; s != nil && s.ice != nil && s.ice.prev.own != "" {
			lr.Before = &oldICE{s.ice.prev.own, s.ice.prev.theirs}
		}
		r.Legs = append(r.Legs, lr)
	}
	return r
}

func decodeRecord(body []byte) (record, error) {
	var r record
	if err := json.Unmarshal(body, &r); err != nil {
		return r, fmt.Errorf("media: cold record: %w", err)
	}
	if r.V < 1 || r.V > recordVersion {
		return r, fmt.Errorf("media: cold record has version %d, this release reads 1 to %d", r.V, recordVersion)
	}
	return r, nil
}

// restore puts a leg back where its record says. program has been called; an
// open window stays open no longer: what was learned stands.
func (g *leg) restore(r legRecord, age time.Duration, v6 bool, now int64) {
	if addr, ok := parseSockaddr(r.Source, v6); ok && g.sec != nil && g.sec.ice != nil {
		if g.latch.addr.isZero() { // otherwise its slot knew better
			g.latch.pin(addr)
			g.sec.ice.note(&addr)
		}
	} else if ok {
		g.latch.addr, g.latch.learned, g.latch.fresh = addr, r.Learned, r.Fresh
		g.latch.confirm = false
		g.latch.was, _ = parseSockaddr(r.Was, v6)
		if r.Fresh {
			g.latch.until = 0
		}
	}
	if addr, ok := parseSockaddr(r.RTCP, v6); ok {
		g.rtcpTo, g.rtcpSure = addr, true
	}
	if g.tone != nil { // it has played on for those who wait
		g.tone.pos = r.Tone + uint32(age/time.Millisecond)/20*toneFrame
	}
	if s := r.Out; s != nil && (g.sec == nil || !g.out.started) { // a hot slot knows better
		g.out = stream{
			in: s.In, out: s.Out, seqOff: s.SeqOff, tsOff: s.TSOff, started: true,
			shifted: s.Out != s.In || s.SeqOff != 0 || s.TSOff != 0,
		}
		// Where the stream was when it was last seen is a guess; it serves only if
		// the sender changes before its next packet.
		g.out.seq = s.Seq + uint16(age/(20*time.Millisecond))
		g.out.ts = s.TS + uint32(age/time.Millisecond)*8
		g.out.at = now
	}
}
