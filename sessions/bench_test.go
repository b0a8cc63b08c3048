package sessions_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"callswitch/codecore"
	"callswitch/sessions"
	"callswitch/sessions/sessionstest"
)

// BenchmarkPlainCall is what a call costs the Runner besides codecore, the
// store and the network: INVITE (with an allocation and media), answer, ACK,
// BYE, its answer and the last confirmation; 3 saves and the tombstone. The
// edge and media plane of this test are in its CPU time.
func BenchmarkPlainCall(b *testing.B) {
	r := &rig{t: b, store: sessions.NewMemStore(), bus: sessionstest.NewBus(1)}
	e := r.edge("edge.n1", "b1")
	r.media("n1")
	w, _ := r.worker("w-1", func(c *sessions.Config) { c.NoStory = true; c.Log = nil })
	var before, after syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	for i := 0; b.Loop(); i++ {
		id := codecore.CallID(fmt.Sprintf("%024x", i))
		e.restart("b1")
		for j, step := range []script{
			{Alloc: true, Media: 4000, Timer: "no-answer", In: time.Minute, Act: []string{"edge.n1"}},
			{Media: 4001, Act: []string{"edge.n1", "edge.n1"}},
			{NoSave: true},
			{Media: -1, Act: []string{"edge.n1", "edge.n1"}, CDR: true, End: true},
		} {
			subject, method := sessions.SubjectCall(id), "INFO"
			if j == 0 {
				subject, method = sessions.SubjectNew("d1"), "INVITE"
			}
			d := e.delivery(method, step)
			d.Call = id
			e.send(subject, d)
		}
		e.confirmCall(id)
	}
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	b.ReportMetric(float64(cpu)/float64(b.N)/1e3, "cpu-us/call")
	b.ReportMetric(float64(r.store.Puts())/float64(b.N), "saves/call")
	b.ReportMetric(float64(w.Len()), "held")
}
