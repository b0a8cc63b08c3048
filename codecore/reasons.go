package codecore

import "slices"

// reasonCodes are why the call logic refuses something or ends a call: reasons.md
// says when. In order. Never rename one: they stand in CDRs, headers and metrics.
var reasonCodes = []string{
	"accept", "aside", "callee", "circuit-open", "content-type", "cseq", "dialog-lost", "dialog-over", "directory-away",
	"early-dialog", "early-only", "expired", "extension", "glare", "invite-in-progress", "legs-out", "max-call",
	"max-forwards", "media-away", "method", "no-ack", "no-answer", "no-codec", "no-contact", "no-dialog", "no-dialplan",
	"no-flow", "no-offer", "no-peer-dialog", "no-plain-codec", "no-prack", "no-reliable-response", "no-response",
	"no-route", "no-transaction", "not-its-call", "not-registered", "offer-in-progress", "operator", "ports-out",
	"redirect-depth", "redirect-loop", "redirect-refused", "refer-to", "replaces", "rtp-timeout", "sdp-answer",
	"sdp-candidates", "sdp-family", "sdp-fingerprint", "sdp-hash", "sdp-ice", "sdp-malformed", "sdp-mismatch",
	"sdp-name", "sdp-no-audio", "sdp-offer", "sdp-rtcp-mux", "sdp-secure", "sdp-setup", "sdp-suite", "service", "session-expired",
	"session-interval", "set-aside", "srtp-no-fax", "srtp-required", "too-many", "too-many-legs", "transfer-failed",
	"transfer-under-way", "trunk-auth", "trunk-full", "trunk-rate", "unknown-account", "unreachable",
}

// Reasons are the codes of reasons.md.
func Reasons() []string { return slices.Clone(reasonCodes) }

// IsReason tells whether a cause is one of reasons.md: an operator may give any
// word as the cause of a hang-up.
func IsReason(cause string) bool {
	_, found := slices.BinarySearch(reasonCodes, cause)
	return found
}
