package edge

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"callswitch/codecore"
)

// scanned is a message as lines: what can be said of it before it is parsed.
type scanned struct {
	start   string // start line
	head    int    // bytes up to and including the empty line
	length  int    // Content-Length; -1 = none
	headers []codecore.Header
}

// maxHeaders bounds the header values of a message, lists split.
const maxHeaders = 512

// quotable headers have quoted strings by their grammar; in others a quote is a
// character like any other and hides nothing.
var quotable = map[string]bool{"From": true, "To": true, "Contact": true, "Route": true, "Record-Route": true}

// scan splits the header part of a message into long-named header values, in
// wire order, lists split. It is strict about bytes, since two readers that see
// different lines can be played against each other: every line ends with CRLF,
// no other CR, LF or control character may occur, text is UTF-8. A legal fold
// (RFC 3261 7.3.1) becomes one space. What it could read comes back with a
// reason too, so that a 400 can be formed.
func scan(raw string, lim *Limits) (s scanned, why reason) {
	s.length = -1
	end := strings.Index(raw, "\r\n\r\n")
	if end < 0 {
		if !strings.HasSuffix(raw, "\r\n") {
			return s, badEnd
		}
		why, end = badEnd, len(raw)-2
	}
	s.head = min(end+4, len(raw))
	head := raw[:end+2]
	i := strings.IndexByte(head, '\n')
	if i < 1 {
		return s, badStart
	}
	if i > lim.MaxLine {
		return s, badLine
	}
	s.start = head[:i-1]
	why = badText(head, why)
	s.headers = make([]codecore.Header, 0, 16)
	head = head[i+1:]
	for lines := 0; head != ""; {
		n := strings.IndexByte(head, '\n') + 1
		lines++
		for n < len(head) && (head[n] == ' ' || head[n] == '\t') {
			n += strings.IndexByte(head[n:], '\n') + 1
			lines++
		}
		if lines > lim.MaxLines {
			return s, badLines
		}
		if n > lim.MaxLine {
			return s, badLine
		}
		why = s.line(strings.TrimSuffix(head[:n], "\r\n"), why)
		head = head[n:]
	}
	return s, why
}

// badText looks for bytes that may not be in a header part. The first reason
// found stays. A control character behind a backslash may be a quoted pair
// (RFC 3261 25.1): line looks whether it is one.
func badText(head string, why reason) reason {
	ascii := true
	for i := 0; i < len(head); i++ {
		switch c := head[i]; {
		case c >= 0x80:
			ascii = false
		case c >= ' ' && c != 0x7f || c == '\t':
		case c == '\r' && i+1 < len(head) && head[i+1] == '\n':
			i++
		case c != '\r' && c != '\n' && i > 0 && head[i-1] == '\\':
		default:
			return badBytes
		}
	}
	if !ascii && !utf8.ValidString(head) {
		return badBytes
	}
	return why
}

// isControl: what stands in a header as a quoted pair or not at all.
func isControl(c byte) bool { return c < ' ' && c != '\t' || c == 0x7f }

// quotedOnly tells whether every control character of a value is a quoted pair
// inside quotes.
func quotedOnly(value string) bool {
	quoted := false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case isControl(c):
			return false
		}
	}
	return true
}

// hasControl tells whether there is a control character at all.
func hasControl(value string) bool {
	for i := 0; i < len(value); i++ {
		if isControl(value[i]) {
			return true
		}
	}
	return false
}

// line takes one header, its continuation lines included.
func (s *scanned) line(line string, why reason) reason {
	colon := strings.IndexByte(line, ':')
	if colon < 1 {
		return first(why, badHeader)
	}
	name := longName(strings.TrimRight(line[:colon], " \t"))
	value := strings.Trim(line[colon+1:], " \t\r\n")
	if strings.IndexByte(value, '\n') >= 0 {
		value = unfold(value)
	}
	if !isToken(name) {
		return first(why, badHeader)
	}
	if hasControl(value) && (!quotable[name] || !quotedOnly(value)) {
		return first(why, badBytes)
	}
	switch name {
	case "Content-Length":
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			return first(why, badLength)
		}
		if s.length >= 0 {
			return first(why, badTwice)
		}
		s.length = int(n)
	case "Via", "Route", "Record-Route", "Contact", "Path":
		for value != "" {
			if len(s.headers) >= maxHeaders {
				return first(why, badCount)
			}
			var one string
			one, value = cutList(value)
			if one != "" {
				s.headers = append(s.headers, codecore.Header{Name: name, Value: one})
			}
		}
	default:
		s.headers = append(s.headers, codecore.Header{Name: name, Value: value})
	}
	return why
}

func first(why, next reason) reason {
	if why != okay {
		return why
	}
	return next
}

func unfold(value string) string {
	lines := strings.Split(value, "\n")
	for i := range lines {
		lines[i] = strings.Trim(lines[i], " \t\r")
	}
	return strings.Join(lines, " ")
}

// cutList splits a list at its first comma outside quotes and angle brackets.
func cutList(value string) (one, rest string) {
	quoted, angle := false, false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '<':
			angle = true
		case c == '>':
			angle = false
		case c == ',' && !angle:
			return strings.TrimSpace(value[:i]), strings.TrimSpace(value[i+1:])
		}
	}
	return strings.TrimSpace(value), ""
}

func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-.!%*_+`'~", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

// longNames has the spellings met most, so that they cost no allocation, and
// the compact forms (RFC 3261 7.3.3, RFC 6665, RFC 3515, RFC 3892).
var longNames = map[string]string{
	"a": "Accept-Contact", "b": "Referred-By", "c": "Content-Type", "e": "Content-Encoding", "f": "From", "i": "Call-ID",
	"k": "Supported", "l": "Content-Length", "m": "Contact", "o": "Event", "r": "Refer-To", "s": "Subject", "t": "To",
	"u": "Allow-Events", "v": "Via", "x": "Session-Expires", "y": "Identity", "d": "Request-Disposition", "j": "Reject-Contact",
	"cseq": "CSeq", "call-id": "Call-ID", "rack": "RAck", "rseq": "RSeq", "www-authenticate": "WWW-Authenticate", "mime-version": "MIME-Version",
}

func init() {
	for _, name := range []string{
		"Via", "From", "To", "Call-ID", "CSeq", "Contact", "Max-Forwards", "Content-Length", "Content-Type",
		"Route", "Record-Route", "Allow", "Supported", "Require", "User-Agent", "Server", "Reason", "Expires", "Date", "Subject",
		"Accept", "Proxy-Require", "Unsupported", "Retry-After", "Warning", "Session-Expires", "Min-SE", "P-Asserted-Identity",
		"P-Preferred-Identity", "Reply-To", "Referred-By", "Privacy", "Diversion", "Path", "Authorization", "Proxy-Authorization", "Refer-To", "Event", "RAck", "RSeq", "Content-Disposition",
	} {
		longNames[name] = name
		longNames[strings.ToLower(name)] = name
	}
}

// longName is the long form of a header name, in its usual spelling.
func longName(name string) string {
	if long, ok := longNames[name]; ok {
		return long
	}
	low := strings.ToLower(name)
	if long, ok := longNames[low]; ok {
		return long
	}
	return name
}
