package media

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// senderEnv makes the test binary a sender of RTP: "<first port>,<legs>,<kind>".
const senderEnv = "MEDIA_BENCH_SENDER"

// BenchmarkRelay is the CPU of the relay's thread (kernel included) per packet
// relayed, at 50 packets/s from each leg, sent and received by another process.
// At 20 calls nearly every packet wakes the thread, and that is the cost. The bar
// is 12 us at 400 calls.
func BenchmarkRelay(b *testing.B) {
	if spec := os.Getenv(senderEnv); spec != "" {
		sendForEver(spec)
	}
	for _, calls := range []int{20, 400} {
		b.Run(fmt.Sprint("calls=", calls), func(b *testing.B) { relayBench(b, calls, "rtp") })
	}
	for _, kind := range []string{"sdes", "webrtc"} { // leg a; leg b is plain
		b.Run(kind+"/calls=400", func(b *testing.B) { relayBench(b, 400, kind) })
	}
}

func relayBench(b *testing.B, calls int, kind string) {
	cfg, key := secureConfig(b)
	cfg.PortMin, cfg.PortMax, cfg.Ahead = 30000, 31999, 2*calls
	m, err := New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	n := &node{Media: m, t: b, bus: cfg.Bus.(*memBus)}
	cpu := make(chan func() time.Duration)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		tid := unix.Gettid()
		cpu <- func() time.Duration { return threadCPU(b, tid) }
		m.loop.run()
	}()
	used := <-cpu
	defer func() {
		m.loop.stop()
		<-done
		m.pool.shut()
		m.loop.close()
	}()
	subs, err := m.subscribe(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		for _, s := range subs {
			s.Unsubscribe()
		}
	}()
	const far = 40000
	for i := range calls {
		call := fmt.Sprint("c", i)
		p := n.alloc(call)
		n.benchLeg(kind, call, key, talk("a", p[0], fmt.Sprint("127.0.0.1:", far+p[0]-30000), 1), talk("b", p[1], fmt.Sprint("127.0.0.1:", far+p[1]-30000), 1))
	}
	sender := exec.Command(os.Args[0], "-test.run=^$", "-test.bench=Relay$", "-test.benchtime=1x")
	sender.Env = append(os.Environ(), senderEnv+"="+fmt.Sprint(far, ",", 2*calls, ",", kind))
	out, _ := sender.StdoutPipe()
	if err := sender.Start(); err != nil {
		b.Fatal(err)
	}
	defer sender.Wait()
	defer sender.Process.Kill()
	for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != "sending"; {
	}
	time.Sleep(500 * time.Millisecond)
	from, cpu0 := n.Stats(), used()
	b.ResetTimer()
	time.Sleep(3 * time.Second)
	to, cpu1 := n.Stats(), used()
	b.StopTimer()
	relayed := to.PacketsOut - from.PacketsOut
	b.ReportMetric(float64((cpu1-cpu0).Microseconds())/float64(relayed), "us/packet")
	b.ReportMetric(float64(relayed)/3, "packets/s")
	b.ReportMetric(float64(relayed)/float64(to.Rounds-from.Rounds), "packets/round")
	b.ReportMetric(float64(to.Lost), "lost")
}

// threadCPU reads a thread's CPU time from /proc: sum of run time, in ns.
func threadCPU(b *testing.B, tid int) time.Duration {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/schedstat", tid))
	if err != nil {
		b.Skip("no schedstat:", err)
	}
	ns, err := strconv.ParseInt(strings.Fields(string(raw))[0], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return time.Duration(ns)
}

// sendForEver is the far end of every leg: 50 packets/s each, spread over the
// 20 ms. Nobody reads: the kernel drops what is full.
func sendForEver(spec string) {
	f := strings.Split(spec, ",")
	first, _ := strconv.Atoi(f[0])
	legs, _ := strconv.Atoi(f[1])
	conns, seal := make([]*net.UDPConn, legs), make([]func([]byte) []byte, legs)
	for i := range conns {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: first + 2*i})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		_ = c.SetReadBuffer(1)
		conns[i], seal[i] = c, benchSealer(f[2], i)
	}
	fmt.Println("sending")
	start := time.Now()
	b := make([]byte, 172)
	b[0] = 0x80
	for round := 0; ; round++ {
		for i, c := range conns {
			if i%2 == 0 {
				due := start.Add(time.Duration(round)*20*time.Millisecond + time.Duration(i)*20*time.Millisecond/time.Duration(legs))
				time.Sleep(time.Until(due))
			}
			binary.BigEndian.PutUint16(b[2:], uint16(round))
			binary.BigEndian.PutUint32(b[4:], uint32(round)*160)
			binary.BigEndian.PutUint32(b[8:], uint32(i))
			_, _ = c.WriteToUDP(seal[i](b), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: first + 2*i - 10000})
		}
	}
}
