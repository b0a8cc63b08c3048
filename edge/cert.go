package edge

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"sync"
	"time"
)

// lookAgain is how often, at most, the files of a certificate are looked at.
const lookAgain = time.Second

// A Certificate is what we show in TLS, read from two PEM files. When they change
// the next handshake uses what they have now; connections that are up stay as
// they are. While the new ones do not fit together the old ones are shown. Safe
// for use by many goroutines.
type Certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu     sync.Mutex
	pair   *tls.Certificate
	looked time.Time
	stamp  string // of the files that were tried last
}

// LoadCertificate reads a certificate, with its chain, and its key.
func LoadCertificate(certFile, keyFile string, log *slog.Logger) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, log: log}
	c.stamp = c.stampOf()
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("edge: certificate: %w", err)
	}
	c.pair, c.looked = &pair, time.Now()
	return c, nil
}

// stampOf changes when a file does.
func (c *Certificate) stampOf() string {
	s := ""
	for _, name := range []string{c.certFile, c.keyFile} {
		if info, err := os.Stat(name); err == nil {
			s += fmt.Sprintf("%d %d;", info.ModTime().UnixNano(), info.Size())
		}
	}
	return s
}

// current is the certificate as the files have it.
func (c *Certificate) current(now time.Time) *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.looked) < lookAgain {
		return c.pair
	}
	c.looked = now
	stamp := c.stampOf()
	if stamp == c.stamp {
		return c.pair
	}
	c.stamp = stamp
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		c.log.Warn("edge: the certificate has changed and cannot be read: the old one is shown", "file", c.certFile, "err", err)
		return c.pair
	}
	c.log.Info("edge: the certificate has changed", "file", c.certFile, "until", pair.Leaf.NotAfter)
	c.pair = &pair
	return c.pair
}

func (c *Certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.current(time.Now()), nil
}

// Server is for a listener of another process that shows the same certificate.
func (c *Certificate) Server() *tls.Config {
	return &tls.Config{GetCertificate: c.get, MinVersion: tls.VersionTLS12}
}

// Until is the end of what is shown now.
func (c *Certificate) Until() time.Time { return c.current(time.Now()).Leaf.NotAfter }

// tlsClient is for a next hop that must prove to be name (RFC 5922 7.4).
func (e *Edge) tlsClient(name string) *tls.Config {
	cfg := &tls.Config{ServerName: name, RootCAs: e.cfg.Roots, MinVersion: tls.VersionTLS12}
	if own := e.cfg.Certificate; own != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own.current(time.Now()), nil }
	}
	return cfg
}

// SelfSigned makes a certificate for hosts, and its key, in PEM: for a first
// try, since nobody else trusts it.
func SelfSigned(hosts []string, now time.Time, valid time.Duration) (cert, key []byte, err error) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("edge: certificate: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, fmt.Errorf("edge: certificate: %w", err)
	}
	t := x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "switch, self-signed"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(valid),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, IsCA: true, // so that a tester can tell a client to trust it
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else if h != "" {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, &t, &t, &priv.PublicKey, priv)
	if err != nil {
		return nil, nil, fmt.Errorf("edge: certificate: %w", err)
	}
	bits, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return nil, nil, fmt.Errorf("edge: certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: bits}), nil
}
