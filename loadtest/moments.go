package loadtest

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Kinds that a far end holds in one moment until the move, or whatever happens to
// the switch, is over (Stage.forth): then it answers, and the call goes on.
const (
	KindSilent     = "long-silence"         // nobody says a word until it is over
	KindPending    = "reinvite-pending"     // a re-INVITE has no answer
	KindUpdate     = "update-pending"       // an UPDATE that holds has none
	KindPrack      = "prack-pending"        // neither does the callee answer ours, nor has the caller sent its own
	KindRefresh    = "refresh-due"          // the switch's refresh of a session, by UPDATE or re-INVITE, has no answer
	KindTransfer   = "transfer-half-done"   // the target of a REFER rings; the transferor waits, or has left
	KindDTMF       = "dtmf-events"          // keys are pressed all the time (RFC 4733)
	KindInfo       = "dtmf-info"            // an INFO has no answer
	KindInvite     = "invite-pending"       // the callee has not answered the INVITE by so much as a 100
	KindChallenged = "challenge-by-us"      // an account's INVITE got 407, and comes again when it is over
	KindChallenges = "challenge-by-carrier" // a carrier's 407 comes while it happens, or has got its answer and says nothing
)

const allows = "Allow: INVITE, ACK, CANCEL, BYE, INFO, UPDATE, PRACK, REFER, NOTIFY, OPTIONS"

// withholding is a callee that rings, answers and then leaves requests unanswered.
func withholding(methods ...string) func(*Leg) {
	return func(l *Leg) {
		l.Withhold(methods...)
		if methods[0] == "UPDATE" && len(methods) == 1 {
			l.says = []string{allows}
		}
		answerAfter(50 * time.Millisecond)(l)
	}
}

// withholds is a caller that does.
func withholds(methods ...string) func(*Leg) {
	return func(l *Leg) { l.Withhold(methods...) }
}

func withholdsPrack(l *Leg) {
	l.Withhold("PRACK")
	l.ProgressReliably()
}

func putsPrackOff(l *Leg) { l.prackLate = true }

func withholdsCancel(l *Leg) {
	l.Withhold("CANCEL")
	l.Ring()
}

func hasAccount(l *Leg) { l.user = rigUser }

// ends are who acts and who holds: the caller's call or the callee's, in turn.
func (c *Call) ends() (acts, holds *Leg) {
	if c.index%2 == 0 {
		return c.A, c.B
	}
	return c.B, c.A
}

// pending has one end ask and the other keep it waiting until the moment is over.
// It returns once what was asked has its 2xx.
func (c *Call) pending(ctx context.Context, s *Stage, up func(), method string, ask func(context.Context, *Leg) error) error {
	step, cancel := context.WithTimeout(ctx, kindStepLimit)
	defer cancel()
	acts, holds := c.ends()
	asked := make(chan error, 1)
	go func() { asked <- ask(step, acts) }()
	if err := await(step, holds.Held(method), method+" at the other end"); err != nil {
		return errors.Join(err, <-asked) // it ends with step
	}
	up()
	err := await(step, s.forth, "move")
	select {
	case early := <-asked:
		return fmt.Errorf("loadtest: %s was over before it was answered: %w", method, early)
	default:
	}
	holds.Release(method)
	return errors.Join(err, <-asked)
}

// ending waits for the end of it all, and hangs up.
func ending(ctx context.Context, c *Call, s *Stage) error {
	pause(ctx, settle)
	if err := await(ctx, s.end, "end"); err != nil {
		return err
	}
	return finish(ctx, c)
}

func playSilent(ctx context.Context, c *Call, s *Stage, up func()) error {
	step, cancel := context.WithTimeout(ctx, kindStepLimit)
	defer cancel()
	if err := c.Establish(step); err != nil {
		return err
	}
	up()
	if err := await(ctx, s.forth, "move"); err != nil {
		return err
	}
	c.Talk()
	pause(ctx, lastWords)
	return ending(ctx, c, s)
}

func playReinvitePending(ctx context.Context, c *Call, s *Stage, up func()) error {
	if err := establish(ctx, c); err != nil {
		return err
	}
	// Nothing changes, so they talk on.
	err := c.pending(ctx, s, up, "INVITE", func(ctx context.Context, l *Leg) error { return l.Reinvite(ctx, sendRecv) })
	if err != nil {
		return err
	}
	return ending(ctx, c, s)
}

