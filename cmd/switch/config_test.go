package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

func none(string) (string, bool) { return "", false }

func lookup(m map[string]string) func(string) (string, bool) {
	return func(k string) (string, bool) { v, ok := m[k]; return v, ok }
}

func TestConfigFileEnvFlag(t *testing.T) {
	source := `
node: a1 # a comment
nats: {url: "nats://x:4222", replicas: 3}
edge:
  listen: [udp:10.0.0.1:5060]
  limits:
    peer_rate: 12.5
media:
  timeout: 90s
worker:
  story: false
`
	env := lookup(map[string]string{
		"SWITCH_EDGE_LISTEN": "udp:10.0.0.2:5060, tcp:10.0.0.2:5060", "SWITCH_MEDIA_TIMEOUT": "2m", "SWITCH_WORKERS": "3",
	})
	c, err := readConfig("switch.yaml", []byte(source), env, lookup(map[string]string{"workers": "4", "log.level": "debug"}))
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultConfig()
	want.Node, want.NATS.URL, want.NATS.Replicas = "a1", "nats://x:4222", 3
	want.Edge.Listen, want.Edge.Limits.PeerRate = []string{"udp:10.0.0.2:5060", "tcp:10.0.0.2:5060"}, 12.5
	want.Media.Timeout, want.Worker.Story, want.Workers, want.Log.Level = 2*time.Minute, false, 4, "debug"
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got\n%+v, want\n%+v", c, want)
	}
}

func TestEmptyConfigIsTheDefault(t *testing.T) {
	for _, source := range []string{"", "\n", "# nothing\n", "edge:\n"} {
		c, err := readConfig("switch.yaml", []byte(source), none, none)
		if err != nil || !reflect.DeepEqual(c, DefaultConfig()) {
			t.Errorf("%q: %v, %+v", source, err, c)
		}
	}
}

