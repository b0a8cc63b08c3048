package codecore

// Schema 2 adds to schema 1 (v0.1.0) and changes nothing of it: what is new is
// left out while it is not in use, so a call that uses none of it is stored in
// schema 1 and can go back to v0.1.0.

// released lists every schema change since schema 1, oldest first. Entries are
// appended, never edited: records in the field depend on them.
var released = []Migration{
	{Name: "0002_depth", Adds: added},
	// -- add new migrations here --
}

// added names the first thing in use that schema 1 cannot say; "" is none. It
// looks at every stored field that is new, and at new values of old ones.
// schema_2_test.go holds it to that.
func added(p *stored) string {
	legs := append([]storedLeg{p.A, p.B}, p.More...)
	for _, l := range legs {
		if l.Name != "" || l.Slot != "" || l.Target != "" || l.Peer != "" || l.Leaving {
			return "legs"
		}
	}
	if len(p.More) > 0 {
		return "legs"
	}
	for _, l := range legs {
		if l.AckDue != 0 {
			return "delayed-offer"
		}
		for _, t := range l.Cli {
			if t.Bare {
				return "delayed-offer"
			}
		}
	}
	return ""
}
