package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"callswitch/edge"
)

// The self-signed certificate lives in <state>/tls for a year; in its last month
// a start makes another.
const (
	ownCertFor    = 365 * 24 * time.Hour
	ownCertRenews = 30 * 24 * time.Hour
)

func (c *EdgeConfig) needsTLS() bool {
	return slices.ContainsFunc(c.Listen, func(l string) bool { t := transport(l); return t == "tls" || t == "wss" })
}

// roots are those of edge.tls.ca; nil: the system's.
func (c *EdgeConfig) roots() (*x509.CertPool, error) {
	if c.TLS.CA == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(c.TLS.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate in PEM", c.TLS.CA)
	}
	return pool, nil
}

// certificate is what the edge shows; nil when nothing of ours uses TLS.
func certificate(cfg Config, log logger) (*edge.Certificate, error) {
	files := cfg.Edge.TLS
	switch {
	case files.Cert == "" && !cfg.Edge.needsTLS():
		return nil, nil
	case files.Cert == "":
		var err error
		if files, err = ownCertificate(cfg, time.Now()); err != nil {
			return nil, fmt.Errorf("self-signed certificate: %w", err)
		}
		log.Warn("no edge.tls.cert: the certificate is self-signed, and browsers and phones refuse it unless they are told to trust it", "file", files.Cert)
	}
	c, err := edge.LoadCertificate(files.Cert, files.Key, log)
	if err == nil && time.Until(c.Until()) < 0 {
		log.Warn("the certificate has ended", "file", files.Cert, "until", c.Until())
	}
	return c, err
}

// ownCertificate makes one for the names of this host, unless there is one that
// fits and lasts. Only the owner can read the files.
func ownCertificate(cfg Config, now time.Time) (TLSConfig, error) {
	files := ownFiles(cfg)
	dir, names := filepath.Dir(files.Cert), ownNames(cfg)
	if fits(files, names, now.Add(ownCertRenews)) {
		return files, nil
	}
	cert, key, err := edge.SelfSigned(names, now, ownCertFor)
	if err != nil {
		return files, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return files, err
	}
	return files, errors.Join(writeAtomic(files.Key, key), writeAtomic(files.Cert, cert))
}

func ownFiles(cfg Config) TLSConfig {
	dir := filepath.Join(cfg.State, "tls")
	return TLSConfig{Cert: filepath.Join(dir, "self-signed.pem"), Key: filepath.Join(dir, "self-signed.key")}
}

// ownNames are what others may call this host.
func ownNames(cfg Config) []string {
	names := []string{"localhost", "127.0.0.1", "::1"}
	if host, _, err := net.SplitHostPort(cfg.Edge.Advertise); err == nil {
		names = append(names, host)
	} else {
		names = append(names, cfg.Edge.Advertise)
	}
	for _, l := range cfg.Edge.Listen {
		if ap, err := netip.ParseAddrPort(l[len(transport(l))+1:]); err == nil && !ap.Addr().IsUnspecified() {
			names = append(names, ap.Addr().String())
		}
	}
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(n string) bool { return n == "" })
}

// fits reports whether the files hold a certificate for all names that lasts.
func fits(files TLSConfig, names []string, until time.Time) bool {
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil || pair.Leaf.NotAfter.Before(until) {
		return false
	}
	for _, n := range names {
		if pair.Leaf.VerifyHostname(n) != nil {
			return false
		}
	}
	return true
}
