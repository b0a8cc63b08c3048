package codecore

import (
	"errors"
	"net/url"
	"strconv"
	"strings"
)

// What a REFER says: Refer-To (RFC 3515 2.1), Refer-Sub (RFC 4488), and the
// Replaces that stands in a URI's headers (RFC 3261 19.1.1, RFC 3891 6.1).

// Errors of a Refer-To or Replaces.
var (
	ErrReferTo  = errors.New("codecore: Refer-To cannot be followed")
	ErrReplaces = errors.New("codecore: Replaces cannot be read")
)

// ReferTo is where a party is to be sent.
type ReferTo struct {
	URI      string    // sip, sips or tel; without headers and method
	Replaces *Replaces // the dialog that the new one takes the place of; nil for a blind transfer
}

// Replaces names a dialog as its receiver sees it (RFC 3891 3): To is the
// receiver's tag.
type Replaces struct {
	CallID string
	To     string
	From   string
	Early  bool // only while it is early
}

const maxReferTo = 2048 // bytes

// ParseReferTo reads the value of a Refer-To header. Of the headers in its URI
// only Replaces is heeded: the others are those that RFC 3261 19.1.5 warns of.
func ParseReferTo(value string) (r ReferTo, err error) {
	if len(value) > maxReferTo || hasControls(value) {
		return r, ErrReferTo
	}
	name, rest, angle := cutName(value)
	uri := value
	if angle {
		var closed bool
		if uri, _, closed = strings.Cut(rest, ">"); !closed || strings.ContainsAny(name, ",") && !strings.HasPrefix(name, `"`) {
			return r, ErrReferTo
		}
	} else if i := strings.IndexAny(value, ";?,"); i >= 0 { // without brackets they are not the URI's (RFC 3261 20)
		uri = value[:i]
	}
	uri = strings.TrimSpace(uri)
	uri, headers, _ := strings.Cut(uri, "?")
	scheme := schemeOf(uri)
	if scheme != "sip" && scheme != "sips" && scheme != "tel" || strings.ContainsAny(uri, " \t<>\"") {
		return r, ErrReferTo
	}
	head, params, _ := strings.Cut(uri, ";")
	if at := strings.LastIndexByte(uri, '@'); at >= 0 { // a user may have parameters of its own
		head, params, _ = strings.Cut(uri[at:], ";")
		head = uri[:at] + head
	}
	r.URI = head
	for _, p := range strings.Split(params, ";") {
		switch k, v, _ := strings.Cut(p, "="); {
		case p == "":
		case strings.EqualFold(k, "method"):
			if !strings.EqualFold(v, "INVITE") {
				return r, ErrReferTo
			}
		default:
			r.URI += ";" + p
		}
	}
	if scheme == "tel" && userOf(r.URI) == "" || scheme != "tel" && hostOf(r.URI) == "" {
		return r, ErrReferTo
	}
	if headers == "" {
		return r, nil
	}
	for _, h := range strings.Split(headers, "&") {
		k, v, _ := strings.Cut(h, "=")
		if k, err = url.PathUnescape(k); err != nil {
			return r, ErrReferTo
		}
		if !strings.EqualFold(k, "Replaces") {
			continue
		}
		if v, err = url.PathUnescape(v); err != nil || r.Replaces != nil {
			return r, ErrReferTo
		}
		d, err := ParseReplaces(v)
		if err != nil {
			return r, err
		}
		r.Replaces = &d
	}
	return r, nil
}

// ParseReplaces reads the value of a Replaces header.
func ParseReplaces(value string) (r Replaces, err error) {
	if len(value) > maxReferTo || hasControls(value) {
		return r, ErrReplaces
	}
	parts := strings.Split(value, ";")
	r.CallID = strings.TrimSpace(parts[0])
	for _, p := range parts[1:] {
		k, v, _ := strings.Cut(p, "=")
		k, v = strings.ToLower(strings.TrimSpace(k)), strings.TrimSpace(v)
		switch {
		case k == "to-tag" && r.To == "":
			r.To = v
		case k == "from-tag" && r.From == "":
			r.From = v
		case k == "to-tag", k == "from-tag": // twice: two readers might see different dialogs
			return r, ErrReplaces
		case k == "early-only":
			r.Early = true
		}
	}
	if r.CallID == "" || r.To == "" || r.From == "" || strings.ContainsAny(r.CallID+r.To+r.From, " \t,\"<>") {
		return r, ErrReplaces
	}
	return r, nil
}

// String writes it as a header value.
func (r Replaces) String() string {
	s := r.CallID + ";to-tag=" + r.To + ";from-tag=" + r.From
	if r.Early {
		s += ";early-only"
	}
	return s
}

func hasControls(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// replacesIn reads the Replaces of a request. RFC 3891 3: more than one is 400.
func replacesIn(m *Message) (*Replaces, error) {
	all := m.All("Replaces")
	switch len(all) {
	case 0:
		return nil, nil
	case 1:
		r, err := ParseReplaces(all[0])
		return &r, err
	}
	return nil, ErrReplaces
}

// referTo reads the one Refer-To of a REFER (RFC 3515 2.4.2).
func referTo(m *Message) (ReferTo, error) {
	all := m.All("Refer-To")
	if len(all) != 1 {
		return ReferTo{}, ErrReferTo
	}
	return ParseReferTo(all[0])
}

// wantsNoNotify reports whether a REFER asks for no subscription (RFC 4488 4).
func wantsNoNotify(m *Message) bool {
	v, _, _ := strings.Cut(m.Get("Refer-Sub"), ";")
	return strings.EqualFold(strings.TrimSpace(v), "false")
}

// sipfrag is the body of a NOTIFY about a REFER: a status line (RFC 3515 2.4.5,
// RFC 3420).
func sipfrag(status int) []byte {
	text := phrase(status)
	if status == 100 {
		text = "Trying"
	}
	return []byte("SIP/2.0 " + strconv.Itoa(status) + " " + text + "\r\n")
}
