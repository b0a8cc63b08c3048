package main

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"callswitch/codecore"
	"callswitch/console"
	"callswitch/edge"
	"callswitch/registrar"
	"callswitch/sessions"
)

// Where a demo listens, unless it is said otherwise.
const (
	demoPage   = "127.0.0.1:8080"
	demoSocket = "ws:127.0.0.1:8081"
)

// demoNames are the accounts of a demo.
var demoNames = []string{"anna", "bert"}

// fillDemo sets what a demo needs and nobody has set.
func (c *Config) fillDemo() {
	if !c.Softphone.Demo {
		return
	}
	if c.Softphone.Listen == "" {
		c.Softphone.Listen = demoPage
	}
	if !slices.ContainsFunc(c.Edge.Listen, func(l string) bool { return strings.HasPrefix(l, "ws") }) {
		c.Edge.Listen = append(slices.Clone(c.Edge.Listen), demoSocket)
	}
}

// pageAddress is what serve prints: a name that browsers trust with a microphone.
func pageAddress(c SoftphoneConfig) string {
	at, scheme := c.Listen, "http"
	if c.TLS {
		scheme = "https"
	}
	if ap, err := netip.ParseAddrPort(at); err == nil && (ap.Addr().IsLoopback() || ap.Addr().IsUnspecified()) {
		at = fmt.Sprintf("localhost:%d", ap.Port())
	}
	if !c.Demo {
		return fmt.Sprintf("  phone    %s://%s/\n", scheme, at)
	}
	return fmt.Sprintf("  phone    %[1]s://%[2]s/#%[3]s and, in a second window, %[1]s://%[2]s/#%[4]s\n", scheme, at, demoNames[0], demoNames[1])
}

// demoPassword is that of a demo account: another one for each state directory,
// so that a demo beside a real network opens no door to it.
func demoPassword(clusterKey []byte, name string) string {
	h := hmac.New(sha256.New, clusterKey)
	h.Write([]byte("callswitch demo account 1 " + name))
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// demoAccounts are told to the page, and to the registrar by their hashes.
func (c *child) demoAccounts() (page []console.SoftphoneAccount, hashes []registrar.Account) {
	if !c.cfg.Softphone.Demo {
		return nil, nil
	}
	for _, name := range demoNames {
		password := demoPassword(c.key, name)
		page = append(page, console.SoftphoneAccount{Name: name, Password: password})
		hashes = append(hashes, registrar.NewAccount(name, c.cfg.Registrar.Realm, password))
	}
	return page, hashes
}

// demoPlan lets the accounts call each other, themselves and a tone.
const demoPlan = `
routes:
  - {prefix: "600", to: "service:echo", from: account}
  - {prefix: "601", to: "service:tone", from: account}
  - {prefix: "", to: "account:{number}", from: account}
`

// demoNumbers are told while the plan may be the demo's own.
func demoNumbers(c Config) []console.SoftphoneNumber {
	if !c.Softphone.Demo || c.Plan != "" {
		return nil
	}
	return []console.SoftphoneNumber{{Number: "600", Label: "echo"}, {Number: "601", Label: "tone"}}
}

// serveSoftphone serves the page for as long as ctx lives.
func (b *backend) serveSoftphone(ctx context.Context) error {
	accounts, _ := b.demoAccounts()
	page := console.Softphone{
		Release: codecore.Release, Sockets: b.cfg.Softphone.Sockets, Accounts: accounts,
		Numbers:  demoNumbers(b.cfg),
		Listen:   func(context.Context) []string { return b.listening() },
		Releases: b.releasesOf(edge.TagReader(b.key)),
	}
	return b.serveWhenFree(ctx, "softphone.listen", b.pageListener, http.NewCrossOriginProtection().Handler(page.Handler()))
}

// pageListener opens the page's port. The edge makes the certificate, if nobody
// else does: without it there is nothing to show yet.
func (b *backend) pageListener() (net.Listener, error) {
	if !b.cfg.Softphone.TLS {
		return net.Listen("tcp", b.cfg.Softphone.Listen)
	}
	files := b.cfg.Edge.TLS
	if files.Cert == "" {
		files = ownFiles(b.cfg)
	}
	cert, err := edge.LoadCertificate(files.Cert, files.Key, b.log)
	if err != nil {
		return nil, err
	}
	return tls.Listen("tcp", b.cfg.Softphone.Listen, cert.Server())
}

// listening are the transports of the living edges.
func (b *backend) listening() (all []string) {
	for _, p := range b.dir.Processes() {
		if p.Role == "edge" {
			all = append(all, p.Listen...)
		}
	}
	return all
}

// releasesOf answers who names a call by a tag of its dialog.
func (b *backend) releasesOf(read func(tag string) (codecore.CallID, bool)) func(context.Context, string) ([]console.OnRelease, error) {
	return func(ctx context.Context, tag string) ([]console.OnRelease, error) {
		id, ok := read(tag)
		if !ok {
			return nil, console.ErrNoCall
		}
		story, err := b.store.Story(ctx, id)
		if err != nil {
			return nil, err
		}
		stays := staysOf(story)
		if len(stays) == 0 {
			return nil, console.ErrNoCall
		}
		return stays, nil
	}
}

// staysOf are the releases of a story, one after the other. Lines of several
// workers come in the order in which they were sent; the epoch says in which the
// call was theirs.
func staysOf(story []sessions.StoryLine) (stays []console.OnRelease) {
	slices.SortStableFunc(story, func(x, y sessions.StoryLine) int { return cmp.Compare(x.Epoch, y.Epoch) })
	for _, l := range story {
		if n := len(stays); l.Release != "" && (n == 0 || stays[n-1].Release != l.Release) {
			stays = append(stays, console.OnRelease{Release: l.Release, Since: l.At, FreezeMS: l.Freeze})
		}
	}
	return stays
}
