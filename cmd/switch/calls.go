package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"callswitch/console"
	"callswitch/media"
)

func callsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "calls",
		Short: "list the calls in progress, with their phase, release and owner",
		Args:  args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var page console.Calls
			if err := apiClient(cmd).Do(cmd.Context(), http.MethodGet, "/v1/calls", nil, &page); err != nil {
				return apiError(err)
			}
			for _, w := range page.Silent {
				fmt.Fprintf(cmd.ErrOrStderr(), "switch: %s does not answer: its calls are missing here\n", w)
			}
			return show(cmd, page.Calls, func(w io.Writer) {
				row(w, "CALL", "FROM", "TO", "PHASE", "SINCE", "RELEASE", "EPOCH", "OWNER", "NOTE")
				for _, c := range page.Calls {
					note := ""
					if c.Pinned != "" {
						note = "pinned: " + c.Pinned
					}
					if c.Aside {
						note = "set aside"
					}
					row(w, c.ID, c.From, c.To, c.Phase, time.Since(c.Start).Round(time.Second), c.Release, c.Epoch, c.Owner, note)
				}
			})
		},
	}
	outputFlag(cmd)
	return cmd
}

func callCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "call ID",
		Short: "tell the whole story of a call: owners, epochs, releases, freeze times, messages",
		Args:  args(1, "the id of one call, as 'switch calls' lists it"),
		RunE: func(cmd *cobra.Command, ids []string) error {
			var c console.Call
			if err := apiClient(cmd).Do(cmd.Context(), http.MethodGet, "/v1/calls/"+url.PathEscape(ids[0]), nil, &c); err != nil {
				return apiError(err)
			}
			return show(cmd, c, func(w io.Writer) { drawCall(w, c) })
		},
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			var page console.Calls
			_ = apiClient(cmd).Do(cmd.Context(), http.MethodGet, "/v1/calls", nil, &page)
			var ids []string
			for _, c := range page.Calls {
				ids = append(ids, c.ID+"\t"+c.From+" to "+c.To)
			}
			return ids, cobra.ShellCompDirectiveNoFileComp
		},
	}
	outputFlag(cmd)
	hangup := &cobra.Command{
		Use:   "hangup ID",
		Short: "end a call on both sides, with its CDR",
		Args:  args(1, "the id of one call"),
		RunE: func(cmd *cobra.Command, ids []string) error {
			if err := apiClient(cmd).Do(cmd.Context(), http.MethodPost, "/v1/calls/"+url.PathEscape(ids[0])+"/hangup", nil, nil); err != nil {
				return apiError(err)
			}
			return show(cmd, map[string]string{"id": ids[0]}, func(w io.Writer) { row(w, "hanging up "+ids[0]) })
		},
		ValidArgsFunction: cmd.ValidArgsFunction,
	}
	outputFlag(hangup)
	cmd.AddCommand(hangup)
	return cmd
}

func drawCall(w io.Writer, c console.Call) {
	phase := c.Phase
	if c.Ended {
		phase = "ended"
	}
	row(w, "call", c.ID)
	if c.From != "" || c.To != "" {
		row(w, "from", c.From, "by "+c.FromPeer)
		row(w, "to", c.To, "by "+c.ToPeer)
	}
	row(w, "phase", phase)
	if c.Pinned != "" {
		row(w, "pinned", c.Pinned, "no release gets it that does not know of this")
	}
	if c.Aside {
		row(w, "set aside", "it crashed its workers; its sound goes on, and it can end")
	}
	if c.Owner != "" {
		row(w, "release", c.Release, fmt.Sprintf("schema %d", c.Schema))
		row(w, "owner", c.Owner, fmt.Sprintf("epoch %d, n %d", c.Epoch, c.N))
	}
	drawSound(w, c.Media)
	row(w)
	row(w, "TIME", "N", "EPOCH", "RELEASE", "WHAT", "PHASE", "ACTIONS")
	owner := ""
	for _, l := range c.Story {
		what := l.Text
		if owner != "" && l.Owner != owner {
			what += " from " + owner
		}
		owner = l.Owner
		if l.Kind == "owner" {
			what += ", now " + l.Owner
		}
		if l.FreezeMS > 0 {
			what += fmt.Sprintf(", frozen %.1f ms", l.FreezeMS)
		}
		if l.Reason != "" {
			what += ": " + l.Reason
		}
		row(w, l.At.Format("15:04:05.000"), l.N, l.Epoch, l.Release, what, l.Phase, strings.Join(l.Actions, ", "))
	}
}

// drawSound tells what the media plane counts for each leg.
func drawSound(w io.Writer, raw json.RawMessage) {
	var m media.CallStats
	if json.Unmarshal(raw, &m) != nil {
		return
	}
	for _, l := range m.Legs {
		how := "plain RTP"
		if l.Secure != "" {
			how = l.Secure
		}
		row(w, "leg "+string(l.Leg), fmt.Sprintf("port %d", l.Port), how, fmt.Sprintf("%d packets in, %d out, %d lost, jitter %.1f ms", l.PacketsIn, l.PacketsOut, l.Lost, l.JitterMS))
	}
}

func cdrCommand() *cobra.Command {
	export := &cobra.Command{
		Use:   "export",
		Short: "write all call detail records as JSON lines, oldest first",
		Args:  args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			since, _ := cmd.Flags().GetString("since")
			if _, err := time.Parse(time.RFC3339, since); since != "" && err != nil {
				return usagef("--since %s: write it like 2026-01-02T15:04:05Z", since)
			}
			return apiError(apiClient(cmd).Stream(cmd.Context(), "/v1/cdrs?since="+url.QueryEscape(since), cmd.OutOrStdout()))
		},
	}
	export.Flags().Bool("json", true, "as JSON lines, the only format there is")
	export.Flags().String("since", "", "only those stored at or after this time (2026-01-02T15:04:05Z)")
	return verbs("cdr", "call detail records", export)
}
