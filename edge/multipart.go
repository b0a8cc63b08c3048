package edge

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/textproto"
	"slices"
	"strings"

	"callswitch/codecore"
)

// maxParts bounds the parts of a body that are looked at.
const maxParts = 16

// unwrap takes the session description out of a body of several parts (RFC 5621):
// calls know no other body. What else is there, of a network that says more than
// we speak (ISUP, a location), is not passed on. A request with a part that must
// be understood stays as it is, and is refused for its type.
func (p *packet) unwrap() {
	switch p.msg.Method {
	case "INVITE", "ACK", "PRACK", "UPDATE", "": // a response has none yet
	default:
		return
	}
	at := slices.IndexFunc(p.msg.Headers, func(h codecore.Header) bool { return h.Name == "Content-Type" })
	if at < 0 || len(p.msg.Body) == 0 {
		return
	}
	kind, params, err := mime.ParseMediaType(p.msg.Headers[at].Value)
	if err != nil || !strings.HasPrefix(kind, "multipart/") || params["boundary"] == "" {
		return
	}
	parts := multipart.NewReader(bytes.NewReader(p.msg.Body), params["boundary"])
	var found []byte
	for range maxParts {
		part, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) && found != nil {
			p.msg.Body = found
			p.msg.Headers[at].Value = sdpType
			return
		}
		if err != nil {
			return
		}
		body, err := io.ReadAll(part)
		kind, _, _ := mime.ParseMediaType(part.Header.Get("Content-Type"))
		disposition, handling := dispositionOf(part.Header)
		switch {
		case err != nil:
			return
		case kind == sdpType && disposition == "session" && found == nil:
			found = body
		case handling == "required" && p.msg.Method != "":
			return
		}
	}
}

// dispositionOf is what a part is for, and what becomes of a message whose reader
// does not know its type (RFC 3261 20.11).
func dispositionOf(h textproto.MIMEHeader) (kind, handling string) {
	value := h.Get("Content-Disposition")
	if value == "" {
		return "session", ""
	}
	kind, params, _ := mime.ParseMediaType(value)
	return kind, strings.ToLower(params["handling"])
}
