package codecore

// A Plan is the versioned routing table of the switch. It is data: Route
// (route.go) reads it, nothing else decides where a call goes.
type Plan struct {
	Version uint64      `json:"version" yaml:"version"`
	Peers   []PlanPeer  `json:"peers" yaml:"peers"`
	Routes  []PlanRoute `json:"routes" yaml:"routes"`
	Limits  PlanLimits  `json:"limits" yaml:"limits,omitempty"`

	// Redirect is what a 3xx of a callee leads to: "follow" (or ""), "pass" or
	// "refuse" (redirect.go). A peer's own comes first.
	Redirect string `json:"redirect,omitempty" yaml:"redirect,omitempty"`
}

// PlanPeer is a trunk or a phone. Who is in no Sources reaches nothing.
type PlanPeer struct {
	Name     string   `json:"name" yaml:"name"`
	Kind     string   `json:"kind" yaml:"kind"`                   // "trunk" or "phone"
	Sources  []string `json:"sources" yaml:"sources,omitempty"`   // "ip", "ip:port" or "cidr" it may call from; the longest match wins
	Reliable string   `json:"reliable" yaml:"reliable,omitempty"` // provisional responses (RFC 3262): "off", "allowed" (default: a callee is asked for them if the caller takes them) or "required"
	Target   string   `json:"target" yaml:"target,omitempty"`     // SIP URI to reach it: "sip:192.0.2.1:5060;transport=tcp"

	Redirect string `json:"redirect,omitempty" yaml:"redirect,omitempty"` // of its 3xx: as Plan.Redirect; "" = that

	SRTP  string `json:"srtp,omitempty" yaml:"srtp,omitempty"`   // "required", "preferred" or "off" (profile.go); "" = as it offers, and offered plain
	Media string `json:"media,omitempty" yaml:"media,omitempty"` // "webrtc": it is offered ICE and DTLS; "" = RTP

	// MaxCalls and MaxRate bound its calls, in and out together: at a time, and new
	// ones a second; 0 = no bound. More get 503, or the route's next target.
	MaxCalls int     `json:"max_calls,omitempty" yaml:"max_calls,omitempty"`
	MaxRate  float64 `json:"max_rate,omitempty" yaml:"max_rate,omitempty"`

	// Ping is how often a trunk is asked whether it lives, in seconds; 0 = not at all.
	Ping Seconds `json:"ping,omitempty" yaml:"ping,omitempty"`

	// Trusted: it asserts who calls, and is told what others asserted (identity.go).
	Trusted bool    `json:"trusted,omitempty" yaml:"trusted,omitempty"`
	In      Rewrite `json:"in,omitzero" yaml:"in,omitempty"`   // of numbers that come from it, before they are routed
	Out     Rewrite `json:"out,omitzero" yaml:"out,omitempty"` // of numbers that go to it, after strip and add of the route

	Register *Enlist `json:"register,omitempty" yaml:"register,omitempty"` // a trunk at which we register; nil = it knows us by our address
}

// PlanRoute sends numbers that begin with Prefix to a peer or a fixed URI. The
// longest prefix wins, then the first listed.
type PlanRoute struct {
	Prefix string `json:"prefix" yaml:"prefix"`
	To     string `json:"to" yaml:"to,omitempty"`       // peer name, a "sip:" URI, or "account:" and a name, "service:echo" or "service:tone"; {number} stands for the number
	Strip  int    `json:"strip" yaml:"strip,omitempty"` // digits taken off the front
	Add    string `json:"add" yaml:"add,omitempty"`     // digits put in front, after Strip
	From   string `json:"from" yaml:"from,omitempty"`   // peer name the caller must be, "account:" and a name, or "account" for all of them; "" = any

	// Targets, instead of To, are several: called one after the other, each when
	// the one before has failed or has not answered in its time, or all at once.
	Targets []PlanTarget `json:"targets,omitempty" yaml:"targets,omitempty"`
	Fork    string       `json:"fork,omitempty" yaml:"fork,omitempty"` // "serial" (or "") or "parallel"
}

// PlanTarget is one of several targets of a route.
type PlanTarget struct {
	To      string  `json:"to" yaml:"to"`                               // as PlanRoute.To
	Seconds Seconds `json:"seconds,omitempty" yaml:"seconds,omitempty"` // it may ring, when serial; 0 = 20, of the last as long as limits allow
}

// PlanLimits bound a call. Zero values mean the defaults of the comments.
type PlanLimits struct {
	NoAnswer       Seconds `json:"no_answer" yaml:"no_answer,omitempty"`             // 60: ringing without answer
	MaxCall        Seconds `json:"max_call" yaml:"max_call,omitempty"`               // 14400: talking
	SessionExpires Seconds `json:"session_expires" yaml:"session_expires,omitempty"` // 1800: interval of session timers (RFC 4028); -1 = not asked for
	MinSE          Seconds `json:"min_se" yaml:"min_se,omitempty"`                   // 90: the shortest that a caller may ask for

	AccountCalls int     `json:"account_calls,omitempty" yaml:"account_calls,omitempty"` // of each account: as PlanPeer.MaxCalls
	AccountRate  float64 `json:"account_rate,omitempty" yaml:"account_rate,omitempty"`   // and MaxRate
}

// Seconds is a whole number of seconds.
type Seconds int
