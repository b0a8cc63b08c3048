package loadtest

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // the hash of RFC 2617 accounts
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// RegisterResult is many phones that refresh their registrations once a minute.
type RegisterResult struct {
	Phones   int                `json:"phones"`
	Refresh  int                `json:"refreshes"` // of each kind
	Failed   int                `json:"failed"`
	Seconds  float64            `json:"seconds"`
	Written  map[string]float64 `json:"cpu_ms_per_written_refresh"` // by role, beyond what the switch takes at rest
	Kept     map[string]float64 `json:"cpu_ms_per_kept_refresh"`    // likewise, of refreshes that need no write: every second one
	Beside   *BesideResult      `json:"beside_calls"`
	CPUms    float64            `json:"cpu_ms_per_refresh"` // the mean of both
	RestCPU  float64            `json:"rest_cpu_percent"`   // of one core, all registered, nobody refreshing
	KBPhone  float64            `json:"kb_per_phone"`       // all processes
	AnswerMS Quantiles          `json:"answer_ms"`          // refresh to its 200
	FirstMS  Quantiles          `json:"first_ms"`           // first REGISTER to its 200, the challenge between
}

// BesideResult is a minute in which every phone refreshes once, each refresh is
// written, and calls come and go at the same time.
type BesideResult struct {
	Seconds   float64            `json:"seconds"`
	Calls     SetupResult        `json:"calls"`                  // CPUms: without phones, over half a minute
	Refresh   int                `json:"refreshes"`              //
	Failed    int                `json:"refreshes_failed"`       //
	ByRole    map[string]float64 `json:"cpu_ms_per_refresh"`     // beyond rest and what the calls take by themselves
	CPUms     float64            `json:"cpu_ms_per_refresh_all"` //
	AnswerMS  Quantiles          `json:"answer_ms"`              //
	AloneSecs float64            `json:"calls_alone_seconds"`    //
}

const registerPassword = "sesame"

// crowd is phones that share a socket. All have one realm and password.
type crowd struct {
	conn   *net.UDPConn
	secret string // what they take for the password
	to     netip.AddrPort
	ask    int  // expires
	again  bool // what has no answer is sent again (RFC 3261 17.1.2); else a lost datagram is a failure: this is loopback
	phones []crowdPhone

	mu      sync.Mutex
	waiting map[string]chan []byte // by Call-ID and CSeq
}

type crowdPhone struct {
	name, nonce string
	cseq, nc    int
}

func crowdName(i int) string { return fmt.Sprintf("p%05d", i) }

// crowdAccounts is a file of their accounts.
func crowdAccounts(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		a1 := crowdName(i) + ":switch:" + registerPassword
		fmt.Fprintf(&b, "- {name: %s, ha1_sha256: %x, ha1_md5: %x}\n", crowdName(i), sha256.Sum256([]byte(a1)), md5.Sum([]byte(a1))) //nolint:gosec // see above
	}
	return b.Bytes()
}

func newCrowd(n int, from string, to netip.AddrPort) (*crowd, error) {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0)))
	if err != nil {
		return nil, fmt.Errorf("loadtest: %w", err)
	}
	_ = conn.SetReadBuffer(4 << 20)
	c := &crowd{conn: conn, secret: registerPassword, to: to, ask: 60, phones: make([]crowdPhone, n), waiting: map[string]chan []byte{}}
	for i := range c.phones {
		c.phones[i].name = crowdName(i)
	}
	go c.read()
	return c, nil
}

func (c *crowd) read() {
	buf := make([]byte, 65536)
	for {
		n, err := c.conn.Read(buf)
		if err != nil {
			return
		}
		msg := bytes.Clone(buf[:n])
		key := headerOf(msg, "Call-ID") + " " + headerOf(msg, "CSeq")
		c.mu.Lock()
		if ch := c.waiting[key]; ch != nil {
			delete(c.waiting, key)
			ch <- msg
		}
		c.mu.Unlock()
	}
}

func headerOf(msg []byte, name string) string {
	_, rest, _ := bytes.Cut(msg, []byte("\r\n"+name+": "))
	value, _, _ := bytes.Cut(rest, []byte("\r\n"))
	return string(value)
}

