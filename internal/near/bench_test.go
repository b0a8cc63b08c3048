package near

import (
	"context"
	"syscall"
	"testing"

	"callswitch/sessions"
)

// BenchmarkRequest asks for 500 bytes and gets 500, by either carrier, all ends in
// one process. cpu-us/op is of all its threads, the server's too.
func BenchmarkRequest(b *testing.B) {
	h := newHost(b)
	a, w := h.process(b, "a"), h.process(b, "w")
	if _, err := w.Subscribe("call.1.in", "", func(m sessions.Msg) { _ = w.Publish(m.Reply, m.Data) }); err != nil {
		b.Fatal(err)
	}
	flush(b, w)
	for name, bus := range map[string]sessions.Bus{"stream": a, "nats": a.far} {
		b.Run(name, func(b *testing.B) {
			before := cpu(b)
			n := 0
			for data := make([]byte, 500); b.Loop(); n++ {
				if _, err := bus.Request(context.Background(), "call.1.in", data); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpu(b)-before)/1000/float64(n), "cpu-us/op")
		})
	}
}

// cpu is what this process has used, in ns.
func cpu(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
