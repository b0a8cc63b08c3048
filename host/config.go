package host

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// Config is what a Host needs. Dir and Children have no default.
type Config struct {
	Dir      string // state directory; run/host.sock, run/host.json and run/host.lock are in it
	Children []Spec // started in this order

	// Intensity restarts of one child within Period are allowed, as for an OTP
	// supervisor; then that child, and it alone, is left for GiveUp. 10 in 60 s, 30 s.
	Intensity int
	Period    time.Duration
	GiveUp    time.Duration

	// Leave has Run return without stopping the children, for a later host to adopt.
	Leave bool
	// Logs is a directory for the children's output, one file each (<name>.log,
	// appended). Default: they write to the host's standard error.
	Logs string
	// MaxKept bounds the kept descriptors; those beyond it are not kept and
	// reported. Default: the limit of open files less 512.
	MaxKept int
	// Begin is called once the state directory is this host's alone, before any
	// child starts: the place to write what the children read. Its error ends Run.
	Begin func() error
	// Restore says whether a child that an earlier host was asked to start, and
	// that has died since, is started again. Default: every one.
	Restore func(Spec) bool
	// OnEvent is told what happens. It must not block, nor call the Host.
	OnEvent func(Event)
	Log     *slog.Logger // default: nowhere
}

// Restart says when a child that ended is started again.
type Restart string

// Restart policies, as in OTP.
const (
	Permanent Restart = "permanent" // always; the default
	Transient Restart = "transient" // unless it ended with exit code 0
	Temporary Restart = "temporary" // never
)

// A Spec is a child to run.
type Spec struct {
	Name    string   `json:"name"` // "worker-1", unique on this host
	Role    string   `json:"role"` // default: Name
	Argv    []string `json:"argv"` // path and arguments
	Env     []string `json:"env,omitempty"`
	Restart Restart  `json:"restart,omitempty"`

	// BackOff before a restart; doubles to MaxBackOff, begins anew after Healthy of
	// life. 100 ms, 5 s, 10 s. One that was ready is missed, and started again at
	// once, unless it was restarted within Config.Period already.
	BackOff    time.Duration `json:"back_off,omitempty"`
	MaxBackOff time.Duration `json:"max_back_off,omitempty"`
	Healthy    time.Duration `json:"healthy,omitempty"`

	// Silent is how long a child may leave pings unanswered before it is killed.
	// Its successor starts only when it is gone. Default 30 s; negative: for ever.
	Silent time.Duration `json:"silent,omitempty"`
	// Grace is what a child gets from SIGTERM to SIGKILL. 10 s.
	Grace time.Duration `json:"grace,omitempty"`
	// Order of shutdown: the highest is stopped first, equal ones together.
	// Default: the place in Config.Children of the first child of this Role.
	Order int `json:"order,omitempty"`
}

// Errors of this package. Those of a Client's requests cross the socket.
var (
	ErrConfig  = errors.New("host: configuration")
	ErrRunning = errors.New("host: another host runs on this state directory")
	ErrExists  = errors.New("host: a child of that name exists")
	ErrUnknown = errors.New("host: no child of that name")
	ErrClosing = errors.New("host: shutting down")
	ErrAway    = errors.New("host: not connected")
	ErrRefused = errors.New("host: refused")
)

func or[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (s Spec) withDefaults() Spec {
	or(&s.Role, s.Name)
	or(&s.Restart, Permanent)
	or(&s.BackOff, 100*time.Millisecond)
	or(&s.MaxBackOff, 5*time.Second)
	or(&s.Healthy, 10*time.Second)
	or(&s.Silent, 30*time.Second)
	or(&s.Grace, 10*time.Second)
	return s
}

func (s Spec) check() error {
	switch {
	case s.Name == "" || filepath.Base(s.Name) != s.Name:
		return errors.New("host: a child needs a name without slashes")
	case len(s.Argv) == 0:
		return errors.New("host: child " + s.Name + " has no command")
	case s.Restart != Permanent && s.Restart != Transient && s.Restart != Temporary:
		return errors.New("host: child " + s.Name + ": no restart policy " + string(s.Restart))
	}
	return nil
}

// What an Event tells.
const (
	Started    = "started"
	Adopted    = "adopted" // started by an earlier host
	Connected  = "connected"
	Ready      = "ready"
	Ended      = "exited"
	Restarting = "restarting" // after Wait
	GivenUp    = "given-up"   // for Wait
	Hung       = "hung"       // pings not answered: is killed
	Failed     = "failed"     // could not be started
	Taken      = "taken-over" // by its heir
	Stays      = "stays"      // has been replaced, and has work left that its heir cannot do
)

// An Event is one step in a child's life.
type Event struct {
	Kind  string
	Child string // its name
	Role  string
	PID   int
	Wait  time.Duration
	Exit  *Exit // Ended
	Err   error // Failed
}

// An Exit reports the end of a child.
type Exit struct {
	Seq    uint64    `json:"seq"` // counts within one host's life
	Name   string    `json:"name"`
	Role   string    `json:"role"`
	ID     string    `json:"id,omitempty"` // as it said in its Hello
	PID    int       `json:"pid"`
	Code   int       `json:"code"`              // -1: by a signal, or unknown (it was adopted)
	Signal string    `json:"signal,omitempty"`  // "killed"
	InHand []string  `json:"in_hand,omitempty"` // what Client.InHand named when it ended
	At     time.Time `json:"at"`
}

// A Hello is what a child says of itself. With neither Role nor Name (and not
// started by a host, which sets Name) the process is no child: it may ask and
// listen, and is not supervised.
type Hello struct {
	Role    string          `json:"role"`
	Name    string          `json:"name"` // default: the name that the host gave it
	ID      string          `json:"id"`   // incarnation
	PID     int             `json:"pid"`  // set by Dial; the host believes the kernel's
	Release string          `json:"release,omitempty"`
	Digest  string          `json:"digest,omitempty"`
	Took    bool            `json:"took,omitempty"`  // the place of the process before it (Client.Took)
	Stays   bool            `json:"stays,omitempty"` // replaced, and not at its end (Client.Stays)
	Info    json.RawMessage `json:"info,omitempty"`  // opaque
}

// A Child is one line of Client.List.
type Child struct {
	Spec     Spec      `json:"spec"`
	Phase    string    `json:"phase"` // "waiting", "running", "stopping", "given-up"
	PID      int       `json:"pid,omitempty"`
	Hello    Hello     `json:"hello"`
	Ready    bool      `json:"ready"`
	Adopted  bool      `json:"adopted,omitempty"`
	Since    time.Time `json:"since"` // start of the process
	Restarts int       `json:"restarts"`
}

// A Listing is what a host has.
type Listing struct {
	Children []Child        `json:"children"` // by name
	Kept     map[string]int `json:"kept"`     // descriptors by role of their keeper
}

func runDir(dir string) string { return filepath.Join(dir, "run") }

// dial and bind work on paths longer than a sockaddr_un (108 bytes) by way of a
// descriptor of the directory.
func withSocketPath(dir string, fn func(path string) error) error {
	path := filepath.Join(runDir(dir), "host.sock")
	if len(path) < 100 {
		return fn(path)
	}
	d, err := os.Open(runDir(dir))
	if err != nil {
		return err
	}
	defer d.Close()
	raw, err := d.SyscallConn()
	if err != nil {
		return err
	}
	ctrl := raw.Control(func(fd uintptr) {
		err = fn(filepath.Join("/proc/self/fd", itoa(int(fd)), "host.sock"))
	})
	return errors.Join(ctrl, err)
}
