package edge

import (
	"strings"
	"testing"

	"callswitch/codecore"
)

func TestTagReader(t *testing.T) {
	t.Parallel()
	key := []byte("a key of the cluster, 32 bytes..")
	id := codecore.CallID(strings.Repeat("0a", 12))
	tag := newIDs(key).token(id) + ".1234"
	if got, ok := TagReader(key)(tag); !ok || got != id {
		t.Errorf("%q, %v", got, ok)
	}
	for _, bad := range []string{"", string(id), tag[:30], "f" + tag[1:], string(id) + strings.Repeat("0", macLen) + ".1"} {
		if got, ok := TagReader(key)(bad); ok || got != "" {
			t.Errorf("%q is taken for %q", bad, got)
		}
	}
	if _, ok := TagReader([]byte("another cluster's key, 32 bytes."))(tag); ok {
		t.Error("a tag of another cluster is taken")
	}
}
