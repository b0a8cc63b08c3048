package edge

import (
	"strings"
	"time"
)

// knownSlack is how many bytes longer than its request a stateless answer to a
// known peer may be over UDP: its address can be forged like any other. Allow,
// Accept and a Reason fit.
const knownSlack = 256

// refuse answers a request statelessly (RFC 3261 8.2.7), if it can be answered.
// The reason code goes along (RFC 3326). Over UDP an answer to a source that we
// do not know is never longer than its request, so that nobody is flooded by us
// for less than it costs the sender: first the Reason goes, then the long names,
// then the answer.
func (e *Edge) refuse(f flow, p *packet, code int, why reason, extra ...string) {
	if !p.replyable() {
		return
	}
	tag := e.ids.sum(16, "stateless", p.callID, p.fromTag)
	most := p.size
	if p.known {
		most += knownSlack
	}
	if code >= 300 {
		full := append(extra[:len(extra):len(extra)], "Reason", reasonHeader(code, why.String()))
		if b := reply(&p.msg, code, tag, full...); f.link.reliable() || len(b) <= most {
			e.write(f, b)
			return
		}
	}
	b := reply(&p.msg, code, tag, extra...)
	if len(b) > most && len(extra) == 0 {
		b = shortReply(&p.msg, code, tag)
	}
	if !f.link.reliable() && len(b) > most {
		e.stats.count(tooLong)
		return
	}
	e.write(f, b)
}

// onStranger answers a request of a source that no peer of the dialplan has:
// 403, and nothing at all to a scanner, which then has nothing to note down.
func (e *Edge) onStranger(f flow, p *packet, now time.Time) {
	if isScanner(p.msg.Get("User-Agent")) {
		e.complain(f.remote, scanner, now)
		return
	}
	e.complain(f.remote, stranger, now)
	e.refuse(f, p, 403, stranger)
}

// scanners are words in the User-Agent of the tools that search the internet for
// open switches. They change it when they like: this counts the lazy ones.
var scanners = []string{
	"friendly-scanner", "friendly-request", "sipvicious", "sip-scan", "sundayddr", "iwar", "sipcli", "smap", "sivus",
	"vaxsipuseragent", "vaxasip", "pplsip", "nmap", "gulp", "sipptk", "masscan",
}

func isScanner(agent string) bool {
	agent = strings.ToLower(agent)
	for _, s := range scanners {
		if strings.Contains(agent, s) {
			return true
		}
	}
	return false
}