// Each error names the place, the key and what to write.
func TestConfigErrors(t *testing.T) {
	for _, tc := range []struct{ source, env, flag, want string }{
		{source: "node: a\nedge:\n  listn: [x]\n", want: "switch.yaml:3: unknown key edge.listn; there are: listen, advertise, tls, ws, dscp, dns, limits"},
		{source: "workers:\n  n: 1\n", want: "switch.yaml:1: workers: n: 1 is not valid: write a whole number"},
		{source: "nodes: a\n", want: "switch.yaml:1: unknown key nodes; there are: node, state"},
		{source: "node: a\nnode: b\n", want: `switch.yaml:2: mapping key "node" already defined`},
		{source: "node: [\n", want: "switch.yaml:1: "},
		{source: "node: a\nworkers: many\n", want: "switch.yaml:2: workers: many is not valid: write a whole number"},
		{source: "edge:\n  tls: {cert: a.pem}\n", want: "switch.yaml:2: edge.tls.cert: and edge.tls.key belong together"},
		{source: "edge:\n  ws:\n    origins: [phone.example.com]\n", want: `switch.yaml:3: edge.ws.origins: "phone.example.com" cannot be used: write scheme and host`},
		{source: "edge:\n  tls:\n    ca: /nowhere\n", want: "switch.yaml:3: edge.tls.ca: open /nowhere"},
		{source: "edge: 7\n", want: "switch.yaml:1: edge has keys of its own; there are: listen, advertise, tls, ws, dscp, dns, limits"},
		{source: "just words\n", want: "switch.yaml: not a list of keys"},
		{source: "node: a\n---\nnode: b\n", want: "switch.yaml: more than one YAML document; keep one"},
		{source: "\nmedia:\n  ports: 20000\n", want: `switch.yaml:3: media.ports: "20000" cannot be used: write the first (even`},
		{env: "SWITCH_WORKERS=x", want: `SWITCH_WORKERS: workers: "x" is not valid: write a whole number`},
		{env: "SWITCH_WORKERS=0", want: "SWITCH_WORKERS: workers: 0 cannot be used: write 1 to 64"},
		{flag: "media.timeout=5", want: `--media.timeout: media.timeout: "5" is not valid: write a duration such as 30s or 2m`},
		{flag: "edge.listen=sip:x", want: `--edge.listen: edge.listen: "sip:x" cannot be used: write udp, tcp, tls, ws or wss with address and port`},
		{flag: "edge.listen=", want: "--edge.listen: edge.listen: is empty"},
		{flag: "edge.listen=udp:0.0.0.0:5060", want: "edge.advertise: is empty and edge.listen has udp:0.0.0.0:5060: write"},
		{flag: "edge.advertise=a b", want: "edge.advertise: \"a b\" cannot be used"},
		{flag: "edge.limits.peer_rate=NaN", want: "edge.limits.peer_rate: NaN cannot be used"},
		{flag: "media.listen=0.0.0.0", want: "media.advertise: is empty and media.listen is 0.0.0.0"},
		{flag: "nats.replicas=3", want: "nats.replicas: 3 copies need a cluster: set nats.url"},
		{flag: "node=a.b", want: `node: "a.b" cannot be used`},
		{flag: "log.level=loud", want: `log.level: "loud" is no level: write debug, info, warn or error`},
		{flag: "edge.limits.peer_rate=+Inf", want: "edge.limits.peer_rate: +Inf cannot be used"},
		{source: "edge: {limits: {peer_rate: 5}}\n", want: "edge.limits.stranger_rate: 10 is more than edge.limits.peer_rate, 5"},
		{source: "\nedge:\n  listen: [tcp:10.0.0.1:5060, ws:10.0.0.1:5060]\n", want: `switch.yaml:3: edge.listen: "ws:10.0.0.1:5060" wants the port of edge.listen "tcp:10.0.0.1:5060": give each its own`},
		{source: "edge:\n  listen: [udp:127.0.0.1:5060, udp:0.0.0.0:5060]\n  advertise: a.example\n", want: `wants the port of edge.listen "udp:0.0.0.0:5060"`},
		{source: "api: {listen: 127.0.0.1:9464}\n", want: `switch.yaml:1: metrics.listen: "127.0.0.1:9464" wants the port of api.listen "127.0.0.1:9464"`},
		{source: "nats: {listen: 127.0.0.1:5060}\n", want: `switch.yaml:1: nats.listen: "127.0.0.1:5060" wants the port of edge.listen "tcp:127.0.0.1:5060"`},
		{source: "edge:\n  listen: [udp:127.0.0.1:20002]\n", want: `switch.yaml:2: media.ports: "20000-39999" has the port of edge.listen udp:127.0.0.1:20002: choose others`},
		{source: "edge:\n  listen: [udp:10.0.0.1:5060]\n  advertise: '[2001:db8::1]:5060'\n", want: `switch.yaml:3: edge.advertise: "[2001:db8::1]:5060" is of another IP version than udp:10.0.0.1:5060`},
		{flag: "edge.advertise=[2001:db8::1]", want: `edge.advertise: "[2001:db8::1]" cannot be used`},
		{flag: "edge.advertise=203.0.113.300", want: `edge.advertise: "203.0.113.300" cannot be used`},
		{flag: "edge.advertise=a..b", want: `edge.advertise: "a..b" cannot be used`},
		{source: "media: {listen: 10.0.0.1, advertise: '2001:db8::1'}\n", want: `media.advertise: "2001:db8::1" is of another IP version than media.listen, 10.0.0.1`},
		{flag: "media.ports=20001-20008", want: `media.ports: "20001-20008" cannot be used`},
		{flag: "media.ports=20000-20001", want: `media.ports: "20000-20001" cannot be used`},
		{flag: "edge.dns.servers=192.0.2.53:0", want: `edge.dns.servers: "192.0.2.53:0" cannot be used`},
		{source: "edge: {tls: {cert: /nowhere, key: /nowhere}}\n", want: "switch.yaml:1: edge.tls.cert: open /nowhere"},
		{flag: "nats.url=not a url", want: `nats.url: "not a url" cannot be used: write servers like nats://192.0.2.1:4222`},
		{source: "nats: {url: 'nats://a:4222', creds: /nowhere}\n", want: "nats.creds: open /nowhere"},
		{source: "nats:\n  url: nats://a:4222\n  listen: 127.0.0.1:4222\n", want: "switch.yaml:3: nats.listen: is of the embedded server, and nats.url names another"},
		{flag: "nats.cdr_age=1m", want: "nats.cdr_age: 1m0s cannot be used: write 1h or more"},
		{flag: "nats.sync_interval=0s", want: "nats.sync_interval: 0 cannot be used"},
		{flag: "softphone.tls=true", want: "softphone.listen: is empty, and softphone.tls"},
		{source: "edge:\n  listen: [tls:127.0.0.1:5061, ws:127.0.0.1:81]\nsoftphone:\n  listen: 127.0.0.1:8080\n  tls: true\n", want: "switch.yaml:5: softphone.tls: needs a certificate, and a browser on https needs wss"},
		{source: "edge:\n  listen: [wss:127.0.0.1:5061]\nsoftphone: {listen: '127.0.0.1:8080', tls: true, sockets: ['ws://a.example']}\n", want: `softphone.sockets: "ws://a.example" cannot be used: a browser on https`},
		{flag: "api.listen=8080", want: "api.listen: \"8080\" cannot be used: write address:port"},
	} {
		pair := func(s string) func(string) (string, bool) {
			k, v, ok := strings.Cut(s, "=")
			if !ok {
				return none
			}
			return lookup(map[string]string{k: v})
		}
		_, err := readConfig("switch.yaml", []byte(tc.source), pair(tc.env), pair(tc.flag))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q %s %s:\n got %v\nwant %s", tc.source, tc.env, tc.flag, err, tc.want)
		}
	}
}

