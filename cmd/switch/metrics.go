package main

import (
	"errors"
	"maps"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"callswitch/codecore"
	"callswitch/handoff"
	"callswitch/media"
	"callswitch/registrar"
	"callswitch/sessions"
)

// Metrics of the switch. No label carries a call id, a number or an address;
// deploy/grafana draws these, and a test holds the two together.

// workerMetrics are what one worker counts.
type workerMetrics struct {
	release  string
	calls    *prometheus.Desc
	phases   func() map[string]int
	tally    workerTally
	attempts *prometheus.CounterVec
	refused  *prometheus.CounterVec
	reasons  *prometheus.CounterVec
	postDial prometheus.Histogram
	handoffs *prometheus.CounterVec
	freeze   prometheus.Histogram
	saves    *prometheus.CounterVec
	saveTime prometheus.Histogram
	resends  *prometheus.CounterVec
	steps    *prometheus.CounterVec
	panics   prometheus.Counter
	bad      *prometheus.CounterVec
	lost     *prometheus.CounterVec
}

func newWorkerMetrics(r prometheus.Registerer, release string) *workerMetrics {
	m := &workerMetrics{
		release:  release,
		calls:    prometheus.NewDesc("switch_calls", "Calls owned now, by release and phase.", []string{"release", "phase"}, nil),
		attempts: counters("switch_call_attempts_total", "New calls that reached a worker, by result (a result comes when the call ends).", "result"),
		refused:  counters("switch_calls_refused_total", "Calls that were not admitted, or refused or given up by the switch before an answer, by reason code.", "reason"),
		reasons:  counters("switch_refusals_total", "Requests that the call logic refused, inside a call or to begin one, and calls that it hung up, by reason code.", "reason"),
		postDial: histogram("switch_post_dial_delay_seconds", "From the receipt of an INVITE to the first 18x or 2xx.", prometheus.ExponentialBuckets(0.002, 2, 16)),
		handoffs: counters("switch_handoffs_total", "Outcomes of moves and takeovers, one per call and try (not of dry runs).", "result", "reason"),
		freeze:   histogram("switch_handoff_freeze_seconds", "Time a moving call could not be stepped.", prometheus.ExponentialBuckets(0.0005, 1.6, 18)),
		saves:    counters("switch_saves_total", "Records written, by result.", "result"),
		saveTime: histogram("switch_save_seconds", "Time of one write of a record.", prometheus.ExponentialBuckets(0.0001, 2, 16)),
		resends:  counters("switch_resends_total", "Actions and desired states sent again, by receiver.", "receiver"),
		steps:    counters("switch_steps_total", "Events stepped, by kind.", "event"),
		panics:   prometheus.NewCounter(prometheus.CounterOpts{Name: "switch_step_panics_total", Help: "Events whose Step panicked; the call lives on with its old state."}),
		bad:      counters("switch_bad_messages_total", "Messages between processes that could not be used.", "reason"),
		lost:     counters("switch_dethroned_total", "Calls dropped silently because another worker owns them.", "reason"),
	}
	r.MustRegister(m, m.attempts, m.refused, m.reasons, m.postDial, m.handoffs, m.freeze, m.saves, m.saveTime, m.resends, m.steps, m.panics, m.bad, m.lost)
	for _, result := range []string{"moved", "left", "refused", "claimed"} { // rates begin at 0, not at nothing
		m.handoffs.WithLabelValues(result, "")
	}
	return m
}

// releaseInfo tells the release of a process: joined by role and process, and
// counted, it says how many processes of which release run.
func releaseInfo(release string) prometheus.Collector {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "switch_release_info", Help: "1, for the release of each process."}, []string{"release"})
	g.WithLabelValues(release).Set(1)
	return g
}

// atHand tells what of the store a process goes by: after a change, who has heard of it.
func atHand(plan func() *codecore.Plan, accounts *registrar.Accounts) []prometheus.Collector {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	return []prometheus.Collector{
		gauge("switch_dialplan_version", "Version of the dialplan that each process goes by; 0: none yet.", func() float64 { return float64(plan().Version) }),
		gauge("switch_accounts", "Accounts that each process knows.", func() float64 { return float64(accounts.Len()) }),
	}
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

// histogram has classic buckets and native ones: Prometheus takes what it knows.
func histogram(name, help string, buckets []float64) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
	})
}

// workerTally is what a rollout's gate asks for, beside the metrics.
type workerTally struct{ attempts, failed, drops, gaps atomic.Int64 }

func (m *workerMetrics) health(calls int) workerHealth {
	t := &m.tally
	return workerHealth{
		Calls: calls, Attempts: int(t.attempts.Load()), Failed: int(t.failed.Load()),
		Drops: int(t.drops.Load()), MediaGaps: int(t.gaps.Load()),
	}
}

func (m *workerMetrics) watch(phases func() map[string]int) { m.phases = phases }

// Describe and Collect make the calls by phase when they are asked for.
func (m *workerMetrics) Describe(ch chan<- *prometheus.Desc) { ch <- m.calls }

func (m *workerMetrics) Collect(ch chan<- prometheus.Metric) {
	if m.phases == nil {
		return
	}
	now := map[string]int{string(codecore.PhaseInviting): 0, string(codecore.PhaseAnswered): 0, string(codecore.PhaseTalking): 0}
	maps.Copy(now, m.phases())
	for phase, n := range now {
		ch <- prometheus.MustNewConstMetric(m.calls, prometheus.GaugeValue, float64(n), m.release, phase)
	}
}

