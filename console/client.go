package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// Client speaks to the API; the command line is one.
type Client struct {
	http *http.Client
	base string
	addr string
}

// NewClient returns a client of a unix socket's path or an http:// address.
func NewClient(addr string) *Client {
	if strings.HasPrefix(addr, "http://") || strings.HasPrefix(addr, "https://") {
		return &Client{http.DefaultClient, strings.TrimSuffix(addr, "/"), addr}
	}
	socket := func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, addr) }
	return &Client{&http.Client{Transport: &http.Transport{DialContext: socket}}, "http://switch", addr}
}

// answerWithin bounds a request of Do; an export streams for as long as it takes.
const answerWithin = 30 * time.Second

// Do sends body (nil, a string as it is, or a value as JSON) and decodes the
// answer into out, if it is not nil. An *Error of the API is returned as it is.
func (c *Client) Do(ctx context.Context, method, path string, body, out any) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	resp, err := c.open(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("%s does not answer like a switch: %w", c.addr, err)
	}
	return nil
}

// Stream sends a GET and copies the answer to w.
func (c *Client) Stream(ctx context.Context, path string, w io.Writer) error {
	resp, err := c.open(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if n, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("broken off after %d bytes, which are not all: %w; try again", n, err)
	}
	return nil
}

func (c *Client) open(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, r)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOTSOCK) {
			return nil, fmt.Errorf("no switch answers at %s: start one with 'switch serve', or say where it is: SWITCH_STATE=its state directory, or --api its socket", c.addr)
		}
		if errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) {
			return nil, fmt.Errorf("this user may not speak to the switch at %s: be the user that runs it (sudo -u), or root", c.addr)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, fmt.Errorf("the switch at %s does not answer in time: see the log of 'switch serve' (%w)", c.addr, context.DeadlineExceeded)
		}
		return nil, err
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	e := &Error{Status: resp.StatusCode}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(e); err != nil || e.Text == "" {
		e.Text = resp.Status
	}
	return nil, e
}
