package loadtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Kinds of calls that a demo places.
const (
	KindTalking   = "talking"
	KindRinging   = "ringing"           // rings through all moves, then is answered
	KindHeld      = "held"              // put on hold before, taken back after
	KindBye       = "bye-mid-move"      // hung up while a wave moves
	KindCancel    = "cancel-mid-move"   // given up while a wave moves
	KindEarly     = "early-media"       // 183 with sound through all moves, then answered
	KindReinvite  = "reinvite-mid-move" // hold and resume while waves move
	KindPinned    = "pinned"            // begun on the next release, cannot go back
	KindRefused   = "refused"           // the next release refuses it
	KindBusy      = "busy"              // refused by the callee in the middle of a move
	settle        = 200 * time.Millisecond
	lastWords     = time.Second // sound after a kind's last change
	kindStepLimit = 40 * time.Second
)

// Stage tells the calls of a demo what the switch is doing.
type Stage struct {
	ready  *signal // all calls of the beginning are up
	moving *signal // the first wave moves
	forth  *signal // the first rollout is done
	back   *signal // the way back has begun
	end    *signal // time to hang up
}

func newStage() *Stage {
	return &Stage{newSignal(), newSignal(), newSignal(), newSignal(), newSignal()}
}

// answerAfter is a callee that rings and answers.
func answerAfter(d time.Duration) func(*Leg) {
	return func(l *Leg) {
		l.Ring()
		time.AfterFunc(d, l.Answer)
	}
}

// actor plays one call of a kind to its end; up is called once the call is
// where it should be before the move.
type actor func(ctx context.Context, c *Call, s *Stage, up func()) error

// kind is how both ends of a call play it.
type kind struct {
	callee  func(*Leg)
	play    actor
	caller  func(*Leg) // before its INVITE; nil: nothing
	headers []string   // of the INVITE
	schema  int        // that its calls need; 0: any
}

// kindOf has the callee's part and the caller's part of each kind.
var kindOf = map[string]kind{
	KindTalking:  {callee: answerAfter(50 * time.Millisecond), play: playTalking},
	KindRinging:  {callee: (*Leg).Ring, play: playRinging},
	KindHeld:     {callee: answerAfter(50 * time.Millisecond), play: playHeld},
	KindBye:      {callee: answerAfter(50 * time.Millisecond), play: playBye},
	KindCancel:   {callee: (*Leg).Ring, play: playCancel},
	KindEarly:    {callee: (*Leg).Progress, play: playEarly},
	KindReinvite: {callee: answerAfter(50 * time.Millisecond), play: playReinvite},
	KindPinned:   {callee: answerAfter(50 * time.Millisecond), play: playTalking},
	KindRefused:  {callee: answerAfter(50 * time.Millisecond), play: playTalking},
	KindBusy:     {callee: (*Leg).Ring, play: playBusy},
	KindForkRace: {callee: (*Leg).Ring, play: playForkRace, schema: 2},

	// Those of moments.go and forks.go, which the far end holds in a moment.
	KindSilent:     {callee: answerAfter(50 * time.Millisecond), play: playSilent},
	KindPending:    {callee: withholding("INVITE"), play: playReinvitePending, caller: withholds("INVITE")},
	KindUpdate:     {callee: withholding("UPDATE"), play: playUpdate, caller: withholds("UPDATE"), headers: []string{allows}, schema: 2},
	KindPrack:      {callee: withholdsPrack, play: playPrack, caller: putsPrackOff, headers: []string{"Supported: 100rel"}, schema: 2},
	KindRefresh:    {callee: withholding("UPDATE", "INVITE"), play: playRefresh, schema: 2},
	KindTransfer:   {callee: answerAfter(50 * time.Millisecond), play: playTransfer, schema: 2},
	KindFork:       {callee: withholdsCancel, play: playFork, schema: 2},
	KindDTMF:       {callee: answerAfter(50 * time.Millisecond), play: playDTMF},
	KindInfo:       {callee: withholding("INFO"), play: playInfo, caller: withholds("INFO")},
	KindInvite:     {callee: func(*Leg) {}, play: playInvite},
	KindChallenged: {callee: answerAfter(50 * time.Millisecond), play: playChallenged, caller: hasAccount, schema: 2},
	KindChallenges: {callee: func(*Leg) {}, play: playChallenges, schema: 2},
}

