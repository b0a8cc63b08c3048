package sessions

import (
	"context"
	"errors"
)

// Msg is one message of the bus.
type Msg struct {
	Subject string
	Reply   string // subject for the answer, "" = none wanted
	Data    []byte // an envelope, see internal/wire
}

// Errors of a Bus.
var (
	ErrNoResponders = errors.New("sessions: nobody listens")
	ErrTimeout      = errors.New("sessions: no answer in time")
	ErrBusAway      = errors.New("sessions: bus is away")
)

// Bus carries messages between processes: at most once, unordered between
// senders. Everything that must not be lost is sent again by its sender.
type Bus interface {
	Publish(subject string, data []byte) error
	// Request waits for one answer, until ctx ends (ErrTimeout).
	Request(ctx context.Context, subject string, data []byte) ([]byte, error)
	// Subscribe calls h for each message, one at a time per subscription.
	// queue "" means every subscriber gets it.
	Subscribe(subject, queue string, h func(Msg)) (Subscription, error)
	// Mailbox feeds many subjects into one handler (no goroutine per subject).
	Mailbox(h func(Msg)) Mailbox
	// Flush returns when the server has seen all that was sent and subscribed.
	Flush(ctx context.Context) error
	// OnReconnect registers a callback for each time the bus comes back.
	OnReconnect(func())
}

// Subscription is one interest.
type Subscription interface{ Unsubscribe() error }

// Mailbox is a set of subjects with one handler, called one message at a time.
type Mailbox interface {
	Add(subject string) (Subscription, error)
	Close() error
}
