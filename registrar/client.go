package registrar

import (
	"crypto/md5" //nolint:gosec // RFC 2617 digests are MD5; carriers choose
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"callswitch/codecore"
)

// ErrSecret is an entry of the trunks' passwords that cannot be.
var ErrSecret = errors.New("registrar: password of a trunk")

// A Secret is what the carrier of a trunk asks us for: the password, or its
// hashes for the carrier's one realm. It stays in the processes that compute
// answers; no call, record or log has it.
type Secret struct {
	Trunk    string `yaml:"trunk"` // peer of the dialplan
	User     string `yaml:"user"`
	Password string `yaml:"password"`
	Realm    string `yaml:"realm"` // answered alone; "" = any
	SHA256   string `yaml:"ha1_sha256"`
	MD5      string `yaml:"ha1_md5"`
}

// Check reports a secret that cannot be; the error has nothing of the password.
func (s Secret) Check() error {
	hashes := s.SHA256 != "" || s.MD5 != ""
	isHex := func(h string, n int) bool {
		b, err := hex.DecodeString(h)
		return h == "" || err == nil && len(b) == n && h == strings.ToLower(h)
	}
	switch {
	case s.Trunk == "" || s.User == "":
		return fmt.Errorf("%w: trunk and user are needed", ErrSecret)
	case strings.ContainsAny(s.User+s.Realm, "\r\n\x00"):
		return fmt.Errorf("%w: %s: user and realm are one line each", ErrSecret, s.Trunk)
	case (s.Password != "") == hashes:
		return fmt.Errorf("%w: %s: write password, or realm with ha1_sha256 and ha1_md5", ErrSecret, s.Trunk)
	case hashes && s.Realm == "":
		return fmt.Errorf("%w: %s: the hashes are of one realm: write it", ErrSecret, s.Trunk)
	case !isHex(s.SHA256, sha256.Size) || !isHex(s.MD5, md5.Size):
		return fmt.Errorf("%w: %s: ha1_sha256 is 64 digits of lower-case hex, ha1_md5 32", ErrSecret, s.Trunk)
	}
	return nil
}

func (s Secret) ha1(realm, algorithm string) string {
	switch {
	case s.Realm != "" && s.Realm != realm:
		return ""
	case s.Password != "":
		return sum(algorithm, s.User+":"+realm+":"+s.Password)
	case algorithm == SHA256:
		return s.SHA256
	}
	return s.MD5
}

// Answer is the header that answers a challenge in a request (RFC 7616 3.4); ok
// is false when this secret is not for it.
func (s Secret) Answer(a codecore.Authorize, method, uri string) (name, value string, ok bool) {
	algorithm := a.Algorithm
	if algorithm == "" {
		algorithm = MD5
	}
	ha1 := s.ha1(a.Realm, algorithm)
	if ha1 == "" || sum(algorithm, "") == "" || strings.ContainsAny(a.Realm+a.Nonce+a.Opaque, "\r\n") {
		return "", "", false
	}
	if a.Method != "" {
		method = a.Method
	}
	if a.URI != "" {
		uri = a.URI
	}
	c := credentials{nonce: a.Nonce, uri: uri, algorithm: algorithm, cnonce: a.Cnonce, qop: "auth", nc: a.NC}
	response := answer(c, ha1, method)
	if a.Cnonce == "" { // RFC 2069: without qop
		response = sum(algorithm, strings.Join([]string{ha1, a.Nonce, sum(algorithm, method+":"+uri)}, ":"))
	}
	var b strings.Builder
	text := func(name, v string) { b.WriteString(name + `="` + quoted.Replace(v) + `", `) }
	b.WriteString("Digest ")
	text("username", s.User)
	text("realm", a.Realm)
	text("nonce", a.Nonce)
	text("uri", uri)
	if a.Opaque != "" {
		text("opaque", a.Opaque)
	}
	if a.Algorithm != "" {
		b.WriteString("algorithm=" + a.Algorithm + ", ")
	}
	if a.Cnonce != "" {
		b.WriteString(`qop=auth, nc=` + hex8(a.NC) + `, cnonce="` + a.Cnonce + `", `)
	}
	b.WriteString(`response="` + response + `"`)
	name = "Authorization"
	if a.Proxy {
		name = "Proxy-Authorization"
	}
	return name, b.String(), true
}
