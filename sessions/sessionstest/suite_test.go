package sessionstest_test

import (
	"testing"

	"callswitch/sessions"
	"callswitch/sessions/sessionstest"
)

func TestMemStore(t *testing.T) {
	sessionstest.Store(t, func(*testing.T) sessions.Store { return sessions.NewMemStore() })
}

func TestMemBus(t *testing.T) {
	sessionstest.Bus(t, func(*testing.T) sessions.Bus { return sessionstest.NewBus(1) })
}
