package sessions

import (
	"context"
	"testing"
	"time"

	"callswitch/codecore"
)

// What only the Runner can know is not taken from the bus: a forged Located
// would send a call anywhere.
func TestLocatedIsNotTakenFromOutside(t *testing.T) {
	if fromOutside(Delivery{Event: codecore.Box(codecore.Located{Target: "sip:x@y"})}) {
		t.Error("a Located from the bus is believed")
	}
}

// Without a directory there are no accounts.
func TestLocateByDefault(t *testing.T) {
	c := Config{}.withDefaults()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if l := c.Locate(ctx, "bob"); l.Reason != "unknown-account" || c.LocateWait != 2*time.Second {
		t.Errorf("%+v, %v", l, c.LocateWait)
	}
}
