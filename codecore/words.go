package codecore

import (
	"errors"
	"strconv"
)

// allowed is the true Allow list (RFC 3261 20.5).
const allowed = "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, PRACK, UPDATE, REFER"

func formatCSeq(n uint32, method string) string {
	return strconv.FormatUint(uint64(n), 10) + " " + method
}

// phrases are the reason phrases of RFC 3261 21 and of its extensions.
var phrases = map[int]string{
	180: "Ringing", 181: "Call Is Being Forwarded", 182: "Queued", 183: "Session Progress", 200: "OK", 202: "Accepted",
	301: "Moved Permanently", 302: "Moved Temporarily",
	400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 406: "Not Acceptable", 408: "Request Timeout", 410: "Gone",
	415: "Unsupported Media Type", 420: "Bad Extension", 421: "Extension Required", 422: "Session Interval Too Small", 433: "Anonymity Disallowed",
	480: "Temporarily Unavailable", 481: "Call/Transaction Does Not Exist", 482: "Loop Detected", 483: "Too Many Hops", 484: "Address Incomplete",
	485: "Ambiguous", 486: "Busy Here", 487: "Request Terminated", 488: "Not Acceptable Here", 491: "Request Pending",
	500: "Server Internal Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable", 504: "Server Time-out", 580: "Precondition Failure",
	600: "Busy Everywhere", 603: "Decline", 604: "Does Not Exist Anywhere", 606: "Not Acceptable", 607: "Unwanted",
}

// phrase is that of a status.
func phrase(status int) string {
	if p := phrases[status]; p != "" {
		return p
	}
	switch status / 100 {
	case 1:
		return "Progress"
	case 2:
		return "OK"
	case 3:
		return "Redirection"
	case 4:
		return "Client Error"
	case 5:
		return "Server Error"
	}
	return "Global Failure"
}

// mapped is the status that the caller gets for a failure of the callee. What
// speaks of our relation to the callee (3xx, 401, 407, 503, …) is not his.
func mapped(status int) int {
	switch {
	case status < 400:
		return 480
	case status == 401 || status == 407: // we are not let in: not the caller's password
		return 403
	case status == 487: // we did not cancel: the callee's side gave up
		return 480
	case status == 503:
		return 500 // RFC 3261 16.7: or the caller would shun us
	case status == 421 || status == 422 || status == 481 || status == 482 || status == 483:
		return 500
	}
	return status
}

// mappedInside is the status that a party gets for the other's answer to a
// request inside the dialog. What would end his own dialog is not passed on.
func mappedInside(status int) int {
	switch {
	case status < 300, status == 487, status == 488, status == 491:
		return status
	case status < 400, status == 401, status == 407, status == 408:
		return 500
	}
	if status = mapped(status); status == 480 {
		return 500
	}
	return status
}

// resultOf names the outcome of an unanswered call for its CDR.
func resultOf(status int) string {
	switch status {
	case 486, 600:
		return "busy"
	case 487:
		return "cancelled"
	case 408, 480:
		return "no-answer"
	}
	return "failed"
}

// refusals are the answers to an SDP that cannot be used, and their reason codes;
// 400 and sdp-malformed for any other. Codes are never renamed.
var refusals = []struct {
	err   error
	cause string
}{
	{ErrSecure, "sdp-secure"},
	{ErrPlain, "srtp-required"},
	{ErrNoAudio, "sdp-no-audio"},
	{ErrMismatch, "sdp-mismatch"},
	{ErrCodec, "no-codec"},
	{ErrSuite, "sdp-suite"},
	{ErrFingerprint, "sdp-fingerprint"},
	{ErrHash, "sdp-hash"},
	{ErrMux, "sdp-rtcp-mux"},
	{ErrICE, "sdp-ice"},
	{ErrSetup, "sdp-setup"},
	{ErrFamily, "sdp-family"},
	{ErrName, "sdp-name"},
	{ErrCandidates, "sdp-candidates"},
}

func statusOf(err error) (int, string) {
	for _, r := range refusals {
		if errors.Is(err, r.err) {
			return 488, r.cause
		}
	}
	return 400, "sdp-malformed"
}
