package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"callswitch/nats"
	"callswitch/registrar"
)

// The store has no hash of a password; whoever has the cluster key reads both
// forms, and a worker of the last release finds that the account exists.
func TestStoredAccount(t *testing.T) {
	key, other := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	a := registrar.NewAccount("bob", "switch", "geheim")
	a.SRTP = "required"
	sealed, err := sealAccount(key, a)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{a.SHA256, a.MD5, "geheim"} {
		if strings.Contains(string(sealed), secret) {
			t.Errorf("%s stands in %s", secret, sealed)
		}
	}
	if got, clear, err := openAccount(key, sealed); err != nil || clear || got != a {
		t.Errorf("%+v, %v, %v", got, clear, err)
	}
	plain, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	if got, clear, err := openAccount(key, plain); err != nil || !clear || got != a {
		t.Errorf("in clear: %+v, %v, %v", got, clear, err)
	}
	renamed := bytes.Replace(sealed, []byte(`"bob"`), []byte(`"eve"`), 1)
	for what, f := range map[string]func() error{
		"another cluster": func() error { _, _, err := openAccount(other, sealed); return err },
		"another name":    func() error { _, _, err := openAccount(key, renamed); return err },
		"junk":            func() error { _, _, err := openAccount(key, []byte("{")); return err },
		"no hash":         func() error { _, _, err := openAccount(key, []byte(`{"name":"bob"}`)); return err },
	} {
		if f() == nil {
			t.Errorf("%s is taken", what)
		}
	}
	var old registrar.Account // as v0.1.0 reads it
	if err := json.Unmarshal(sealed, &old); err != nil || old.Check() != nil || old.Name != "bob" || old.SHA256 == a.SHA256 || old.SRTP != a.SRTP {
		t.Errorf("%+v, %v, %v", old, err, old.Check())
	}
	theirs, err := sealAccount(other, a)
	var decoy registrar.Account
	if err != nil || json.Unmarshal(theirs, &decoy) != nil || decoy.SHA256 == old.SHA256 {
		t.Errorf("the decoy is no secret: %+v, %v", decoy, err)
	}
}

// embeddedNATS is a server of the test's own.
func embeddedNATS(t *testing.T) *nats.Conn {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	dir, up, down := t.TempDir(), make(chan string, 1), make(chan error, 1)
	go func() {
		down <- nats.RunServer(ctx, nats.ServerConfig{Dir: dir, Host: "127.0.0.1", Token: "t", Log: slog.New(slog.DiscardHandler), Ready: func(url string) { up <- url }})
	}()
	t.Cleanup(func() {
		cancel()
		<-down
	})
	var url string
	select {
	case url = <-up:
	case err := <-down:
		down <- err
		t.Fatal(err)
	}
	conn, err := nats.Connect(ctx, nats.Config{URL: url, Token: "t", Name: "test", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	if err := nats.EnsureStreams(ctx, conn, nats.Streams{Replicas: 1}); err != nil {
		t.Fatal(err)
	}
	return conn
}

// Accounts that an earlier release stored in clear are sealed, once; another
// cluster's, and those that are sealed, stay as they are.
func TestAccountsInClearAreSealed(t *testing.T) {
	ctx, conn := t.Context(), embeddedNATS(t)
	b := &backend{child: &child{key: bytes.Repeat([]byte{1}, 32)}, shelf: nats.NewAccounts(conn, time.Minute)}
	accounts := []registrar.Account{registrar.NewAccount("anna", "switch", "a"), registrar.NewAccount("bob", "switch", "b")}
	sealed, err := sealAccount(b.key, accounts[1])
	if err != nil {
		t.Fatal(err)
	}
	plain, err := json.Marshal(accounts[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string][]byte{"anna": plain, "bob": sealed, "eve": []byte("{")} {
		if _, err := b.shelf.Put(ctx, registrar.Key(name), value, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{1, 0} {
		if n, err := b.sealThose(ctx); n != want || err != nil {
			t.Fatalf("sealed %d, want %d: %v", n, want, err)
		}
	}
	for _, a := range accounts {
		value, _, err := b.shelf.Get(ctx, registrar.Key(a.Name))
		if err != nil {
			t.Fatal(err)
		}
		if got, clear, err := openAccount(b.key, value); err != nil || clear || got != a {
			t.Errorf("%s: %+v, clear %v, %v", a.Name, got, clear, err)
		}
	}
}
