package loadtest

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What was read late came when it came.
func TestArrivalIsTheKernels(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Bind(fd, sockaddrOf(netip.MustParseAddrPort("127.0.0.1:0"))); err != nil {
		t.Fatal(err)
	}
	if err := stampArrivals(fd); err != nil {
		t.Fatal(err)
	}
	self, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	buf, oob := make([]byte, 8), make([]byte, oobLen)
	var said int
	// The kernel begins to stamp a little after it is told to: until then a packet is
	// stamped when it is read.
	for end := time.Now().Add(20 * time.Second); ; {
		before := time.Now()
		if err := unix.Sendto(fd, []byte("x"), 0, self); err != nil {
			t.Fatal(err)
		}
		after := time.Now()
		var n int
		if n, said, _, _, err = unix.Recvmsg(fd, buf, oob, 0); err != nil || n != 1 {
			t.Fatal(n, err)
		}
		at := arrival(oob[:said], after.Add(time.Hour))
		if at.Before(before.Round(0)) || time.Now().After(end) {
			t.Fatalf("came at %v, was sent between %v and %v", at, before, after)
		}
		if !at.After(after.Round(0)) {
			break
		}
	}
	after := time.Now()
	if at := arrival(nil, after); at != after {
		t.Error(at)
	}
	if at := arrival(oob[:5], after); at != after {
		t.Error(at)
	}
}
