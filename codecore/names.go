package codecore

import (
	"fmt"
	"strings"
)

// names are the strings of a call that its messages repeat, under the names that
// the stored form has for them. A value that begins with a dollar is a name, or,
// with two, that value without the first.
type names struct {
	s     *State
	known []named // for pack; made when first asked
	err   error   // of value
}

type named struct{ name, value string }

// legNames are the names a leg has, behind "$a." or "$b.". Stored: never rename.
var legNames = [...]string{"us", "them", "local", "remote", "call", "target", "flow"}

const (
	tokenName    = "$token"
	branchCookie = "z9hG4bK" // RFC 3261 8.1.1.7
)

// named is what a leg's name stands for; "" is never said by name.
func (l *Leg) named(name string) string {
	d := Dialog{}
	if len(l.Dialogs) > 0 {
		d = l.Dialogs[0]
	}
	switch name {
	case "us":
		return l.Local + ";tag=" + l.Tag
	case "them":
		return l.Remote + ";tag=" + d.Tag
	case "local":
		return l.Local
	case "remote":
		return l.Remote
	case "call":
		return l.CallID
	case "target":
		return d.Target
	case "flow":
		return l.Flow
	}
	return ""
}

// pack says a value by its name, if it has one.
func (n *names) pack(v string) string {
	if v == "" {
		return ""
	}
	if n.known == nil {
		n.known = make([]named, 0, 1+2*len(legNames))
		n.known = append(n.known, named{tokenName, n.s.Token})
		for i := range legNames {
			n.known = append(n.known, named{"$a." + legNames[i], n.s.A.named(legNames[i])}, named{"$b." + legNames[i], n.s.B.named(legNames[i])})
		}
	}
	for i := range n.known {
		if n.known[i].value == v {
			return n.known[i].name
		}
	}
	if v[0] == '$' {
		return "$" + v
	}
	return v
}

// value is pack backwards.
func (n *names) value(v string) string {
	if v == "" || v[0] != '$' {
		return v
	}
	switch {
	case strings.HasPrefix(v, "$$"):
		return v[1:]
	case v == tokenName:
		return n.s.Token
	case strings.HasPrefix(v, "$a."):
		if x := n.s.A.named(v[3:]); x != "" {
			return x
		}
	case strings.HasPrefix(v, "$b."):
		if x := n.s.B.named(v[3:]); x != "" {
			return x
		}
	}
	n.err = fmt.Errorf("%w: nothing is called %q", ErrBroken, v)
	return ""
}

// packBranch leaves out of a branch what all of the call's have in front.
func (n *names) packBranch(b string) string {
	if rest, ok := strings.CutPrefix(b, branchCookie); ok {
		if rest, ok = strings.CutPrefix(rest, n.s.Token); ok && strings.HasPrefix(rest, ".") {
			return "$" + rest
		}
	}
	if strings.HasPrefix(b, "$") {
		return "$" + b
	}
	return b
}

func (n *names) branch(v string) string {
	switch {
	case strings.HasPrefix(v, "$."):
		return branchCookie + n.s.Token + v[1:]
	case strings.HasPrefix(v, "$$"):
		return v[1:]
	}
	return v
}
