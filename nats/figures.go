package nats

import "github.com/nats-io/nats-server/v2/server"

// Figures are what the embedded server holds now.
type Figures struct {
	Subscriptions int
	Connections   int
	Messages      map[string]uint64 // stored, by stream
}

func figuresOf(s *server.Server) Figures {
	f := Figures{Subscriptions: int(s.NumSubscriptions()), Connections: s.NumClients(), Messages: map[string]uint64{}}
	js, err := s.Jsz(&server.JSzOptions{Accounts: true, Streams: true})
	if err != nil {
		return f // JetStream is starting or has gone
	}
	for _, a := range js.AccountDetails {
		for _, st := range a.Streams {
			f.Messages[st.Name] = st.State.Msgs
		}
	}
	return f
}
