package loadtest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

// Kinds of protection of a leg.
const (
	legPlain = "plain"
	legSDES  = "SDES"
	legGCM   = "WebRTC GCM"
	legCM    = "WebRTC CM"
)

// far is the far end of one leg, of any kind: what it has sent and what it has
// heard, packet by packet.
type far struct {
	kind   string
	call   uint32
	dir    byte // 'a': what the caller sends, 'b': what the callee sends
	length int  // bytes of a payload
	first  uint16
	turn   func(n uint32) uint16 // sequence numbers relative to the first; nil: n
	medium medium

	mu    sync.Mutex
	sent  []time.Time // by number
	heard []heard     // in the order of arrival
	faults
}

// medium carries the sound of one far end and describes it.
type medium interface {
	speaker
	send(seq uint16, stamp uint32, payload []byte) error
	close()
}

type heard struct {
	n   uint32
	seq uint16
	at  time.Time
}

// faults are what must not happen at all; the first few are kept.
type faults struct{ list []string }

func (f *faults) add(format string, args ...any) {
	if len(f.list) < 10 {
		f.list = append(f.list, fmt.Sprintf(format, args...))
	}
}

func (f *far) fault(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.add(format, args...)
}

// payload has call, direction, number and time as those of the rig, and the rest
// so that no two packets are alike anywhere.
func (f *far) payload(call uint32, dir byte, n uint32, at time.Time) []byte {
	p := make([]byte, f.length)
	binary.BigEndian.PutUint32(p, mark)
	binary.BigEndian.PutUint32(p[4:], call)
	p[8] = dir
	binary.BigEndian.PutUint32(p[9:], n)
	binary.BigEndian.PutUint64(p[13:], uint64(at.UnixNano()))
	for i := 21; i < len(p); i++ {
		p[i] = byte(uint32(i)*7 + n*31 + call*13 + uint32(dir))
	}
	return p
}

// seq is the sequence number of a packet.
func (f *far) seq(n uint32) uint16 {
	if f.turn != nil {
		return f.first + f.turn(n)
	}
	return f.first + uint16(n)
}

// say sends the next packet.
func (f *far) say() {
	f.mu.Lock()
	n := uint32(len(f.sent))
	now := time.Now()
	f.sent = append(f.sent, now)
	f.mu.Unlock()
	if err := f.medium.send(f.seq(n), n*uint32(f.length), f.payload(f.call, f.dir, n, now)); err != nil {
		f.fault("packet %d was not sent: %v", n, err)
	}
}

// hear takes a packet that came out of the switch.
func (f *far) hear(seq uint16, payload []byte, when time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(payload) != f.length || binary.BigEndian.Uint32(payload) != mark {
		f.add("%d bytes that nobody has sent: %x", len(payload), payload[:min(len(payload), 32)])
		return
	}
	n, at := binary.BigEndian.Uint32(payload[9:]), int64(binary.BigEndian.Uint64(payload[13:]))
	if want := f.payload(f.call, f.dir^'a'^'b', n, time.Unix(0, at)); !bytes.Equal(payload, want) {
		f.add("packet %d is of another call, or its sound is another: %x", n, payload[:32])
		return
	}
	f.heard = append(f.heard, heard{n, seq, when})
}

// Figures are of one direction, or of many, in a span of time.
type Figures struct {
	Sent, Lost, Doubled int
	Gap                 time.Duration // longest time between two arrivals
	Own                 time.Duration // longest time between two sendings
	Delay               time.Duration // longest way of one packet
}

func (a *Figures) add(b Figures) {
	a.Sent, a.Lost, a.Doubled = a.Sent+b.Sent, a.Lost+b.Lost, a.Doubled+b.Doubled
	a.Gap, a.Own, a.Delay = max(a.Gap, b.Gap), max(a.Own, b.Own), max(a.Delay, b.Delay)
}

