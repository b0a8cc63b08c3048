package near

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A stream is a row of frames, integers big-endian:
//
//	| length u32 | kind u8 | id u64 | body |        length = of all that follows it
//
//	hello    proto u8, minReader u8                 first frame of who dials
//	ask      subject u16+bytes, data                wants an answer under its id
//	tell     subject u16+bytes, data                wants none
//	over     -                                      the asker waits no more
//	answer   n u8, n x (subject u16+bytes), data    subjects: served here since the last answer
//	nobody   -                                      nobody listens here, or is too busy: not taken
//	gone     -                                      whoever took it has left: ask elsewhere, an answer may come yet
//	deaf     subject u16+bytes                      nobody listens here to what was told
type kind byte

const (
	kindHello kind = 1 + iota
	kindAsk
	kindTell
	kindOver
	kindAnswer
	kindNobody
	kindGone
	kindDeaf
)

// Versions of the framing; the envelope inside has its own.
const (
	proto     = 1
	minReader = 1
)

const (
	headLen    = 4 + 1 + 8
	maxSubject = 512
	maxNews    = 32 // subjects in one answer
)

var (
	errFrame  = errors.New("near: not a frame of ours")
	errBroken = errors.New("near: stream is broken")
)

type frame struct {
	kind    kind
	id      uint64
	subject string
	news    []string
	data    []byte
}

// appendFrame writes f behind buf.
func appendFrame(buf []byte, f *frame) []byte {
	at := len(buf)
	buf = append(buf, 0, 0, 0, 0, byte(f.kind))
	buf = binary.BigEndian.AppendUint64(buf, f.id)
	switch f.kind {
	case kindHello:
		buf = append(buf, proto, minReader)
	case kindAsk, kindTell, kindDeaf:
		buf = appendString(buf, f.subject)
	case kindAnswer:
		buf = append(buf, byte(len(f.news)))
		for _, s := range f.news {
			buf = appendString(buf, s)
		}
	}
	buf = append(buf, f.data...)
	binary.BigEndian.PutUint32(buf[at:], uint32(len(buf)-at-4))
	return buf
}

func appendString(buf []byte, s string) []byte {
	buf = binary.BigEndian.AppendUint16(buf, uint16(len(s)))
	return append(buf, s...)
}

// readFrame reads one frame of at most limit bytes of body. Its data is its own.
func readFrame(r *bufio.Reader, limit int) (f frame, err error) {
	head, err := r.Peek(headLen)
	if err != nil {
		return f, err
	}
	n := int(binary.BigEndian.Uint32(head)) - (headLen - 4)
	f.kind, f.id = kind(head[4]), binary.BigEndian.Uint64(head[5:])
	if n < 0 || n > limit || f.kind < kindHello || f.kind > kindDeaf {
		return f, fmt.Errorf("%w: kind %d, %d bytes", errFrame, f.kind, n)
	}
	_, _ = r.Discard(headLen)
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return f, err
	}
	ok := true
	switch f.kind {
	case kindHello:
		if ok = n >= 2 && body[1] <= proto && body[0] >= minReader; !ok {
			return f, fmt.Errorf("%w: no common version", errFrame)
		}
	case kindAsk, kindTell, kindDeaf:
		f.subject, body, ok = cutString(body)
	case kindAnswer:
		var count int
		if ok = n >= 1; ok {
			count, body = int(body[0]), body[1:]
		}
		for ; ok && count > 0; count-- {
			var s string
			if s, body, ok = cutString(body); ok {
				f.news = append(f.news, s)
			}
		}
	}
	if !ok || len(f.news) > maxNews {
		return f, fmt.Errorf("%w: kind %d", errFrame, f.kind)
	}
	f.data = body
	return f, nil
}

func cutString(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 2 {
		return "", nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if n > maxSubject || len(b) < 2+n {
		return "", nil, false
	}
	return string(b[2 : 2+n]), b[2+n:], true
}