func (m *workerMetrics) put(took time.Duration, err error) {
	m.saveTime.Observe(took.Seconds())
	m.saves.WithLabelValues(saveResult(err)).Inc()
}

func saveResult(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, sessions.ErrConflict):
		return "conflict"
	case errors.Is(err, sessions.ErrFull):
		return "full"
	case errors.Is(err, sessions.ErrTooLarge):
		return "too-large"
	}
	return "away"
}

// ended counts an ended call, and why it was refused if it was.
func (m *workerMetrics) ended(cdr codecore.CDR) {
	m.attempts.WithLabelValues(cdr.Result).Inc()
	if cdr.Cause != "" && cdr.Answer.IsZero() {
		m.refused.WithLabelValues(label(cdr.Cause)).Inc()
	}
}

// label is a reason code as a metric has it: an operator's own words make no series.
func label(reason string) string {
	if codecore.IsReason(reason) {
		return reason
	}
	return "other"
}

func (m *workerMetrics) observer() sessions.Observer {
	return sessions.Observer{
		Attempt:  func() { m.attempts.WithLabelValues("begun").Inc(); m.tally.attempts.Add(1) },
		Refused:  func(reason string) { m.refused.WithLabelValues(reason).Inc() },
		Reason:   func(code string) { m.reasons.WithLabelValues(label(code)).Inc() },
		Ended:    m.ended,
		PostDial: func(d time.Duration) { m.postDial.Observe(d.Seconds()) },
		Step: func(event, phase string, _ time.Duration) {
			m.steps.WithLabelValues(event).Inc()
			// A held call may be silent: only silence that ends a call is a gap.
			if event == "media silent" && phase == string(codecore.PhaseEnded) {
				m.tally.gaps.Add(1)
			}
		},
		Resend: func(receiver string) { m.resends.WithLabelValues(receiver).Inc() },
		Panic:  func(string) { m.panics.Inc(); m.tally.failed.Add(1) },
		Bad:    func(why string) { m.bad.WithLabelValues(why).Inc() },
		Lost:   func(why string) { m.lost.WithLabelValues(why).Inc() },
	}
}

func (m *workerMetrics) moved(o handoff.Observation) {
	m.handoffs.WithLabelValues(o.What, string(o.Code)).Inc()
	if o.What == "aside" {
		m.tally.drops.Add(1)
	}
	if o.What == "moved" {
		m.freeze.Observe(o.Freeze.Seconds())
	}
}

// mediaCollector shows a media node's counters as they stand.
type mediaCollector struct{ stats func() media.Stats }

var (
	mediaPackets = prometheus.NewDesc("switch_rtp_packets_total", "RTP packets, by direction.", []string{"direction"}, nil)
	mediaBytes   = prometheus.NewDesc("switch_rtp_bytes_total", "RTP headers and payloads, by direction.", []string{"direction"}, nil)
	mediaRTCP    = prometheus.NewDesc("switch_rtcp_packets_total", "RTCP packets, by direction.", []string{"direction"}, nil)
	mediaLost    = prometheus.NewDesc("switch_rtp_lost", "RTP packets that parties sent and that did not arrive; falls when late ones come.", nil, nil)
	mediaJitter  = prometheus.NewDesc("switch_rtp_jitter_seconds", "Mean interarrival jitter of the live legs (RFC 3550).", nil, nil)
	mediaDropped = prometheus.NewDesc("switch_rtp_dropped_total", "Packets not relayed, by reason.", []string{"reason"}, nil)
	mediaLegs    = prometheus.NewDesc("switch_media_legs", "Legs that carry sound.", nil, nil)
	mediaPorts   = prometheus.NewDesc("switch_media_port_pairs", "Pairs of ports, by state.", []string{"state"}, nil)
	mediaSecure  = prometheus.NewDesc("switch_secure_media_total", "What kept secure legs up: ICE checks answered, DTLS handshakes completed and failed.", []string{"what"}, nil)
	mediaControl = prometheus.NewDesc("switch_media_orders_total", "Orders to the media plane, by kind.", []string{"kind"}, nil)
)

func (c mediaCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c mediaCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.stats()
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count(mediaPackets, s.PacketsIn, "in")
	count(mediaPackets, s.PacketsOut, "out")
	count(mediaBytes, s.BytesIn, "in")
	count(mediaBytes, s.BytesOut, "out")
	count(mediaRTCP, s.RTCPIn, "in")
	count(mediaRTCP, s.RTCPOut, "out")
	count(mediaSecure, s.Checks, "checks")
	count(mediaSecure, s.Handshakes, "handshakes")
	count(mediaSecure, s.HandshakesFailed, "handshakes_failed")
	gauge(mediaLost, float64(s.Lost))
	gauge(mediaJitter, s.JitterMS/1000)
	gauge(mediaLegs, float64(s.Legs))
	gauge(mediaPorts, float64(s.PairsFree), "free")
	gauge(mediaPorts, float64(s.PairsUsed), "used")
	gauge(mediaPorts, float64(s.PairsResting), "resting")
	for reason, n := range s.Dropped {
		count(mediaDropped, n, reason)
	}
	for kind, n := range s.Control {
		count(mediaControl, n, strings.ReplaceAll(kind, " ", "_"))
	}
}
