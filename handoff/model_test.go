package handoff

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"callswitch/sessions"
)

// The model explores every order of steps of three workers, one call, its
// record, an edge and the network between them. A (release r1), B (r2) and C
// (r1) may each be crashed, suspected or woken late at any step; messages are
// sets, so each may be lost, repeated and arrive in any order. What a worker
// decides is decided by the functions that the driver runs: Guard, Commit,
// Claim, ReadOwn, ReadCommit, SourceRead, TargetRead, SetAside.
//
// Not modelled, because another path says the same: a save in doubt (its owner
// acts on nothing before it knows, as if it were slower), verdicts (an
// "adopted" says what reading the record says), offers without a body.
const (
	mEvents  = 2 // of the call
	mWorkers = 3
)

var modelLong = flag.Bool("long", false, "explore the model with two crashes")

// Worker states.
const (
	mIdle int8 = iota
	mActive
	mFrozen
	mOffered    // reserved for an offer, migrated, before its CAS
	mOfferDoubt // its CAS was answered by an error
	mClaiming   // reserved for a claim, before its CAS
	mClaimDoubt // its CAS was answered by an error
	mRestoring  // claimed; the call's code runs on the record
	mUnmigrated // mutant: committed, the migration still to come
	mDown       // crashed
	mGone       // its release is withdrawn
)

// mCall is what a record, an offer and a worker's memory hold of the call.
type mCall struct {
	rev, ep, n, owner int8 // owner: worker + mWorkers * incarnation
	last              int8 // events applied, and actions minted: action j comes of event j
	over              int8 // actions that are over: Pending is over+1..last
	ver               int8 // schema
	attempts          int8
	tomb, aside       bool
}

type mWorker struct {
	st, gen int8
	dirty   bool // a Step is not yet saved
	mCall
}

// mOffer is an Offer on its way, for ever: it may be taken late, and twice.
type mOffer struct {
	to, used int8
	mCall
}

func (o mOffer) before(p mOffer) bool {
	return o.used > p.used || o.used == p.used && (o.rev < p.rev || o.rev == p.rev && o.to < p.to)
}

type mState struct {
	kv                mCall
	w                 [mWorkers]mWorker
	offers            [2]mOffer
	sent              [2]uint8 // actions on their way, bit j; [1]: marked First
	reminted          uint8    // mutant: the same under new ids
	acked             int8     // events that the peers need not send again
	edge              int8     // last action this incarnation took, -1: it holds nothing
	done              uint8    // actions performed on the wire, bit j
	blamed            bool     // the owner died with the call in hand
	crashes, switches int8
}

// mSetting is a variation of the protocol (a mutant) or of the world.
type mSetting struct {
	name string
	// The world.
	poison, withdraw bool
	// Mutants.
	blindPut, effectFirst, noDedupe, remint, noN, ackFirst, commitFirst, noNotice, newSchema, noGuard bool
	noCrash                                                                                           bool   // explored without crashes, which it does not need to be caught
	want                                                                                              string // part of the violation; "" = none
}

var mOwners = func() (names []string) {
	for gen := range 4 {
		for _, w := range "ABC" {
			names = append(names, fmt.Sprintf("w-%c%d", w, gen))
		}
	}
	return names
}()

func mOwnerOf(name string) int8 {
	for i, n := range mOwners {
		if n == name {
			return int8(i)
		}
	}
	panic("no owner " + name)
}

var mBody = []byte("body")

func (c mCall) record() sessions.Record {
	return sessions.Record{
		ID: "call", Owner: mOwners[c.owner], Epoch: uint64(c.ep), N: uint64(c.n), Rev: uint64(c.rev),
		Schema: int(c.ver), Attempts: int(c.attempts), Tomb: c.tomb, Aside: c.aside, Body: mBody,
	}
}

// with is the record's headers around the state c.
func (c mCall) with(r sessions.Record) mCall {
	c.owner, c.ep, c.n, c.ver = mOwnerOf(r.Owner), int8(r.Epoch), int8(r.N), int8(r.Schema)
	c.attempts, c.tomb, c.aside, c.rev = int8(r.Attempts), r.Tomb, r.Aside, int8(r.Rev)
	return c
}

