package loadtest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// plays are what a black box can see of the cases that B2BUAs get wrong: a caller
// and its callees, each a sipp with ten calls. Callees are b, c and d of the
// dialplan; 5… is b, 6… is c, and 7… is all three at once.
var plays = []struct {
	name, number string
	caller       string
	callees      []string
	args         []string
	b            DialplanPeer // what b's entry has besides
}{
	{"redirect is followed", "5551", "uac.xml", []string{"uas_302.tmpl", "uas.xml"}, nil, DialplanPeer{}},
	{"redirect is passed on", "5551", "uac_302.tmpl", []string{"uas_302.tmpl"}, nil, DialplanPeer{Redirect: "pass"}},
	{"fork: a loser is cancelled, another answers all the same", "7771", "uac_talks.tmpl", []string{"uas.xml", "uas_cancel.xml", "uas_crosses.tmpl"}, nil, DialplanPeer{}},
	{"trunk asks by 401", "5551", "uac.xml", []string{"uas_401.tmpl"}, nil, DialplanPeer{Kind: "trunk"}},
	{"trunk asks by 407", "5551", "uac.xml", []string{"uas_407.tmpl"}, nil, DialplanPeer{Kind: "trunk"}},
	{"session interval of the caller is too short", "5551", "uac_422.tmpl", []string{"uas.xml"}, nil, DialplanPeer{}},
	{"fax", "5551", "uac_fax.tmpl", []string{"uas_fax.tmpl"}, nil, DialplanPeer{}},
	{"re-INVITE without SDP", "5551", "uac_asks.tmpl", []string{"uas_asked.tmpl"}, nil, DialplanPeer{}},
	{"CANCEL comes twice", "5551", "uac_cancels_twice.tmpl", []string{"uas_cancel.xml"}, nil, DialplanPeer{}},
	{"CANCEL crosses 200", "5551", "uac_cancel.xml", []string{"uas_crosses.tmpl"}, nil, DialplanPeer{}},
	{"caller's BYE before its ACK", "5551", "uac_bye_before_ack.tmpl", []string{"uas.xml"}, nil, DialplanPeer{}},
	{"callee's BYE before the caller's ACK", "5551", "uac_acks_late.tmpl", []string{"uas_hangs_up.tmpl"}, nil, DialplanPeer{}},
	{"BYE glare", "5551", "uac.xml", []string{"uas_glare.tmpl"}, nil, DialplanPeer{}},
	{"2xx comes again on both sides", "5551", "uac_deaf.tmpl", []string{"uas_deaf.tmpl"}, []string{"-nr"}, DialplanPeer{}},
	{"careless answer to a hold", "5551", "uac_holds.tmpl", []string{"uas_careless.tmpl"}, nil, DialplanPeer{}},
	{"REFER, then the transferor's BYE", "5551", "uac_listens.tmpl", []string{"uas_refers.tmpl", "uas_rings.tmpl"}, nil, DialplanPeer{}},
	{"second 2xx", "5551", "uac_listens.tmpl", []string{"uas_answers_twice.tmpl"}, nil, DialplanPeer{}},
}

func TestSippPlaysThroughTheSwitch(t *testing.T) {
	needSipp(t)
	secrets := filepath.Join(t.TempDir(), "trunks.yaml")
	if err := os.WriteFile(secrets, []byte("- {trunk: b, user: us, password: trunk-secret}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b, _ := realSwitchAs(t, 0, nil, func(s Site) []byte { return fmt.Appendf(DefaultConfig(s), "trunks:\n  passwords: %q\n", secrets) })
	for _, p := range plays {
		t.Run(p.name, func(t *testing.T) {
			at := map[string]netip.AddrPort{}
			plan := Dialplan{Limits: json.RawMessage(`{"min_se": 90}`)}
			for i, name := range []string{"a", "b", "c", "d"} {
				at[name] = sippPort(t, fmt.Sprintf("127.0.0.%d", 50+i))
				peer := DialplanPeer{Kind: "phone"}
				if name == "b" && p.b.Kind != "" {
					peer = p.b
				}
				if name == "b" {
					peer.Redirect = p.b.Redirect
				}
				peer.Name, peer.Sources, peer.Target = name, []string{at[name].String()}, "sip:"+at[name].String()
				plan.Peers = append(plan.Peers, peer)
			}
			plan.Routes = []DialplanRoute{
				{Prefix: "5", To: "b"},
				{Prefix: "6", To: "c"},
				{Prefix: "7", Fork: "parallel", Targets: []DialplanTarget{{To: "b"}, {To: "c"}, {To: "d"}}},
			}
			if err := b.sw.plan(t.Context(), plan); err != nil {
				t.Fatal(err)
			}
			var callees []sippRole
			for i, s := range p.callees {
				callees = append(callees, sippRole{s, at[string(rune('b'+i))], p.args})
			}
			playSipp(t, b.sw.cfg.Site.SIP, p.number, sippRole{p.caller, at["a"], p.args}, callees...)
		})
	}
	for ctx := patient(t, 20*time.Second); ; {
		calls, err := b.sw.API.Calls(ctx)
		// A tombstone comes when all its transactions are over.
		left := slices.DeleteFunc(calls, func(c CallInfo) bool { return c.Phase == "ended" })
		if err == nil && len(left) == 0 {
			return
		}
		if !pause(ctx, 50*time.Millisecond) {
			t.Fatalf("calls are left: %+v %v", left, err)
		}
	}
}