func playUpdate(ctx context.Context, c *Call, s *Stage, up func()) error {
	if err := establish(ctx, c); err != nil {
		return err
	}
	pause(ctx, settle)
	c.Hush(ctx)
	err := c.pending(ctx, s, up, "UPDATE", func(ctx context.Context, l *Leg) error { return l.Update(ctx, sendOnly) })
	if err != nil {
		return err
	}
	acts, holds := c.ends()
	if err := reached(ctx, holds, sendOnly); err != nil {
		return err
	}
	step, cancel := context.WithTimeout(ctx, kindStepLimit)
	defer cancel()
	if err := acts.Update(step, sendRecv); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	if err := reached(ctx, holds, sendRecv); err != nil {
		return err
	}
	pause(ctx, settle)
	c.Talk()
	pause(ctx, lastWords)
	return ending(ctx, c, s)
}

func playInfo(ctx context.Context, c *Call, s *Stage, up func()) error {
	if err := establish(ctx, c); err != nil {
		return err
	}
	err := c.pending(ctx, s, up, "INFO", func(ctx context.Context, l *Leg) error { return l.Info(ctx, "1") })
	if err != nil {
		return err
	}
	acts, holds := c.ends()
	step, cancel := context.WithTimeout(ctx, kindStepLimit)
	defer cancel()
	for _, key := range []string{"2", "3"} {
		if err := acts.Info(step, key); err != nil {
			return err
		}
	}
	if got := holds.Keys(); got != "123" {
		return fmt.Errorf("loadtest: digits %q came, not 123", got)
	}
	return ending(ctx, c, s)
}

func playPrack(ctx context.Context, c *Call, s *Stage, up func()) error {
	if err := ring(ctx, c); err != nil {
		return err
	}
	step, cancel := context.WithTimeout(ctx, kindStepLimit)
	defer cancel()
	if err := await(step, c.B.Held("PRACK"), "PRACK at the callee"); err != nil {
		return err
	}
	if err := await(step, c.A.Reliable, "183 that wants a PRACK"); err != nil {
		return err
	}
	up()
	if err := await(ctx, s.forth, "move"); err != nil {
		return err
	}
	c.B.Release("PRACK")
	if err := c.A.Prack(step); err != nil {
		return err
	}
	if err := await(ctx, s.end, "end"); err != nil {
		return err
	}
	return answered(ctx, c)
}

// playRefresh has the switch refresh the callee's session, which ends unless that
// is answered: the callee does so when the move is over, but in time.
func playRefresh(ctx context.Context, c *Call, s *Stage, up func()) error {
	if err := establish(ctx, c); err != nil {
		return err
	}
	limit := time.Duration(c.refresh)*time.Second + kindStepLimit
	step, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	method := "UPDATE"
	if c.index%2 == 1 {
		method = "INVITE"
	}
	if err := await(step, c.B.Held(method), "refresh by "+method); err != nil {
		return err
	}
	// RFC 4028 section 10: the session ends a third of its interval early, 32 s at most.
	left := time.Duration(c.refresh)*time.Second/2 - min(32*time.Second, time.Duration(c.refresh)*time.Second/3)
	asked := time.Now()
	up()
	inTime, cancel := context.WithTimeout(ctx, left-500*time.Millisecond)
	err := await(inTime, s.forth, "end of the move while the session lasts")
	cancel()
	c.B.Release("UPDATE")
	c.B.Release("INVITE")
	if err != nil {
		return err
	}
	if err := ending(ctx, c, s); err != nil {
		return err
	}
	// And one more in each half of the interval that the call goes on.
	due := 1 + int(time.Since(asked)/(time.Duration(c.refresh)*time.Second/2))
	if n := c.B.Count("UPDATE") + c.B.Count("INVITE") - 1; n < 1 || n > due {
		return fmt.Errorf("loadtest: %d refreshes came, %d were due", n, due)
	}
	return nil
}

func playDTMF(ctx context.Context, c *Call, s *Stage, up func()) error {
	if err := establish(ctx, c); err != nil {
		return err
	}
	up()
	const keys = "0123456789*#ABCD"
	press := func(k int) {
		if c.SA != nil {
			c.SA.Digit(byte(k))
			c.SB.Digit(byte(len(keys) - 1 - k))
		}
		pause(ctx, 150*time.Millisecond)
		for c.SA != nil && !(c.SA.Pressed() && c.SB.Pressed()) && pause(ctx, 5*time.Millisecond) {
		}
	}
	press(0)
	if err := await(ctx, s.moving, "move"); err != nil {
		return err
	}
	for k := 1; k < len(keys)-1; k++ {
		press(k)
	}
	if err := await(ctx, s.forth, "move"); err != nil {
		return err
	}
	press(len(keys) - 1)
	return ending(ctx, c, s)
}

