// Package codecore is the code that a release replaces: the logic of one call.
//
// It is pure. [Step] takes the state of one call, the time and one event, and
// returns the next state and the actions to perform. It opens no socket, reads
// no clock, draws no random number and starts no goroutine, so the same inputs
// give the same outputs on every worker, and a call can move between workers
// after any event.
//
// The name means the core of the code, not the core of a codec: which codec a
// call uses is decided here (offer.go); the samples are treated in media/codec.
package codecore
