package codecore

import (
	"errors"
	"math"
	"net/netip"
	"strings"
	"testing"
)

func TestRoute(t *testing.T) {
	p := &Plan{
		Peers: []PlanPeer{
			{Name: "t1", Kind: "trunk", Target: "sip:203.0.113.1:5060;transport=tcp"},
			{Name: "p1", Kind: "phone", Target: "sip:desk@192.0.2.1"},
		},
		Routes: []PlanRoute{
			{Prefix: "0", To: "t1", Strip: 1, Add: "+49"},
			{Prefix: "00", To: "t1", Strip: 2, Add: "+"},
			{Prefix: "2", To: "p1", From: "p1"},
			{Prefix: "2", To: "t1"},
			{Prefix: "3", To: "sip:{number}@203.0.113.9"},
			{Prefix: "112", To: "t1", From: "p1"},
			{Prefix: "9", To: "t1", Strip: 5},
			{Prefix: "*", To: "t1"},
		},
	}
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ from, number, target string }{
		{"p1", "030", "sip:+4930@203.0.113.1:5060;transport=tcp"},
		{"p1", "0044", "sip:+44@203.0.113.1:5060;transport=tcp"},
		{"p1", "20", "sip:desk@192.0.2.1"},
		{"p1", "30", "sip:30@203.0.113.9"},
		{"p1", "112", "sip:112@203.0.113.1:5060;transport=tcp"},
		{"t1", "112", ""},
		{"p1", "4", ""},
		{"p1", "", ""},
		{"p1", "91", "sip:203.0.113.1:5060;transport=tcp"},
		{"p1", "*#21#", "sip:*%2321%23@203.0.113.1:5060;transport=tcp"},
		{"p1", "3@evil;x", "sip:3%40evil%3Bx@203.0.113.9"},
	} {
		r, err := Route(p, c.from, c.number)
		if r.Target != c.target || (c.target == "") != errors.Is(err, ErrNoRoute) {
			t.Errorf("%s dials %q: %q, %v; want %q", c.from, c.number, r.Target, err, c.target)
		}
	}
}

func TestPlanCheckNamesThePlace(t *testing.T) {
	good := func() *Plan {
		return &Plan{
			Peers:  []PlanPeer{{Name: "a", Kind: "phone", Target: "sip:192.0.2.1"}, {Name: "b", Kind: "trunk"}},
			Routes: []PlanRoute{{Prefix: "1", To: "a"}, {Prefix: "2", To: "a"}, {Prefix: "3", To: "a"}, {Prefix: "4", To: "a"}},
		}
	}
	if err := good().Check(); err != nil {
		t.Fatal(err)
	}
	for want, harm := range map[string]func(*Plan){
		"peers[0]: name":      func(p *Plan) { p.Peers[0].Name = "a b" },
		"peers[1]: name":      func(p *Plan) { p.Peers[1].Name = "a" },
		"peers[1]: kind":      func(p *Plan) { p.Peers[1].Kind = "fax" },
		"peers[0]: target":    func(p *Plan) { p.Peers[0].Target = "192.0.2.1" },
		"peers[1]: source":    func(p *Plan) { p.Peers[1].Sources = []string{"192.0.2.1", "192.0.2.1:0"} },
		"routes[3]: prefix":   func(p *Plan) { p.Routes[3].Prefix = "1 2" },
		"routes[2]: strip":    func(p *Plan) { p.Routes[2].Strip = -1 },
		"routes[1]: to":       func(p *Plan) { p.Routes[1].To = "nobody" },
		"routes[0]: peer \"b": func(p *Plan) { p.Routes[0].To = "b" },
		"routes[3]: from":     func(p *Plan) { p.Routes[3].From = "nobody" },
		"limits":              func(p *Plan) { p.Limits.MaxCall = -1 },
		"limits: account":     func(p *Plan) { p.Limits.AccountRate = math.NaN() },
		"peers[1]: max_calls": func(p *Plan) { p.Peers[1].MaxRate = math.Inf(1) },
		"routes[2]: to":       func(p *Plan) { p.Routes[2].To = "sip:{number}@" },
		"routes[1]: to \"acc": func(p *Plan) { p.Routes[1].To = "account:bob@home" },
		"routes[3]: from \"a": func(p *Plan) { p.Routes[3].From = "account:{number}" },
	} {
		p := good()
		harm(p)
		if err := p.Check(); !errors.Is(err, ErrPlan) || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one that names %q", err, want)
		}
	}
}