var (
	mSends    = []string{"", "sends action 1", "sends action 2"}
	mPerforms = []string{"", "performs action 1", "performs action 2"}
	mOffers   = []string{"freezes and offers to A", "freezes and offers to B", "freezes and offers to C"}
)

// mModel is one exploration.
type mModel struct {
	mSetting
	maxCrashes, maxSwitches int8
	bad                     string
}

func (m *mModel) fail(what string) {
	if m.bad == "" {
		m.bad = what
	}
}

func (m *mModel) reads(i int, ver int8) bool { return i == 1 || ver == 1 }

func (m *mModel) migrates(i int, ver int8) bool { return i != 1 || ver == 2 || !m.poison }

func (m *mModel) writes(i int) int {
	if i == 1 && m.newSchema {
		return 2
	}
	return 1
}

// put is the store's compare-and-set, with the invariants of what it takes.
func (m *mModel) put(s *mState, c mCall) bool {
	kv := s.kv
	if c.rev != kv.rev && !m.blindPut {
		return false
	}
	switch {
	case kv.tomb:
		m.fail("a tombstone was overwritten")
	case c.last < kv.last:
		m.fail("lost update: a saved event is gone")
	case c.last > kv.last+1:
		m.fail("an event was skipped")
	case c.ep < kv.ep:
		m.fail("epoch fell")
	case c.owner != kv.owner && c.ep != kv.ep+1, c.owner == kv.owner && c.ep != kv.ep:
		m.fail("two owners in one epoch")
	case c.n != kv.n+1:
		m.fail("n has a gap or a repeat")
	case c.tomb && (c.over != c.last || s.done != 1<<(mEvents+1)-2):
		m.fail("tombstone with actions pending")
	case c.aside && !m.poison && c.attempts < CrashLimit:
		m.fail("set aside without two crashes")
	}
	c.rev = kv.rev + 1
	if c.owner != kv.owner {
		s.blamed = false
	}
	s.kv = c
	return true
}

func (s *mState) self(i int) int8 { return int8(i) + mWorkers*s.w[i].gen }

// dead: the owner's incarnation is no more.
func (s *mState) dead(owner int8) bool {
	w := s.w[owner%mWorkers]
	return w.gen != owner/mWorkers || w.st == mGone
}

func (s *mState) idle(i int) { s.w[i] = mWorker{gen: s.w[i].gen} }

// next calls emit with every successor of s.
func (m *mModel) next(s mState, emit func(mState, string, int)) {
	for i := range mWorkers {
		m.worker(s, i, emit)
	}
	m.edge(s, emit)
}

func (m *mModel) worker(s mState, i int, emit func(mState, string, int)) {
	w := s.w[i]
	switch w.st {
	case mActive:
		m.active(s, i, emit)
	case mFrozen: // step 6, at any time: refusal and silence read the record
		t := s
		switch SourceRead(ReadOwn(s.kv.record(), nil, mOwners[s.self(i)], uint64(w.ep))) {
		case ThawCall:
			t.w[i].st = mActive
			emit(t, "thaws", i)
		case DropCall:
			t.idle(i)
			emit(t, "drops", i)
		}
	case mIdle:
		m.claim(s, i, emit)
	case mOffered:
		m.commit(s, i, mActive, mOfferDoubt, emit)
	case mClaiming:
		m.commit(s, i, mRestoring, mClaimDoubt, emit)
	case mOfferDoubt:
		m.doubt(s, i, mActive, emit)
	case mClaimDoubt:
		m.doubt(s, i, mRestoring, emit)
	case mRestoring:
		t := s
		if m.migrates(i, w.ver) && !w.aside {
			t.w[i].st = mActive
			emit(t, "restores", i)
			break
		}
		if m.put(&t, w.with(SetAside(w.record()))) {
			emit(t, "sets aside", i)
			break
		}
		t.idle(i)
		emit(t, "cannot set aside", i)
	case mUnmigrated:
		t := s
		if m.migrates(i, 1) {
			t.w[i].st = mActive
			emit(t, "migrates at last", i)
		} else if s.crashes < m.maxCrashes {
			t.crashes++
			t.w[i] = mWorker{gen: w.gen + 1}
			emit(t, "dies of the migration", i)
		}
	}
	m.offered(s, i, emit)
	if w.st != mGone && s.crashes < m.maxCrashes {
		t := s
		t.crashes++
		if (w.dirty || w.st == mRestoring) && s.kv.owner == s.self(i) {
			t.blamed = true
		}
		t.w[i] = mWorker{gen: w.gen + 1} // one that is down is one that does nothing yet
		emit(t, "crashes", i)
	}
	if m.withdraw && i == 1 && w.st != mGone {
		t := s
		t.w[i] = mWorker{st: mGone, gen: w.gen}
		emit(t, "is withdrawn", i)
	}
}

