package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"callswitch/codecore"
	"callswitch/console"
	"callswitch/nats"
	"callswitch/registrar"
	"callswitch/sessions"
)

// shelf is the store of registrations in the registrar's words.
type shelf struct{ *nats.Shelf }

func (s shelf) Put(ctx context.Context, key string, value []byte, rev uint64, keep time.Duration) (uint64, error) {
	rev, err := s.Shelf.Put(ctx, key, value, rev, keep)
	return rev, shelfError(err)
}

func (s shelf) Get(ctx context.Context, key string) ([]byte, uint64, error) {
	value, rev, err := s.Shelf.Get(ctx, key)
	return value, rev, shelfError(err)
}

func shelfError(err error) error {
	for ours, theirs := range map[error]error{
		sessions.ErrNotFound: registrar.ErrNotFound, sessions.ErrConflict: registrar.ErrConflict, sessions.ErrUnavailable: registrar.ErrUnavailable,
	} {
		if errors.Is(err, ours) {
			return fmt.Errorf("%w: %w", theirs, err)
		}
	}
	return err
}

// registrations is the directory of this cluster's bindings.
func registrations(c *child) *registrar.Directory {
	return registrar.NewDirectory(shelf{nats.NewBindings(c.nats, 2*time.Second)}, registrar.Limits{
		MinExpires: c.cfg.Registrar.MinExpires, MaxExpires: c.cfg.Registrar.MaxExpires, DefaultExpires: c.cfg.Registrar.MaxExpires,
	})
}

// readAccounts reads a file of accounts strictly.
func readAccounts(path string) ([]registrar.Account, error) {
	return readSecretList(path, "name, ha1_sha256 and ha1_md5", func(a registrar.Account) (string, error) { return a.Name, a.Check() })
}

// readSecretList reads a YAML list strictly, from a file that is not everybody's;
// check gives each entry its name. No error has anything of the file's text.
func readSecretList[T any](path, keys string, check func(T) (name string, err error)) ([]T, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("%s: everybody on this machine may read it: chmod o= %s", path, path)
	}
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var list []T
	if err := yaml.UnmarshalWithOptions(source, &list, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("%s: write a list of %s: %s", path, keys, blame(err))
	}
	seen := map[string]bool{}
	for i, x := range list {
		name, err := check(x)
		if err == nil && seen[name] {
			err = fmt.Errorf("%s stands twice", name)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %s%w", path, lineOf(source, fmt.Sprintf("$[%d]", i)), err)
		}
		seen[name] = true
	}
	return list, nil
}

// blame says what is wrong without the source around it, which has hashes.
func blame(err error) string {
	var y yaml.Error
	if errors.As(err, &y) {
		if t := y.GetToken(); t != nil && t.Position != nil {
			return fmt.Sprintf("line %d cannot be read", t.Position.Line)
		}
	}
	return "it cannot be read"
}

// watchAccounts keeps the accounts at hand: those of the configuration, and
// those of the store as soon as it answers.
func watchAccounts(ctx context.Context, c *child) (*registrar.Accounts, error) {
	var configured []registrar.Account
	if c.cfg.Registrar.Accounts != "" {
		var err error
		if configured, err = readAccounts(c.cfg.Registrar.Accounts); err != nil {
			return nil, err
		}
	}
	_, demo := c.demoAccounts()
	as := registrar.NewAccounts(append(configured, demo...))
	go func() {
		err := nats.NewAccounts(c.nats, 0).Watch(ctx, func(key string, value []byte) {
			name, ok := registrar.NameOf(key)
			if !ok {
				return
			}
			if value == nil {
				as.Remove(name)
				return
			}
			a, _, err := openAccount(c.key, value)
			if err != nil || a.Name != name {
				c.log.Error("account not readable; it cannot register", "account", name, "err", err)
				as.Remove(name)
				return
			}
			as.Set(a)
		})
		if err != nil {
			if ctx.Err() == nil {
				c.log.Error("accounts not read", "err", err)
			}
			return
		}
		as.Loaded()
	}()
	return as, nil
}

