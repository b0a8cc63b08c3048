package nats

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"
)

const secret = "s3cr3t-of-the-cluster"

func TestMain(m *testing.M) {
	code := m.Run()
	stopShared()
	if code == 0 {
		err := goleak.Find()
		for try := 0; err != nil && try < 100; try++ { // three servers end in their own time
			err = goleak.Find()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// patient is how long a store tries in a test of what is not its patience: a disk or
// a machine that is busy for seconds is no fault of ours.
const patient = 30 * time.Second

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patient)
	t.Cleanup(cancel)
	return ctx
}

// serve runs a server in dir; stop ends it and waits.
func serve(t testing.TB, dir string, log *slog.Logger) (url string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- RunServer(ctx, ServerConfig{Dir: dir, Token: secret, Log: log, Ready: func(u string) { ready <- u }})
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("RunServer: %v", err)
		}
	})
	t.Cleanup(stop)
	select {
	case url = <-ready:
	case err := <-ended:
		ended <- err
		t.Fatalf("RunServer: %v", err)
	}
	return url, stop
}

func connect(t testing.TB, url string) *Conn {
	t.Helper()
	c, err := Connect(within(t), Config{URL: url, Token: secret, Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func ensure(t testing.TB, c *Conn, s Streams) {
	t.Helper()
	if err := EnsureStreams(within(t), c, s); err != nil {
		t.Fatal(err)
	}
}

// single is a connection to a server of the test's own, with empty streams.
func single(t testing.TB) *Conn {
	t.Helper()
	url, _ := serve(t, t.TempDir(), nil)
	c := connect(t, url)
	ensure(t, c, Streams{})
	return c
}

// shared is a cluster of three that all tests use, started by the first.
var shared struct {
	once    sync.Once
	servers []*server.Server
	dir     string
	url     string
	err     error
}

// three is a connection to the cluster, its streams emptied, R3.
func three(t testing.TB) *Conn {
	t.Helper()
	shared.once.Do(func() { shared.err = startCluster() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	c := connect(t, shared.url)
	ensure(t, c, Streams{Replicas: 3})
	for _, name := range []string{streamRec, streamLeg, streamCDR, streamStory} {
		s, err := c.js.Stream(within(t), name)
		if err == nil {
			err = s.Purge(within(t))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func startCluster() error {
	dir, err := os.MkdirTemp("", "nats-r3-")
	if err != nil {
		return err
	}
	shared.dir = dir
	// Every server must know all routes from the start, so the ports come first.
	var ports []int
	var routes []*url.URL
	var urls []string
	var taken []net.Listener
	for len(ports) < 3 {
		// Not one of those that the kernel gives out: another package's test could
		// get it before the server binds it.
		port := 15_000 + rand.IntN(15_000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		ports = append(ports, port)
		routes = append(routes, &url.URL{Scheme: "nats", Host: l.Addr().String()})
		taken = append(taken, l)
	}
	for _, l := range taken {
		_ = l.Close()
	}
	for i, port := range ports {
		s, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprint("s", i), Host: "127.0.0.1", Port: server.RANDOM_PORT, Authorization: secret,
			JetStream: true, StoreDir: fmt.Sprintf("%s/%d", dir, i), JetStreamMaxStore: 16 << 30, NoSigs: true, NoLog: true,
			Cluster: server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: port, PoolSize: -1},
			Routes:  routes,
		})
		if err != nil {
			return err
		}
		s.Start()
		shared.servers = append(shared.servers, s)
	}
	for i, s := range shared.servers {
		if !s.ReadyForConnections(2 * patient) {
			return fmt.Errorf("server %d is not ready", i)
		}
		urls = append(urls, s.ClientURL())
	}
	shared.url = strings.Join(urls, ",")
	return nil
}

func stopShared() {
	for _, s := range shared.servers {
		s.Shutdown()
	}
	for _, s := range shared.servers {
		s.WaitForShutdown()
	}
	_ = os.RemoveAll(shared.dir)
}

// freezer stands between client and server and can hold what either says, as a
// stopped process does: connections stay, bytes arrive late.
type freezer struct {
	l        net.Listener
	mu       sync.Mutex
	up, down chan struct{} // closed: bytes pass
	conns    []net.Conn
	wg       sync.WaitGroup
}

func freeze(t testing.TB, target string) *freezer {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &freezer{l: l, up: closed(), down: closed()}
	f.wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", strings.TrimPrefix(target, "nats://"))
			if err != nil {
				_ = in.Close()
				continue
			}
			f.mu.Lock()
			f.conns = append(f.conns, in, out)
			f.mu.Unlock()
			f.wg.Go(func() { f.copy(out, in, &f.up) })
			f.wg.Go(func() { f.copy(in, out, &f.down) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		f.set(true, true)
		f.cut()
		f.wg.Wait()
	})
	return f
}

func closed() chan struct{} { c := make(chan struct{}); close(c); return c }

func (f *freezer) url() string { return "nats://" + f.l.Addr().String() }

// set lets bytes pass, or holds them, to the server (up) and from it (down).
func (f *freezer) set(up, down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range []struct {
		gate *chan struct{}
		open bool
	}{{&f.up, up}, {&f.down, down}} {
		select {
		case <-*g.gate:
			if !g.open {
				*g.gate = make(chan struct{})
			}
		default:
			if g.open {
				close(*g.gate)
			}
		}
	}
}

// cut closes all connections; new ones are taken.
func (f *freezer) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		_ = c.Close()
	}
	f.conns = nil
}

func (f *freezer) copy(dst, src net.Conn, gate *chan struct{}) {
	defer dst.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		f.mu.Lock()
		g := *gate
		f.mu.Unlock()
		<-g
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// eventually waits for a state of another process, which sends no event.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * patient); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", 2*patient, what)
		}
	}
}
