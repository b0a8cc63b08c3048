package codecore

import (
	"math"
	"strings"
)

// Rewrite says how a peer writes numbers. In rules make of its numbers what the
// dialplan knows, E.164 say ("+4930…"); Out rules make of those what it wants.
type Rewrite struct {
	To   []NumberRule `json:"to,omitempty" yaml:"to,omitempty"`     // of whom is called
	From []NumberRule `json:"from,omitempty" yaml:"from,omitempty"` // of who calls: From, P-Asserted-Identity
}

// NumberRule rewrites a number that begins with Prefix; "" is any. The first
// rule that fits is the only one. E.164 of a trunk in Germany, in:
//
//	{prefix: "+"}, {prefix: "00", strip: 2, add: "+"}, {prefix: "0", strip: 1, add: "+49"}
//
// and out:
//
//	{prefix: "+49", strip: 3, add: "0"}, {prefix: "+", strip: 1, add: "00"}
type NumberRule struct {
	Prefix string `json:"prefix,omitempty" yaml:"prefix,omitempty"`
	Strip  int    `json:"strip,omitempty" yaml:"strip,omitempty"` // characters taken off the front
	Add    string `json:"add,omitempty" yaml:"add,omitempty"`     // put in front, after Strip
}

// maxRules bounds a list of rules.
const maxRules = 64

func renumber(rules []NumberRule, number string) string {
	for _, r := range rules {
		if strings.HasPrefix(number, r.Prefix) {
			return r.Add + number[min(r.Strip, len(number)):]
		}
	}
	return number
}

// checkRules names the first rule that cannot be.
func (w Rewrite) check() string {
	const digits = "0123456789+*#abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_."
	for _, rules := range [][]NumberRule{w.To, w.From} {
		if len(rules) > maxRules {
			return "more than 64 rules for numbers"
		}
		for _, r := range rules {
			switch {
			case strings.Trim(r.Prefix+r.Add, digits) != "":
				return "rule of prefix \"" + r.Prefix + "\": digits, letters and + * # - _ . only"
			case r.Strip < 0 || r.Strip > 64:
				return "rule of prefix \"" + r.Prefix + "\": strip 0 to 64"
			}
		}
	}
	return ""
}

// withNumber is an address, with or without a name, whose number was rewritten.
func withNumber(value string, rewrite func(string) string) string {
	uri := uriOf(value)
	number := userOf(uri)
	now := rewrite(number)
	if number == "" || now == number {
		return value
	}
	scheme, rest, _ := strings.Cut(uri, ":")
	var after string
	switch i := strings.IndexByte(rest, '@'); {
	case strings.EqualFold(scheme, "tel"):
		if _, params, ok := strings.Cut(rest, ";"); ok {
			after = ";" + params
		}
	case i < 0:
		return value
	default:
		user := rest[:i]
		if p := strings.IndexByte(user, ';'); p >= 0 {
			after = user[p:]
		}
		after += rest[i:]
		now = escapeUser(now)
	}
	return strings.Replace(value, uri, scheme+":"+now+after, 1)
}

// checkTrunk says what is wrong with a peer's rules.
func (p *PlanPeer) checkTrunk() string {
	if p.MaxCalls < 0 || !isRate(p.MaxRate) {
		return "max_calls and max_rate are numbers, and not negative"
	}
	if p.Ping < 0 || p.Ping > 0 && (p.Kind != "trunk" || p.Target == "") {
		return "ping: seconds between two questions to a trunk that has a target"
	}
	if p.Register != nil {
		if p.Kind != "trunk" {
			return "register: only a trunk has a registrar"
		}
		if why := p.Register.check(); why != "" {
			return why
		}
	}
	for _, w := range []Rewrite{p.In, p.Out} {
		if why := w.check(); why != "" {
			return why
		}
	}
	return ""
}

// isRate: YAML knows .nan and .inf too, which nothing can be counted by.
func isRate(r float64) bool { return r >= 0 && !math.IsInf(r, 0) }
