// Package sessionstest has the conformance suites of sessions.Store and
// sessions.Bus, and a Bus inside one process with switchable faults. It is for
// tests: nothing in the switch imports it.
package sessionstest
