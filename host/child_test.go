package host

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The test binary is also every process that the tests run: os.Args[1] says how
// it behaves.
const roleEnv = "HOST_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) != "" {
		behave(os.Args[1], os.Args[2:])
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func self() string {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return path
}

// spec is a Spec of this binary. Its directory is in the environment of run.
func spec(name, how string, args ...string) Spec {
	return Spec{Name: name, Role: "test", Argv: append([]string{self(), how}, args...), Env: []string{roleEnv + "=1", "GORACE=atexit_sleep_ms=0"}}
}

// patient is a time-out that no test waits for.
const patient = time.Minute

const (
	keptByEcho = 450 // more than two messages can carry
	aloneFor   = patient
)

func behave(how string, args []string) {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	switch how {
	case "crash":
		os.Exit(3)
	case "leave":
		return
	case "host":
		h, err := New(Config{Dir: args[0], Children: []Spec{spec("m", "echo", args[0])}})
		if err == nil {
			err = h.Run(context.Background())
		}
		panic(err)
	}
	c, err := Dial(context.Background(), os.Getenv(dirEnv), Hello{Role: "test", ID: fmt.Sprint("id-", os.Getpid())})
	if err != nil {
		panic(err)
	}
	c.WhenAlone(aloneFor, func() { os.Exit(0) })
	switch how {
	case "echo":
		serveEcho(c, args[0])
	case "tally":
		tally(c, args[0], args[1])
	case "inhand":
		c.InHand("call-1")
		c.InHand("call-2")()
	}
	c.Ready()
	<-term
	if how == "deaf" {
		select {}
	}
}

// serveEcho answers each datagram with this process's number, on a socket that
// is inherited if there is one. It keeps 449 more.
func serveEcho(c *Client, dir string) {
	kept, err := c.Inherit(context.Background(), "echo/")
	if err != nil {
		panic(err)
	}
	if len(kept) == 0 {
		f := listen(dir)
		for i := range keptByEcho {
			kept = append(kept, Kept{fmt.Sprintf("echo/%03d", i), f})
		}
	}
	if err := c.KeepAll(kept); err != nil {
		panic(err)
	}
	pc, err := net.FilePacketConn(kept[0].File)
	if err != nil {
		panic(err)
	}
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				panic(err)
			}
			answer := fmt.Sprintf("%d %s", os.Getpid(), b[:n])
			if strings.HasPrefix(string(b[:n]), "drop") {
				for _, k := range kept {
					_ = c.Drop(k.Name)
				}
				answer = "dropped"
			}
			_, _ = pc.WriteTo([]byte(answer), from)
		}
	}()
}

// listen opens a socket, whose address dialEcho finds.
func listen(dir string) *os.File {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	f, err := pc.(*net.UDPConn).File()
	if err != nil {
		panic(err)
	}
	_ = syscall.SetNonblock(int(f.Fd()), true)
	_ = os.WriteFile(filepath.Join(dir, "address"), []byte(pc.LocalAddr().String()), 0o600)
	return f
}

func dialEcho(t *testing.T, dir string) net.Conn {
	t.Helper()
	addr, err := os.ReadFile(filepath.Join(dir, "address"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("udp", string(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
