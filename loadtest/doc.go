// Package loadtest is the far end of the switch: callers and callees that
// speak SIP and RTP, a fault injector, the demo and the bench. It judges the
// switch only by what can be seen from outside (SIP, RTP, the HTTP API, the
// process table) and so does not import, nor believe, any package of the switch.
package loadtest
