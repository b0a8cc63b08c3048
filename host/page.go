package host

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The in-hand page is memory that a child shares with the host (a memfd), so
// that its last words are read after any kind of death. 128 slots of 128 bytes:
// 8 bytes length (0: free; native order, written last, atomically), then text.
const (
	pageSlots = 128
	slotSize  = 128
	slotText  = slotSize - 8
	pageSize  = pageSlots * slotSize
)

type page struct {
	file *os.File
	mem  []byte

	mu   sync.Mutex
	free []int
}

func newPage() (*page, error) {
	fd, err := unix.MemfdCreate("in-hand", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("host: in-hand page: %w", err)
	}
	f := os.NewFile(uintptr(fd), "in-hand")
	if err := unix.Ftruncate(fd, pageSize); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("host: in-hand page: %w", err)
	}
	mem, err := unix.Mmap(fd, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("host: in-hand page: %w", err)
	}
	p := &page{file: f, mem: mem}
	for i := range pageSlots {
		p.free = append(p.free, pageSlots-1-i)
	}
	return p, nil
}

func (p *page) length(slot int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&p.mem[slot*slotSize])) // 8-aligned: pages are
}

// note writes text into a free slot until the function returned is called. With
// all slots taken, or the page closed, it is not noted.
func (p *page) note(text string) (end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) == 0 {
		return func() {}
	}
	slot := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	n := copy(p.mem[slot*slotSize+8:(slot+1)*slotSize], text)
	p.length(slot).Store(uint64(n))
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.mem != nil {
			p.length(slot).Store(0)
			p.free = append(p.free, slot)
		}
	})
}

func (p *page) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = unix.Munmap(p.mem)
	_ = p.file.Close()
	p.mem, p.free = nil, nil
}

// readPage returns what a page names. The page is another process's: nothing in
// it is trusted.
func readPage(fd int) (texts []string) {
	b := make([]byte, pageSize)
	if n, err := unix.Pread(fd, b, 0); err != nil || n != pageSize {
		return nil
	}
	for s := range pageSlots {
		slot := b[s*slotSize : (s+1)*slotSize]
		if n := binary.NativeEndian.Uint64(slot); n > 0 && n <= slotText {
			texts = append(texts, string(slot[8:8+n]))
		}
	}
	return texts
}
