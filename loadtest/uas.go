package loadtest

import (
	"time"
)

// serverTx is a request of the switch; its leg's mutex guards it.
type serverTx struct {
	leg     *Leg
	req     *message
	reply   func([]byte) error
	more    []string // header lines of the response that is sent next
	last    []byte
	code    int
	acked   bool
	pracked bool // its reliable response was acknowledged
	timer   *time.Timer
	wait    time.Duration
	until   time.Time
}

func (t *serverTx) stop() {
	if t.timer != nil {
		t.timer.Stop()
	}
}

// send answers; a final answer to INVITE is repeated until ACK (timers G and,
// for 2xx, RFC 3261 section 13.3.1.4).
func (t *serverTx) send(code int, reason string, body []byte) {
	contact := t.leg.ua.contact()
	more := t.more
	if code/100 == 2 && (t.req.method == "INVITE" || t.req.method == "UPDATE") {
		more = append(more, t.leg.says...)
	}
	t.last = respond(t.req, code, reason, t.leg.localTag, contact, body, more...)
	t.more = nil
	t.code = code
	_ = t.reply(t.last)
	if t.req.method == "INVITE" && code >= 200 {
		t.wait, t.until = timerT1, time.Now().Add(timerB)
		t.timer = time.AfterFunc(t.wait, t.again)
	}
}

func (t *serverTx) again() {
	t.leg.mu.Lock()
	defer t.leg.mu.Unlock()
	if t.acked || t.leg.stopped || time.Now().After(t.until) {
		return
	}
	if t.code < 300 || !t.leg.ua.tr.reliable() {
		_ = t.reply(t.last)
	}
	t.wait = min(2*t.wait, timerT2)
	t.timer.Reset(t.wait)
}

// request takes a request of the switch for this leg.
func (l *Leg) request(m *message, reply func([]byte) error) {
	l.mu.Lock()
	first := l.ledger.request(m)
	if l.stopped {
		l.mu.Unlock()
		return
	}
	if m.method == "ACK" {
		l.ack(m)
		l.mu.Unlock()
		return
	}
	key := m.method + m.branch()
	if !first {
		if t := l.servers[key]; t != nil {
			t.reply = reply
			if t.last != nil {
				_ = reply(t.last)
			}
		}
		l.mu.Unlock()
		return
	}
	t := &serverTx{leg: l, req: m, reply: reply}
	l.servers[key] = t
	isNew := l.serveRequest(t)
	l.mu.Unlock()
	if isNew {
		l.ua.accept(l)
	}
}

// serveRequest answers what needs no decision; true: the INVITE of a new call.
func (l *Leg) serveRequest(t *serverTx) bool {
	m := t.req
	if l.keep(t) {
		return false
	}
	switch m.method {
	case "INVITE":
		if l.incoming == nil && !l.caller {
			l.incoming = t
			if l.ua.mute == nil || !l.ua.mute(l.Number) {
				t.send(100, "Trying", nil)
			}
			l.heard(m)
			return true
		}
		if l.authorized(t) {
			return false
		}
		if !l.heard(m) {
			t.send(488, "Not Acceptable Here", nil)
			return false
		}
		l.target = uriOf(m.get("contact"))
		t.send(200, "OK", l.sdp(answerTo(l.onHold)))
	case "CANCEL":
		t.send(200, "OK", nil)
		if inv := l.servers["INVITE"+m.branch()]; inv != nil && inv.code < 200 {
			inv.send(487, "Request Terminated", nil)
			l.Canceled.set()
			l.end()
		}
	case "BYE":
		t.send(200, "OK", nil)
		l.ledger.ended = true
		l.HungUp.set()
		l.end()
	case "INFO":
		l.info++
		l.keys += keyOf(m)
		t.send(200, "OK", nil)
	case "UPDATE":
		var body []byte
		if l.heard(m) {
			body = l.sdp(answerTo(l.onHold))
		}
		l.target = uriOf(m.get("contact"))
		t.send(200, "OK", body)
	case "PRACK":
		t.send(200, "OK", nil)
	case "NOTIFY":
		l.notified(m)
		t.send(200, "OK", nil)
	case "OPTIONS":
		t.send(200, "OK", nil)
	default:
		t.send(405, "Method Not Allowed", nil)
	}
	return false
}

// ack ends the repetition of our final response.
func (l *Leg) ack(m *message) {
	n, _ := m.cseq()
	for _, t := range l.servers {
		if c, _ := t.req.cseq(); t.req.method == "INVITE" && c == n && t.code >= 200 {
			t.acked = true
			t.stop()
			if t == l.incoming {
				setOnce(&l.times.Acked, time.Now())
				if t.code < 300 {
					l.Accepted.set()
				}
			}
		}
	}
}

// Ring sends 180.
func (l *Leg) Ring() { l.answer(180, "Ringing", "") }

// Progress sends 183 with our SDP: early media.
func (l *Leg) Progress() { l.answer(183, "Session Progress", sendRecv) }

// Answer sends 200 with our SDP.
func (l *Leg) Answer() { l.answer(200, "OK", sendRecv) }

// Reject sends a final failure.
func (l *Leg) Reject(code int) { l.answer(code, "Refused By Rig", "") }

func (l *Leg) answer(code int, reason, direction string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.incoming
	if t == nil || t.code >= 200 || l.stopped {
		return
	}
	var body []byte
	if direction != "" {
		if code == 200 && t.code == 183 {
			l.version-- // the same session as in the 183 (RFC 3261 section 13.2.1)
		}
		body = l.sdp(answerTo(direction))
	}
	now := time.Now()
	switch {
	case code < 200:
		setOnce(&l.times.Ringing, now)
	case code < 300:
		l.times.Answered = now
	default:
		l.end()
	}
	t.send(code, reason, body)
}
