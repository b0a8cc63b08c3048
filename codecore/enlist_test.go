package codecore

import (
	"strings"
	"testing"
)

func TestCallsToTheContactOfARegistration(t *testing.T) {
	minted := string(EnlistID("club")) + "0123456789ab"
	for name, c := range map[string]struct {
		r            Enlist
		user, number string
	}{
		"our Contact":                    {Enlist{AOR: "sip:1234@club.example"}, minted, "1234"},
		"any other number":               {Enlist{AOR: "sip:1234@club.example"}, "5678", "5678"},
		"the Contact of another trunk":   {Enlist{AOR: "sip:1234@club.example"}, string(EnlistID("pub")) + "0123456789ab", string(EnlistID("pub")) + "0123456789ab"},
		"a number of its own":            {Enlist{AOR: "sip:me@club.example", Number: "+4930555"}, minted, "+4930555"},
		"several numbers":                {Enlist{AOR: "sip:me@club.example", Number: NumberOfTo}, minted, "+4930777"},
		"a Contact that the plan spells": {Enlist{AOR: "sip:1234@club.example", Contact: "us"}, "us", "1234"},
		"and not the one it would have":  {Enlist{AOR: "sip:1234@club.example", Contact: "us"}, minted, minted},
	} {
		p := &Plan{Peers: []PlanPeer{{Name: "club", Kind: "trunk", Register: &c.r}}}
		m := Message{Method: "INVITE", URI: "sip:" + c.user + "@192.0.2.1:5060;transport=udp"}
		m.Add("To", `"Us" <sip:+4930777@club.example>`)
		if got := p.called("club", &m); got != c.number {
			t.Errorf("%s: %q, want %q", name, got, c.number)
		}
		if peer, ok := p.EnlistedAs(EnlistID("club")); ok != (c.r.Contact == "") || ok && peer != "club" {
			t.Errorf("%s: identified as %q, %v", name, peer, ok)
		}
	}
}

func TestCheckOfARegistration(t *testing.T) {
	for want, r := range map[string]Enlist{
		"":                    {AOR: "sip:1@club.example", URI: "sip:reg.club.example:5070;transport=tcp", Proxy: "sip:192.0.2.9", Contact: "us+1", Number: "to"},
		"register: aor":       {AOR: "sip:club.example"},
		"register: a URI":     {AOR: "sip:1@club.example", Proxy: "sip:a> <sip:b"},
		"register: uri":       {AOR: "sip:1@club.example", URI: "sip:x@club.example"},
		"register: proxy":     {AOR: "sip:1@club.example", Proxy: "192.0.2.9"},
		"register: expires":   {AOR: "sip:1@club.example", Expires: -1},
		"register: contact":   {AOR: "sip:1@club.example", Contact: "a@b"},
		"register: number":    {AOR: "sip:1@club.example", Number: "a b"},
		"register: only a tr": {AOR: "phone"},
	} {
		kind := "trunk"
		if r.AOR == "phone" {
			kind, r.AOR = "phone", "sip:1@x"
		}
		err := (&Plan{Peers: []PlanPeer{{Name: "club", Kind: kind, Register: &r}}}).Check()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", r, err, want)
		}
	}
}
