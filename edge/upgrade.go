package edge

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/gobwas/ws"
)

// maxUpgrade bounds the HTTP request that begins a WebSocket.
const maxUpgrade = 8192

var (
	errOrigin   = ws.RejectConnectionError(ws.RejectionStatus(http.StatusForbidden), ws.RejectionReason("origin not allowed"))
	errProtocol = ws.RejectConnectionError(ws.RejectionStatus(http.StatusBadRequest), ws.RejectionReason("subprotocol sip is needed (RFC 7118 4.1)"))
)

// upgrade takes the HTTP request and answers it (RFC 6455 4.2, RFC 7118 4), within
// Limits.Shake. What came behind it stays in c.half, and so does what has come of
// it when an heir goes on.
func (e *Edge) upgrade(c *streamLink) reason {
	c.wait(time.Now().Add(e.lim.Shake))
	head, err := c.readHead()
	if err != nil {
		return badUpgrade
	}
	var answer bytes.Buffer
	sip, origins, origin := false, 0, ""
	u := ws.Upgrader{
		ReadBufferSize: maxUpgrade,
		Protocol:       func(p []byte) bool { sip = sip || strings.EqualFold(string(p), "sip"); return sip },
		OnHeader: func(key, value []byte) error {
			if string(key) == "Origin" {
				origin = string(value)
				origins++
			}
			return nil
		},
		OnBeforeUpgrade: func() (ws.HandshakeHeader, error) {
			switch {
			case origins > 1, origins == 1 && !e.allows(origin, c.remote.Addr()):
				return nil, errOrigin
			case !sip:
				return nil, errProtocol
			}
			return nil, nil
		},
	}
	_, err = u.Upgrade(struct {
		io.Reader
		io.Writer
	}{bytes.NewReader(head), &answer})
	c.reach(connOpen)
	if answer.Len() > 0 {
		_ = c.put(answer.Bytes())
	}
	switch {
	case err == nil:
		return okay
	case errors.Is(err, errOrigin):
		return badOrigin
	case errors.Is(err, errProtocol):
		return badProtocol
	}
	return badUpgrade
}

// readHead reads to the empty line.
func (c *streamLink) readHead() (head []byte, err error) {
	h, buf := &c.half, make([]byte, 2048)
	for {
		n, err := c.more(buf)
		if err != nil {
			return nil, err
		}
		from := max(0, len(h.Raw)-3)
		h.Raw = append(h.Raw, buf[:n]...)
		if i := bytes.Index(h.Raw[from:], []byte("\r\n\r\n")); i >= 0 {
			end := from + i + 4
			head = bytes.Clone(h.Raw[:end])
			h.Raw = append([]byte(nil), h.Raw[end:]...)
			return head, nil
		}
		if len(h.Raw) > maxUpgrade {
			return nil, io.ErrShortBuffer
		}
	}
}

// allows decides about the page that opens a WebSocket (RFC 6455 10.2). A client
// that is no browser names none. Config.Origins says who may; without it: pages
// of this host, that is of Advertise or of an address that we listen on, and, to
// a browser on this very machine, those of localhost. What the request calls us
// (Host) proves nothing: who rebinds a name of his to our address chooses it.
func (e *Edge) allows(origin string, from netip.Addr) bool {
	if len(e.cfg.Origins) > 0 {
		for _, o := range e.cfg.Origins {
			if o == "*" || strings.EqualFold(o, origin) {
				return true
			}
		}
		return false
	}
	u, err := url.Parse(origin)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return false
	}
	host := strings.ToLower(u.Hostname())
	own, _ := splitHostPort(e.cfg.Advertise)
	if own != "" && host == strings.ToLower(strings.Trim(own, "[]")) {
		return true
	}
	addr, ok := isAddress(host)
	if host == "localhost" || ok && addr.IsLoopback() {
		return from.IsLoopback()
	}
	for _, a := range e.addrs {
		if ok && addr == a.Addr() {
			return true
		}
	}
	return false
}
