package nats

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"callswitch/internal/wire"
	"callswitch/sessions"
)

func process(id string) sessions.Process {
	return sessions.Process{Role: "worker", Node: "n1", ID: id, PID: 7}
}

func say(t *testing.T, c *Conn, id string) {
	t.Helper()
	data, err := wire.Seal(beat{Process: process(id)})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Publish(sessions.SubjectBeat("worker", id), data); err != nil {
		t.Fatal(err)
	}
}

func nextDeath(t *testing.T, deaths <-chan Death) Death {
	t.Helper()
	select {
	case d := <-deaths:
		return d
	case <-time.After(patient):
		t.Fatal("no death was told")
		return Death{}
	}
}

func TestDirectory(t *testing.T) {
	url, _ := serve(t, t.TempDir(), nil)
	c, far := connect(t, url), connect(t, url)
	var healthy atomic.Bool
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	const deadAfter = 2 * time.Second // w-1, which beats, must not be taken for dead
	d, err := NewDirectory(ctx, c, DirectoryConfig{DeadAfter: deadAfter, Healthy: func(context.Context) bool { return healthy.Load() }})
	if err != nil {
		t.Fatal(err)
	}
	deaths := make(chan Death, 8)
	d.OnDeath(func(x Death) { deaths <- x })
	if err := c.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if d.Alive("w-1") || d.Dead("w-1") {
		t.Error("nobody can know about w-1 yet")
	}

	beating, stop := context.WithCancel(ctx)
	gone := make(chan struct{})
	go func() {
		Beat(beating, far, func() sessions.Process { return process("w-1") })
		close(gone)
	}()
	say(t, far, "w-2")
	eventually(t, "both are alive", func() bool { return d.Alive("w-1") && d.Alive("w-2") && len(d.Processes()) == 2 })

	// w-2 is silent, but the store has no leader: nobody is blamed.
	select {
	case x := <-deaths:
		t.Fatalf("%s taken for dead while the store had no leader", x.ID)
	case <-time.After(2 * deadAfter):
	}
	healthy.Store(true)
	if x := nextDeath(t, deaths); x.ID != "w-2" || x.Reported || !d.Dead("w-2") || d.Alive("w-2") {
		t.Fatalf("first death: %+v", x)
	}
	say(t, far, "w-2")
	eventually(t, "w-2 is back", func() bool { return d.Alive("w-2") && !d.Dead("w-2") })

	d.Exited("w-2")
	if x := nextDeath(t, deaths); x.ID != "w-2" || !x.Reported || x.Node != "n1" {
		t.Fatalf("reported exit: %+v", x)
	}
	say(t, far, "w-2") // sent before it died, heard after
	d.Exited("w-2")
	stop()
	<-gone
	if x := nextDeath(t, deaths); x.ID != "w-1" || !x.Reported {
		t.Fatalf("after the goodbye: %+v", x)
	}
	if d.Alive("w-2") {
		t.Error("a late beat raised the dead")
	}
	eventually(t, "one never heard of is dead", func() bool { return d.Dead("w-0") })
	if err := far.Publish("beat.worker.x", []byte("garbage")); err != nil {
		t.Fatal(err)
	}
}

func TestMassDeathIsHeldBack(t *testing.T) {
	begin := time.Now()
	d := &Directory{cfg: DirectoryConfig{DeadAfter: 3 * time.Second, MassHold: time.Minute}, procs: map[string]*heard{}}
	for i := range 6 {
		d.procs[fmt.Sprint(i)] = &heard{Process: process(fmt.Sprint(i)), last: begin}
	}
	at := func(s float64) []string { return d.silent(begin.Add(time.Duration(s * float64(time.Second)))) }
	hear := func(id string, s float64) { d.procs[id].last = begin.Add(time.Duration(s * float64(time.Second))) }
	if ids := at(3.1); len(ids) != 0 {
		t.Errorf("all silent: blamed %v", ids)
	}
	for i := range 3 { // half of them are heard
		hear(fmt.Sprint(i), 3)
	}
	if ids := at(3.1); len(ids) != 3 {
		t.Errorf("half silent: blamed %v, want three", ids)
	}
	hear("1", 0.1) // beats are not sent at one time: the fourth falls silent a moment later
	if ids := at(3.05); len(ids) != 0 {
		t.Errorf("most silent: blamed %v", ids)
	}
	if ids := at(61); len(ids) == 0 {
		t.Error("most silent for a minute: held back for ever")
	}
	d.forgive(begin.Add(61 * time.Second))
	if ids := at(62); len(ids) != 0 {
		t.Errorf("after a reconnect: blamed %v at once", ids)
	}
}
