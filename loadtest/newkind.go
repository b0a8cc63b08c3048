package loadtest

import (
	"fmt"
	"slices"
)

// NewOf prepares a call of a kind; index counts those of its kind, whose variants
// take turns.
func (r *Rig) NewOf(name string, m Mark, index int) *Call {
	k := kindOf[name]
	var c *Call
	switch name {
	case KindFork, KindForkRace:
		c = r.NewFork(m, k.callee)
	default:
		c = r.NewCall(m, k.callee)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c.kind, c.index, c.caller = name, index, k.caller
	c.extra = append(slices.Clone(c.extra), k.headers...)
	if name == KindTransfer {
		c.target = fmt.Sprintf("%s%dt%06d", r.cfg.Prefix, int(c.Serial)%len(r.callees), c.Serial)
		c.there = newSignal()
		r.calls[c.target] = c
	}
	return c
}

// refreshing gives the callee's session so many seconds, and leaves refreshing it
// to the switch: by UPDATE, or every second one by re-INVITE.
func (c *Call) refreshing(seconds int) {
	c.refresh = seconds
	says := []string{"Require: timer", fmt.Sprintf("Session-Expires: %d;refresher=uac", seconds)}
	if c.index%2 == 0 {
		says = append(says, allows)
	}
	plan := c.plan
	c.plan = func(l *Leg) {
		l.says = says
		plan(l)
	}
}

// mute tells the numbers whose callees do not say 100 Trying.
func (r *Rig) mute(number string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.calls[number]
	return c != nil && (c.kind == KindInvite || c.kind == KindChallenges)
}

// kindRoutes are the dialplan's routes for kinds of a number of their own.
func (r *Rig) kindRoutes() []DialplanRoute { return []DialplanRoute{r.forkRoute()} }