func playInvite(ctx context.Context, c *Call, s *Stage, up func()) error {
	step, cancel := context.WithTimeout(ctx, kindStepLimit)
	defer cancel()
	if err := c.Place(); err != nil {
		return err
	}
	if err := await(step, c.here, "INVITE at the callee"); err != nil {
		return err
	}
	up()
	if err := await(ctx, s.forth, "move"); err != nil {
		return err
	}
	c.B.Ring()
	if err := await(step, c.A.Ringing, "180"); err != nil {
		return err
	}
	if err := await(ctx, s.end, "end"); err != nil {
		return err
	}
	return answered(ctx, c)
}

func playTransfer(ctx context.Context, c *Call, s *Stage, up func()) error {
	if err := establish(ctx, c); err != nil {
		return err
	}
	pause(ctx, settle)
	c.Hush(ctx)
	step, cancel := context.WithTimeout(ctx, kindStepLimit)
	defer cancel()
	if err := c.B.Refer(step, "sip:"+c.target+"@"+c.B.ua.switchHost()); err != nil {
		return err
	}
	if err := await(step, c.there, "INVITE at the target"); err != nil {
		return err
	}
	for len(c.B.Told()) < 2 {
		if !pause(step, 10*time.Millisecond) {
			return fmt.Errorf("loadtest: the transferor was told %q", c.B.Told())
		}
	}
	leaves := c.index%2 == 1
	if leaves {
		if err := c.B.Bye(step); err != nil {
			return err
		}
	}
	up()
	if err := await(ctx, s.forth, "move"); err != nil {
		return err
	}
	c.C.Answer()
	if err := await(step, c.C.Accepted, "ACK at the target"); err != nil {
		return err
	}
	if !leaves {
		if err := await(step, c.B.HungUp, "BYE at the transferor"); err != nil {
			return err
		}
		if told := c.B.Told(); told[len(told)-1] != "SIP/2.0 200 OK" {
			return fmt.Errorf("loadtest: the transferor was told %q", told)
		}
	}
	c.mu.Lock()
	c.B, c.C = c.C, c.B // from here on the target is the other end
	c.mu.Unlock()
	pause(ctx, settle)
	c.Talk()
	pause(ctx, lastWords)
	return ending(ctx, c, s)
}

func playChallenged(ctx context.Context, c *Call, s *Stage, up func()) error {
	step, cancel := context.WithTimeout(ctx, kindStepLimit)
	defer cancel()
	if err := c.Place(); err != nil {
		return err
	}
	if err := await(step, c.A.Asked, "challenge"); err != nil {
		return err
	}
	up()
	if err := await(ctx, s.forth, "move"); err != nil {
		return err
	}
	code, err := c.A.Authorize(step)
	if err == nil && code != 200 {
		err = fmt.Errorf("%w: %d", errNoTalk, code)
	}
	if err != nil {
		return err
	}
	if err := await(step, c.B.Accepted, "ACK at the callee"); err != nil {
		return err
	}
	pause(ctx, settle)
	c.Talk()
	pause(ctx, lastWords)
	return ending(ctx, c, s)
}

func playChallenges(ctx context.Context, c *Call, s *Stage, up func()) error {
	step, cancel := context.WithTimeout(ctx, kindStepLimit)
	defer cancel()
	if err := c.Place(); err != nil {
		return err
	}
	if err := await(step, c.here, "INVITE at the callee"); err != nil {
		return err
	}
	if c.index%2 == 0 {
		c.B.Challenge()
		if err := await(step, c.B.Asked, "INVITE with our password"); err != nil {
			return err
		}
		up()
	} else {
		up()
		if err := await(ctx, s.moving, "move"); err != nil {
			return err
		}
		c.B.Challenge()
	}
	if err := await(ctx, s.forth, "move"); err != nil {
		return err
	}
	if err := await(step, c.B.Asked, "INVITE with our password"); err != nil {
		return err
	}
	c.B.Ring()
	if err := await(step, c.A.Ringing, "180"); err != nil {
		return err
	}
	if err := await(ctx, s.end, "end"); err != nil {
		return err
	}
	return answered(ctx, c)
}
