package host

import (
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// keptFile is a descriptor of somebody's socket. It is closed when it has been
// dropped and is on its way to nobody.
type keptFile struct {
	fd   int
	role string       // of its keeper
	refs atomic.Int32 // the table's, and one for each message it waits in
}

func (k *keptFile) release() {
	if k.refs.Add(-1) == 0 {
		_ = unix.Close(k.fd)
	}
}

// keptFiles are the descriptors by name. They stay when their keeper dies, until
// somebody drops them or keeps another under the same name.
type keptFiles struct {
	files map[string]*keptFile
	limit int
}

// keep takes fd over. false: there are too many, it was closed.
func (k *keptFiles) keep(name, role string, fd int) bool {
	k.drop(name)
	if len(k.files) >= k.limit {
		_ = unix.Close(fd)
		return false
	}
	f := &keptFile{fd: fd, role: role}
	f.refs.Store(1)
	k.files[name] = f
	return true
}

func (k *keptFiles) drop(name string) {
	if f := k.files[name]; f != nil {
		delete(k.files, name)
		f.release()
	}
}

// under lists the names that begin so, in order.
func (k *keptFiles) under(prefix string) []string {
	var names []string
	for name := range k.files {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// take returns the files of names, each with a reference for the caller.
func (k *keptFiles) take(names []string) []*keptFile {
	files := make([]*keptFile, len(names))
	for i, name := range names {
		files[i] = k.files[name]
		files[i].refs.Add(1)
	}
	return files
}

// count tells how many each role has kept.
func (k *keptFiles) count() map[string]int {
	n := map[string]int{}
	for _, f := range k.files {
		n[f.role]++
	}
	return n
}

func (k *keptFiles) closeAll() {
	for _, name := range k.under("") {
		k.drop(name)
	}
}
