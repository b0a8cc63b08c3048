package codecore

import "strconv"

// Kinds of protection of a leg's media. Stored: never rename.
const (
	SecureSDES = "sdes" // SRTP with keys from the SDP (RFC 4568)
	SecureDTLS = "dtls" // ICE, and SRTP with keys from a DTLS handshake (RFC 8827)
)

// Secure is how a leg's packets are protected. No secret stands in it, nor
// anywhere in State: what is ours is derived, by edge and media alone, from the
// cluster key, the call and the label Own (package secrets); what is the party's
// was sealed by the edge before we saw it.
//
// An SDP of ours names what the edge puts in its place when it sends it:
//
//	{own:ufrag:LABEL} {own:pwd:LABEL}  ICE credentials
//	{own:fingerprint}                  of the certificate of the cluster: "sha-256 AB:…"
//	{own:srtp:SUITE:LABEL}             SDES key||salt in base64
//
// and of what a party says, a=ice-pwd:VALUE and the key of a=crypto:TAG SUITE
// inline:KEY|… reach us as {sealed:TEXT}; one that cannot be a key of its kind as
// {bad}.
type Secure struct {
	Kind string `json:"kind"`
	// Own is the label of our secrets: another one, other secrets (ICE restart, new
	// keys). "<slot>.<n>"; a call never uses a label for two parties, and n only grows.
	Own string `json:"own"`

	// SDES.
	Suite string `json:"suite,omitempty"` // "AES_CM_128_HMAC_SHA1_80", …
	Key   string `json:"key,omitempty"`   // the party's key||salt in base64, sealed

	// DTLS.
	Ufrag       string `json:"ufrag,omitempty"`       // the party's
	Pwd         string `json:"pwd,omitempty"`         // the party's, sealed
	Fingerprint string `json:"fingerprint,omitempty"` // of its certificate: "sha-256 AB:…"
	Active      bool   `json:"active,omitempty"`      // we send the ClientHello (RFC 8842)
	// Assoc names the DTLS association: another one, another handshake. An ICE
	// restart changes Own alone.
	Assoc string `json:"assoc,omitempty"`
}

func (s *Secure) same(o *Secure) bool {
	if s == nil || o == nil {
		return s == o
	}
	return *s == *o
}

// is reports whether s is of a kind; nil is of none.
func (s *Secure) is(kind string) bool { return s != nil && s.Kind == kind }

// Terms are how a party's media is to be protected. Stored: never rename a field.
type Terms struct {
	SRTP string `json:"srtp,omitempty"` // policy of the party (profile.go)
	Ask  *Ask   `json:"ask,omitempty"`  // of our last offer to it
}

func (l *Leg) ask() *Ask {
	if l.Terms == nil {
		return nil
	}
	return l.Terms.Ask
}

// policy is the party's.
func (l *Leg) policy() string {
	if l.Terms == nil {
		return ""
	}
	return l.Terms.SRTP
}

// set changes the terms: other copies of the leg keep theirs.
func (l *Leg) set(t Terms) {
	if l.Terms = nil; t != (Terms{}) {
		l.Terms = &t
	}
}

// Ask is how the last offer of ours to a leg wants its media protected, for its
// answer to be held to. None: plain RTP/AVP. Stored: never rename a field.
type Ask struct {
	Proto string `json:"proto,omitempty"` // of the m= line; "" = RTP/AVP
	Kind  string `json:"kind,omitempty"`  // "" = plain
	Own   string `json:"own,omitempty"`   // label, as Secure.Own
	Suite string `json:"suite,omitempty"` // the one that is offered; "" = all of offeredSuites
	Mid   string `json:"mid,omitempty"`   // of a bundle
	// Try: a party that will have none of it is asked again, for plain RTP.
	Try bool `json:"try,omitempty"`
}

// label is one that this call has never used.
func (c *call) label(slot LegID) string {
	c.Labels++
	return string(slot) + "." + strconv.FormatUint(uint64(c.Labels), 10)
}

// hears takes down a party's offer.
func (c *call) hears(leg LegID, s *said) {
	l := c.leg(leg)
	c.protect(leg, s)
	l.Offer, l.Lines = &s.sound, s.lines
}

// protect completes the protection that a party's offer asks for with what is
// ours. What it has said before changes nothing: no ICE restart, no new keys.
func (c *call) protect(leg LegID, s *said) {
	l, now := c.leg(leg), s.sound.secure()
	if now == nil {
		return
	}
	old := l.Sound.secure()
	if !old.is(now.Kind) {
		old = new(Secure)
	}
	switch {
	case now.Kind == SecureDTLS && old.Ufrag == now.Ufrag && old.Pwd == now.Pwd,
		// Who has new keys may be somebody else, who knows nothing of the packets sent
		// so far: ours are new, too, and begin at packet 0.
		now.Kind == SecureSDES && old.Key == now.Key && old.Suite == now.Suite:
		now.Own = old.Own
	default:
		now.Own = c.label(c.slot(leg))
	}
	if now.Kind == SecureDTLS {
		if s.actpass { // RFC 8842 5.3: the roles stay while the association does
			now.Active = old.Active && old.Fingerprint == now.Fingerprint
		}
		now.Assoc = c.assoc(l, now)
	}
}

// protectedBy completes it with what our offer, of which this is the answer, said.
func (c *call) protectedBy(leg LegID, s *said) {
	l, now := c.leg(leg), s.sound.secure()
	ask := l.ask()
	if now == nil || ask == nil {
		return
	}
	if now.Own = ask.Own; now.Kind == SecureDTLS {
		now.Assoc = c.assoc(l, now)
	}
}

func (c *call) assoc(l *Leg, s *Secure) string {
	return c.hash(4, "dtls", l.Tag, s.Fingerprint, strconv.FormatBool(s.Active))
}

// asks is how a leg's first offer of ours is to be protected.
func (c *call) asks(slot LegID, webrtc bool, policy string) *Ask {
	switch {
	case webrtc:
		return &Ask{Proto: protoDTLS, Kind: SecureDTLS, Own: c.label(slot), Mid: "0"}
	case policy == SRTPRequired, policy == SRTPPreferred:
		return &Ask{Proto: protoSDES, Kind: SecureSDES, Own: c.label(slot), Try: policy == SRTPPreferred}
	}
	return nil
}

// again is how an offer of ours to a party that has described itself goes on with
// what is in use.
func (s *Sound) again() *Ask {
	if s.Line == nil {
		return nil
	}
	a := Ask{Proto: s.Line.Proto}
	if x := s.Line.Secure; x != nil {
		a.Kind, a.Own, a.Suite = x.Kind, x.Own, x.Suite
	}
	if s.Line.Bundle {
		a.Mid = s.Line.Mid
	}
	return &a
}

// plainly calls a party that will have no SRTP once more, for plain RTP, where that
// is second best: in an INVITE of its own, for one that offers both (RTP/AVP with
// a=crypto) is refused by as many as it helps.
func (c *call) plainly(leg LegID, t ClientTx, e SIPResponse) bool {
	l := c.leg(leg)
	ask := l.ask()
	if ask == nil || !ask.Try || l.Leaving || c.closed == nil || c.Phase == PhaseEnded {
		return false
	}
	switch e.Msg.Status {
	case 415, 488, 606:
	default:
		return false
	}
	s, err := describe(c.closed.Msg.Body, want{coding: true})
	if err != nil {
		return false
	}
	l.set(Terms{SRTP: l.policy()})
	again := *c.closed
	again.Msg.Body = c.offer(leg, s)
	c.closed = &again
	return c.askAgain(leg, t)
}
