package loadtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// KindFork rings at two phones; one answers, and the other's CANCEL is not answered
// while the call moves: then it is, or its 200 has crossed it and gets ACK and BYE.
const KindFork = "fork-half-answered"

// KindForkRace rings at two phones through all moves before the first; in the
// middle of it both answer, so what the switch says to them is under way.
const KindForkRace = "fork-both-answer"

const branches = 2

// forkRoute sends the numbers of forked calls to two callees at once.
func (r *Rig) forkRoute() DialplanRoute {
	route := DialplanRoute{Prefix: r.cfg.Prefix + "f", Fork: "parallel"}
	for i := range branches {
		route.Targets = append(route.Targets, DialplanTarget{To: fmt.Sprintf("callee%d", i%len(r.callees))})
	}
	return route
}

// NewFork is NewCall for a call that comes to two callees.
func (r *Rig) NewFork(m Mark, plan func(*Leg)) *Call {
	m.Number = fmt.Sprintf("%sf%06d", r.cfg.Prefix, r.serial.Load()+1)
	for r.dialled(m.Number) { // somebody else had that serial
		m.Number += "0"
	}
	c := r.NewCall(m, plan)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.branches = branches
	return c
}

func (r *Rig) dialled(number string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls[number] != nil
}

func playFork(ctx context.Context, c *Call, s *Stage, up func()) error {
	if err := ring(ctx, c); err != nil {
		return err
	}
	step, cancel := context.WithTimeout(ctx, kindStepLimit)
	defer cancel()
	loser := c.callees()[1]
	c.B.Answer()
	for what, did := range map[string]*signal{
		"200 at the caller": c.A.Accepted, "ACK at the callee": c.B.Accepted, "CANCEL at the loser": loser.Held("CANCEL"),
	} {
		if err := await(step, did, what); err != nil {
			return err
		}
	}
	pause(ctx, settle)
	c.Talk()
	up()
	if err := await(ctx, s.forth, "move"); err != nil {
		return err
	}
	over := loser.Canceled
	if c.index%2 == 1 {
		loser.Answer()
		over = loser.HungUp
	}
	loser.Release("CANCEL")
	if err := await(step, over, "end of the loser"); err != nil {
		return err
	}
	if err := await(ctx, s.end, "end"); err != nil {
		return err
	}
	return finish(ctx, c)
}

func playForkRace(ctx context.Context, c *Call, s *Stage, up func()) error {
	if err := ring(ctx, c); err != nil {
		return err
	}
	up()
	if err := midMove(ctx, s.moving); err != nil {
		return err
	}
	step, cancel := context.WithTimeout(ctx, kindStepLimit)
	defer cancel()
	both := c.callees()
	rand.Shuffle(len(both), func(i, j int) { both[i], both[j] = both[j], both[i] })
	both[0].Answer()
	pause(ctx, rand.N(20*time.Millisecond))
	both[1].Answer()
	if err := await(step, c.A.Accepted, "200 at the caller"); err != nil {
		return err
	}
	winner, err := won(step, both)
	if err != nil {
		return err
	}
	c.mu.Lock()
	if c.B != winner {
		c.B, c.more = winner, []*Leg{c.B}
	}
	c.mu.Unlock()
	if err := await(step, winner.Accepted, "ACK at the winner"); err != nil {
		return err
	}
	pause(ctx, settle)
	c.Talk()
	if err := await(ctx, s.end, "end"); err != nil {
		return err
	}
	for _, l := range both {
		v, _ := l.Violations()
		if l != winner && len(v) > 0 {
			return fmt.Errorf("loadtest: at the loser: %s", v[0])
		}
	}
	if c.Dropped() {
		return errors.New("loadtest: dropped by the switch")
	}
	c.Hush(ctx)
	ctx, cancel = context.WithTimeout(ctx, kindStepLimit)
	defer cancel()
	// By the caller: a crash in this very moment may have swallowed its ACK, and then
	// its BYE would wait for the ACK as long as the ACK is waited for.
	return c.HangUp(ctx, true)
}

// won waits until all but one are over: cancelled, or answered and hung up.
func won(ctx context.Context, legs []*Leg) (*Leg, error) {
	for {
		var left []*Leg
		for _, l := range legs {
			if !l.Canceled.Is() && !l.HungUp.Is() {
				left = append(left, l)
			}
		}
		switch {
		case len(left) == 0:
			return nil, errors.New("loadtest: nobody is left of a fork that was answered")
		case len(left) == 1:
			return left[0], nil
		case !pause(ctx, 10*time.Millisecond):
			return nil, errors.New("loadtest: the loser of a fork heard neither CANCEL nor BYE")
		}
	}
}

// callees are the branches of the call, as they came.
func (c *Call) callees() []*Leg {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*Leg{c.B}, c.more...)
}
