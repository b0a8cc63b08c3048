package main

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
)

// TestListIsReadToItsEnd: one message cannot list 4,000 calls.
func TestListIsReadToItsEnd(t *testing.T) {
	for _, n := range []int{0, 1, listPage, listPage + 1, 4000} {
		var all []sessions.CallInfo
		for i := range n {
			all = append(all, sessions.CallInfo{ID: codecore.CallID(fmt.Sprintf("%05d", i))})
		}
		asked, got := 0, map[codecore.CallID]int{}
		err := pages(func(after codecore.CallID) ([]sessions.CallInfo, error) {
			asked++
			var page []sessions.CallInfo
			for _, c := range all {
				if c.ID > after && len(page) < listPage {
					page = append(page, c)
				}
			}
			return page, nil
		}, func(c sessions.CallInfo) { got[c.ID]++ })
		if err != nil || len(got) != n || asked != n/listPage+1 {
			t.Errorf("%d calls: %d listed in %d pages, %v", n, len(got), asked, err)
		}
	}
}

type aliveUntil struct{ dead chan struct{} }

func (a aliveUntil) Alive(string) bool {
	select {
	case <-a.dead:
		return false
	default:
		return true
	}
}

// TestNobodyWaitsForTheDead: a request to a worker that was killed ends with it.
func TestNobodyWaitsForTheDead(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a := aliveUntil{make(chan struct{})}
	go whileAlive(ctx, a, "w", cancel)
	close(a.dead)
	<-ctx.Done()
	if !errors.Is(context.Cause(ctx), context.Canceled) {
		t.Error("the wait went on")
	}
}