// active is a worker that owns the call, or thinks so.
func (m *mModel) active(s mState, i int, emit func(mState, string, int)) {
	w := s.w[i]
	if !m.noNotice && SourceRead(ReadOwn(s.kv.record(), nil, mOwners[s.self(i)], uint64(w.ep))) == DropCall {
		t := s
		t.idle(i)
		emit(t, "hears of its dethronement", i)
	}
	if !w.dirty && s.acked < mEvents && w.last <= s.acked { // an event that is not acknowledged is sent again
		t := s
		t.w[i].last++
		t.w[i].dirty = true
		emit(t, "steps", i)
	}
	if w.dirty {
		m.save(s, i, w.mCall, "saves", emit)
	}
	for j := w.over + 1; j <= w.last; j++ { // Pending is sent again and again
		if w.dirty && j == w.last && !m.effectFirst {
			continue
		}
		t := s
		if m.remint && i == 1 {
			t.reminted |= 1 << j
		} else if j == w.over+1 {
			t.sent[1] |= 1 << j
		} else {
			t.sent[0] |= 1 << j
		}
		if t != s {
			emit(t, mSends[j], i)
		}
	}
	acks := w.last
	if w.dirty && !m.ackFirst {
		acks--
	}
	if acks > s.acked {
		t := s
		t.acked = acks
		if acks > s.kv.last {
			m.fail("acknowledged before it was saved")
		}
		emit(t, "acknowledges", i)
	}
	if w.dirty {
		return
	}
	if w.over < w.last && s.done&(1<<(w.over+1)) != 0 {
		c := w.mCall
		c.over++
		m.save(s, i, c, "learns that an action is over", emit)
	}
	if w.last == mEvents && w.over == w.last {
		c := w.mCall
		c.tomb = true
		m.save(s, i, c, "writes the tombstone", emit)
	}
	if s.switches < m.maxSwitches {
		for to := range mWorkers {
			if to == i || s.w[to].st == mGone {
				continue
			}
			t := s
			t.switches++
			t.w[i].st = mFrozen
			k := 0
			if t.offers[k].used != 0 {
				k = 1
			}
			t.offers[k] = mOffer{s.self(to), 1, w.mCall}
			emit(t, mOffers[to], i)
		}
	}
}

// save writes within the epoch. A conflict means that another owns the call.
func (m *mModel) save(s mState, i int, c mCall, what string, emit func(mState, string, int)) {
	t := s
	c.n++
	c.ver = int8(m.writes(i))
	c.attempts = 0
	if m.put(&t, c) && !c.tomb {
		t.w[i].mCall, t.w[i].dirty = t.kv, false
	} else {
		t.idle(i)
	}
	emit(t, what, i)
}

