package nats

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// TestGatherWritesWhatIsReadyAtOnce: order is kept, what waits leaves with what
// does not, and alone after a while; Close leaves nothing behind.
func TestGatherWritesWhatIsReadyAtOnce(t *testing.T) {
	near, far := pair(t)
	g := newGather(near)
	read := func(want string) {
		t.Helper()
		_ = far.SetReadDeadline(time.Now().Add(20 * time.Second))
		got := make([]byte, len(want))
		if _, err := io.ReadFull(far, got); err != nil || string(got) != want {
			t.Fatalf("read %q (%v), want %q", got, err, want)
		}
	}
	write := func(p string) {
		t.Helper()
		if n, err := g.Write([]byte(p)); n != len(p) || err != nil {
			t.Fatalf("Write: %d, %v", n, err)
		}
	}
	write("SUB call.a.in  1\r\n")
	write("PING\r\n")
	read("SUB call.a.in  1\r\nPING\r\n")
	write("UNSUB 1 \r\n")
	read("UNSUB 1 \r\n")
	write("SUB call.b.in  2\r\n")
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	read("SUB call.b.in  2\r\n")
	if _, err := g.Write([]byte("PING\r\n")); err == nil {
		t.Error("written after Close")
	}
}

// TestGatherHoldsBackItsWriters: a server that reads nothing costs a bounded
// amount of memory, and the end of the connection frees who waits.
func TestGatherHoldsBackItsWriters(t *testing.T) {
	near, _ := pair(t)
	g := newGather(near)
	var wg sync.WaitGroup
	full := make(chan struct{})
	wg.Go(func() {
		p := make([]byte, 64<<10)
		for {
			if _, err := g.Write(p); err != nil {
				return
			}
			g.mu.Lock()
			if len(g.buf) > maxGathered {
				select {
				case <-full:
				default:
					close(full)
				}
			}
			if len(g.buf) > maxGathered+len(p) {
				t.Errorf("%d bytes wait", len(g.buf))
			}
			g.mu.Unlock()
		}
	})
	<-full
	_ = g.Close()
	wg.Wait()
}

// TestGatherGivesUpAServerThatTakesNothing: nobody else would. The client library
// holds the lock that its pings need for as long as a write waits.
func TestGatherGivesUpAServerThatTakesNothing(t *testing.T) {
	near, _ := pair(t)
	g := newGather(near)
	g.wait = 50 * time.Millisecond
	p := make([]byte, 64<<10)
	for {
		if _, err := g.Write(p); err != nil {
			break
		}
	}
	if _, err := near.Read(p); err == nil {
		t.Error("the connection is not closed")
	}
}

func TestMayWait(t *testing.T) {
	for p, want := range map[string]bool{
		"SUB call.a.in  1\r\n": true, "UNSUB 7 \r\n": true, "UNSUB 7 1\r\n": true,
		"SUB _INBOX.x.*  1\r\n": false, "SUB docs.plan  1\r\n": false, "PING\r\n": false,
		"UNSUB 7 \r\nPING\r\n": false, "SUB call.a.in  1\r\nPUB x 0\r\n\r\n": false, "": false,
	} {
		if mayWait([]byte(p)) != want {
			t.Errorf("%q may wait: %v", p, !want)
		}
	}
}

func TestPlainAck(t *testing.T) {
	for p, want := range map[string]uint64{
		`{"stream":"REC","seq":439}`: 439, `{"stream":"REC","seq":18446744073709551615}`: 1<<64 - 1,
		`{"stream":"REC","seq":439,"duplicate":true}`: 0, `{"stream":"REC","seq":}`: 0, `{"stream":"REC","seq":4`: 0,
		`{"error":{"code":400},"stream":"REC","seq":0}`: 0, `{"stream":"R\"C","seq":1}`: 0, ``: 0, `{"stream":"`: 0,
	} {
		if seq, ok := plainAck([]byte(p)); seq != want || ok != (want > 0) {
			t.Errorf("%s: %d, %v", p, seq, ok)
		}
	}
}

// pair is a TCP connection's two ends.
func pair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = near.Close(); _ = far.Close() })
	return near, far
}
