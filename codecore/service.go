package codecore

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pion/sdp/v3"
)

// Services: numbers that the switch answers itself, "to: service:echo" in the
// dialplan. The media plane is the far end:
//
//	a              switch
//	| INVITE -----> |     allocate leg a alone
//	| <-------- 200 |     answered at once
//	| ACK --------> |
//
// Slot B has no dialog, but a Sound: what the service would say if it were a phone.
// So holds, refreshes, moves and hanging up are those of any call.

const servicePrefix = "service:"

// Names of services. Stored: never rename.
const (
	ServiceEcho = "echo" // what it hears
	ServiceTone = "tone" // 440 Hz
)

// serviceOf reads a name like "service:echo".
func serviceOf(peer string) (name string, ok bool) { return strings.CutPrefix(peer, servicePrefix) }

// IsService reports whether a party is a service of the switch.
func IsService(peer string) bool {
	name, ok := serviceOf(peer)
	return ok && (name == ServiceEcho || name == ServiceTone)
}

// service is the one that the call is with; "" = none.
func (s *State) service() string {
	if name, ok := serviceOf(s.Route.Peer); ok {
		return name
	}
	return ""
}

// served answers the INVITE of a call with a service.
func (c *call) served(t *ServerTx, m *Message, at time.Time) {
	var body []byte
	if len(m.Body) > 0 {
		s, err := describe(m.Body, c.A.offers())
		if err == nil {
			err = c.speakTo(s)
		}
		if err != nil {
			status, cause := statusOf(err)
			c.reject(t, status, cause, c.now)
			return
		}
		offer := c.A.Offer
		c.A.Sound, c.A.Offer = *offer, nil
		c.A.Answers++
		body = c.answer(LegA, c.B.Sound.said(), offer)
	} else {
		c.B.Sound = serviceSound("0", "8")
		body = c.offerService()
	}
	c.A.Dialogs[0].Confirmed = true
	c.CDR.Answer, c.CDR.Code = at, 200
	c.become(PhaseAnswered)
	c.bridge()
	c.respond(LegA, t, 200, body)
}

// offerService makes the offer of a service in a 2xx; the ACK brings the answer.
func (c *call) offerService() []byte {
	c.B.AckDue = 1
	return c.offer(LegA, c.B.Sound.said())
}

// serviceAnswered takes it.
func (c *call) serviceAnswered(cseq uint32, body []byte) {
	if c.B.AckDue == 0 || !c.A.awaitsAck(cseq) {
		return
	}
	s, err := c.answered(LegA, body)
	if err == nil {
		err = c.speakTo(s)
	}
	if err != nil {
		return // acked ends the call
	}
	c.B.AckDue, c.A.Sound = 0, s.sound
	c.A.Answers++
	c.bridge()
}

// servedAgain answers a re-INVITE to a service.
func (c *call) servedAgain(own *Dialog, t *ServerTx, m *Message, offer *said) {
	l := &c.A
	if offer != nil {
		if err := c.speakTo(*offer); err != nil {
			status, cause := statusOf(err)
			c.respond(LegA, t, status, nil, c.reason(status, cause))
			return
		}
	}
	l.learn(m)
	if target := contactOf(m); target != "" { // target refresh (RFC 3261 12.2.2)
		own.Target = target
	}
	if offer == nil {
		c.respond(LegA, t, 200, c.offerService())
		return
	}
	c.hears(LegA, offer)
	l.Sound, l.Offer = *l.Offer, nil
	l.Answers++
	c.bridge()
	c.respond(LegA, t, 200, c.answer(LegA, c.B.Sound.said(), &l.Sound))
}

// speakTo chooses what the service says to an offer.
func (c *call) speakTo(offer said) error {
	if offer.sound.Fax {
		return ErrNoAudio
	}
	names := encodings(offer.audio)
	chosen := slices.IndexFunc(names, func(name string) bool {
		if c.service() == ServiceTone {
			return name == "pcmu/8000" || name == "pcma/8000"
		}
		return isSound(name)
	})
	if chosen < 0 || c.service() == ServiceTone && !slices.Contains([]string{"0", "8"}, offer.audio.MediaName.Formats[chosen]) {
		return ErrCodec
	}
	_, clock, _ := strings.Cut(names[chosen], "/")
	kept := []string{offer.audio.MediaName.Formats[chosen]}
	for i, name := range names {
		if name == "telephone-event/"+clock {
			kept = append(kept, offer.audio.MediaName.Formats[i])
			break
		}
	}
	line := sdp.MediaDescription{MediaName: sdp.MediaName{Formats: kept}}
	for _, a := range offer.audio.Attributes {
		pt, _, _ := strings.Cut(a.Value, " ")
		if (a.Key == "rtpmap" || a.Key == "fmtp") && slices.Contains(kept, pt) || a.Key == "ptime" {
			line.Attributes = append(line.Attributes, a)
		}
	}
	sound := serviceSound(kept...)
	if len(kept) > 1 && clock == "8000" && len(sound.Payloads) > 1 {
		sound.DTMF = sound.Payloads[1]
	}
	if sound.Coding = codingOf(&line, sound.Payloads); sound.Coding == "" {
		return ErrCodec
	}
	c.B.Sound = sound
	return nil
}

// serviceSound is a service that codes in these formats, whose meaning is fixed.
func serviceSound(formats ...string) Sound {
	s := Sound{Sends: true, Hears: true, Mux: true, Coding: "*"}
	for _, f := range formats {
		if n, err := strconv.ParseUint(f, 10, 7); err == nil {
			s.Payloads = append(s.Payloads, byte(n))
		}
	}
	return s
}

// alone is what the media plane does for a leg whose far end is a service.
func (c *call) alone(m MediaLeg) MediaLeg {
	m.Echo, m.Tone = c.service() == ServiceEcho, c.service() == ServiceTone
	m.Payloads, m.DTMF = slices.Clone(c.B.Sound.Payloads), c.B.Sound.DTMF
	return m
}