// claim is the start of a takeover: of a dead owner's call at any time, of a
// living one's by a wrong suspicion.
func (m *mModel) claim(s mState, i int, emit func(mState, string, int)) {
	if s.kv.tomb || s.kv.aside || !m.reads(i, s.kv.ver) || s.kv.owner == s.self(i) {
		return
	}
	t, why := s, "reads the record to claim it"
	if !s.dead(s.kv.owner) {
		if s.switches >= m.maxSwitches {
			return
		}
		t.switches++
		why = mSuspects
	}
	t.w[i].st, t.w[i].mCall = mClaiming, s.kv
	emit(t, why, i)
}

// offered is step 3 for each offer on its way to this worker.
func (m *mModel) offered(s mState, i int, emit func(mState, string, int)) {
	w := s.w[i]
	if w.st == mGone {
		return
	}
	for _, o := range s.offers {
		if o.used == 0 || o.to != s.self(i) {
			continue
		}
		here := Here{Held: w.st != mIdle && !m.noGuard, Min: 1, Max: 1}
		if i == 1 {
			here.Max = 2
		}
		rec := o.record()
		if code, _ := Guard(item(rec), here); code != OK {
			continue
		}
		t := s
		t.w[i] = mWorker{gen: w.gen, st: mOffered, mCall: o.mCall}
		if m.commitFirst {
			c := o.with(Commit(rec, mOwners[s.self(i)], "", m.writes(i), mBody))
			t.w[i].mCall = c
			t.w[i].st = mUnmigrated
			if !m.put(&t, c) {
				continue
			}
			t.w[i].mCall = t.kv
			m.movedTo(i)
			emit(t, "commits an offer before its migration", i)
			continue
		}
		if m.migrates(i, o.ver) { // else refused: nothing happens
			emit(t, "takes an offer", i)
		}
	}
}

func (m *mModel) movedTo(i int) {
	if i == 1 && m.poison {
		m.fail("a release whose migration panics owns a call by a move")
	}
}

// intent is the record that this worker's CAS would write.
func (m *mModel) intent(s mState, i int) mCall {
	w, me := s.w[i], mOwners[s.self(i)]
	if w.st == mOffered || w.st == mOfferDoubt {
		c := w.with(Commit(w.record(), me, "", m.writes(i), mBody))
		if m.noN {
			c.n--
		}
		return c
	}
	return w.with(Claim(w.record(), me, time.Unix(1, 0), s.blamed))
}

// commit is the CAS that changes the owner. It is made, and answered truly or
// by an error; or it is refused, and the record says why.
func (m *mModel) commit(s mState, i int, won, doubt int8, emit func(mState, string, int)) {
	t := s
	if !m.put(&t, m.intent(s, i)) {
		m.doubt(s, i, won, emit)
		return
	}
	if won == mActive {
		m.movedTo(i)
	}
	lost := t
	lost.w[i].st = doubt
	emit(lost, "commits without knowing", i)
	t.w[i].st, t.w[i].mCall = won, t.kv
	emit(t, "commits", i)
}

// doubt reads the record: is my CAS in it? (Before: it is tried again, by commit.)
func (m *mModel) doubt(s mState, i int, won int8, emit func(mState, string, int)) {
	t := s
	commit := m.intent(s, i)
	switch TargetRead(ReadCommit(s.kv.record(), nil, commit.record())) {
	case AdoptCall:
		commit.rev = s.kv.rev
		t.w[i].st, t.w[i].mCall = won, commit
		emit(t, "finds its commit made", i)
	case GiveUp:
		t.idle(i)
		emit(t, "finds another's commit", i)
	}
}

// edge takes actions by their numbers, and may crash: a new incarnation holds
// nothing, and the peers send again what was not acknowledged.
func (m *mModel) edge(s mState, emit func(mState, string, int)) {
	for first := range 2 {
		for j := int8(1); j <= mEvents; j++ {
			if s.sent[first]&(1<<j) == 0 {
				continue
			}
			switch {
			case j <= s.edge && !m.noDedupe: // had
				continue
			case j <= s.edge:
				m.fail("an action was performed twice by one incarnation")
			case s.edge < 0 && first == 0, s.edge >= 0 && j != s.edge+1: // gap
				continue
			}
			m.perform(s, j, mPerforms[j], emit)
		}
	}
	for j := int8(1); j <= mEvents; j++ {
		if s.reminted&(1<<j) != 0 {
			if s.done&(1<<j) != 0 {
				m.fail("an effect happened twice under two ids")
			}
			m.perform(s, j, "performs an action with a new id", emit)
		}
	}
	if s.crashes < m.maxCrashes {
		t := s
		t.crashes++
		t.edge = -1
		emit(t, "crashes", mWorkers)
	}
}

