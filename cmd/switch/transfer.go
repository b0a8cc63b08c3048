package main

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"callswitch/codecore"
	"callswitch/console"
	"callswitch/sessions"
)

// transferOrder is what a worker is told of a transfer.
type transferOrder struct {
	Call   codecore.CallID `json:"call"`
	Leg    codecore.LegID  `json:"leg"`
	Target string          `json:"target"`
}

// Transfer sends one party of a call elsewhere. What can be known beforehand is
// refused here; the rest shows in the call, which stays as it is when the target
// cannot be had.
func (b *backend) Transfer(ctx context.Context, id codecore.CallID, t console.Transfer) error {
	leg := codecore.LegID(t.Leg)
	if leg == "" {
		leg = codecore.LegB
	}
	if leg != codecore.LegA && leg != codecore.LegB {
		return &console.Error{Status: 400, Code: "leg", Text: "leg " + t.Leg, Fix: "a (who called) or b (who was called) leaves"}
	}
	if strings.TrimSpace(t.Target) == "" {
		return &console.Error{Status: 400, Code: "target", Text: "no target", Fix: "name a number or a sip: URI"}
	}
	c, err := b.Call(ctx, id)
	if err != nil {
		return err
	}
	if err := mayTransfer(b.plan(), c.CallInfo, leg, t.Target); err != nil {
		return err
	}
	sent := 0
	silent := askAll(ctx, b, verbTransfer, transferOrder{id, leg, t.Target}, func(_ sessions.Process, n int) { sent += n })
	switch {
	case sent == 0 && len(silent) > 0:
		return &console.Error{Status: 504, Code: "time-out", Text: "no answer from " + strings.Join(silent, ", "), Fix: "try again; a silent worker's calls are taken over by another"}
	case sent == 0:
		return noCall(id)
	}
	return nil
}

// mayTransfer says why a call would do nothing about it.
func mayTransfer(plan *codecore.Plan, c console.CallInfo, leg codecore.LegID, target string) error {
	if c.Phase != string(codecore.PhaseTalking) {
		return console.Refused("not-talking", "the call is "+c.Phase, "only people who talk can be sent elsewhere")
	}
	if c.Transfer {
		return console.Refused("transfer-under-way", "a transfer of the call is under way", "try again when it has succeeded or failed: 'switch call "+c.ID+"'")
	}
	peer := c.ToPeer
	if leg == codecore.LegA {
		peer = c.FromPeer
	}
	to, err := codecore.Route(plan, peer, codecore.NumberOf(target))
	switch {
	case err != nil:
		return console.Refused("no-route", err.Error(), "switch dialplan test says where a number goes")
	case codecore.IsService(to.Peer):
		return console.Refused("service", "nobody can be sent to "+to.Peer, "name a number of somebody's")
	}
	return nil
}

func transferCommand() *cobra.Command {
	var t console.Transfer
	cmd := &cobra.Command{
		Use:   "transfer CALL TARGET",
		Short: "send one party of a call to a number or SIP URI; the other one, named by --leg, leaves",
		Args:  args(2, "the id of one call, and a number or SIP URI"),
		RunE: func(cmd *cobra.Command, words []string) error {
			t.Target = words[1]
			if err := apiClient(cmd).Do(cmd.Context(), http.MethodPost, "/v1/calls/"+url.PathEscape(words[0])+"/transfer", t, nil); err != nil {
				return apiError(err)
			}
			return show(cmd, map[string]string{"id": words[0], "leg": t.Leg, "target": t.Target}, func(w io.Writer) {
				row(w, "calling "+t.Target+" for "+words[0])
			})
		},
	}
	cmd.Flags().StringVar(&t.Leg, "leg", "b", "who leaves: a called, b was called")
	outputFlag(cmd)
	return cmd
}
