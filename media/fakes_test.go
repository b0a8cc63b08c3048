package media

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"callswitch/codecore"
	"callswitch/sessions"
)

// memBus is a bus within the process.
type memBus struct {
	mu   sync.Mutex
	subs map[string]map[*memSub]func(sessions.Msg)
	n    atomic.Int64
}

type memSub struct {
	b       *memBus
	subject string
}

func (s *memSub) Unsubscribe() error {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	delete(s.b.subs[s.subject], s)
	return nil
}

func (b *memBus) handlers(subject string) (hs []func(sessions.Msg)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, h := range b.subs[subject] {
		hs = append(hs, h)
	}
	return hs
}

func (b *memBus) Publish(subject string, data []byte) error {
	for _, h := range b.handlers(subject) {
		h(sessions.Msg{Subject: subject, Data: data})
	}
	return nil
}

func (b *memBus) Request(ctx context.Context, subject string, data []byte) ([]byte, error) {
	hs := b.handlers(subject)
	if len(hs) == 0 {
		return nil, sessions.ErrNoResponders
	}
	reply := fmt.Sprint("reply.", b.n.Add(1))
	got := make(chan []byte, 1)
	sub, _ := b.Subscribe(reply, "", func(m sessions.Msg) { got <- m.Data })
	defer sub.Unsubscribe()
	go hs[0](sessions.Msg{Subject: subject, Reply: reply, Data: data})
	select {
	case data := <-got:
		return data, nil
	case <-ctx.Done():
		return nil, sessions.ErrTimeout
	}
}

func (b *memBus) Subscribe(subject, _ string, h func(sessions.Msg)) (sessions.Subscription, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.subs == nil {
		b.subs = map[string]map[*memSub]func(sessions.Msg){}
	}
	if b.subs[subject] == nil {
		b.subs[subject] = map[*memSub]func(sessions.Msg){}
	}
	s := &memSub{b, subject}
	b.subs[subject][s] = h
	return s, nil
}

func (b *memBus) Mailbox(func(sessions.Msg)) sessions.Mailbox { panic("media needs no mailbox") }
func (b *memBus) Flush(context.Context) error                 { return nil }
func (b *memBus) OnReconnect(func())                          {}

// memLegs is a LegStore with compare-and-set, and a switch to be away.
type memLegs struct {
	mu     sync.Mutex
	recs   map[codecore.CallID]memRec
	rev    uint64
	writes int
	away   bool
}

type memRec struct {
	body []byte
	rev  uint64
}

func (s *memLegs) Put(_ context.Context, _ string, call codecore.CallID, body []byte, rev uint64) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return 0, sessions.ErrUnavailable
	}
	if s.recs[call].rev != rev {
		return 0, sessions.ErrConflict
	}
	if s.recs == nil {
		s.recs = map[codecore.CallID]memRec{}
	}
	s.rev++
	s.writes++
	s.recs[call] = memRec{body, s.rev}
	return s.rev, nil
}

func (s *memLegs) Get(_ context.Context, _ string, call codecore.CallID) ([]byte, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.recs[call]
	switch {
	case s.away:
		return nil, 0, sessions.ErrUnavailable
	case !ok:
		return nil, 0, sessions.ErrNotFound
	}
	return r.body, r.rev, nil
}

func (s *memLegs) Scan(_ context.Context, _ string, fn func(codecore.CallID, []byte, uint64) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return sessions.ErrUnavailable
	}
	for id, r := range s.recs {
		if err := fn(id, r.body, r.rev); err != nil {
			return err
		}
	}
	return nil
}

func (s *memLegs) Delete(_ context.Context, _ string, call codecore.CallID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return sessions.ErrUnavailable
	}
	delete(s.recs, call)
	return nil
}

// reach has the store there or away.
func (s *memLegs) reach(there bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = !there
}

func (s *memLegs) count() (records, writes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.recs), s.writes
}

// memKeeper duplicates descriptors as a host would.
type memKeeper struct {
	mu   sync.Mutex
	kept map[string]*os.File
}

func (k *memKeeper) Keep(name string, f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) {
		dup, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			panic(err)
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.kept == nil {
			k.kept = map[string]*os.File{}
		}
		if old := k.kept[name]; old != nil { // of the process before
			_ = old.Close()
		}
		k.kept[name] = os.NewFile(uintptr(dup), name)
	})
}

func (k *memKeeper) Drop(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f := k.kept[name]; f != nil {
		f.Close()
		delete(k.kept, name)
	}
}

func (k *memKeeper) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.kept)
}

// hand gives all sockets to the next generation and keeps duplicates itself.
func (k *memKeeper) hand() map[string]*os.File {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := map[string]*os.File{}
	for name, f := range k.kept {
		dup, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			panic(err)
		}
		out[name] = os.NewFile(uintptr(dup), name)
	}
	return out
}

func (k *memKeeper) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, f := range k.kept {
		f.Close()
	}
	k.kept = nil
}