// between is what happened to the packets that from sent in a span, and the
// silence in it that to heard.
func between(from, to *far, begin, end time.Time) (f Figures) {
	from.mu.Lock()
	sent := from.sent
	from.mu.Unlock()
	to.mu.Lock()
	defer to.mu.Unlock()
	came := make([]int, len(sent))
	var at []time.Time
	for _, h := range to.heard {
		at = append(at, h.at)
		if int(h.n) >= len(sent) {
			to.add("packet %d of %d came", h.n, len(sent))
			continue
		}
		came[h.n]++
		if s := sent[h.n]; !s.Before(begin) && s.Before(end) {
			f.Delay = max(f.Delay, h.at.Sub(s))
		}
	}
	f.Gap, f.Own = longest(at, begin, end), longest(sent, begin, end)
	for n, at := range sent {
		if at.Before(begin) || !at.Before(end) {
			continue
		}
		f.Sent++
		switch {
		case came[n] == 0:
			f.Lost++
		case came[n] > 1:
			f.Doubled++
		}
	}
	return f
}

// longest is the longest time without any of the moments that reaches into a span;
// what is silent still when the span ends counts up to there.
func longest(moments []time.Time, begin, end time.Time) (d time.Duration) {
	last := begin
	for _, at := range moments {
		switch {
		case at.Before(begin):
			last = at
		case at.Before(end):
			d = max(d, at.Sub(last))
			last = at
		}
	}
	return max(d, end.Sub(last))
}

// oneStream checks that all that came is one RTP stream: the sequence numbers are
// as far from the sender's at the end as at the beginning.
func (f *far) oneStream(from *far) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.heard) == 0 {
		f.add("nothing was heard at all")
		return
	}
	off := f.heard[0].seq - from.seq(f.heard[0].n)
	for _, h := range f.heard {
		if want := from.seq(h.n) + off; h.seq != want {
			f.add("packet %d has sequence number %d, not %d", h.n, h.seq, want)
		}
	}
}

// couple is one call through the switch and both its far ends.
type couple struct {
	number string
	far    [2]*far // caller's, callee's
	a, b   *Leg
	here   *signal
}

func (p *couple) String() string { return p.number + " " + p.far[0].kind + " -> " + p.far[1].kind }

// couples are such calls, at phones of their own beside the rig's.
type couples struct {
	bed     *bed
	caller  *UA
	callees map[string]*UA // by kind of peer
	length  int
	every   time.Duration
	socket  net.PacketConn // of browsers to come; nil: pion's own

	mu   sync.Mutex
	all  []*couple
	by   map[string]*couple
	stop chan struct{}
	done sync.WaitGroup
}

// peerOf is which peer of the dialplan takes a kind.
func peerOf(kind string) string {
	switch kind {
	case legGCM, legCM:
		return "webrtc"
	case legSDES:
		return "sdes"
	}
	return "plain"
}