// Two rules, each of which can be, of which one would never count.
func TestPlanContradictsItself(t *testing.T) {
	sources := func(a, b []string) *Plan {
		return &Plan{Peers: []PlanPeer{{Name: "a", Kind: "phone", Sources: a}, {Name: "b", Kind: "trunk", Sources: b}}}
	}
	routes := func(rs ...PlanRoute) *Plan {
		for i := range rs {
			rs[i].To = "service:echo"
		}
		return &Plan{Peers: []PlanPeer{{Name: "a", Kind: "phone"}}, Routes: rs}
	}
	enlisted := func(a, b Enlist) *Plan {
		return &Plan{Peers: []PlanPeer{{Name: "a", Kind: "trunk", Register: &a}, {Name: "b", Kind: "trunk", Register: &b}}}
	}
	rules := func(prefixes ...string) *Plan {
		p := PlanPeer{Name: "a", Kind: "trunk"}
		for _, x := range prefixes {
			p.Out.From = append(p.Out.From, NumberRule{Prefix: x})
		}
		return &Plan{Peers: []PlanPeer{p}}
	}
	for _, c := range []struct {
		p    *Plan
		want string // "": it can be
	}{
		{sources([]string{"192.0.2.1"}, []string{"192.0.2.2", "192.0.2.1"}), `peers[1]: source "192.0.2.1" is that of "a" already`},
		{sources([]string{"192.0.2.1:5060"}, []string{"[::ffff:192.0.2.1]:5060"}), "peers[1]: source"},
		{sources([]string{"192.0.2.0/24"}, []string{"192.0.2.9/24"}), "peers[1]: source"},
		{sources([]string{"192.0.2.1", "192.0.2.1/32"}, nil), `peers[0]: source "192.0.2.1/32" is that of "a"`},
		{sources([]string{"::ffff:192.0.2.0/120"}, nil), "write the IPv4 network itself"},
		{sources([]string{"192.0.2.1", "192.0.2.0/24"}, []string{"192.0.2.1:5060", "192.0.0.0/16"}), ""},
		{&Plan{Peers: []PlanPeer{{Name: "account", Kind: "phone"}}}, `peers[0]: name "account"`},
		{enlisted(Enlist{AOR: "sip:1@x.example"}, Enlist{AOR: "sip:1@x.example", URI: "sip:x.example", Contact: "c"}), `peers[1]: register: "a" registers as`},
		{enlisted(Enlist{AOR: "sip:1@x.example"}, Enlist{AOR: "sip:2@x.example"}), ""},
		{rules("0", "00"), `peers[0]: rule of prefix "00" is never used`},
		{rules("", "0"), `rule of prefix "0"`},
		{rules("00", "0", "+", ""), ""},
		{routes(PlanRoute{Prefix: "1"}, PlanRoute{Prefix: "1", From: "a"}), `routes[1]: prefix "1" is never used: routes[0] takes it`},
		{routes(PlanRoute{Prefix: "1", From: "account"}, PlanRoute{Prefix: "2"}, PlanRoute{Prefix: "1", From: "account:bob"}), "routes[2]: prefix"},
		{routes(PlanRoute{Prefix: "1", From: "account:bob"}, PlanRoute{Prefix: "1", From: "account"}, PlanRoute{Prefix: "1", From: "a"}, PlanRoute{Prefix: "1"}, PlanRoute{Prefix: "12"}), ""},
		{&Plan{Limits: PlanLimits{SessionExpires: 600, MinSE: 900}}, "limits.session_expires: 600 is less than min_se, 900"},
		{&Plan{Limits: PlanLimits{SessionExpires: 60}}, "limits.session_expires: 60 is less than min_se, 90"},
		{&Plan{Limits: PlanLimits{SessionExpires: 100_000}}, "limits.session_expires"},
		{&Plan{Limits: PlanLimits{MinSE: 60}}, "limits.min_se: 60: write 90"},
		{&Plan{Limits: PlanLimits{MinSE: 3600}}, ""}, // then that is what is asked for
		{&Plan{Limits: PlanLimits{SessionExpires: -1, MinSE: 900}}, ""},
	} {
		err := c.p.Check()
		if (err == nil) != (c.want == "") || err != nil && (!errors.Is(err, ErrPlan) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

func TestIdentifyMostExactWins(t *testing.T) {
	p := &Plan{Peers: []PlanPeer{
		{Name: "net", Sources: []string{"192.0.2.0/24", "2001:db8::/32"}},
		{Name: "host", Sources: []string{"192.0.2.1"}},
		{Name: "port", Sources: []string{"192.0.2.1:5062"}},
		{Name: "wide", Sources: []string{"192.0.0.0/8", "junk"}},
	}}
	for from, want := range map[string]string{
		"192.0.2.1:5062": "port", "192.0.2.1:5060": "host", "[::ffff:192.0.2.1]:5060": "host", "192.0.2.2:5062": "net",
		"192.9.9.9:1": "wide", "[2001:db8::1]:5060": "net", "198.51.100.1:5060": "",
	} {
		got, ok := p.Identify(netip.MustParseAddrPort(from))
		if got != want || ok != (want != "") {
			t.Errorf("%s is %q, %v; want %q", from, got, ok, want)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, c := range []struct{ value, bare, tag, uri string }{
		{`<sip:a@h>;tag=1`, `<sip:a@h>`, "1", "sip:a@h"},
		{`sip:a@h;tag=1`, `sip:a@h`, "1", "sip:a@h"},
		{`"B > < \" ;tag=2" <sip:a@h;x=y>;q=1;TAG = 3`, `"B > < \" ;tag=2" <sip:a@h;x=y>;q=1`, "3", "sip:a@h;x=y"},
		{`"A"<sip:a@h>`, `"A"<sip:a@h>`, "", "sip:a@h"},
		{``, ``, "", ""},
		{`<`, `<`, "", ""},
	} {
		bare, tag := tagOf(c.value)
		if bare != c.bare || tag != c.tag || uriOf(c.value) != c.uri {
			t.Errorf("%q: %q, tag %q, uri %q", c.value, bare, tag, uriOf(c.value))
		}
	}
	for uri, want := range map[string]string{
		"sip:+4930@h": "+4930", "sip:%2B4930@h": "+4930", "tel:+49-30-(12).3;phone-context=x": "+4930123", "sip:a:pw@h": "a",
		"sip:12;isub=3@h": "12", "sip:h": "", "sip:*%2321%23@h": "*#21#", "sip:a%0d%0ab@h": "a%0d%0ab", "sip:%zz@h": "%zz", "x": "",
	} {
		if got := userOf(uri); got != want {
			t.Errorf("user of %q is %q, want %q", uri, got, want)
		}
	}
	for uri, want := range map[string]string{
		"sip:a@h?Route=%3Csip:b%3E": "sip:a@h", "sip:h;x=y?a=b": "sip:h;x=y", "sip:a?b@h;x=y": "sip:a?b@h;x=y", "sip:a?b@h?c": "sip:a?b@h", "": "",
	} {
		if got := RequestURI(uri); got != want {
			t.Errorf("request URI of %q is %q, want %q", uri, got, want)
		}
	}
	if got := escapeUser("a b<\r\n@\"é"); got != "a%20b%3C%0D%0A%40%22%C3%A9" {
		t.Errorf("escaped as %q", got)
	}
}

// A target that no request can be sent to is refused with the plan, not found by
// the first call.
func TestTargetsThatCannotBeCalled(t *testing.T) {
	for uri, can := range map[string]bool{
		"sip:192.0.2.1":                        true,
		"sip:192.0.2.1:5060;transport=TCP":     true,
		"sip:[2001:db8::1]":                    true,
		"sip:[2001:db8::1]:5061;transport=tls": true,
		"sip:anna,b@phone.example":             true,
		"sip:{number}@carrier.example":         true,
		"sip:":                                 false,
		"sip:anna@":                            false,
		"sip:[::1":                             false,
		"sip:::1":                              false,
		"sip:[phone.example]":                  false,
		"sip:a b":                              false,
		"sip:a\r\nX: y":                        false,
		"sip:a.example?Route=b":                false,
		"sip:a.example>;b":                     false,
		"sip:a.example:0":                      false,
		"sip:a.example:65536":                  false,
		"sip:a.example;transport=sctp":         false,
		"sips:a.example":                       false,
		"tel:123":                              false,
	} {
		if canBeCalled(uri) != can {
			t.Errorf("%q: %v", uri, !can)
		}
	}
}
