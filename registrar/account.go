package registrar

import (
	"crypto/md5" //nolint:gosec // RFC 2617 digests are MD5; SHA-256 is offered first
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"

	"callswitch/codecore"
)

// Errors of accounts.
var (
	ErrAccount = errors.New("registrar: account")
	ErrUnknown = errors.New("registrar: no such account")
)

// An Account may register and call. It has the hash HA1 = H(name:realm:password)
// for each algorithm, in hex, and never the password: who reads one can answer
// challenges of this realm, and of no other.
type Account struct {
	Name   string `json:"name" yaml:"name"`
	SHA256 string `json:"ha1_sha256,omitempty" yaml:"ha1_sha256"`
	MD5    string `json:"ha1_md5,omitempty" yaml:"ha1_md5"`
	// SRTP is the policy for its phones: "required", "preferred", "off"; "" = as they
	// offer, and offered plain. Those on WebSockets have WebRTC whatever it says.
	SRTP string `json:"srtp,omitempty" yaml:"srtp,omitempty"`
}

// Algorithms of RFC 8760 that are served, as they stand in a challenge.
const (
	SHA256 = "SHA-256"
	MD5    = "MD5"
)

// NewAccount computes the hashes of a password.
func NewAccount(name, realm, password string) Account {
	a1 := name + ":" + realm + ":" + password
	return Account{Name: name, SHA256: sum(SHA256, a1), MD5: sum(MD5, a1)}
}

// sum is H(text) in hex; "" for an algorithm that is not served.
func sum(algorithm, text string) string {
	switch algorithm {
	case SHA256:
		h := sha256.Sum256([]byte(text))
		return hex.EncodeToString(h[:])
	case MD5:
		h := md5.Sum([]byte(text)) //nolint:gosec // see above
		return hex.EncodeToString(h[:])
	}
	return ""
}

func (a Account) ha1(algorithm string) string {
	if algorithm == SHA256 {
		return a.SHA256
	}
	return a.MD5
}

// maxName bounds a name; it becomes a key of the store, two digits for each byte.
const maxName = 64

// ValidName reports whether a name can be an account's: what stands in the user
// part of a SIP URI without escapes (RFC 3261 25.1).
func ValidName(name string) bool {
	if name == "" || len(name) > maxName {
		return false
	}
	for i := range len(name) {
		switch ch := name[i]; {
		case '0' <= ch && ch <= '9', 'a' <= ch && ch <= 'z', 'A' <= ch && ch <= 'Z', strings.IndexByte("-_.!~*'+", ch) >= 0:
		default:
			return false
		}
	}
	return true
}

// Check reports an account that cannot be.
func (a Account) Check() error {
	isHex := func(s string, n int) bool {
		b, err := hex.DecodeString(s)
		return s == "" || err == nil && len(b) == n && s == strings.ToLower(s)
	}
	switch {
	case !ValidName(a.Name):
		return fmt.Errorf("%w: name %q: 1 to %d letters, digits and - _ . ! ~ * ' +", ErrAccount, a.Name, maxName)
	case !codecore.ValidSRTP(a.SRTP):
		return fmt.Errorf("%w: srtp %q of %s: required, preferred or off", ErrAccount, a.SRTP, a.Name)
	case a.SHA256 == "" && a.MD5 == "":
		return fmt.Errorf("%w: %s has neither ha1_sha256 nor ha1_md5", ErrAccount, a.Name)
	case !isHex(a.SHA256, sha256.Size):
		return fmt.Errorf("%w: ha1_sha256 of %s is not 64 digits of lower-case hex", ErrAccount, a.Name)
	case !isHex(a.MD5, md5.Size):
		return fmt.Errorf("%w: ha1_md5 of %s is not 32 digits of lower-case hex", ErrAccount, a.Name)
	}
	return nil
}

// Key is a name as a key of a store: hex.
func Key(name string) string { return hex.EncodeToString([]byte(name)) }

// NameOf is the name of a key.
func NameOf(key string) (string, bool) {
	b, err := hex.DecodeString(key)
	return string(b), err == nil && ValidName(string(b))
}

// Accounts are those in force in a process: the configured ones, and over them
// those of the store. Safe for use by many goroutines.
type Accounts struct {
	mu     sync.RWMutex
	fixed  map[string]Account
	stored map[string]Account

	known chan struct{} // closed by Loaded
	once  sync.Once
}

// NewAccounts begins with the configured accounts.
func NewAccounts(configured []Account) *Accounts {
	a := &Accounts{fixed: make(map[string]Account, len(configured)), stored: map[string]Account{}, known: make(chan struct{})}
	for _, c := range configured {
		a.fixed[c.Name] = c
	}
	return a
}

// Get finds an account. Nobody's configured one is replaced by a stored one.
func (a *Accounts) Get(name string) (Account, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if c, ok := a.fixed[name]; ok {
		return c, true
	}
	c, ok := a.stored[name]
	return c, ok
}

// Loaded tells that all stored accounts have been Set. Before, nobody can say that
// an account does not exist.
func (a *Accounts) Loaded() { a.once.Do(func() { close(a.known) }) }

// Known is closed when Loaded has been called.
func (a *Accounts) Known() <-chan struct{} { return a.known }

// Ready reports whether Loaded was called.
func (a *Accounts) Ready() bool {
	select {
	case <-a.known:
		return true
	default:
		return false
	}
}

// Configured reports whether an account is in the configuration.
func (a *Accounts) Configured(name string) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	_, ok := a.fixed[name]
	return ok
}

// Set takes a stored account, Remove one that is stored no more.
func (a *Accounts) Set(c Account) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stored[c.Name] = c
}

// Remove forgets a stored account.
func (a *Accounts) Remove(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.stored, name)
}

// Len is how many accounts there are.
func (a *Accounts) Len() int {
	a.mu.RLock()
	defer a.mu.RUnlock()
	n := len(a.fixed)
	for name := range a.stored {
		if _, both := a.fixed[name]; !both {
			n++
		}
	}
	return n
}

// Names lists them, in no order.
func (a *Accounts) Names() []string {
	a.mu.RLock()
	defer a.mu.RUnlock()
	names := make([]string, 0, len(a.fixed)+len(a.stored))
	for name := range a.fixed {
		names = append(names, name)
	}
	for name := range a.stored {
		if _, both := a.fixed[name]; !both {
			names = append(names, name)
		}
	}
	return names
}
