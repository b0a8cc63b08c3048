package nats

import (
	"testing"

	"callswitch/sessions"
	"callswitch/sessions/sessionstest"
)

func TestStoreConforms(t *testing.T) {
	sessionstest.Store(t, func(t *testing.T) sessions.Store { return NewStore(single(t), StoreConfig{Patience: patient}) })
}

func TestStoreConformsOnThreeServers(t *testing.T) {
	sessionstest.Store(t, func(t *testing.T) sessions.Store { return NewStore(three(t), StoreConfig{Patience: patient}) })
}

func TestBusConforms(t *testing.T) {
	url, _ := serve(t, t.TempDir(), nil)
	sessionstest.Bus(t, func(t *testing.T) sessions.Bus { return connect(t, url) })
}