func (m *mModel) perform(s mState, j int8, what string, emit func(mState, string, int)) {
	if j > s.kv.last {
		m.fail("effect of a decision that was not committed")
	}
	t := s
	t.edge = j
	t.done |= 1 << j
	emit(t, what, mWorkers)
}

// canon forgets what no step can tell apart, so that fewer states are explored.
func (m *mModel) canon(s *mState) {
	for k, o := range s.offers { // a message to an incarnation that is no more
		if o.used != 0 && s.dead(o.to) {
			s.offers[k] = mOffer{}
		}
	}
	if s.offers[1].before(s.offers[0]) {
		s.offers[0], s.offers[1] = s.offers[1], s.offers[0]
	}
	if s.crashes == m.maxCrashes && s.edge >= 0 && !m.noDedupe { // repeats are skipped from now on
		s.sent[0] &^= 1<<(s.edge+1) - 1
		s.sent[1] &^= 1<<(s.edge+1) - 1
	}
	for i, w := range s.w {
		over := false // nothing is left to it but to give up
		switch w.st {
		case mOffered, mOfferDoubt, mClaiming, mClaimDoubt:
			over = TargetRead(ReadCommit(s.kv.record(), nil, m.intent(*s, i).record())) == GiveUp
		case mFrozen:
			over = w.owner != s.kv.owner || w.ep != s.kv.ep
		}
		if over && !m.noGuard && !m.blindPut {
			s.idle(i)
		}
	}
}

func TestModel(t *testing.T) {
	for _, setting := range []mSetting{
		{name: "the protocol"},
		{name: "poison migration", poison: true},
		{name: "release withdrawn", withdraw: true},
		{name: "poison migration and release withdrawn", poison: true, withdraw: true},

		{name: "mutant: blind put", blindPut: true, want: "lost update"},
		{name: "mutant: effects before save", effectFirst: true, want: "not committed"},
		{name: "mutant: no dedupe", noDedupe: true, want: "performed twice"},
		{name: "mutant: re-minted ids", remint: true, want: "two ids"},
		{name: "mutant: epoch without n", noN: true, want: "n has a gap"},
		{name: "mutant: acknowledge before save", ackFirst: true, want: "before it was saved"},
		{name: "mutant: commit before migration, poison", commitFirst: true, poison: true, want: "migration panics"},
		{name: "mutant: no notice of dethronement, release withdrawn", noNotice: true, withdraw: true, noCrash: true, want: "never end"},
		{name: "mutant: new schema before finalize, release withdrawn", newSchema: true, withdraw: true, noCrash: true, want: "never end"},
		{name: "mutant: no guard against late offers", noGuard: true, noCrash: true, want: "never end"},
	} {
		t.Run(setting.name, func(t *testing.T) {
			m := mModel{mSetting: setting, maxCrashes: 1, maxSwitches: 2}
			if *modelLong {
				m.maxCrashes = 2
			}
			if setting.noCrash {
				m.maxCrashes = 0
			}
			start := time.Now()
			states, violation, trace, err := m.explore()
			t.Logf("%d states in %v: %q", states, time.Since(start).Round(time.Millisecond), violation)
			switch {
			case err != nil:
				t.Fatal(err)
			case setting.want == "" && violation != "":
				t.Errorf("%s\n  %s", violation, strings.Join(trace, "\n  "))
			case !strings.Contains(violation, setting.want):
				t.Errorf("found %q, want %q", violation, setting.want)
			}
		})
	}
}
