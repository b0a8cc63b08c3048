package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/parser"
	"github.com/spf13/cobra"

	"callswitch/codecore"
)

func dialplanCommand() *cobra.Command {
	get := &cobra.Command{
		Use:   "get",
		Short: "print the dialplan in force",
		Args:  args(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var p codecore.Plan
			if err := apiClient(cmd).Do(cmd.Context(), http.MethodGet, "/v1/dialplan", nil, &p); err != nil {
				return apiError(err)
			}
			return show(cmd, p, func(w io.Writer) {
				b, _ := yaml.Marshal(p)
				_, _ = w.Write(b)
			})
		},
	}
	outputFlag(get)
	set := &cobra.Command{
		Use:   "set FILE",
		Short: "check a dialplan and put it in force, for calls that begin from now on (- reads standard input)",
		Args:  args(1, "the file of a dialplan"),
		RunE: func(cmd *cobra.Command, files []string) error {
			source, err := readFile(cmd, files[0])
			if err != nil {
				return usagef("%w", err)
			}
			if _, err := parsePlan(source); err != nil {
				return usagef("%s: %w", files[0], err)
			}
			var p codecore.Plan
			if err := apiClient(cmd).Do(cmd.Context(), http.MethodPut, "/v1/dialplan", string(source), &p); err != nil {
				return apiError(err)
			}
			return show(cmd, p, func(w io.Writer) { row(w, fmt.Sprintf("dialplan version %d is in force", p.Version)) })
		},
	}
	outputFlag(set)
	test := &cobra.Command{
		Use:   "test NUMBER",
		Short: "say where a number would go",
		Args:  args(1, "the number to route"),
		RunE: func(cmd *cobra.Command, numbers []string) error {
			from, _ := cmd.Flags().GetString("from")
			q := url.Values{"from": {from}, "number": numbers}
			var r codecore.RouteResult
			if err := apiClient(cmd).Do(cmd.Context(), http.MethodGet, "/v1/dialplan/test?"+q.Encode(), nil, &r); err != nil {
				return apiError(err)
			}
			return show(cmd, r, func(w io.Writer) {
				b, _ := yaml.Marshal(r)
				_, _ = w.Write(b)
			})
		},
	}
	test.Flags().String("from", "", "name of the peer that calls")
	outputFlag(test)
	return verbs("dialplan", "the routing table: who may call, and where numbers go", get, set, test)
}

func readFile(cmd *cobra.Command, name string) ([]byte, error) {
	if name == "-" {
		return interruptible(cmd.Context(), func() ([]byte, error) { return io.ReadAll(cmd.InOrStdin()) })
	}
	return os.ReadFile(name)
}

// parsePlan reads a dialplan strictly: an unknown key or a rule that cannot be
// is an error with its line. An empty file is what a mistake leaves; whoever wants
// nobody to call writes "peers: []".
func parsePlan(source []byte) (codecore.Plan, error) {
	var p codecore.Plan
	documents := yaml.NewDecoder(bytes.NewReader(source), yaml.Strict())
	switch err := documents.Decode(&p); {
	case errors.Is(err, io.EOF):
		return p, errors.New("dialplan: nothing stands in it; write peers and routes")
	case err != nil:
		return p, fmt.Errorf("dialplan: %s", yaml.FormatError(err, false, true))
	}
	if err := documents.Decode(&codecore.Plan{}); !errors.Is(err, io.EOF) {
		return p, errors.New("dialplan: more than one document stands in it, parted by ---; write one")
	}
	if err := p.Check(); err != nil {
		return p, fmt.Errorf("dialplan: %s%s", planLine(source, err), strings.TrimPrefix(err.Error(), codecore.ErrPlan.Error()+": "))
	}
	return p, nil
}

// unringable says why nobody could ring an account at its name, though the plan
// rings accounts by their names ("account:{number}"): a service has the number.
// "": nothing is in the way.
func unringable(p *codecore.Plan, account string) string {
	byName := slices.ContainsFunc(p.Routes, func(r codecore.PlanRoute) bool {
		rings := r.To == "account:{number}" || slices.ContainsFunc(r.Targets, func(t codecore.PlanTarget) bool { return t.To == "account:{number}" })
		return rings && strings.HasPrefix(account, r.Prefix) && r.Strip == 0 && r.Add == ""
	})
	r, err := codecore.Route(p, codecore.AccountPeer(account), account)
	if !byName || err != nil || !codecore.IsService(r.Peer) {
		return ""
	}
	return fmt.Sprintf("%s is the number of %s in the dialplan (prefix %q): nobody could ring an account of that name", account, r.Peer, r.Prefix)
}

// planLine finds the line of a rule that Check refused, by the place it names
// ("routes[3]: …").
func planLine(source []byte, err error) string {
	place := planPlace.FindString(err.Error())
	if place == "" {
		return ""
	}
	return lineOf(source, "$."+place)
}

// The first one in an error is what it is about.
var planPlace = regexp.MustCompile(`(peers|routes)\[\d+\]|limits(\.[a-z_]+)?|redirect`)

// lineOf is "line 8: " for a place in YAML ("$.peers[1]"), "" when it is not there.
func lineOf(source []byte, place string) string {
	path, err := yaml.PathString(place)
	if err != nil {
		return ""
	}
	file, err := parser.ParseBytes(source, 0)
	if err != nil {
		return ""
	}
	node, err := path.FilterFile(file)
	if err != nil || node == nil || node.GetToken() == nil {
		return ""
	}
	return fmt.Sprintf("line %d: ", node.GetToken().Position.Line)
}
