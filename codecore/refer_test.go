package codecore

import (
	"strings"
	"testing"
)

func TestParseReferTo(t *testing.T) {
	for in, want := range map[string]string{
		"sip:600@h":                               "sip:600@h",
		"sip:600@h;x=1":                           "sip:600@h", // the header's parameter (RFC 3261 20)
		`"Carol, at last" <sip:600@h:5060>;x=1`:   "sip:600@h:5060",
		"<sip:600@h;transport=tcp;method=INVITE>": "sip:600@h;transport=tcp",
		"<sip:6;phone-context=x@h;METHOD=invite>": "sip:6;phone-context=x@h",
		"<tel:+1-600>":                            "tel:+1-600",
		"<sip:c@h?Subject=x&Replaces=1%40h%3Bto-tag%3Da%3Bfrom-tag%3Db%3Bearly-only>": "sip:c@h 1@h;to-tag=a;from-tag=b;early-only",
		"<sip:600@h;method=BYE>":            "",
		"<sip:600@h":                        "",
		"<http://x/>":                       "",
		"<sip:600@>":                        "",
		"":                                  "",
		"<sip:c@h?Replaces=1%3Bto-tag%3Da>": "",
		"<sip:c@h?Replaces=1%3Bto-tag%3Da%3Bto-tag%3Dc%3Bfrom-tag%3Db>": "",
		"<sip:c@h?Replaces=%zz>":                                 "",
		"<sip:c@h?Replaces=1%0D%0A%3Bto-tag%3Da%3Bfrom-tag%3Db>": "",
	} {
		r, err := ParseReferTo(in)
		got := r.URI
		if r.Replaces != nil {
			got += " " + r.Replaces.String()
		}
		if (err != nil) != (want == "") || err == nil && got != want {
			t.Errorf("%s: %q, %v; want %q", in, got, err, want)
		}
	}
}

func FuzzReferTo(f *testing.F) {
	f.Add("<sip:c@h;method=INVITE?Replaces=1%40h%3Bto-tag%3Da%3Bfrom-tag%3Db>")
	f.Add(`"x" <tel:+1-600>;y`)
	f.Add("sip:600@h")
	f.Fuzz(func(t *testing.T, in string) {
		r, err := ParseReferTo(in)
		if err != nil {
			return
		}
		text := r.URI
		if r.Replaces != nil {
			text += r.Replaces.String()
			again, err := ParseReplaces(r.Replaces.String())
			if err != nil || again != *r.Replaces {
				t.Errorf("%q is read as %+v, and that as %+v, %v", in, *r.Replaces, again, err)
			}
		}
		if strings.ContainsAny(text, "\r\n<>\"") || strings.Contains(text, "?") && r.Replaces == nil {
			t.Errorf("%q: %q goes into a header", in, text)
		}
		if again, err := ParseReferTo("<" + r.URI + ">"); err != nil || again.URI != r.URI {
			t.Errorf("%q is read as %q, and that as %q, %v", in, r.URI, again.URI, err)
		}
	})
}
