package edge

import (
	"bytes"
	"strconv"
	"strings"
)

// half is what has been read of a connection and is no whole message yet: all
// that its reader knows, so that another generation of the edge can read on.
type half struct {
	Raw  []byte // as it came, TLS taken off
	Part []byte // WebSocket: the fragments of a message so far, unmasked
	Op   byte   // WebSocket: opcode of that message; 0 = none has begun
	Need int    // stream: bytes of Raw without which there is nothing to be seen
}

func (h *half) empty() bool { return len(h.Raw) == 0 && h.Op == 0 }

// A piece is what the bytes of a connection turn out to be; the zero piece means
// that more are needed.
type piece struct {
	msg   []byte // one SIP message
	reply []byte // to a keep-alive, as it goes on the wire
	noted bool   // a keep-alive that wants no reply
	over  bool   // the far end says goodbye; reply is ours
}

func (p *piece) none() bool { return p.msg == nil && p.reply == nil && !p.noted && !p.over }

// nextInStream cuts the next message from a TCP or TLS stream, or a keep-alive
// that wants an answer (RFC 5626 4.4.1). With a reason, the connection cannot be
// read on.
func nextInStream(h *half, lim *Limits) (piece, reason) {
	if len(h.Raw) < h.Need { // who sends a body byte by byte has its headers read once
		return piece{}, okay
	}
	for bytes.HasPrefix(h.Raw, []byte("\r\n")) {
		if bytes.HasPrefix(h.Raw, []byte("\r\n\r\n")) {
			h.Raw = h.Raw[4:]
			return piece{reply: []byte("\r\n")}, okay
		}
		if len(h.Raw) == 2 {
			return piece{}, okay // may become a ping; harmless before a start line
		}
		h.Raw = h.Raw[2:]
	}
	end := bytes.Index(h.Raw, []byte("\r\n\r\n"))
	if end < 0 {
		if len(h.Raw) > lim.MaxMessage {
			return piece{}, badSize
		}
		return piece{}, okay
	}
	length, ok := contentLength(string(h.Raw[:end+2]))
	if !ok {
		return piece{}, badLength
	}
	total := end + 4 + length
	if total > lim.MaxMessage {
		return piece{}, badSize
	}
	if h.Need = total; len(h.Raw) < total {
		return piece{}, okay
	}
	p := piece{msg: h.Raw[:total:total]}
	h.Raw, h.Need = h.Raw[total:], 0
	return p, okay
}

// contentLength finds the one Content-Length, which a stream must have (RFC
// 3261 18.3). Two, or none, leave no way to find the next message.
func contentLength(head string) (int, bool) {
	length := -1
	for head != "" {
		var line string
		line, head, _ = strings.Cut(head, "\r\n")
		for head != "" && (head[0] == ' ' || head[0] == '\t') {
			var more string
			more, head, _ = strings.Cut(head, "\r\n")
			line += more
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || longName(strings.TrimRight(name, " \t")) != "Content-Length" {
			continue
		}
		n, err := strconv.ParseUint(strings.Trim(value, " \t"), 10, 31)
		if err != nil || length >= 0 {
			return 0, false
		}
		length = int(n)
	}
	return length, length >= 0
}
