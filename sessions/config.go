package sessions

import (
	"context"
	"log/slog"
	"time"

	"callswitch/codecore"
)

// Config is what a Runner is made of. Zero values mean the defaults of the
// comments; ID, Node, Release, Digest, Store, Bus and Plan must be given.
type Config struct {
	ID      string // incarnation of this worker, "w-<ulid>": the owner in its records
	Node    string // host, "n1"
	Release string // of the code in this process
	Digest  string // of its executable: names the subject of its new calls

	Store Store
	Bus   Bus
	Now   func() time.Time      // store time; default time.Now
	Plan  func() *codecore.Plan // routing table in force, put into the INVITE that begins a call
	Floor func() int            // lowest schema that may be written (R6); default codecore.SchemaMin

	// Locate finds an account for a call to it, before the call's first save; ctx
	// ends after LocateWait. Default: there are no accounts.
	Locate func(ctx context.Context, account string) codecore.Located
	// Admit says whether a new call may begin, else why not (a stable reason
	// code) and after how many seconds to ask again. Default: yes.
	Admit func() (ok bool, reason string, retryAfter int)
	// Others tells how many calls each capped party has in the other workers, and
	// how many workers there are, this one included. Default: none, 1.
	Others func() (load map[string]int, workers int)
	// Alive reports whether a worker incarnation lives. Default: yes, so that
	// nothing is claimed without knowing.
	Alive func(owner string) bool
	// Claim asks for the takeover of a call whose owner is dead. It must not block.
	Claim func(codecore.CallID)
	// Foreign reports whether something else that is addressed as calls are has the
	// id: who asks for it as an orphan is to ask its owner again. Default: no.
	Foreign func(codecore.CallID) bool
	// Stepping brackets each run of call code: begin tells which call, the
	// returned function that it has come back (R7: who owns up to a crash).
	Stepping func(codecore.CallID) (end func())

	AllocWait   time.Duration // for the media plane's allocation before a new call is refused; 2 s
	LocateWait  time.Duration // for the directory's answer before a new call is refused; 2 s
	SaveTimeout time.Duration // of one attempt to save; 2 s
	DoTimeout   time.Duration // of one request to a receiver; 1 s
	ConfirmWait time.Duration // for a receiver's word before actions are sent again; 1 s
	Gather      time.Duration // what nobody waits for is done for many calls at once, this often; 50 ms
	MediaGiveUp time.Duration // an ended call stops asking the media plane to free its legs (it does so itself); 60 s
	Reread      time.Duration // between looks for calls that are ours no more; 30 s
	StopWait    time.Duration // for Steps in hand when Run ends; 2 s

	MaxQueue int // events waiting per call, more are refused with StatusLater; 64
	MaxMsg   int // bytes of a message, larger ones are dropped; 256 KiB

	Log     *slog.Logger // default: nowhere
	NoStory bool         // do not tell the store each Step
	Observe Observer
}

// Observer is told what a Runner does; any field may be nil. It is called from
// many goroutines and must not block.
type Observer struct {
	Attempt  func()              // a new call's INVITE
	Refused  func(reason string) // a new call that was not admitted
	Reason   func(code string)   // what the call logic refused or hung up (codecore/reasons.md, or an operator's word)
	Ended    func(codecore.CDR)  // a call whose CDR is stored
	PostDial func(time.Duration) // from the INVITE's receipt to its first 18x or 2xx
	Step     func(event, phase string, took time.Duration)
	Save     func(result string, took time.Duration) // "ok", "conflict", "away", "full", "too-large"
	Resend   func(receiver string)                   // kind of receiver: "edge", "media", "cdr"
	Panic    func(event string)                      // in Step
	Bad      func(why string)                        // a message that cannot be used: "size", "envelope", "event", "overflow"
	Lost     func(why string)                        // a call dropped because another owns it: "conflict", "notice", "reread"
}

func (c Config) withDefaults() Config {
	durations := []struct {
		d   *time.Duration
		def time.Duration
	}{
		{&c.AllocWait, 2 * time.Second},
		{&c.LocateWait, 2 * time.Second},
		{&c.SaveTimeout, 2 * time.Second},
		{&c.DoTimeout, time.Second},
		{&c.ConfirmWait, time.Second},
		{&c.Gather, 50 * time.Millisecond},
		{&c.MediaGiveUp, time.Minute},
		{&c.Reread, 30 * time.Second},
		{&c.StopWait, 2 * time.Second},
	}
	for _, d := range durations {
		if *d.d <= 0 {
			*d.d = d.def
		}
	}
	if c.MaxQueue <= 0 {
		c.MaxQueue = 64
	}
	if c.MaxMsg <= 0 {
		c.MaxMsg = 256 << 10
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Floor == nil {
		c.Floor = func() int { return codecore.SchemaMin }
	}
	if c.Locate == nil {
		c.Locate = func(context.Context, string) codecore.Located { return codecore.Located{Reason: "unknown-account"} }
	}
	if c.Admit == nil {
		c.Admit = func() (bool, string, int) { return true, "", 0 }
	}
	if c.Others == nil {
		c.Others = func() (map[string]int, int) { return nil, 1 }
	}
	if c.Alive == nil {
		c.Alive = func(string) bool { return true }
	}
	if c.Claim == nil {
		c.Claim = func(codecore.CallID) {}
	}
	if c.Stepping == nil {
		c.Stepping = func(codecore.CallID) func() { return func() {} }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Observe = c.Observe.withDefaults()
	return c
}

func (o Observer) withDefaults() Observer {
	word := func(string) {}
	if o.Ended == nil {
		o.Ended = func(codecore.CDR) {}
	}
	for _, f := range []*func(string){&o.Refused, &o.Reason, &o.Resend, &o.Panic, &o.Bad, &o.Lost} {
		if *f == nil {
			*f = word
		}
	}
	if o.Attempt == nil {
		o.Attempt = func() {}
	}
	if o.PostDial == nil {
		o.PostDial = func(time.Duration) {}
	}
	if o.Step == nil {
		o.Step = func(string, string, time.Duration) {}
	}
	if o.Save == nil {
		o.Save = func(string, time.Duration) {}
	}
	return o
}
