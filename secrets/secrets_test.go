package secrets_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"strings"
	"testing"

	"callswitch/secrets"
)

func keyOf(t *testing.T, b byte) *secrets.Key {
	t.Helper()
	k, err := secrets.New(bytes.Repeat([]byte{b}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSameOnEveryNode(t *testing.T) {
	k, other, stranger := keyOf(t, 1), keyOf(t, 1), keyOf(t, 2)
	u, p := k.ICE("call", "a.1")
	if u2, p2 := other.ICE("call", "a.1"); u2 != u || p2 != p || len(u) < 4 || len(p) < 22 { // RFC 8445 5.3
		t.Fatalf("%q %q, %q %q", u, p, u2, p2)
	}
	seen := map[string]bool{p: true}
	for _, w := range []struct {
		k           *secrets.Key
		call, label string
	}{{stranger, "call", "a.1"}, {k, "call", "a.2"}, {k, "calla", ".1"}, {k, "other", "a.1"}} {
		if _, p := w.k.ICE(w.call, w.label); seen[p] {
			t.Errorf("%v: the same secret twice", w)
		} else {
			seen[p] = true
		}
	}
	for suite, n := range secrets.SuiteBytes {
		if b := k.SRTP("call", "a.1", suite); len(b) != n || !bytes.Equal(b, other.SRTP("call", "a.1", suite)) || bytes.Equal(b, stranger.SRTP("call", "a.1", suite)) {
			t.Errorf("%s: %d bytes", suite, len(b))
		}
	}
	if k.SRTP("call", "a.1", "F8_128_HMAC_SHA1_80") != nil {
		t.Error("a key for a suite we have not")
	}
}

func TestCertificateIsMadeOfTheKey(t *testing.T) {
	c1, f1, err := keyOf(t, 1).Certificate()
	if err != nil {
		t.Fatal(err)
	}
	c2, f2, err := keyOf(t, 1).Certificate()
	if err != nil || f1 != f2 || !bytes.Equal(c1.Certificate[0], c2.Certificate[0]) {
		t.Fatalf("%v: %s, %s", err, f1, f2)
	}
	if _, f3, _ := keyOf(t, 2).Certificate(); f3 == f1 {
		t.Fatal("another cluster has the same")
	}
	parsed, err := x509.ParseCertificate(c1.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := parsed.CheckSignature(parsed.SignatureAlgorithm, parsed.RawTBSCertificate, parsed.Signature); err != nil {
		t.Fatal(err)
	}
}

func TestSealedText(t *testing.T) {
	k := keyOf(t, 1)
	s := k.Hide("call", "the password")
	if s != k.Hide("call", "the password") {
		t.Error("said twice, it looks different")
	}
	if strings.Contains(s, "password") {
		t.Error("in clear")
	}
	if p, err := keyOf(t, 1).Reveal("call", s); err != nil || p != "the password" {
		t.Fatalf("%q, %v", p, err)
	}
	touched := []byte(s)
	touched[len(touched)/2] ^= 1
	for name, f := range map[string]func() (string, error){
		"another call":    func() (string, error) { return k.Reveal("calm", s) },
		"another cluster": func() (string, error) { return keyOf(t, 2).Reveal("call", s) },
		"touched":         func() (string, error) { return k.Reveal("call", string(touched)) },
		"short":           func() (string, error) { return k.Reveal("call", s[:8]) },
		"no base64":       func() (string, error) { return k.Reveal("call", "§") },
		"empty":           func() (string, error) { return k.Reveal("call", "") },
	} {
		if p, err := f(); !errors.Is(err, secrets.ErrSealed) || p != "" {
			t.Errorf("%s: %q, %v", name, p, err)
		}
	}
	if _, err := secrets.New([]byte("short")); err == nil {
		t.Error("a short key is taken")
	}
}