// register sends phone i's REGISTER, answers a challenge, and returns whether
// that ended with 200.
func (c *crowd) register(ctx context.Context, i int) bool {
	p := &c.phones[i]
	for range 3 {
		p.cseq++
		auth := ""
		if p.nonce != "" {
			p.nc++
			auth = p.answer(c.secret)
		}
		m := fmt.Sprintf("REGISTER sip:switch SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=z9hG4bK%s.%d;rport\r\nMax-Forwards: 70\r\n"+
			"From: <sip:%s@switch>;tag=f\r\nTo: <sip:%s@switch>\r\nCall-ID: %s\r\nCSeq: %d REGISTER\r\nContact: <sip:%s@%s>\r\nExpires: %d\r\n%sContent-Length: 0\r\n\r\n",
			c.conn.LocalAddr(), p.name, p.cseq, p.name, p.name, p.name, p.cseq, p.name, c.conn.LocalAddr(), c.ask, auth)
		ch := make(chan []byte, 1)
		c.mu.Lock()
		c.waiting[fmt.Sprintf("%s %d REGISTER", p.name, p.cseq)] = ch
		c.mu.Unlock()
		r := c.answered(ctx, []byte(m), ch)
		switch {
		case bytes.HasPrefix(r, []byte("SIP/2.0 200")):
			return true
		case !bytes.HasPrefix(r, []byte("SIP/2.0 401")):
			return false
		}
		_, rest, _ := strings.Cut(headerOf(r, "WWW-Authenticate"), `nonce="`)
		p.nonce, _, _ = strings.Cut(rest, `"`)
		p.nc = 0
	}
	return false
}

// answered sends a request and waits for its answer; nil: none came.
func (c *crowd) answered(ctx context.Context, m []byte, ch <-chan []byte) []byte {
	ctx, cancel := context.WithTimeout(ctx, timerB)
	defer cancel()
	for wait := timerT1; ; wait *= 2 {
		if _, err := c.conn.WriteToUDPAddrPort(m, c.to); err != nil {
			return nil
		}
		if !c.again {
			wait = timerB
		}
		select {
		case r := <-ch:
			return r
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
		if !c.again {
			return nil
		}
	}
}

func (p *crowdPhone) answer(secret string) string {
	h := func(parts ...string) string {
		return fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join(parts, ":"))))
	}
	nc := fmt.Sprintf("%08x", p.nc)
	response := h(h(p.name, "switch", secret), p.nonce, nc, "c", "auth", h("REGISTER", "sip:switch"))
	return fmt.Sprintf("Authorization: Digest username=%q,realm=\"switch\",nonce=%q,uri=\"sip:switch\",response=%q,algorithm=SHA-256,cnonce=\"c\",qop=auth,nc=%s\r\n", p.name, p.nonce, response, nc)
}

// round registers phones [from, to) at a rate, and returns how long each took.
func (c *crowd) round(ctx context.Context, from, to, rate int) (q Quantiles, failed int) {
	var took samples
	var wg sync.WaitGroup
	var mu sync.Mutex
	begin := time.Now()
	for i := from; i < to; i++ {
		if d := time.Until(begin.Add(time.Duration(i-from) * time.Second / time.Duration(rate))); d > 0 && !pause(ctx, d) {
			break
		}
		wg.Go(func() {
			at := time.Now()
			if c.register(ctx, i%len(c.phones)) {
				took.add(time.Since(at))
				return
			}
			mu.Lock()
			failed++
			mu.Unlock()
		})
	}
	wg.Wait()
	return took.quantiles(), failed
}