// locate finds the bindings of an account, the newest first. Of a phone that has
// registered by several flows (RFC 5626) only the newest: it would ring twice.
func locate(as *registrar.Accounts, dir *registrar.Directory) func(context.Context, string) codecore.Located {
	return func(ctx context.Context, account string) codecore.Located {
		bindings, err := dir.Lookup(ctx, account, time.Now())
		settings, exists := as.Get(account)
		switch {
		case err != nil, !exists && !as.Ready():
			return codecore.Located{Reason: "directory-away"}
		case !exists:
			return codecore.Located{Reason: "unknown-account"}
		case len(bindings) == 0:
			return codecore.Located{Reason: "not-registered"}
		}
		var all []codecore.Located
		phones := map[string]bool{}
		for _, b := range bindings {
			if b.Instance != "" && phones[b.Instance] {
				continue
			}
			phones[b.Instance] = true
			at := codecore.Located{Target: b.Contact, Path: b.Path, Edge: b.Edge, Flow: b.Flow, SRTP: settings.SRTP}
			if len(b.Path) > 0 {
				at.Flow, at.Edge = "", "" // by the proxies that it came through, from any edge
			}
			all = append(all, at)
		}
		all[0].More = all[1:]
		return all[0]
	}
}

func (b *backend) Accounts(context.Context) (console.Accounts, error) {
	out := console.Accounts{Realm: b.cfg.Registrar.Realm, Accounts: []console.Account{}}
	for _, name := range b.accounts.Names() {
		a, ok := b.accounts.Get(name)
		if !ok {
			continue
		}
		x := console.Account{Name: name, Configured: b.accounts.Configured(name), Algorithms: []string{}, SRTP: a.SRTP}
		if a.SHA256 != "" {
			x.Algorithms = append(x.Algorithms, registrar.SHA256)
		}
		if a.MD5 != "" {
			x.Algorithms = append(x.Algorithms, registrar.MD5)
		}
		out.Accounts = append(out.Accounts, x)
	}
	slices.SortFunc(out.Accounts, func(x, y console.Account) int { return strings.Compare(x.Name, y.Name) })
	return out, nil
}

func (b *backend) SetAccount(ctx context.Context, name string, h console.AccountHashes) error {
	a := registrar.Account{Name: name, SHA256: h.SHA256, MD5: h.MD5, SRTP: h.SRTP}
	if err := a.Check(); err != nil {
		return &console.Error{Status: 400, Code: "account", Text: strings.TrimPrefix(err.Error(), "registrar: ")}
	}
	if b.accounts.Configured(name) {
		return console.Refused("account-configured", "account "+name+" is in the configuration", "change it in the file of registrar.accounts")
	}
	if why := unringable(b.plan(), name); why != "" {
		return console.Refused("account-is-service", why, "choose another name, or give the service another number with 'switch dialplan set'")
	}
	value, err := b.storeAccount(a)
	if err != nil {
		return err
	}
	return b.putAccount(ctx, name, value)
}

// putAccount writes an account, or that there is none; the newest writer wins.
func (b *backend) putAccount(ctx context.Context, name string, value []byte) error {
	keep := time.Duration(0)
	if value == nil {
		keep = time.Hour // long enough for every edge to hear of it
	}
	for {
		_, rev, err := b.shelf.Get(ctx, registrar.Key(name))
		if err != nil && !errors.Is(err, sessions.ErrNotFound) {
			return err
		}
		if value == nil && err != nil {
			return &console.Error{Status: 404, Code: "not-found", Text: "no account " + name + " has been added", Fix: "'switch account list' shows all"}
		}
		if _, err = b.shelf.Put(ctx, registrar.Key(name), value, rev, keep); !errors.Is(err, sessions.ErrConflict) {
			return err
		}
	}
}

func (b *backend) RemoveAccount(ctx context.Context, name string) error {
	if !registrar.ValidName(name) {
		return &console.Error{Status: 404, Code: "not-found", Text: "no account has such a name"}
	}
	if b.accounts.Configured(name) {
		return console.Refused("account-configured", "account "+name+" is in the configuration", "remove it from the file of registrar.accounts")
	}
	if err := b.putAccount(ctx, name, nil); err != nil {
		return err
	}
	return b.registrations.Clear(ctx, name, time.Now())
}

func (b *backend) Registrations(ctx context.Context, fn func(console.Registration) error) error {
	return b.registrations.List(ctx, time.Now(), func(e registrar.Entry) error {
		for _, x := range e.Bindings {
			if err := fn(console.Registration{
				Account: e.Account, Contact: x.Contact, Source: x.Source, Edge: x.Edge, Flow: x.Flow, Path: x.Path, Agent: x.Agent,
				NAT: x.BehindNAT(), Since: x.At, Until: x.Until,
			}); err != nil {
				return err
			}
		}
		return nil
	})
}
