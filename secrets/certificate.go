package secrets

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"strings"
	"time"
)

// Certificate is the one that DTLS shows: made of the key alone, so each node
// and each generation of it has the same and no handshake binds a leg to a
// process. Far ends know it by the fingerprint in the SDP (RFC 8122), "sha-256
// AB:…", and look at nothing else in it.
func (k *Key) Certificate() (cert tls.Certificate, fingerprint string, err error) {
	key, err := k.ecdsa()
	if err != nil {
		return cert, "", err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "switch"},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(nil, t, t, key.Public(), repeatable{key})
	if err != nil {
		return cert, "", fmt.Errorf("secrets: certificate: %w", err)
	}
	hash := sha256.Sum256(der)
	pairs := make([]string, len(hash))
	for i, b := range hash {
		pairs[i] = fmt.Sprintf("%02X", b)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, "sha-256 " + strings.Join(pairs, ":"), nil
}

// ecdsa is a P-256 key: the first number from the words that is one.
func (k *Key) ecdsa() (*ecdsa.PrivateKey, error) {
	var err error
	for try := range 16 {
		var key *ecdsa.PrivateKey
		if key, err = ecdsa.ParseRawPrivateKey(elliptic.P256(), k.bytes(32, "dtls", fmt.Sprint(try))); err == nil {
			return key, nil
		}
	}
	return nil, fmt.Errorf("secrets: certificate: %w", err)
}

// repeatable signs the same words alike (RFC 6979).
type repeatable struct{ *ecdsa.PrivateKey }

func (r repeatable) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return r.PrivateKey.Sign(nil, digest, opts)
}
