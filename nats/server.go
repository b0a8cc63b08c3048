package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// ErrServer is wrapped by every failure of the embedded server.
var ErrServer = errors.New("nats: embedded server")

// ServerConfig is the embedded server's. Zero values mean the defaults of the
// comments.
type ServerConfig struct {
	Dir          string        // streams, the chosen port and a lock; required
	Host         string        // 127.0.0.1
	Port         int           // 0: the port of the last start in Dir, else any free one
	Token        string        // clients must show it; "" = no secret asked
	SyncInterval time.Duration // 2 min between fsyncs; < 0: every write (600 writes/s)
	MaxPayload   int           // 1 MiB: largest message
	MaxMemory    int64         // 64 MiB for streams kept in memory
	MaxStore     int64         // 16 GiB for streams kept in files
	Ready        func(url string)
	Watch        func(figures func() Figures) // called once; figures may be asked for at any time after
	Log          *slog.Logger

	lookEvery time.Duration // 5 s: between looks whether it can write
}

// RunServer runs a server until ctx ends, then shuts it down and returns nil.
// The same Dir gives the same records and the same port again, so clients of an
// earlier life reconnect by themselves. Process death loses nothing; power loss
// loses what was written since the last fsync.
//
// A stream that could not be written once, as on a full disk, takes no write in
// this life of the server, and tells nobody: RunServer ends with ErrServer when
// there is room again. Until then records can be read and messages go on.
func RunServer(ctx context.Context, cfg ServerConfig) error {
	if cfg.Dir == "" {
		return fmt.Errorf("%w: no directory given", ErrServer)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.lookEvery <= 0 {
		cfg.lookEvery = 5 * time.Second
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("%w: %w", ErrServer, err)
	}
	unlock, err := lockDir(ctx, cfg.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	o, err := cfg.options()
	if err != nil {
		return err
	}
	if err := portFree(ctx, o.Host, o.Port); err != nil {
		return err
	}
	s, err := server.NewServer(o)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrServer, err)
	}
	fatal := make(chan string, 1)
	s.SetLoggerV2(serverLog{cfg.Log, fatal}, false, false, false)
	s.Start()
	defer func() {
		s.Shutdown()
		s.WaitForShutdown()
	}()
	for !s.ReadyForConnections(100 * time.Millisecond) {
		select {
		case <-ctx.Done():
			return nil
		case why := <-fatal:
			return fmt.Errorf("%w: %s", ErrServer, why)
		default:
		}
	}
	addr, ok := s.Addr().(*net.TCPAddr)
	if !ok {
		return fmt.Errorf("%w: does not listen", ErrServer)
	}
	if err := writePort(cfg.Dir, addr.Port); err != nil {
		return err
	}
	if cfg.Ready != nil {
		cfg.Ready("nats://" + net.JoinHostPort(o.Host, strconv.Itoa(addr.Port)))
	}
	if cfg.Watch != nil {
		cfg.Watch(func() Figures { return figuresOf(s) })
	}
	stopped := make(chan struct{})
	go func() { s.WaitForShutdown(); close(stopped) }()
	look := time.NewTicker(cfg.lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case why := <-fatal:
			return fmt.Errorf("%w: %s", ErrServer, why)
		case <-stopped:
			return fmt.Errorf("%w: stopped by itself", ErrServer)
		case <-look.C:
			if why := unwritable(s); why != "" && roomIn(cfg.Dir) {
				return fmt.Errorf("%w: there is room again after: %s", ErrServer, why)
			}
		}
	}
}

// unwritable says why streams take no writes; "": they do.
func unwritable(s *server.Server) string {
	for _, e := range s.Healthz(&server.HealthzOptions{Details: true}).Errors {
		if e.Type == server.HealthzErrorJetStream || strings.Contains(e.Error, "write error") {
			return e.Error
		}
	}
	return ""
}

// roomWanted is how much must be free before a server is worth a new start.
const roomWanted = 16 << 20

