// Package registrant keeps the switch registered at its carriers (RFC 3261
// section 10.2, as a client): one record for each trunk of the dialplan that has
// a registrar, with one owner in the whole cluster, which refreshes it, answers
// challenges, backs off, and removes the binding when the trunk leaves the plan.
// It sends nothing itself and knows no password: a REGISTER is an action of a
// call that has no legs, for an edge to perform (R3 of handoff/design.md), and
// the edge computes the answers to challenges.
//
//	absent --plan names a registrar--> asking --2xx--> bound --refresh due--> asking
//	asking --401, 407, 423-----------> asking, CSeq + 1
//	asking --other failure, time-out-> waiting --back-off--> asking
//	any ----plan names it no more----> leaving --Expires: 0 answered, or given up--> absent
//
// How it is owned is as with calls (sessions, handoff): every change is one
// compare-and-set of owner, epoch and n; saved, then acted upon; what was decided
// and not yet confirmed is in the record, so a successor repeats it byte for
// byte: the same branch and CSeq, at the registrar a retransmission. Call-ID
// and CSeq outlive owners, edges and a restart of everything.
package registrant