func TestAllBadValuesAreNamedAtOnce(t *testing.T) {
	_, err := readConfig("switch.yaml", []byte("node: a b\nworkers: 99\n"), none, none)
	if err == nil || !strings.Contains(err.Error(), "switch.yaml:1: node") || !strings.Contains(err.Error(), "switch.yaml:2: workers") {
		t.Error(err)
	}
}

func TestPrintedConfigReadsBack(t *testing.T) {
	c := DefaultConfig()
	c.Node, c.NATS.SyncInterval, c.Edge.Advertise, c.Plan = "b2", -1, "[2001:db8::7]:5060", "a: #b"
	c.Edge.Listen = []string{"udp:[::1]:5060"}
	var out bytes.Buffer
	if err := printConfig(&out, c); err != nil {
		t.Fatal(err)
	}
	back, err := readConfig("switch.yaml", out.Bytes(), none, none)
	if err != nil || !reflect.DeepEqual(back, c) {
		t.Errorf("%v\n%s\ngot  %+v\nwant %+v", err, out.String(), back, c)
	}
}

func TestConfigFlags(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.yaml")
	if err := os.WriteFile(path, []byte("workers: 2\nnode: file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var c Config
	cmd := &cobra.Command{Use: "serve", RunE: func(cmd *cobra.Command, _ []string) (err error) {
		c, err = LoadConfig(cmd)
		return err
	}}
	BindConfigFlags(cmd)
	cmd.SetArgs([]string{"--config", path, "--node", "flag", "--worker.story=false", "--edge.listen", "udp:127.0.0.1:0"})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	if c.Workers != 2 || c.Node != "flag" || c.Worker.Story || len(c.Edge.Listen) != 1 {
		t.Errorf("%+v", c)
	}
}

// What may look like a contradiction, and is none.
func TestConfigsThatWork(t *testing.T) {
	for _, source := range []string{
		"edge:\n  listen: [udp:10.0.0.1:5060, udp:10.0.0.2:5060, tcp:10.0.0.1:5060, ws:10.0.0.1:0, wss:10.0.0.1:0]",
		"edge:\n  listen: [udp:10.0.0.1:5060, 'udp:[2001:db8::1]:5060']\n  advertise: sip.example.com",
		"edge:\n  listen: ['udp:[::]:5060']\n  advertise: 203.0.113.7",
		"edge:\n  listen: ['udp:[2001:db8::1]:5060']\n  advertise: '2001:db8::7'",
		"edge:\n  listen: [udp:10.0.0.1:20002]",
		"edge:\n  listen: [tcp:127.0.0.1:20002]",
		"nats: {url: 'nats://a:4222, tls://b'}\napi: {listen: '127.0.0.1:4222'}",
		"softphone: {listen: '127.0.0.1:8080', sockets: ['wss://phone.example.com/sip']}",
		"edge:\n  listen: [tls:127.0.0.1:5061]\nsoftphone: {listen: '127.0.0.1:8080', tls: true, sockets: ['wss://phone.example.com/sip']}",
		"softphone: {demo: true}",
	} {
		if _, err := readConfig("switch.yaml", []byte(source), none, none); err != nil {
			t.Errorf("%s: %v", source, err)
		}
	}
}

// Nothing listens beyond this machine, and nobody has a known password, unless
// somebody says so.
func TestDefaultsStayOnThisMachine(t *testing.T) {
	for _, demo := range []string{"false", "true"} {
		c, err := readConfig("", nil, none, lookup(map[string]string{"softphone.demo": demo}))
		if err != nil {
			t.Fatal(err)
		}
		at := []string{c.NATS.Listen, c.Metrics.Listen, c.Media.Listen + ":0"}
		for _, l := range c.Edge.Listen {
			at = append(at, strings.TrimPrefix(l, transport(l)+":"))
		}
		if c.Softphone.Listen != "" {
			at = append(at, c.Softphone.Listen)
		}
		for _, a := range at {
			if !isLoopback(a) {
				t.Errorf("demo %s: %s", demo, a)
			}
		}
		page, hashes := (&child{cfg: c, key: []byte("k")}).demoAccounts()
		if c.API.Listen != "" || (len(page) > 0) != (demo == "true") || len(page) != len(hashes) {
			t.Errorf("demo %s: api %q, accounts %v", demo, c.API.Listen, page)
		}
	}
}

// config.md says what the code says. UPDATE_CONFIG_MD=1 rewrites it.
func TestConfigIsDocumented(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# switch.yaml

Unknown keys are errors. Each key can also be set by the environment and, stronger, by a flag of
` + "`switch serve`" + ` (lists separated by commas). ` + "`switch serve --print-config`" + ` prints what is in force, as such a file.

| key | default | environment | what it is |
|---|---|---|---|
`)
	c := DefaultConfig()
	for _, k := range configKeys(&c) {
		if k.doc == "" || k.path == "" || strings.HasSuffix(k.path, ".") {
			t.Errorf("key %q has no name or no doc tag", k.path)
		}
		if k.group {
			fmt.Fprintf(&b, "| **%s** | | | %s |\n", k.path, k.doc)
			continue
		}
		value := plainValue(k)
		if value != "" {
			value = "`" + value + "`"
		}
		fmt.Fprintf(&b, "| %s | %s | `%s` | %s |\n", k.path, value, k.env(), k.doc)
	}
	if os.Getenv("UPDATE_CONFIG_MD") != "" {
		if err := os.WriteFile("config.md", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("config.md")
	if err != nil || string(got) != b.String() {
		t.Errorf("config.md is not what the code says (%v): run 'UPDATE_CONFIG_MD=1 go test ./cmd/switch -run TestConfigIsDocumented' and look at the difference", err)
	}
}

func TestClusterKey(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "cluster.key")
	key, err := LoadClusterKey(dir)
	if err != nil || len(key) != 32 || bytes.Equal(key, make([]byte, 32)) {
		t.Fatal(key, err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, not 0600", info.Mode())
	}
	if again, err := LoadClusterKey(dir); err != nil || !bytes.Equal(again, key) {
		t.Errorf("another key on the second start: %v", err)
	}
	if left, _ := filepath.Glob(path + ".*"); left != nil {
		t.Errorf("left behind: %v", left)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadClusterKey(dir); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	_ = os.Chmod(path, 0o600)
	if _, err := LoadClusterKey(dir); err == nil || !strings.Contains(err.Error(), "5 bytes") {
		t.Errorf("short key: %v", err)
	}
}
