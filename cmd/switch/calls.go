package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"callswitch/console"
)

func callsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "calls",
		Short: "list the calls in progress, with their phase, release and owner",
		Args:  args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var page struct {
				Calls []console.CallInfo `json:"calls"`
			}
			if err := apiClient(cmd).Do(cmd.Context(), http.MethodGet, "/v1/calls", nil, &page); err != nil {
				return apiError(err)
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
			return show(cmd, c, func(w io.Writer) {
				row(w, "call", c.ID)
				row(w, "from", c.From, "by "+c.FromPeer)
				row(w, "to", c.To, "by "+c.ToPeer)
				row(w, "phase", c.Phase)
				row(w, "release", c.Release, fmt.Sprintf("schema %d", c.Schema))
				row(w, "owner", c.Owner, fmt.Sprintf("epoch %d, n %d", c.Epoch, c.N))
				row(w)
				row(w, "TIME", "N", "EPOCH", "RELEASE", "WHAT", "PHASE", "ACTIONS")
				for _, l := range c.Story {
					what := l.Text
					if l.FreezeMS > 0 {
						what += fmt.Sprintf(" (frozen %.1f ms)", l.FreezeMS)
					}
					if l.Reason != "" {
						what += ": " + l.Reason
					}
					row(w, l.At.Format("15:04:05.000"), l.N, l.Epoch, l.Release, what, l.Phase, strings.Join(l.Actions, ", "))
				}
			})
		},
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			var page struct {
				Calls []console.CallInfo `json:"calls"`
			}
			_ = apiClient(cmd).Do(cmd.Context(), http.MethodGet, "/v1/calls", nil, &page)
			var ids []string
			for _, c := range page.Calls {
				ids = append(ids, c.ID+"\t"+c.From+" to "+c.To)
			}
			return ids, cobra.ShellCompDirectiveNoFileComp
		},
	}
	outputFlag(cmd)
	cmd.AddCommand(&cobra.Command{
		Use:   "hangup ID",
		Short: "end a call on both sides, with its CDR",
		Args:  args(1, "the id of one call"),
		RunE: func(cmd *cobra.Command, ids []string) error {
			return apiError(apiClient(cmd).Do(cmd.Context(), http.MethodPost, "/v1/calls/"+url.PathEscape(ids[0])+"/hangup", nil, nil))
		},
	})
	return cmd
}

func statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "say what the switch does: readiness, calls by release, processes",
		Args:  args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			api := apiClient(cmd)
			var s struct {
				console.Status
				Processes []console.Process `json:"processes"`
			}
			if err := api.Do(cmd.Context(), http.MethodGet, "/v1/status", nil, &s.Status); err != nil {
				return apiError(err)
			}
			if err := api.Do(cmd.Context(), http.MethodGet, "/v1/processes", nil, &s); err != nil {
				return apiError(err)
			}
			return show(cmd, s, func(w io.Writer) {
				state := "ready"
				if !s.Ready {
					state = "not ready: " + s.Reason
				}
				row(w, "node", s.Node, state)
				row(w, "listens on", strings.Join(s.Listen, " "))
				row(w, "calls", s.Calls)
				for release, n := range s.CallsByRelease {
					row(w, "  on "+release, n)
				}
				row(w)
				row(w, "ROLE", "ID", "PID", "RELEASE", "DIGEST", "SCHEMAS", "CALLS")
				for _, p := range s.Processes {
					row(w, p.Role, p.ID, p.PID, p.Release, p.Digest, fmt.Sprintf("%d-%d", p.SchemaMin, p.SchemaMax), p.Calls)
				}
			})
		},
	}
	outputFlag(cmd)
	return cmd
}

func cdrCommand() *cobra.Command {
	export := &cobra.Command{
		Use:   "export",
		Short: "write all call detail records as JSON lines, oldest first",
		Args:  args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			since, _ := cmd.Flags().GetString("since")
			return apiError(apiClient(cmd).Stream(cmd.Context(), "/v1/cdrs?since="+url.QueryEscape(since), cmd.OutOrStdout()))
		},
	}
	export.Flags().String("since", "", "only those stored at or after this time (2026-01-02T15:04:05Z)")
	return verbs("cdr", "call detail records", export)
}
