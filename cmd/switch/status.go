package main

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"callswitch/console"
)

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
			return show(cmd, s, func(w io.Writer) { drawStatus(w, s.Status, s.Processes) })
		},
	}
	outputFlag(cmd)
	return cmd
}

func drawStatus(w io.Writer, s console.Status, ps []console.Process) {
	state := "ready"
	switch {
	case !s.Ready:
		state = "not ready: " + s.Reason
	case !s.Accepting:
		state = "admits no new calls"
	}
	row(w, "node", s.Node, state)
	row(w, "listens on", strings.Join(s.Listen, " "))
	row(w, "new calls go to", s.Release)
	row(w, "schema floor", s.Floor)
	row(w, "calls", s.Calls)
	for _, release := range slices.Sorted(maps.Keys(s.CallsByRelease)) {
		row(w, "  on "+release, s.CallsByRelease[release])
	}
	if !slices.ContainsFunc(ps, func(p console.Process) bool { return p.Role == "host" }) {
		row(w, "host", "is away: nothing that dies is started again; 'switch serve' takes over what lives")
	}
	row(w)
	row(w, "ROLE", "ID", "PID", "RELEASE", "DIGEST", "SCHEMAS", "CALLS")
	for _, p := range ps {
		schemas, calls := "", ""
		if p.SchemaMax > 0 {
			schemas = fmt.Sprintf("%d-%d", p.SchemaMin, p.SchemaMax)
		}
		switch p.Role {
		case "worker":
			calls = fmt.Sprint(p.Calls)
		case roleStays:
			calls = fmt.Sprintf("(%d connections)", p.Connections)
		}
		row(w, p.Role, p.ID, p.PID, p.Release, short(p.Digest), schemas, calls)
	}
}

// short is the part of a digest that people compare.
func short(digest string) string { return digest[:min(12, len(digest))] }
