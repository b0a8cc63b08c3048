package loadtest

// releases tells releases apart by the digests of their executables: two may
// well have one name (the last release and the tree, right after a cut).
type releases struct {
	names  map[string]string // by digest
	owners map[string]string // digest by worker, those too that have left
}

func newReleases() releases {
	return releases{names: map[string]string{}, owners: map[string]string{}}
}

// brief is how much of a digest tells releases apart; the API may say no more.
const brief = 12

func cut(digest string) string { return digest[:min(len(digest), brief)] }

// same compares digests of which one may be cut short. Nothing is like "".
func same(a, b string) bool { return a != "" && cut(a) == cut(b) }

func (r releases) name(digest, name string) { r.names[cut(digest)] = name }

func (r releases) owner(p Process) {
	r.owners[p.ID] = cut(p.Digest)
	r.name(p.Digest, p.Release)
}

// of is the digest of a worker that was seen; "": it was not.
func (r releases) of(owner string) string { return r.owners[owner] }

// show is a release's name for people, with its digest where the name does not do.
func (r releases) show(digest string) string {
	name := r.names[cut(digest)]
	for other, n := range r.names {
		if n == name && !same(other, digest) {
			return name + " " + digest[:min(len(digest), 6)]
		}
	}
	return name
}
