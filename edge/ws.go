package edge

import (
	"bytes"
	"errors"
	"io"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// SIP over WebSocket (RFC 7118): one SIP message is one WebSocket message, text
// or binary, in one frame or more. Extensions are never negotiated. Requests of
// ours never make such a connection: browsers cannot be connected to.

// nextInFrames takes frames (RFC 6455 5.2) until a message is whole or a control
// frame has come. Nothing is waited for twice: a frame stays in Raw until it is
// whole, a fragment goes to Part.
func nextInFrames(h *half, lim *Limits) (piece, reason) {
	for {
		state := ws.StateServerSide
		if h.Op != 0 {
			state = state.Set(ws.StateFragmented)
		}
		in := bytes.NewReader(h.Raw)
		head, err := ws.ReadHeader(in)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return piece{}, okay
		}
		if err != nil || ws.CheckHeader(head, state) != nil {
			return piece{}, badFrame
		}
		if head.OpCode.IsData() && head.Length > int64(lim.MaxMessage-len(h.Part)) { // before it is waited for
			return piece{}, badSize
		}
		start := len(h.Raw) - in.Len()
		if int64(in.Len()) < head.Length {
			return piece{}, okay
		}
		end := start + int(head.Length)
		payload := h.Raw[start:end:end]
		h.Raw = h.Raw[end:]
		ws.Cipher(payload, head.Mask, 0)
		if head.OpCode.IsControl() {
			return control(head.OpCode, payload)
		}
		op := head.OpCode
		if head.OpCode == ws.OpContinuation {
			op = ws.OpCode(h.Op)
		}
		if !head.Fin {
			h.Op, h.Part = byte(op), append(h.Part, payload...)
			continue
		}
		if h.Op != 0 {
			payload = append(h.Part, payload...)
			h.Op, h.Part = 0, nil
		}
		return message(op, payload)
	}
}

// message is what one whole WebSocket message holds.
func message(op ws.OpCode, payload []byte) (piece, reason) {
	switch {
	case op == ws.OpText && !utf8.Valid(payload): // RFC 6455 8.1
		return piece{}, badUTF8
	case string(payload) == "\r\n\r\n": // RFC 7118 6: the keep-alive of RFC 5626
		return piece{reply: frame([]byte("\r\n"))}, okay
	case len(payload) == 0:
		return piece{noted: true}, okay
	}
	return piece{msg: payload}, okay
}

// control answers a control frame (RFC 6455 5.5).
func control(op ws.OpCode, payload []byte) (piece, reason) {
	switch op {
	case ws.OpPing: // the answer has the same payload
		return piece{reply: ws.MustCompileFrame(ws.NewPongFrame(payload))}, okay
	case ws.OpPong:
		return piece{noted: true}, okay
	}
	code, text := ws.ParseCloseFrameData(payload)
	if len(payload) == 0 {
		return piece{over: true, reply: goodbye(ws.StatusNormalClosure)}, okay
	}
	if len(payload) == 1 || ws.CheckCloseFrameData(code, text) != nil {
		return piece{}, badFrame
	}
	return piece{over: true, reply: goodbye(code)}, okay
}

// frame wraps one message of ours (RFC 6455 5.1: a server's frames are not
// masked). A body that is no UTF-8 cannot go as text.
func frame(b []byte) []byte {
	op := ws.OpText
	if !utf8.Valid(b) {
		op = ws.OpBinary
	}
	return ws.MustCompileFrame(ws.NewFrame(op, true, b))
}

// goodbye is a close frame.
func goodbye(code ws.StatusCode) []byte {
	return ws.MustCompileFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(code, "")))
}

// closeCode tells the far end why (RFC 6455 7.4.1).
func closeCode(why reason) ws.StatusCode {
	switch why {
	case okay:
		return ws.StatusGoingAway
	case badSize:
		return ws.StatusMessageTooBig
	case badUTF8:
		return ws.StatusInvalidFramePayloadData
	case badFrame:
		return ws.StatusProtocolError
	}
	return ws.StatusPolicyViolation
}
