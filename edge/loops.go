package edge

// mergeKey is what the copies of a request that came by several ways have in
// common (RFC 3261 8.2.2.2); 0 for one that cannot be such a copy.
func (i *ids) mergeKey(p *packet) uint64 {
	if p.toTag != "" || p.fromTag == "" || p.msg.Method != "INVITE" {
		return 0
	}
	return max(1, i.number("merge", p.callID, p.fromTag, p.cseq))
}

// callHash tells the dialogs of a call apart: two parties may number alike.
func (i *ids) callHash(callID string) uint64 { return i.number("dialogs", callID) }

// looping finds what makes a new INVITE one that we should have had once only:
// a copy of one that is being served (RFC 3261 8.2.2.2), or our own request
// come back with the Request-URI that it left with (16.3; with another one it is
// a spiral, which Max-Forwards bounds). Requests of other edges of the cluster
// are not seen. e.mu is held.
func (e *Edge) looping(p *packet) reason {
	if key := e.ids.mergeKey(p); key != 0 {
		if tx := e.merge[key]; tx != nil && !tx.final {
			return merged
		}
	}
	if p.msg.Method != "INVITE" || p.toTag != "" {
		return okay
	}
	for _, branch := range p.branches {
		if tx := e.client[clientKey(branch, "INVITE")]; tx != nil && tx.req != nil && tx.req.Msg.URI == p.msg.URI {
			return looped
		}
	}
	return okay
}
