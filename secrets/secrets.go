// Package secrets derives what media must keep to itself from the key that all
// nodes of a cluster share, and seals what the far ends say in confidence, so
// that neither stands in a record, a log or a metric in clear. Edge and media
// are the only processes that ask; the call logic handles names and sealed text.
// It stores nothing.
package secrets

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
)

// Key is the root of all secrets of a cluster.
type Key struct {
	derive []byte
	nonces []byte
	aead   cipher.AEAD
}

// ErrSealed: the text was not sealed by this cluster for this call, or was touched.
var ErrSealed = errors.New("secrets: sealed text cannot be opened")

// New takes the cluster key, of at least 16 bytes.
func New(clusterKey []byte) (*Key, error) {
	if len(clusterKey) < 16 {
		return nil, fmt.Errorf("secrets: a cluster key of %d bytes, 16 are needed", len(clusterKey))
	}
	block, err := aes.NewCipher(sum(clusterKey, "callswitch secrets seal 1"))
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &Key{
		derive: sum(clusterKey, "callswitch secrets derive 1"), nonces: sum(clusterKey, "callswitch secrets nonce 1"), aead: aead,
	}, nil
}

// sum is a keyed hash of the words, each ended by a zero byte.
func sum(key []byte, words ...string) []byte {
	h := hmac.New(sha256.New, key)
	for _, w := range words {
		h.Write([]byte(w))
		h.Write([]byte{0})
	}
	return h.Sum(nil)
}

// bytes are n bytes (up to 64) of ours for the words.
func (k *Key) bytes(n int, words ...string) []byte {
	b := sum(k.derive, append(words, "1")...)
	if n > len(b) {
		b = append(b, sum(k.derive, append(words, "2")...)...)
	}
	return b[:n]
}

// ICE are our credentials (RFC 8445 5.3) of a call's leg under a label: a new
// label is an ICE restart.
func (k *Key) ICE(call, label string) (ufrag, pwd string) {
	b := k.bytes(20, "ice", call, label)
	return hex.EncodeToString(b[:4]), hex.EncodeToString(b[4:])
}

// SRTP is our master key and salt, n bytes together (RFC 4568 6.1, RFC 7714
// 14.2), of a call's leg under a label; "" for an unknown suite.
func (k *Key) SRTP(call, label, suite string) []byte {
	n, ok := SuiteBytes[suite]
	if !ok {
		return nil
	}
	return k.bytes(n, "srtp", call, label, suite)
}

// SuiteBytes is the length of master key and salt together of each crypto suite
// of SDES that we speak.
var SuiteBytes = map[string]int{
	"AEAD_AES_256_GCM": 44, "AEAD_AES_128_GCM": 28, "AES_CM_128_HMAC_SHA1_80": 30, "AES_CM_128_HMAC_SHA1_32": 30,
}

// Hide seals what a far end of the call said. The same words give the same text,
// so what is said again is seen to be the same.
func (k *Key) Hide(call, plain string) string {
	nonce := sum(k.nonces, call, plain)[:k.aead.NonceSize()]
	return base64.RawURLEncoding.EncodeToString(k.aead.Seal(nonce, nonce, []byte(plain), []byte(call)))
}

// Reveal opens it.
func (k *Key) Reveal(call, sealed string) (string, error) {
	b, err := base64.RawURLEncoding.DecodeString(sealed)
	if err != nil || len(b) < k.aead.NonceSize() {
		return "", ErrSealed
	}
	n := k.aead.NonceSize()
	plain, err := k.aead.Open(nil, b[:n], b[n:], []byte(call))
	if err != nil {
		return "", ErrSealed
	}
	return string(plain), nil
}
