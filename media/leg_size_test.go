package media

import (
	"testing"
	"unsafe"
)

// There are two legs to a call, and thousands of calls: what only some legs need
// (another numbering, sources on probation, early packets) is allocated for them.
func TestALegIsSmall(t *testing.T) {
	const most = 576 // a size class of the allocator
	if n := unsafe.Sizeof(leg{}); n > most {
		t.Errorf("a leg is %d bytes, want at most %d", n, most)
	} else {
		t.Logf("%d bytes", n)
	}
}
