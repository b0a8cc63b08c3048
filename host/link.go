package host

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	blockFDs  = 200     // descriptors in one message; the kernel's limit is 253
	maxLine   = 1 << 20 // bytes of one message
	writeWait = 5 * time.Second
)

func itoa(n int) string { return strconv.Itoa(n) }

// frame is every message on the socket; Op says which fields count.
type frame struct {
	Op    string        `json:"op"`
	Seq   uint64        `json:"seq,omitempty"` // of a request, repeated in its answer
	FDs   int           `json:"fds,omitempty"` // descriptors that ride with it
	Names []string      `json:"names,omitempty"`
	Name  string        `json:"name,omitempty"`
	Grace time.Duration `json:"grace,omitempty"`
	Hello *Hello        `json:"hello,omitempty"`
	Spec  *Spec         `json:"spec,omitempty"`
	Exit  *Exit         `json:"exit,omitempty"`
	List  *Listing      `json:"list,omitempty"`
	More  bool          `json:"more,omitempty"` // further answers to this Seq follow
	Err   string        `json:"err,omitempty"`
}

// Operations.
const (
	opHello   = "hello"   // Hello; the in-hand page rides with it
	opWelcome = "welcome" // or opRefuse
	opRefuse  = "refuse"
	opPing    = "ping"
	opPong    = "pong"
	opReady   = "ready"   // after all that is kept has been repeated
	opKeep    = "keep"    // Names, one descriptor each
	opDrop    = "drop"    // Names
	opInherit = "inherit" // Name: a prefix; answers: Names and descriptors
	opStart   = "start"   // Spec
	opStop    = "stop"    // Name, Grace
	opRestart = "restart" // Name, Grace
	opReplace = "replace" // Name, Spec: its Argv, or none
	opYield   = "yield"   // Name: the heir's; one end of the pair rides with it
	opTook    = "took"    // the heir has taken over
	opStays   = "stays"   // Hello: its Info; I have been replaced, and have work left
	opDisown  = "disown"  // Name: my heir, which gets nothing: end it
	opRenew   = "renew"   // Name: an executable; answered only if it cannot be
	opList    = "list"
	opDone    = "done" // the last answer
	opExit    = "exit" // Exit, pushed
)

// link sends and receives frames. One goroutine reads, any may write.
type link struct {
	conn *net.UnixConn
	buf  []byte
	fds  []int // received, not yet claimed by a frame
	pid  int   // a Client's: of its host
	half bool  // a failed write ends writing only: what the peer sent before it died is still read

	mu sync.Mutex // one writer at a time
}

var errCut = errors.New("host: descriptors lost on the way (limit of open files?)")

// read returns the next frame and its descriptors, which are the caller's.
func (l *link) read() (f frame, fds []int, err error) {
	oob := make([]byte, unix.CmsgSpace(4*253))
	chunk := make([]byte, 64<<10)
	for {
		if i := bytes.IndexByte(l.buf, '\n'); i >= 0 {
			line := l.buf[:i]
			err := json.Unmarshal(line, &f)
			l.buf = l.buf[i+1:]
			if err != nil {
				return f, nil, fmt.Errorf("host: message: %w", err)
			}
			if f.FDs < 0 || f.FDs > len(l.fds) {
				return f, nil, errCut
			}
			fds, l.fds = l.fds[:f.FDs:f.FDs], l.fds[f.FDs:]
			return f, fds, nil
		}
		if len(l.buf) > maxLine {
			return f, nil, errors.New("host: message too long")
		}
		n, oobn, flags, _, err := l.conn.ReadMsgUnix(chunk, oob)
		if oobn > 0 {
			l.fds = append(l.fds, rights(oob[:oobn])...)
		}
		if err != nil {
			return f, nil, err
		}
		if n == 0 {
			return f, nil, net.ErrClosed
		}
		if flags&unix.MSG_CTRUNC != 0 {
			return f, nil, errCut
		}
		if len(l.fds) > 8*blockFDs {
			return f, nil, errors.New("host: descriptors without a message")
		}
		l.buf = append(l.buf, chunk[:n]...)
	}
}

// rights takes the descriptors out of control data; close-on-exec is already set.
func rights(oob []byte) (fds []int) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range msgs {
		if got, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

// write sends a frame whole, or gives the connection up: a peer that does not
// read for 5 s is away.
func (l *link) write(f frame, fds []int) error {
	f.FDs = len(fds)
	line, err := json.Marshal(f)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	end := time.Now().Add(writeWait)
	_ = l.conn.SetWriteDeadline(end)
	for {
		n, _, err := l.conn.WriteMsgUnix(line, oob, nil)
		if errors.Is(err, unix.ETOOMANYREFS) && time.Now().Before(end) {
			time.Sleep(5 * time.Millisecond) // descriptors in flight are limited; the peer is reading
			continue
		}
		if err == nil && n < len(line) {
			_, err = l.conn.Write(line[n:])
		}
		if err == nil {
			return nil
		}
		if l.half { // part of a frame may be out: nothing may follow
			_ = l.conn.CloseWrite()
		} else {
			_ = l.conn.Close()
		}
		return err
	}
}

// close ends the link; called by its reader, which then owns what was received.
func (l *link) close() {
	_ = l.conn.Close()
	closeAll(l.fds)
	l.fds = nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// peer returns the process at the other end, as the kernel tells.
func peer(c *net.UnixConn) (cred *unix.Ucred, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	ctrl := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return cred, errors.Join(ctrl, err)
}
