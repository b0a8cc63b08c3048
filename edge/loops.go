package edge

import (
	"hash/maphash"
)

// mergeSeed keys the index of open INVITEs.
var mergeSeed = maphash.MakeSeed()

// mergeKey is what the copies of a request that came by several ways have in
// common (RFC 3261 8.2.2.2); 0 for one that cannot be such a copy.
func mergeKey(p *packet) uint64 {
	if p.toTag != "" || p.fromTag == "" || p.msg.Method != "INVITE" {
		return 0
	}
	return max(1, maphash.String(mergeSeed, p.callID+"\x00"+p.fromTag+"\x00"+p.cseq))
}

// callHash tells the dialogs of a call apart: two parties may number alike.
func callHash(callID string) uint64 { return maphash.String(mergeSeed, callID) }

// looping finds what makes a new INVITE one that we should have had once only:
// a copy of one that is being served (RFC 3261 8.2.2.2), or our own request
// come back with the Request-URI that it left with (16.3; with another one it is
// a spiral, which Max-Forwards bounds). Requests of other edges of the cluster
// are not seen. e.mu is held.
func (e *Edge) looping(p *packet) reason {
	if key := mergeKey(p); key != 0 {
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
