package loadtest

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// A far end that keeps a transaction open: it does not answer until told to, so
// that what happens to the switch meanwhile happens in the middle of it.

// withheld are requests of a method that wait for their answers.
type withheld struct {
	came *signal
	txs  []*serverTx
	over bool
}

// Withhold leaves requests of these methods unanswered until Release; of INVITEs
// those inside the dialog.
func (l *Leg) Withhold(methods ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range methods {
		l.withheld[m] = &withheld{came: newSignal()}
	}
}

// Held happens when a request of the method has come and waits.
func (l *Leg) Held(method string) *signal {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.withheld[method].came
}

// Release answers what waits, and what comes from now on.
func (l *Leg) Release(method string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.withheld[method]
	h.over = true
	for _, t := range h.txs {
		l.serveRequest(t)
	}
	h.txs = nil
}

// keep takes a request whose answer is withheld; l.mu is held.
func (l *Leg) keep(t *serverTx) bool {
	h := l.withheld[t.req.method]
	if t.req.method == "PRACK" && l.incoming != nil {
		l.incoming.pracked = true
	}
	if h == nil || h.over || t.req.method == "INVITE" && param(t.req.get("to"), "tag") == "" {
		return false
	}
	h.txs = append(h.txs, t)
	h.came.set()
	return true
}

// ProgressReliably is Progress by a response that wants a PRACK (RFC 3262 section 3).
func (l *Leg) ProgressReliably() {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.incoming
	if t == nil || t.code >= 180 || l.stopped {
		return
	}
	setOnce(&l.times.Ringing, time.Now())
	t.more = []string{"Require: 100rel", "RSeq: 1"}
	t.send(183, "Session Progress", l.sdp(answerTo(sendRecv)))
	t.wait, t.until = timerT1, time.Now().Add(timerB)
	t.timer = time.AfterFunc(t.wait, t.repeatReliable)
}

func (t *serverTx) repeatReliable() {
	t.leg.mu.Lock()
	defer t.leg.mu.Unlock()
	if t.pracked || t.code != 183 || t.leg.stopped || time.Now().After(t.until) {
		return
	}
	_ = t.reply(t.last)
	t.wait *= 2
	t.timer.Reset(t.wait)
}

// wantsPrack takes a provisional response that is to be acknowledged; l.mu is held.
func (l *Leg) wantsPrack(m *message) {
	if m.get("rseq") == "" || !strings.Contains(m.get("require"), "100rel") ||
		l.early != nil && l.early.get("rseq") == m.get("rseq") {
		return
	}
	l.early = m
	l.Reliable.set()
	if !l.prackLate {
		_, _ = l.prack()
	}
}

// prack acknowledges the newest reliable response inside its early dialog; l.mu is held.
func (l *Leg) prack() (*clientTx, error) {
	uri, target := l.theirURI, l.target
	defer func() { l.theirURI, l.target = uri, target }()
	l.theirURI, l.target = l.early.get("to"), uriOf(l.early.get("contact"))
	return l.start("PRACK", "", nil, []string{fmt.Sprintf("RAck: %s %d INVITE", l.early.get("rseq"), l.invite.cseq)})
}

// Prack sends the PRACK that was put off, and waits for its 2xx.
func (l *Leg) Prack(ctx context.Context) error {
	l.mu.Lock()
	t, err := l.prack()
	l.mu.Unlock()
	if err != nil {
		return err
	}
	return t.success(ctx)
}

// Update is Reinvite by UPDATE (RFC 3311).
func (l *Leg) Update(ctx context.Context, direction string) error {
	l.mu.Lock()
	t, err := l.start("UPDATE", "application/sdp", l.sdp(direction), nil)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	return t.success(ctx)
}

// keyOf is the digit of an INFO (application/dtmf-relay).
func keyOf(m *message) string {
	_, rest, _ := strings.Cut(string(m.body), "Signal=")
	key, _, _ := strings.Cut(rest, "\r\n")
	return strings.TrimSpace(key)
}
