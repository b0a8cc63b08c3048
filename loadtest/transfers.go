package loadtest

import (
	"context"
	"net/url"
	"strings"
)

// What a phone of the rig needs for transfers: REFER, and taking its NOTIFYs.

// Refer asks the switch to send the leg's far party to a target, as Refer-To has
// it, and waits for the 2xx.
func (l *Leg) Refer(ctx context.Context, to string) error {
	l.mu.Lock()
	t, err := l.start("REFER", "", nil, []string{"Refer-To: <" + to + ">"})
	l.mu.Unlock()
	if err != nil {
		return err
	}
	return t.success(ctx)
}

// Dialog names the leg's dialog for an attended transfer: a URI whose Replaces is
// the switch's view of it (RFC 3891 3).
func (l *Leg) Dialog() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, params, _ := strings.Cut(l.theirURI, ">")
	d := l.callID + ";to-tag=" + param(params, "tag") + ";from-tag=" + l.localTag
	return l.target + "?Replaces=" + url.QueryEscape(d)
}

// Told are the status lines of the NOTIFYs that came in, in order.
func (l *Leg) Told() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.told...)
}

// notified takes the status line of a NOTIFY; l.mu is held.
func (l *Leg) notified(m *message) {
	line, _, _ := strings.Cut(string(m.body), "\r\n")
	l.told = append(l.told, line)
}
