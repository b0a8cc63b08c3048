package sessions

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"callswitch/codecore"
)

// trace writes one line for a Step, to the log and to the call's story: the
// lines of a call are a trace that can be replayed by eye. The story leaves out
// what decided nothing (confirmations): each line is a message to the store.
func (c *call) trace(w *work) {
	logged := c.r.cfg.Log.Enabled(context.Background(), slog.LevelDebug)
	told := !c.r.cfg.NoStory && (w.saved || len(w.actions) > 0)
	if !logged && !told {
		return
	}
	var acts []string
	for _, a := range w.actions {
		acts = append(acts, actionName(a))
	}
	reason := strings.Join(w.reasons, " ")
	if logged {
		attrs := []slog.Attr{
			slog.String("call", string(c.id)), slog.Uint64("epoch", c.rec.Epoch), slog.Uint64("n", c.rec.N),
			slog.String("event", w.what), slog.String("phase", string(w.state.Phase)), slog.Any("actions", acts),
		}
		if reason != "" {
			attrs = append(attrs, slog.String("reason", reason))
		}
		c.r.cfg.Log.LogAttrs(context.Background(), slog.LevelDebug, "step", attrs...)
	}
	if told {
		line := StoryLine{
			At: w.now, Owner: c.r.cfg.ID, Release: c.r.cfg.Release, Epoch: c.rec.Epoch, N: c.rec.N,
			What: w.what, Phase: string(w.state.Phase), Acts: acts, Reason: reason,
		}
		if w.failed {
			line.Reason = "panic"
		}
		c.r.cfg.Store.Tell(c.id, line)
	}
}

// eventName says what an event is, without a number or an address in it: it is
// a metric's label too.
func eventName(ev codecore.Event) string {
	switch e := ev.(type) {
	case codecore.SIPRequest:
		switch e.Msg.Method {
		case "INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "INFO", "UPDATE", "PRACK", "REFER", "NOTIFY", "MESSAGE", "SUBSCRIBE":
			return "request " + e.Msg.Method
		}
		return "request other"
	case codecore.SIPResponse:
		if e.Msg.Status < 100 || e.Msg.Status > 699 {
			return "response other"
		}
		return "response " + strconv.Itoa(e.Msg.Status)
	case codecore.SIPTimeout:
		return "timeout"
	case codecore.NoAck:
		return "no ack"
	case codecore.NoPrack:
		return "no prack"
	case codecore.Allocated:
		return "allocated"
	case codecore.Fired:
		return "timer " + string(e.Timer)
	case codecore.MediaSilent:
		return "media silent"
	case codecore.Accepted:
		return "accepted"
	case codecore.MediaApplied:
		return "media applied"
	case codecore.HangUp:
		return "hang up"
	case codecore.Located:
		return "located"
	case codecore.TransferTo:
		return "transfer"
	}
	return "unknown"
}

// actionName says what an action is: "1 edge.n1 request INVITE".
func actionName(a codecore.Action) string {
	what := "nothing"
	switch {
	case a.Request != nil:
		what = "request " + a.Request.Msg.Method
	case a.Response != nil:
		what = fmt.Sprintf("response %d %s", a.Response.Msg.Status, a.Response.Msg.Method)
	case a.CDR != nil:
		what = "cdr " + a.CDR.Result
	}
	return fmt.Sprintf("%d %s %s", a.Seq, a.To, what)
}
