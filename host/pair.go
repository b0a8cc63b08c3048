package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Words of a pair: one byte, then the length of what follows.
//
//	heir -> old  prepared            it has read all that is stored, and is about to begin
//	old -> heir  file, file, …       descriptors and their names, blockFDs at most in each
//	old -> heir  state               what the old one, frozen, had in memory
//	heir -> old  applied | refused   the state is in place | why not
//	old -> heir  go                  the commit
const (
	wordPrepared = 'p'
	wordFiles    = 'f'
	wordState    = 's'
	wordApplied  = 'a'
	wordRefused  = 'r'
	wordGo       = 'g'
)

// maxState bounds what is handed over in one word, in bytes.
const maxState = 256 << 20

// HandOver is the old side of a change of generation. When the heir is prepared,
// freeze stops the work and returns what the heir needs besides the host's files
// and the store; it has to be quick. A nil error means that the heir has
// everything: this process does no more work, closes nothing, and ends. With an
// error nothing has been handed over: after a freeze that succeeded, thaw goes on.
//
// patience is how long the heir may take with the frozen state.
func HandOver(ctx context.Context, pair *net.UnixConn, patience time.Duration, freeze func() (state []byte, files []Kept, err error), thaw func()) error {
	defer func() { _ = pair.Close() }()
	cut := context.AfterFunc(ctx, func() { _ = pair.SetDeadline(time.Unix(1, 0)) })
	defer cut()
	p := &pairLink{conn: pair}
	if err := p.expect(wordPrepared); err != nil {
		return err
	}
	_ = pair.SetDeadline(time.Now().Add(patience))
	state, files, err := freeze()
	if err != nil {
		return err
	}
	if err := p.handOver(state, files); err != nil {
		thaw()
		return err
	}
	return nil
}

func (p *pairLink) handOver(state []byte, files []Kept) error {
	for len(files) > 0 {
		n := min(len(files), blockFDs)
		if err := p.sendFiles(files[:n]); err != nil {
			return err
		}
		files = files[n:]
	}
	if err := p.say(wordState, state); err != nil {
		return err
	}
	if err := p.expect(wordApplied); err != nil {
		return err
	}
	return p.say(wordGo, nil)
}

// TakeOver is the heir's side, called when it is prepared. apply puts the state
// in place without acting on it; it owns the files. After a nil error this
// process is at work in its predecessor's place and should say so (Client.Took);
// after any other it must end, having done nothing.
func TakeOver(ctx context.Context, pair *net.UnixConn, apply func(state []byte, files []Kept) error) error {
	defer func() { _ = pair.Close() }()
	cut := context.AfterFunc(ctx, func() { _ = pair.SetDeadline(time.Unix(1, 0)) })
	defer cut()
	p := &pairLink{conn: pair}
	if err := p.say(wordPrepared, nil); err != nil {
		return err
	}
	var files []Kept
	for {
		word, body, err := p.hear()
		if err == nil && word == wordFiles {
			var got []Kept
			if got, err = p.files(body); err == nil {
				files = append(files, got...)
				continue
			}
		}
		if err == nil && word != wordState {
			err = fmt.Errorf("%w: word %q", errPair, word)
		}
		if err != nil {
			for _, k := range files {
				_ = k.File.Close()
			}
			return err
		}
		if err := apply(body, files); err != nil {
			_ = p.say(wordRefused, []byte(err.Error()))
			return err
		}
		break
	}
	if err := p.say(wordApplied, nil); err != nil {
		return err
	}
	return p.expect(wordGo)
}

var errPair = errors.New("host: pair")

type pairLink struct {
	conn *net.UnixConn
	fds  []int
}

func (p *pairLink) say(word byte, body []byte) error {
	head := binary.BigEndian.AppendUint32([]byte{word}, uint32(len(body)))
	if _, err := p.conn.Write(append(head, body...)); err != nil {
		return fmt.Errorf("%w: %w", errPair, err)
	}
	return nil
}

// sendFiles sends names, each ended by a zero byte, and their descriptors.
func (p *pairLink) sendFiles(files []Kept) error {
	var body []byte
	var fds []int
	defer func() { closeAll(fds) }()
	for _, k := range files {
		err := sendFile(k.File, func(fd int) error {
			dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
			if err == nil {
				fds = append(fds, dup)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("%w: %s: %w", errPair, k.Name, err)
		}
		body = append(append(body, k.Name...), 0)
	}
	head := binary.BigEndian.AppendUint32([]byte{wordFiles}, uint32(len(body)))
	n, _, err := p.conn.WriteMsgUnix(append(head, body...), unix.UnixRights(fds...), nil)
	if err == nil && n < len(head)+len(body) {
		_, err = p.conn.Write(append(head, body...)[n:])
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errPair, err)
	}
	return nil
}

func (p *pairLink) expect(want byte) error {
	word, body, err := p.hear()
	switch {
	case err != nil:
		return err
	case word == wordRefused:
		return fmt.Errorf("%w: refused: %s", errPair, body)
	case word != want:
		return fmt.Errorf("%w: word %q instead of %q", errPair, word, want)
	}
	return nil
}

func (p *pairLink) hear() (word byte, body []byte, err error) {
	head, err := p.take(5)
	if err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxState {
		return 0, nil, fmt.Errorf("%w: a word of %d bytes", errPair, n)
	}
	body, err = p.take(int(n))
	return head[0], body, err
}

// take reads n bytes, keeping the descriptors that ride with them.
func (p *pairLink) take(n int) ([]byte, error) {
	b := make([]byte, n)
	oob := make([]byte, unix.CmsgSpace(4*253))
	for got := 0; got < n; {
		m, oobn, flags, _, err := p.conn.ReadMsgUnix(b[got:], oob)
		p.fds = append(p.fds, rights(oob[:oobn])...)
		switch {
		case err == nil && m == 0:
			err = io.ErrUnexpectedEOF
		case err == nil && flags&unix.MSG_CTRUNC != 0:
			err = errCut
		}
		if err != nil {
			closeAll(p.fds)
			p.fds = nil
			return nil, fmt.Errorf("%w: %w", errPair, err)
		}
		got += m
	}
	return b, nil
}

func (p *pairLink) files(names []byte) (files []Kept, err error) {
	for len(names) > 0 {
		i := 0
		for i < len(names) && names[i] != 0 {
			i++
		}
		if len(p.fds) == 0 || i == len(names) {
			return files, errCut
		}
		name := string(names[:i])
		files = append(files, Kept{name, os.NewFile(uintptr(p.fds[0]), name)})
		p.fds, names = p.fds[1:], names[i+1:]
	}
	return files, nil
}
