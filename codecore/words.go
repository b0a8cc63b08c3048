package codecore

import (
	"errors"
	"fmt"
	"strconv"
)

// allowed is the true Allow list (RFC 3261 20.5).
const allowed = "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, PRACK, UPDATE, REFER"

func formatCSeq(n uint32, method string) string {
	return strconv.FormatUint(uint64(n), 10) + " " + method
}

// reason says why, in words and with a stable code (RFC 3326).
func reason(status int, cause string) Header {
	return Header{"Reason", fmt.Sprintf("SIP;cause=%d;text=%q", status, cause)}
}

// phrase is the reason phrase of a status (RFC 3261 21).
func phrase(status int) string {
	switch status {
	case 180:
		return "Ringing"
	case 181:
		return "Call Is Being Forwarded"
	case 182:
		return "Queued"
	case 183:
		return "Session Progress"
	case 200:
		return "OK"
	case 202:
		return "Accepted"
	case 400:
		return "Bad Request"
	case 403:
		return "Forbidden"
	case 404:
		return "Not Found"
	case 405:
		return "Method Not Allowed"
	case 408:
		return "Request Timeout"
	case 415:
		return "Unsupported Media Type"
	case 422:
		return "Session Interval Too Small"
	case 421:
		return "Extension Required"
	case 420:
		return "Bad Extension"
	case 480:
		return "Temporarily Unavailable"
	case 481:
		return "Call/Transaction Does Not Exist"
	case 482:
		return "Loop Detected"
	case 483:
		return "Too Many Hops"
	case 486:
		return "Busy Here"
	case 487:
		return "Request Terminated"
	case 488:
		return "Not Acceptable Here"
	case 491:
		return "Request Pending"
	case 500:
		return "Server Internal Error"
	case 503:
		return "Service Unavailable"
	case 504:
		return "Server Time-out"
	case 600:
		return "Busy Everywhere"
	case 603:
		return "Decline"
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