// establish brings a call up with sound both ways.
func establish(ctx context.Context, c *Call) error {
	ctx, cancel := context.WithTimeout(ctx, kindStepLimit)
	defer cancel()
	if err := c.Establish(ctx); err != nil {
		return err
	}
	pause(ctx, settle) // nobody speaks within the first fifth of a second; media may still be told
	c.Talk()
	return nil
}

// finish hushes, hangs up and looks at what was heard.
func finish(ctx context.Context, c *Call) error {
	if c.Dropped() {
		c.Hush(ctx)
		return errors.New("loadtest: dropped by the switch")
	}
	c.Hush(ctx)
	ctx, cancel := context.WithTimeout(ctx, kindStepLimit)
	defer cancel()
	return c.HangUp(ctx, c.first()%2 == 0)
}

// first takes turns: of the calls of a kind, or of all.
func (c *Call) first() int {
	if c.kind != "" {
		return c.index / 2 // variants of a kind take turns already
	}
	return int(c.Serial)
}

func playTalking(ctx context.Context, c *Call, s *Stage, up func()) error {
	if err := establish(ctx, c); err != nil {
		return err
	}
	up()
	if err := await(ctx, s.end, "end"); err != nil {
		return err
	}
	return finish(ctx, c)
}

func playRinging(ctx context.Context, c *Call, s *Stage, up func()) error {
	if err := ring(ctx, c); err != nil {
		return err
	}
	up()
	if err := await(ctx, s.end, "end"); err != nil {
		return err
	}
	return answered(ctx, c)
}

// ring places the call and waits for 18x.
func ring(ctx context.Context, c *Call) error {
	ctx, cancel := context.WithTimeout(ctx, kindStepLimit)
	defer cancel()
	if err := c.Place(); err != nil {
		return err
	}
	if err := await(ctx, c.here, "INVITE at the callee"); err != nil {
		return err
	}
	return await(ctx, c.A.Ringing, "18x")
}

// answered answers a ringing call, talks and hangs up.
func answered(ctx context.Context, c *Call) error {
	step, cancel := context.WithTimeout(ctx, kindStepLimit)
	defer cancel()
	c.B.Answer()
	if err := await(step, c.A.Accepted, "200 at the caller"); err != nil {
		return err
	}
	if err := await(step, c.B.Accepted, "ACK at the callee"); err != nil {
		return err
	}
	pause(ctx, settle)
	c.Talk()
	pause(ctx, lastWords)
	return finish(ctx, c)
}

func playEarly(ctx context.Context, c *Call, s *Stage, up func()) error {
	if err := ring(ctx, c); err != nil {
		return err
	}
	step, cancel := context.WithTimeout(ctx, kindStepLimit)
	defer cancel()
	if err := await(step, c.A.Early, "183 with SDP"); err != nil {
		return err
	}
	pause(ctx, settle)
	if c.SB != nil {
		c.SB.Talk() // announcements come from the callee
	}
	up()
	if err := await(ctx, s.end, "end"); err != nil {
		return err
	}
	if c.SB != nil && c.SB.Sent() < 10 {
		return errors.New("loadtest: no early sound was sent")
	}
	c.Hush(ctx)
	return answered(ctx, c)
}

// hold is offered by the caller: sound stops first, so what the switch may
// drop while the direction changes is never under way.
func hold(ctx context.Context, l *Leg, c *Call) error {
	c.Hush(ctx)
	ctx, cancel := context.WithTimeout(ctx, kindStepLimit)
	defer cancel()
	if err := l.Reinvite(ctx, sendOnly); err != nil {
		return fmt.Errorf("hold: %w", err)
	}
	return reached(ctx, c.other(l), sendOnly)
}

// reached waits until an offer of the direction has come to l.
func reached(ctx context.Context, l *Leg, direction string) error {
	ctx, cancel := context.WithTimeout(ctx, kindStepLimit)
	defer cancel()
	for l.Direction() != direction {
		if !pause(ctx, 10*time.Millisecond) {
			break
		}
	}
	if l.Direction() == direction {
		return nil
	}
	return fmt.Errorf("loadtest: %s reached the other end as %s", direction, l.Direction())
}