// roomIn reports whether a directory's disk takes as much as roomWanted.
func roomIn(dir string) bool {
	f, err := os.CreateTemp(dir, "room-*")
	if err != nil {
		return false
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}()
	piece := make([]byte, 1<<20)
	for range roomWanted / len(piece) {
		if _, err := f.Write(piece); err != nil {
			return false
		}
	}
	return f.Sync() == nil
}

func (cfg ServerConfig) options() (*server.Options, error) {
	o := &server.Options{
		ServerName: "switch", Host: cfg.Host, Port: cfg.Port, Authorization: cfg.Token,
		NoSigs: true, DisableJetStreamBanner: true,
		JetStream: true, StoreDir: cfg.Dir, SyncInterval: cfg.SyncInterval, SyncAlways: cfg.SyncInterval < 0,
		JetStreamMaxMemory: cfg.MaxMemory, JetStreamMaxStore: cfg.MaxStore,
		MaxPayload: int32(min(cfg.MaxPayload, 8<<20)),
		MaxConn:    4096, MaxPending: 64 << 20, WriteDeadline: 10 * time.Second,
		PingInterval: 20 * time.Second,
	}
	if o.Host == "" {
		o.Host = "127.0.0.1"
	}
	if o.SyncInterval <= 0 {
		o.SyncInterval = 2 * time.Minute
	}
	if o.MaxPayload <= 0 {
		o.MaxPayload = 1 << 20
	}
	if o.JetStreamMaxMemory <= 0 {
		o.JetStreamMaxMemory = 64 << 20
	}
	if o.JetStreamMaxStore <= 0 {
		o.JetStreamMaxStore = 16 << 30
	}
	if o.Port == 0 {
		port, err := readPort(cfg.Dir)
		if err != nil {
			return nil, err
		}
		o.Port = port
	}
	if o.Port == 0 {
		o.Port = server.RANDOM_PORT
	}
	return o, nil
}

func portFile(dir string) string { return filepath.Join(dir, "port") }

// readPort returns the port of the last start, 0 when there was none.
func readPort(dir string) (int, error) {
	b, err := os.ReadFile(portFile(dir))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrServer, err)
	}
	port, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || port < 1 || port > 65535 {
		return 0, fmt.Errorf("%w: %s holds no port; remove it to choose a new one", ErrServer, portFile(dir))
	}
	return port, nil
}

func writePort(dir string, port int) error {
	tmp := portFile(dir) + ".new"
	if err := os.WriteFile(tmp, []byte(strconv.Itoa(port)+"\n"), 0o600); err != nil {
		return fmt.Errorf("%w: %w", ErrServer, err)
	}
	if err := os.Rename(tmp, portFile(dir)); err != nil {
		return fmt.Errorf("%w: %w", ErrServer, err)
	}
	return nil
}

// portFree waits up to 10 s until a port that must be had again can be bound:
// somebody's outgoing connection may sit on it.
func portFree(ctx context.Context, host string, port int) error {
	if port <= 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err == nil {
			return l.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrServer, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// lockDir waits up to 10 s for a former server to leave the directory: two
// servers on one store would destroy it.
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrServer, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		// The descriptor is close-on-exec and dies with the process: so does the lock.
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			return func() { _ = f.Close() }, nil
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("%w: %s is in use by another server: %w", ErrServer, dir, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// serverLog turns the server's lines into slog. Its notices are our debug.
type serverLog struct {
	log   *slog.Logger
	fatal chan string // the first one
}

func (l serverLog) Noticef(f string, v ...any) { l.log.Debug(fmt.Sprintf(f, v...)) }
func (l serverLog) Warnf(f string, v ...any)   { l.log.Warn(fmt.Sprintf(f, v...)) }
func (l serverLog) Errorf(f string, v ...any)  { l.log.Error(fmt.Sprintf(f, v...)) }
func (l serverLog) Debugf(string, ...any)      {}
func (l serverLog) Tracef(string, ...any)      {}

func (l serverLog) Fatalf(f string, v ...any) {
	why := fmt.Sprintf(f, v...)
	l.log.Error(why)
	select {
	case l.fatal <- why:
	default:
	}
}
