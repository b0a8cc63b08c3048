package loadtest

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"
)

// look reads where every call is and notes who has moved.
func (d *demo) look(ctx context.Context, forth bool) error {
	calls, err := d.sw.API.Calls(ctx)
	if err != nil {
		return err
	}
	ps, err := d.sw.Processes(ctx)
	if err != nil {
		return err
	}
	for _, p := range ps {
		if p.Role == RoleWorker {
			d.known.owner(p)
		}
	}
	clear(d.where)
	by := map[string]int{}
	for _, c := range calls {
		at := d.known.of(c.Owner)
		by[d.known.show(at)]++
		before, known := d.epochs[c.To]
		was := d.where[c.To]
		if was != "" {
			d.v.Problems = append(d.v.Problems, fmt.Sprintf("two calls to %s: %s and %s", c.To, was, c.ID))
		}
		d.where[c.To] = at
		if known && c.Epoch > before && d.next.Digest != "" {
			switch {
			case forth && same(at, d.next.Digest):
				d.moved[c.To] = true
			case !forth && same(at, d.base.Digest) && d.moved[c.To]:
				d.back[c.To] = true
			}
		}
		d.epochs[c.To] = c.Epoch
	}
	d.out.say("calls by release: %s", byRelease(by))
	return nil
}

// checkStep judges where the calls are after a step and returns how many
// talking calls are on the release of that digest.
func (d *demo) checkStep(digest string, forth bool, refusals []Refusal) (talking int) {
	reasons := map[string]Refusal{}
	for _, r := range refusals {
		reasons[r.To] = r
	}
	for _, p := range d.cast.all() {
		at, r := d.where[p.Number], reasons[p.Number]
		switch {
		case p.kind == KindTalking && same(at, digest):
			talking++
		case p.kind == KindTalking && r.Reason != "":
			d.v.Refused++
			d.v.Problems = append(d.v.Problems, fmt.Sprintf("talking call %s was refused: %s %s", r.Call, r.Reason, r.Detail))
		case p.kind == KindRefused && forth, p.kind == KindPinned && !forth:
			stay := d.base.Digest
			if p.kind == KindPinned {
				stay = d.next.Digest
			}
			d.mustStay(p, at, stay, r)
		}
	}
	if talking != d.v.Calls {
		d.v.Problems = append(d.v.Problems, fmt.Sprintf("%d of %d talking calls are on %s after the step", talking, d.v.Calls, d.known.show(digest)))
	}
	return talking
}

// mustStay checks a call that cannot move: it is where it was, and the rollout says why.
func (d *demo) mustStay(p *part, at, stay string, r Refusal) {
	k := d.kind(p.kind)
	if !same(at, stay) {
		k.Problems = append(k.Problems, fmt.Sprintf("%s is on %q, not on %q", p.Number, d.known.show(at), d.known.show(stay)))
	}
	if r.Reason == "" {
		k.Problems = append(k.Problems, "the rollout does not list "+p.Number)
		return
	}
	reason := strings.TrimSpace(r.Reason + " " + r.Detail)
	if len(k.Reasons) == 0 || k.Reasons[len(k.Reasons)-1] != reason {
		k.Reasons = append(k.Reasons, reason)
		d.out.say("%s call %s stays on %s: %s", p.kind, r.Call, d.known.show(stay), reason)
	}
}

func (d *demo) kind(name string) *KindVerdict {
	if d.v.Kinds == nil {
		d.v.Kinds = map[string]*KindVerdict{}
	}
	if d.v.Kinds[name] == nil {
		d.v.Kinds[name] = &KindVerdict{}
	}
	return d.v.Kinds[name]
}

// sighting reads the workers off the process table. After a step the worker
// that has the calls must have another pid and another executable than before.
func (d *demo) sighting(ctx context.Context, step int) error {
	ps, err := d.sw.Find(ctx, RoleWorker)
	if err != nil {
		return err
	}
	var busiest WorkerSeen
	most := -1
	for _, p := range ps {
		digest, err := Digest(p.PID)
		if err != nil {
			continue // it has just left
		}
		if !strings.HasPrefix(digest, p.Digest) {
			d.v.Problems = append(d.v.Problems, fmt.Sprintf("worker %d says its digest is %s; it is %s", p.PID, p.Digest, digest))
		}
		want := ""
		if n := len(d.v.Releases); n > 0 {
			want = d.v.Releases[n-1].Digest
		}
		if (want == "" || same(digest, want)) && p.Calls > most {
			most, busiest = p.Calls, WorkerSeen{Step: step, PID: p.PID, Release: p.Release, Digest: digest}
		}
	}
	if busiest.PID == 0 {
		d.v.Problems = append(d.v.Problems, fmt.Sprintf("step %d: no worker of the release that should have the calls", step))
		return nil
	}
	if n := len(d.v.Workers); n > 0 {
		old := d.v.Workers[n-1]
		if old.PID == busiest.PID || old.Digest == busiest.Digest {
			d.v.Problems = append(d.v.Problems, fmt.Sprintf("step %d: pid %d digest %.12s is not another worker than pid %d digest %.12s",
				step, busiest.PID, busiest.Digest, old.PID, old.Digest))
		}
	}
	d.v.Workers = append(d.v.Workers, busiest)
	return nil
}

