// Package host starts the processes of one node, starts them again when they
// die, keeps duplicates of their sockets for their successors, and tells each of
// them at once when another one ends. It does not know what its children do:
// there is no telephone word in it, and nothing in it can lose a call.
//
// The host is the one process that a release does not replace, so it is small
// and may be killed: children run in process groups of their own and outlive
// it. A new host finds them in run/host.json, watches them through pidfds, and
// takes them back when they connect to run/host.sock (package client: Dial),
// where they give it their descriptors again.
//
//	          +--------- crash, back-off ----------+
//	          v                                    |
//	waiting -----> running --- Stop, hung ---> stopping
//	   ^              |                            |
//	   |              | too many restarts          v
//	given up <--------+                          (gone)
//
// Messages on the socket are lines of JSON; descriptors ride with them
// (SCM_RIGHTS, at most 200 in a message). Only processes of the host's own user,
// or root's, are listened to (SO_PEERCRED).
package host