func resume(ctx context.Context, l *Leg, c *Call) error {
	ctx, cancel := context.WithTimeout(ctx, kindStepLimit)
	defer cancel()
	if err := l.Reinvite(ctx, sendRecv); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	if err := reached(ctx, c.other(l), sendRecv); err != nil {
		return err
	}
	pause(ctx, settle)
	c.Talk()
	return nil
}

func (c *Call) other(l *Leg) *Leg {
	if l == c.A {
		return c.B
	}
	return c.A
}

func playHeld(ctx context.Context, c *Call, s *Stage, up func()) error {
	if err := establish(ctx, c); err != nil {
		return err
	}
	pause(ctx, settle)
	if err := hold(ctx, c.A, c); err != nil {
		return err
	}
	up()
	if err := await(ctx, s.end, "end"); err != nil {
		return err
	}
	if err := resume(ctx, c.A, c); err != nil {
		return err
	}
	pause(ctx, lastWords)
	return finish(ctx, c)
}

// midMove waits for a wave and then up to 300 ms, so that the calls of a kind
// do their thing before, in and after the moment in which they are moved.
func midMove(ctx context.Context, moving *signal) error {
	err := await(ctx, moving, "move")
	pause(ctx, rand.N(300*time.Millisecond))
	return err
}

func playBye(ctx context.Context, c *Call, s *Stage, up func()) error {
	if err := establish(ctx, c); err != nil {
		return err
	}
	up()
	if err := midMove(ctx, s.moving); err != nil {
		return err
	}
	return finish(ctx, c)
}

func playCancel(ctx context.Context, c *Call, s *Stage, up func()) error {
	if err := ring(ctx, c); err != nil {
		return err
	}
	up()
	if err := midMove(ctx, s.moving); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, kindStepLimit)
	defer cancel()
	if err := c.A.Cancel(ctx); err != nil {
		return err
	}
	return ended(ctx, c, 487, true)
}

func playBusy(ctx context.Context, c *Call, s *Stage, up func()) error {
	if err := ring(ctx, c); err != nil {
		return err
	}
	up()
	if err := midMove(ctx, s.moving); err != nil {
		return err
	}
	c.B.Reject(486)
	ctx, cancel := context.WithTimeout(ctx, kindStepLimit)
	defer cancel()
	return ended(ctx, c, 486, false)
}

// ended checks the failure that the caller got, and whether the callee was told.
func ended(ctx context.Context, c *Call, want int, canceled bool) error {
	code, err := c.A.Final(ctx)
	if err != nil {
		return err
	}
	if code != want {
		return fmt.Errorf("loadtest: INVITE got %d, not %d", code, want)
	}
	if canceled {
		return await(ctx, c.B.Canceled, "CANCEL at the callee")
	}
	return nil
}

func playReinvite(ctx context.Context, c *Call, s *Stage, up func()) error {
	if err := establish(ctx, c); err != nil {
		return err
	}
	up()
	for i, moving := range []*signal{s.moving, s.back} {
		l := c.A
		if i == 1 {
			l = c.B
		}
		if err := midMove(ctx, moving); err != nil {
			return err
		}
		if err := hold(ctx, l, c); err != nil {
			return err
		}
		if err := resume(ctx, l, c); err != nil {
			return err
		}
	}
	if err := await(ctx, s.end, "end"); err != nil {
		return err
	}
	return finish(ctx, c)
}

// judge adds what the far ends have seen to the outcome of a call.
func judge(c *Call, err error, rtp bool) (problems []string) {
	if err != nil {
		problems = append(problems, strings.TrimPrefix(err.Error(), "loadtest: "))
	}
	v, _ := c.Violations()
	problems = append(problems, v...)
	if !rtp {
		return problems
	}
	h := c.Hearing()
	for _, p := range []struct {
		n    int
		what string
	}{
		{h.Lost, "packets lost"},
		{h.Duplicated, "packets doubled"},
		{h.WrongSource, "packets from elsewhere than the SDP says"},
		{h.Foreign, "packets of another call"},
		{h.Broken, "breaks in the RTP stream"},
	} {
		if p.n != 0 {
			problems = append(problems, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	return problems
}