// ports counts the RTP ports of our SDP that belong to a media process. The kernel's
// table is read in pieces, and a socket's line may slip through between two of them when
// others come and go: who is missing is looked for again.
func (d *demo) ports(ctx context.Context) error {
	if !d.cfg.RTP {
		return nil
	}
	owned := map[int]bool{}
	for range 20 {
		ps, err := d.sw.Find(ctx, RoleMedia)
		if err != nil {
			return err
		}
		for _, p := range ps {
			ports, err := UDPPorts(p.PID)
			if err != nil {
				return err
			}
			maps.Copy(owned, ports)
		}
		if d.v.MediaPorts = d.owned(owned); d.v.MediaPorts == 2*d.cfg.Calls || !pause(ctx, 50*time.Millisecond) {
			break
		}
	}
	return nil
}

// owned counts those of our SDP that are among ports.
func (d *demo) owned(ports map[int]bool) (n int) {
	for _, p := range d.cast.all() {
		if p.kind != KindTalking {
			continue
		}
		for _, s := range []*Stream{p.SA, p.SB} {
			if s != nil {
				if to := s.remote.Load(); to != nil && ports[int(addressOf(*to).Port())] {
					n++
				}
			}
		}
	}
	return n
}

// sum collects what the far ends and the switch have at the end.
func (d *demo) sum(ctx context.Context) error {
	if m, err := d.sw.API.Moves(ctx); err == nil {
		d.v.FreezeMS = m.FreezeMS
	}
	for _, s := range d.v.Releases { // workers that have left took their histograms along
		d.v.FreezeMS.P50 = max(d.v.FreezeMS.P50, s.FreezeMS.P50)
		d.v.FreezeMS.P99 = max(d.v.FreezeMS.P99, s.FreezeMS.P99)
		d.v.FreezeMS.Max = max(d.v.FreezeMS.Max, s.FreezeMS.Max)
	}
	for _, p := range d.cast.all() {
		d.sumPart(p)
	}
	d.rig.mu.Lock()
	d.v.Problems = append(d.v.Problems, d.rig.doubt...)
	d.rig.mu.Unlock()
	return d.sumCDRs(ctx)
}

func (d *demo) sumPart(p *part) {
	_, n := p.Violations()
	d.v.Retransmitted += n
	if p.kind != KindTalking {
		k := d.kind(p.kind)
		k.Calls++
		if d.moved[p.Number] {
			k.Moved++
		}
		problems := judge(p.Call, p.err, d.cfg.RTP)
		if len(problems) == 0 {
			k.OK++
		}
		for _, s := range problems {
			k.Problems = append(k.Problems, p.Number+": "+s)
		}
		return
	}
	if p.up {
		d.v.Established++
	}
	if p.dropped {
		d.v.Dropped++
	}
	if p.up && p.err == nil {
		d.v.ByeOK++
	}
	if d.moved[p.Number] {
		d.v.Moved++
	}
	if d.back[p.Number] {
		d.v.MovedBack++
	}
	for _, s := range judge(p.Call, p.err, false) {
		if len(d.v.Problems) < 50 {
			d.v.Problems = append(d.v.Problems, p.Number+": "+s)
		}
	}
	h := p.Hearing()
	d.v.RTPSent += h.Sent
	d.v.RTPLost += h.Lost
	d.v.RTPReordered += h.Reordered
	d.v.RTPDuplicated += h.Duplicated
	d.v.RTPElsewhere += h.WrongSource
	d.v.RTPForeign += h.Foreign
	d.v.RTPBroken += h.Broken
	d.v.RTPGapMax = max(d.v.RTPGapMax, h.GapMS)
	d.v.RTPDelayMax = max(d.v.RTPDelayMax, h.DelayMS)
}

// sumCDRs waits until every call has its CDR (a minute at most) and counts them.
func (d *demo) sumCDRs(ctx context.Context) error {
	parts := d.cast.all()
	var cdrs []CDR
	var err error
	for range 300 {
		if cdrs, err = d.sw.API.CDRs(ctx); err == nil && len(cdrs) >= len(parts) {
			break
		}
		if !pause(ctx, 200*time.Millisecond) {
			return ctx.Err()
		}
	}
	ids, byNumber := map[string]int{}, map[string][]CDR{}
	for _, c := range cdrs {
		ids[c.ID]++
		if ids[c.ID] > 1 {
			d.v.CDRDuplicates++
			continue
		}
		byNumber[c.To] = append(byNumber[c.To], c)
	}
	for _, p := range parts {
		n := len(byNumber[p.Number])
		if n > 1 {
			d.v.CDRDuplicates += n - 1
		}
		if n == 0 {
			continue
		}
		if p.kind == KindTalking {
			d.v.CDRs++
		} else {
			d.kind(p.kind).CDRs++
		}
		if want := resultOf(p.kind); p.err == nil && byNumber[p.Number][0].Result != want {
			d.v.Problems = append(d.v.Problems, fmt.Sprintf("CDR of %s call %s says %q, not %q", p.kind, p.Number, byNumber[p.Number][0].Result, want))
		}
	}
	return err
}

// resultOf is the CDR's result of a kind.
func resultOf(kind string) string {
	switch kind {
	case KindCancel:
		return "cancelled"
	case KindBusy:
		return "busy"
	}
	return "answered"
}
