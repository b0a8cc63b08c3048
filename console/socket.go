package console

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// Listen opens the API's unix socket for its owner alone, in place of the one
// that an API before may have left.
func Listen(path string) (net.Listener, error) {
	_ = os.Remove(path)
	var l net.Listener
	err := withSocket(path, func(short string) (err error) {
		l, err = net.Listen("unix", short)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("console: %w", err)
	}
	return l, nil
}

func dial(ctx context.Context, path string) (c net.Conn, err error) {
	err = withSocket(path, func(short string) (err error) {
		var d net.Dialer
		c, err = d.DialContext(ctx, "unix", short)
		return err
	})
	return c, err
}

// withSocket names a socket by way of its directory's descriptor when its path
// is longer than a sockaddr_un (108 bytes).
func withSocket(path string, fn func(short string) error) error {
	if len(path) < 100 {
		return fn(path)
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return fn(fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), filepath.Base(path)))
}