// newCouples gives a switch the dialplan for calls of every kind; each end will send
// a packet of so much time.
func newCouples(t *testing.T, b *bed, every time.Duration) *couples {
	t.Helper()
	p := &couples{
		bed: b, callees: map[string]*UA{}, by: map[string]*couple{}, stop: make(chan struct{}),
		length: int(every.Milliseconds()) * 8, every: every,
	}
	ua := func(ip string) *UA {
		u, err := NewUA(UAConfig{Local: mustAddr(ip), Switch: b.sw.cfg.Site.SIP, Accept: p.arrive})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(u.Close)
		return u
	}
	p.caller = ua("127.0.0.2:0")
	var d Dialplan
	peer := func(name string, u *UA, media, srtp string) {
		d.Peers = append(d.Peers, DialplanPeer{
			Name: name, Kind: "trunk", Sources: []string{u.Addr().String()}, Target: "sip:" + u.Addr().String(), Media: media, SRTP: srtp,
		})
	}
	peer("callers", p.caller, "", "")
	for i, kind := range []struct{ name, media, srtp string }{{"plain", "", ""}, {"sdes", "", "required"}, {"webrtc", "webrtc", ""}} {
		u := ua("127.0.0.3:0")
		p.callees[kind.name] = u
		peer(kind.name, u, kind.media, kind.srtp)
		d.Routes = append(d.Routes, DialplanRoute{Prefix: fmt.Sprintf("5%d", i), To: kind.name})
	}
	if err := b.sw.plan(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p
}

func (p *couples) prefix(kind string) string {
	return map[string]string{"plain": "50", "sdes": "51", "webrtc": "52"}[peerOf(kind)]
}

func (p *couples) end(t *testing.T, kind string, call uint32, dir byte) *far {
	t.Helper()
	// Sequence numbers wrap here and there, and so in the middle of some event.
	f := &far{kind: kind, call: call, dir: dir, length: p.length, first: -uint16(call*64 + uint32(dir&1)*32)}
	ip := map[byte]string{'a': "127.0.0.2:0", 'b': "127.0.0.3:0"}[dir]
	var err error
	switch kind {
	case legPlain, legSDES:
		f.medium, err = newPhoneMedium(f, mustAddr(ip), kind == legSDES)
	default:
		f.medium, err = newBrowserMedium(f, kind == legCM, p.socket)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// call brings up a call between two kinds of legs.
func (p *couples) call(t *testing.T, from, to string) *couple {
	t.Helper()
	p.mu.Lock()
	n := uint32(len(p.all) + 1)
	c := &couple{number: fmt.Sprintf("%s%04d", p.prefix(to), n), here: newSignal()}
	p.all, p.by[c.number] = append(p.all, c), c
	p.mu.Unlock()
	c.far = [2]*far{p.end(t, from, n, 'a'), p.end(t, to, n, 'b')}
	var err error
	if c.a, err = Invite(p.caller, fmt.Sprintf("1%04d", n), c.number, func(l *Leg) { l.speaks = c.far[0].medium }); err != nil {
		t.Fatal(err)
	}
	ctx := patient(t, time.Minute)
	if code, err := c.a.Final(ctx); err != nil || code != 200 {
		t.Fatalf("%v: %d %v", c, code, err)
	}
	if err := await(ctx, c.here, "INVITE at the callee"); err != nil {
		t.Fatal(err)
	}
	if err := await(ctx, c.b.Accepted, "ACK at the callee"); err != nil {
		t.Fatal(err)
	}
	return c
}

// arrive is Accept of the callees.
func (p *couples) arrive(l *Leg) {
	p.mu.Lock()
	c := p.by[l.Number]
	p.mu.Unlock()
	if c == nil || c.b != nil {
		l.Reject(486)
		return
	}
	c.b, l.speaks = l, c.far[1].medium
	c.here.set()
	l.Ring()
	go l.Answer()
}

// talk has every end send a packet in each interval, until close or hush.
func (p *couples) talk() {
	var ends []*far
	for _, c := range p.all {
		ends = append(ends, c.far[:]...)
	}
	p.done.Go(func() {
		const step = time.Millisecond
		steps := int(p.every / step)
		begin := time.Now()
		for i := 0; ; i++ {
			select {
			case <-p.stop:
				return
			case <-time.After(time.Until(begin.Add(time.Duration(i) * step))):
			}
			for j := i % steps; j < len(ends); j += steps {
				ends[j].say()
			}
		}
	})
}

// hush stops all sound and waits until nothing is under way.
func (p *couples) hush(t *testing.T) {
	select {
	case <-p.stop:
		return
	default:
	}
	close(p.stop)
	p.done.Wait()
	pause(t.Context(), 2*drain)
	for begin := time.Now(); p.lost(time.Time{}, time.Now()) > 0 && time.Since(begin) < overdue && pause(t.Context(), 20*time.Millisecond); {
	}
}

// lost is how many packets of a span have not come yet.
func (p *couples) lost(begin, end time.Time) (n int) {
	for _, c := range p.all {
		for i := range c.far {
			n += between(c.far[i], c.far[1-i], begin, end).Lost
		}
	}
	return n
}

func (p *couples) close() {
	select {
	case <-p.stop:
	default:
		close(p.stop)
	}
	p.done.Wait()
	for _, c := range p.all {
		for _, f := range c.far {
			if f != nil {
				f.medium.close()
			}
		}
	}
}

// verdict hangs all up, by turns from either side, and checks wire, streams and CDRs.
func (p *couples) verdict(t *testing.T) {
	t.Helper()
	var stubs []*Call
	for i, c := range p.all {
		by, other := c.a, c.b
		if i%2 == 1 {
			by, other = c.b, c.a
		}
		if by.HungUp.Is() || other.HungUp.Is() {
			t.Errorf("%v: the switch has hung up", c)
			continue
		}
		ctx := patient(t, kindStepLimit)
		if err := by.Bye(ctx); err != nil {
			t.Errorf("%v: %v", c, err)
		} else if err := await(ctx, other.HungUp, "BYE at the other end"); err != nil {
			t.Errorf("%v: %v", c, err)
		}
		if n, m := c.a.Count("INVITE"), c.b.Count("INVITE"); n != 0 || m != 1 || c.a.Count("UPDATE")+c.b.Count("UPDATE") != 0 {
			t.Errorf("%v was negotiated anew: %d and %d INVITE came, %d UPDATE", c, n, m, c.a.Count("UPDATE")+c.b.Count("UPDATE"))
		}
		for _, l := range []*Leg{c.a, c.b} {
			if v, _ := l.Violations(); len(v) > 0 {
				t.Errorf("%v: %q", c, v)
			}
		}
		for i, f := range c.far {
			f.oneStream(c.far[1-i])
			if b, ok := f.medium.(*browserMedium); ok {
				b.steady()
			}
			f.mu.Lock()
			for _, s := range f.list {
				t.Errorf("%v, %c (%s): %s", c, f.dir, f.kind, s)
			}
			f.mu.Unlock()
		}
		stubs = append(stubs, &Call{Number: c.number})
	}
	p.bed.once(t, stubs)
}

// The figures find what is lost, doubled, late, silent or of another stream.
func TestFarEndsFindWhatIsWrong(t *testing.T) {
	zero := time.Unix(1000, 0)
	ms := func(n int) time.Time { return zero.Add(time.Duration(n) * time.Millisecond) }
	a, b := &far{call: 1, dir: 'a', length: 160}, &far{call: 1, dir: 'b', length: 160}
	for n := range 10 {
		at := ms(20 * n)
		a.sent = append(a.sent, at)
		switch n {
		case 4: // lost
		case 7: // late
			b.heard = append(b.heard, heard{7, 7, at.Add(15 * time.Millisecond)})
		default:
			b.heard = append(b.heard, heard{uint32(n), uint16(n), at.Add(time.Millisecond)})
		}
	}
	b.heard = append(b.heard, heard{9, 9, ms(190)})
	want := Figures{Sent: 10, Lost: 1, Doubled: 1, Gap: 40 * time.Millisecond, Own: 20 * time.Millisecond, Delay: 15 * time.Millisecond}
	if f := between(a, b, zero, ms(200)); f != want {
		t.Errorf("%+v", f)
	}
	want = Figures{Sent: 1, Gap: 40 * time.Millisecond, Own: 20 * time.Millisecond, Delay: time.Millisecond}
	if f := between(a, b, ms(90), ms(110)); f != want { // the silence has begun before
		t.Errorf("%+v", f)
	}
	if b.oneStream(a); len(b.list) != 0 {
		t.Errorf("%q", b.list)
	}
	b.heard[5].seq++
	if b.oneStream(a); len(b.list) != 1 {
		t.Errorf("%q", b.list)
	}
	b.list = nil
	whole := a.payload(1, 'a', 3, ms(60))
	if b.hear(3, whole, time.Now()); len(b.list) != 0 {
		t.Errorf("%q", b.list)
	}
	for _, change := range []int{0, 5, 8, 12, 100} {
		b.list = nil
		odd := bytes.Clone(whole)
		odd[change] ^= 1
		if b.hear(3, odd, time.Now()); len(b.list) != 1 {
			t.Errorf("byte %d was changed: %q", change, b.list)
		}
	}
}
