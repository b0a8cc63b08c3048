package nats

import (
	"fmt"
	"strconv"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"callswitch/codecore"
	"callswitch/sessions"
)

// Headers of a record. Stored: never rename.
const (
	hdrOwner    = "Owner"
	hdrEpoch    = "Epoch"
	hdrN        = "N"
	hdrRelease  = "Release"
	hdrSchema   = "Schema"
	hdrAttempts = "Attempts" // absent: 0
	hdrClaimed  = "Claimed"  // RFC 3339, UTC; absent: never
	hdrState    = "State"    // "tomb", "aside", "tomb aside"; absent: live
)

// sumHeaders are what makes two writes of one key the same (doubts).
var sumHeaders = []string{hdrOwner, hdrEpoch, hdrN, hdrRelease, hdrSchema, hdrAttempts, hdrClaimed, hdrState}

func (s *Store) write(r sessions.Record) write {
	h := make(natsgo.Header, 12)
	h[hdrOwner] = []string{r.Owner}
	h[hdrEpoch] = []string{strconv.FormatUint(r.Epoch, 10)}
	h[hdrN] = []string{strconv.FormatUint(r.N, 10)}
	h[hdrRelease] = []string{r.Release}
	h[hdrSchema] = []string{strconv.Itoa(r.Schema)}
	if r.Attempts != 0 {
		h[hdrAttempts] = []string{strconv.Itoa(r.Attempts)}
	}
	if !r.Claimed.IsZero() {
		h[hdrClaimed] = []string{r.Claimed.UTC().Format(time.RFC3339Nano)}
	}
	switch {
	case r.Tomb && r.Aside:
		h[hdrState] = []string{"tomb aside"}
	case r.Tomb:
		h[hdrState] = []string{"tomb"}
	case r.Aside:
		h[hdrState] = []string{"aside"}
	}
	if r.Tomb {
		h[hdrTTL] = []string{s.cfg.TombTTL.Round(time.Second).String()}
	}
	return write{key: string(r.ID), hdr: h, data: r.Body, rev: r.Rev}
}

// record reads an entry back.
func record(e entry) (sessions.Record, error) {
	h := headers{h: e.Header}
	r := sessions.Record{
		ID: codecore.CallID(e.Key), Owner: h.text(hdrOwner), Release: h.text(hdrRelease),
		Epoch: h.number(hdrEpoch), N: h.number(hdrN), Schema: int(h.number(hdrSchema)), Attempts: int(h.optional(hdrAttempts)),
		Body: e.Data, Rev: e.Rev,
	}
	if v := h.text(hdrClaimed); v != "" {
		at, err := time.Parse(time.RFC3339Nano, v)
		if err != nil {
			h.err = fmt.Errorf("nats: header %s: %w", hdrClaimed, err)
		}
		r.Claimed = at
	}
	switch v := h.text(hdrState); v {
	case "":
	case "tomb":
		r.Tomb = true
	case "aside":
		r.Aside = true
	case "tomb aside":
		r.Tomb, r.Aside = true, true
	default:
		h.err = fmt.Errorf("nats: header %s: unknown word %q", hdrState, v)
	}
	return r, h.err
}

// headers reads values and keeps the first error.
type headers struct {
	h   natsgo.Header
	err error
}

func (h *headers) text(name string) string { return h.h.Get(name) }

func (h *headers) optional(name string) uint64 {
	if h.text(name) == "" {
		return 0
	}
	return h.number(name)
}

func (h *headers) number(name string) uint64 {
	n, err := strconv.ParseUint(h.text(name), 10, 63)
	if err != nil && h.err == nil {
		h.err = fmt.Errorf("nats: header %s: %w", name, err)
	}
	return n
}