func benchRegister(ctx context.Context, c BenchConfig) (*RegisterResult, error) {
	accounts := filepath.Join(os.TempDir(), fmt.Sprintf("switch-accounts-%d.yaml", os.Getpid()))
	if err := os.WriteFile(accounts, crowdAccounts(c.Phones), 0o600); err != nil {
		return nil, fmt.Errorf("loadtest: %w", err)
	}
	defer func() { _ = os.Remove(accounts) }()
	config := c.Config
	if config == nil {
		config = DefaultConfig
	}
	c.Config = func(s Site) []byte { return fmt.Appendf(config(s), "registrar:\n  accounts: %q\n", accounts) }
	b, err := newBed(ctx, c, 100, 1, RigConfig{Mux: true})
	if err != nil {
		return nil, err
	}
	defer b.close()
	pause(ctx, 10*time.Second) // what reading the accounts left is collected
	empty, err := b.pss(ctx)
	if err != nil {
		return nil, err
	}
	crowd, err := newCrowd(c.Phones, "127.0.0.8", b.rig.cfg.Switch)
	if err != nil {
		return nil, err
	}
	defer func() { _ = crowd.conn.Close() }()
	r := &RegisterResult{Phones: c.Phones}
	if !crowd.register(ctx, 0) { // from here on the address sends at a peer's rate
		return nil, fmt.Errorf("loadtest: the first phone cannot register\n%s", b.sw.LogTail())
	}
	r.FirstMS, r.Failed = crowd.round(ctx, 1, c.Phones, 1000)
	pause(ctx, 7*time.Second)
	atRest, err := b.cpu(ctx)
	if err != nil {
		return nil, err
	}
	const rest = 5
	pause(ctx, rest*time.Second)
	before, err := b.cpu(ctx)
	if err != nil {
		return nil, err
	}
	full, err := b.pss(ctx)
	if err != nil {
		return nil, err
	}
	r.KBPhone = float64(full.PSS-empty.PSS) / float64(c.Phones)
	idle := map[string]float64{}
	for role, v := range before {
		idle[role] = (v - atRest[role]) / rest
	}
	r.RestCPU = total(idle) * 100
	rate := max(c.Phones/60, 1)
	r.Refresh = rate * c.Seconds
	crowd.ask = 300 // longer than what is stored: each is written, then none
	for _, into := range []*map[string]float64{&r.Written, &r.Kept} {
		if before, err = b.cpu(ctx); err != nil {
			return nil, err
		}
		begin := time.Now()
		took, failed := crowd.round(ctx, 0, r.Refresh, rate)
		r.AnswerMS = took
		r.Failed += failed
		after, err := b.cpu(ctx)
		if err != nil {
			return nil, err
		}
		r.Seconds = time.Since(begin).Seconds()
		*into = map[string]float64{}
		for role, v := range after {
			ms := (v - before[role] - idle[role]*r.Seconds) / float64(r.Refresh) * 1000
			(*into)[role] = ms
			r.CPUms += ms / 2
		}
	}
	if r.Beside, err = b.beside(ctx, c, crowd, idle); err != nil {
		return nil, err
	}
	r.Failed += r.Beside.Failed
	_, _ = fmt.Fprintf(c.Progress, "beside %d calls, %d failed (%s): %.3f ms a refresh, %d of %d failed\n",
		r.Beside.Calls.Placed, r.Beside.Calls.Failed, r.Beside.Calls.Error, r.Beside.CPUms, r.Beside.Failed, r.Beside.Refresh)
	_, _ = fmt.Fprintf(c.Progress, "%d phones: %.3f ms of CPU a refresh, %.2f kB each, %d failed\n", r.Phones, r.CPUms, r.KBPhone, r.Failed)
	return r, ctx.Err()
}

const (
	besideRate   = 20 // calls a second
	besideHold   = 2 * time.Second
	besideAlone  = 30 // seconds of calls without phones
	besideMinute = 60 // seconds of both
)

// beside measures calls by themselves, then a minute of calls and refreshes.
// What a refresh takes there is what is left when rest and calls are taken away.
func (b *bed) beside(ctx context.Context, c BenchConfig, phones *crowd, idle map[string]float64) (*BesideResult, error) {
	r := &BesideResult{}
	spent := func(seconds int, also func()) (map[string]float64, float64, error) {
		before, err := b.cpu(ctx)
		if err != nil {
			return nil, 0, err
		}
		var wg sync.WaitGroup
		wg.Go(also)
		begin := time.Now()
		r.Calls, err = b.shortCalls(ctx, besideRate*seconds, besideRate, besideHold)
		wg.Wait()
		if err != nil {
			return nil, 0, err
		}
		pause(ctx, time.Second) // CDRs and tombstones are part of a call
		took := time.Since(begin).Seconds()
		after, err := b.cpu(ctx)
		for role, v := range after {
			after[role] = v - before[role] - idle[role]*took
		}
		return after, took, err
	}
	if _, err := b.shortCalls(ctx, besideRate, besideRate, besideHold); err != nil { // what is done once
		return nil, err
	}
	alone, took, err := spent(besideAlone, func() {})
	if err != nil {
		return nil, err
	}
	failed, problem := r.Calls.Failed, r.Calls.Error
	r.AloneSecs = took
	phones.ask = 900 // longer than what is stored: each is written
	rate := max(c.Phones/besideMinute, 1)
	r.Refresh = rate * besideMinute
	both, took, err := spent(besideMinute, func() {
		r.AnswerMS, r.Failed = phones.round(ctx, 0, r.Refresh, rate)
	})
	if err != nil {
		return nil, err
	}
	r.Seconds, r.ByRole = took, map[string]float64{}
	for role, v := range both {
		ms := (v - alone[role]*besideMinute/besideAlone) / float64(r.Refresh) * 1000
		r.ByRole[role] = ms
		r.CPUms += ms
	}
	r.Calls.Rate, r.Calls.Placed = besideRate, besideRate*(besideAlone+besideMinute)
	r.Calls.CPUms = total(alone) / (besideRate * besideAlone) * 1000
	if r.Calls.Failed += failed; r.Calls.Error == "" {
		r.Calls.Error = problem
	}
	return r, nil
}
