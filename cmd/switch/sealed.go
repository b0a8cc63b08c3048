package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"callswitch/registrar"
	"callswitch/secrets"
)

// storedAccount is an account as the store has it: whoever has a copy of the
// store alone has no hash that answers a challenge. Its JSON names are stored:
// never rename.
//
//	{"name":"bob","ha1_sha256":"<decoy>","sealed":"<both hashes, by the cluster key>"}
//	{"name":"bob","ha1_sha256":"<hash>","ha1_md5":"<hash>"}     as releases of schema 1 wrote it
//
// The decoy is for workers of those: to them the account exists, and nobody knows
// a password of it.
type storedAccount struct {
	registrar.Account
	Sealed string `json:"sealed,omitempty"`
}

// bothHashes is what is sealed.
type bothHashes struct {
	SHA256 string `json:"ha1_sha256,omitempty"`
	MD5    string `json:"ha1_md5,omitempty"`
}

// sealedFor binds the sealed text to the account's name.
func sealedFor(name string) string { return "account " + name }

func sealAccount(clusterKey []byte, a registrar.Account) ([]byte, error) {
	key, err := secrets.New(clusterKey)
	if err != nil {
		return nil, err
	}
	plain, err := json.Marshal(bothHashes{a.SHA256, a.MD5})
	if err != nil {
		return nil, err
	}
	s := storedAccount{Account: a, Sealed: key.Hide(sealedFor(a.Name), string(plain))}
	decoy := hmac.New(sha256.New, clusterKey)
	decoy.Write([]byte("callswitch account decoy 1 " + a.Name))
	s.SHA256, s.MD5 = hex.EncodeToString(decoy.Sum(nil)), ""
	return json.Marshal(s)
}

// openAccount reads either form; clear: nothing was sealed.
func openAccount(clusterKey, value []byte) (a registrar.Account, clear bool, err error) {
	var s storedAccount
	if err := json.Unmarshal(value, &s); err != nil {
		return a, false, err
	}
	a = s.Account
	if s.Sealed != "" {
		key, err := secrets.New(clusterKey)
		if err != nil {
			return a, false, err
		}
		plain, err := key.Reveal(sealedFor(a.Name), s.Sealed)
		if err != nil {
			return a, false, err
		}
		var h bothHashes
		if err := json.Unmarshal([]byte(plain), &h); err != nil {
			return a, false, err
		}
		a.SHA256, a.MD5 = h.SHA256, h.MD5
	}
	return a, s.Sealed == "", a.Check()
}

// storeAccount is an account as it may be written now: in clear while an edge
// lives that would take the decoy for the hash.
func (b *backend) storeAccount(a registrar.Account) ([]byte, error) {
	if b.edgeIsOlder() {
		return json.Marshal(a)
	}
	return sealAccount(b.key, a)
}

// sealingSchema is the schema of the first release whose edge opens sealed accounts.
const sealingSchema = 2

func (b *backend) edgeIsOlder() bool {
	for _, p := range b.dir.Processes() {
		if p.Role == "edge" && p.SchemaMax < sealingSchema {
			return true
		}
	}
	return false
}

// sealAccounts writes the accounts anew that stand in clear, once it is known
// which edges live, until none does.
func (b *backend) sealAccounts(ctx context.Context) {
	for wait := 5 * time.Second; ; wait = time.Minute {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if b.edgeIsOlder() {
			continue
		}
		n, err := b.sealThose(ctx)
		if n > 0 {
			b.log.Info("accounts that stood in clear are sealed", "accounts", n)
		}
		if err == nil {
			return
		}
		b.log.Warn("accounts not sealed yet", "err", err)
	}
}

func (b *backend) sealThose(ctx context.Context) (n int, err error) {
	var errs []error
	err = b.shelf.Scan(ctx, func(key string, value []byte, rev uint64) error {
		a, clear, err := openAccount(b.key, value)
		if err != nil || !clear || registrar.Key(a.Name) != key {
			return nil // whoever watches has said so
		}
		sealed, err := sealAccount(b.key, a)
		if err == nil {
			_, err = b.shelf.Put(ctx, key, sealed, rev, 0)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a.Name, err))
			return nil
		}
		n++
		return nil
	})
	return n, errors.Join(append(errs, err)...)
}
