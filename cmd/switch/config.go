package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/spf13/cobra"
)

// Config is switch.yaml. The doc tags are config.md and the comments of
// --print-config; DefaultConfig has the defaults. Each key can also be set by
// the environment (edge.listen: SWITCH_EDGE_LISTEN) and, stronger, by a flag of
// serve (--edge.listen); lists are then separated by commas.
type Config struct {
	Node      string          `yaml:"node" json:"node" doc:"name of this host in the cluster: letters, digits and hyphens, at most 32"`
	State     string          `yaml:"state" json:"state" doc:"directory of everything that must survive: records of the embedded NATS, cluster key, sockets between processes"`
	Workers   int             `yaml:"workers" json:"workers" doc:"processes that step calls"`
	Procs     int             `yaml:"procs" json:"procs" doc:"CPUs that each process uses at a time (GOMAXPROCS); 0: one where the machine has no more than 4, since the processes share them and a wake-up across CPUs costs more than most work here; else all"`
	Plan      string          `yaml:"plan" json:"plan" doc:"dialplan file that is put in force when there is none yet; later 'switch dialplan set' changes it"`
	NATS      NATSConfig      `yaml:"nats" json:"nats" doc:"the store of records and the bus between processes"`
	Edge      EdgeConfig      `yaml:"edge" json:"edge" doc:"SIP"`
	Media     MediaConfig     `yaml:"media" json:"media" doc:"RTP"`
	Worker    WorkerConfig    `yaml:"worker" json:"worker" doc:"what steps the calls"`
	Registrar RegistrarConfig `yaml:"registrar" json:"registrar" doc:"who registers and calls with a password"`
	Trunks    TrunksConfig    `yaml:"trunks" json:"trunks" doc:"what the dialplan does not say of its trunks"`
	Softphone SoftphoneConfig `yaml:"softphone" json:"softphone" doc:"the page that makes a browser a phone"`
	API       ListenConfig    `yaml:"api" json:"api" doc:"the HTTP/JSON API; it is always on the unix socket <state>/run/api.sock"`
	Metrics   MetricsConfig   `yaml:"metrics" json:"metrics" doc:"/metrics, /livez and /readyz"`
	Log       LogConfig       `yaml:"log" json:"log" doc:"to standard error"`
}

// NATSConfig is the key nats.
type NATSConfig struct {
	URL          string        `yaml:"url" json:"url" doc:"an external cluster, for example nats://a:4222,nats://b:4222; empty: an embedded server"`
	Creds        string        `yaml:"creds" json:"creds" doc:"credentials file for the external cluster"`
	Replicas     int           `yaml:"replicas" json:"replicas" doc:"copies of each record: 1, 3 or 5; more than 1 needs an external cluster"`
	Listen       string        `yaml:"listen" json:"listen" doc:"address of the embedded server; port 0: any free one, kept from then on"`
	CDRAge       time.Duration `yaml:"cdr_age" json:"cdr_age" doc:"how long CDRs are kept; 0: for ever. They have 4 GiB: when these are full, ended calls wait with their CDRs, and new calls are refused once 200,000 wait"`
	SyncInterval time.Duration `yaml:"sync_interval" json:"sync_interval" doc:"between fsyncs of the embedded server; a dead process loses nothing, a power loss what came since; negative: each write, about 600 a second"`
}

// EdgeConfig is the key edge.
type EdgeConfig struct {
	Listen    []string     `yaml:"listen" json:"listen" doc:"transports, as udp:address:port; also tcp, tls, ws and wss (WebSocket, for browsers); IPv6 in brackets"`
	Advertise string       `yaml:"advertise" json:"advertise" doc:"host or host:port in Via and Contact; empty: the listening address. Needed behind a 1:1 NAT and when listening on 0.0.0.0. The port is that of udp and tcp"`
	TLS       TLSConfig    `yaml:"tls" json:"tls" doc:"of tls and wss"`
	WS        WSConfig     `yaml:"ws" json:"ws" doc:"of ws and wss"`
	DSCP      bool         `yaml:"dscp" json:"dscp" doc:"mark SIP packets CS3, as RFC 4594 has signalling"`
	DNS       DNSConfig    `yaml:"dns" json:"dns" doc:"how the names in SIP URIs are found (RFC 3263)"`
	Limits    LimitsConfig `yaml:"limits" json:"limits" doc:"what the network may make the edge do"`
}

// DNSConfig is the key edge.dns.
type DNSConfig struct {
	Servers []string `yaml:"servers" json:"servers" doc:"name servers, as address or address:port, at most 4; empty: those of /etc/resolv.conf"`
}

// TLSConfig is the key edge.tls.
type TLSConfig struct {
	Cert string `yaml:"cert" json:"cert" doc:"PEM file of the certificate with its chain; read again when it changes. Empty: a self-signed one, made in <state>/tls, which only those trust who are told to"`
	Key  string `yaml:"key" json:"key" doc:"PEM file of its key"`
	CA   string `yaml:"ca" json:"ca" doc:"PEM file of the roots that vouch for the TLS servers we call (sips: and transport=tls targets); empty: the system's"`
}

// WSConfig is the key edge.ws.
type WSConfig struct {
	Origins []string `yaml:"origins" json:"origins" doc:"web pages that may open a WebSocket, such as https://phone.example.com; *: any. Empty: pages of edge.advertise or of a listening address, and of localhost to browsers on this machine. What is no browser names no page and may"`
}

// LimitsConfig is the key edge.limits.
type LimitsConfig struct {
	MaxCalls     int     `yaml:"max_calls" json:"max_calls" doc:"calls in the edge's memory; more get 503"`
	MaxConns     int     `yaml:"max_conns" json:"max_conns" doc:"connections: TCP, TLS and WebSocket together"`
	MaxPerSource int     `yaml:"max_per_source" json:"max_per_source" doc:"connections of one known address"`
	MaxMessage   int     `yaml:"max_message" json:"max_message" doc:"bytes of a SIP message"`
	PeerRate     float64 `yaml:"peer_rate" json:"peer_rate" doc:"messages a second from one known address"`
	StrangerRate float64 `yaml:"stranger_rate" json:"stranger_rate" doc:"messages a second from any other address"`

	Silence time.Duration `yaml:"silence" json:"silence" doc:"an INVITE of which nothing is heard by then, not even 100, goes to the next address or target, if there is one"`
}

// MediaConfig is the key media.
type MediaConfig struct {
	Listen    string        `yaml:"listen" json:"listen" doc:"address of the RTP sockets, IPv4 or IPv6: SDP of the other version is refused (488 sdp-family)"`
	Advertise string        `yaml:"advertise" json:"advertise" doc:"address in SDP; empty: the listening address. Needed behind a 1:1 NAT and when listening on 0.0.0.0"`
	DSCP      bool          `yaml:"dscp" json:"dscp" doc:"mark RTP and RTCP packets EF, as RFC 4594 has voice"`
	Ports     string        `yaml:"ports" json:"ports" doc:"first and last RTP port, even and odd; a call takes up to four"`
	Timeout   time.Duration `yaml:"timeout" json:"timeout" doc:"without a packet from a party that should send, the call is told; negative: never"`
}

// WorkerConfig is the key worker.
type WorkerConfig struct {
	DrainTimeout time.Duration `yaml:"drain_timeout" json:"drain_timeout" doc:"a worker that is told to end moves its calls to others for at most so long; what is left is taken over"`
	Story        bool          `yaml:"story" json:"story" doc:"keep the history of each call, for 'switch call ID'"`
}

// RegistrarConfig is the key registrar.
type RegistrarConfig struct {
	Realm      string        `yaml:"realm" json:"realm" doc:"names what a password is for; the hashes of all accounts are made with it, so a change makes them worthless"`
	Accounts   string        `yaml:"accounts" json:"accounts" doc:"file of accounts, a YAML list of name, ha1_sha256 and ha1_md5 (lower-case hex of H(name:realm:password)); more are added with 'switch account add'; nobody but the switch may read it"`
	MinExpires time.Duration `yaml:"min_expires" json:"min_expires" doc:"shortest registration; a shorter wish is answered with 423"`
	MaxExpires time.Duration `yaml:"max_expires" json:"max_expires" doc:"longest registration; a longer wish is cut"`
	Keepalive  time.Duration `yaml:"keepalive" json:"keepalive" doc:"between two OPTIONS to a phone that registered over UDP from behind NAT; negative: none"`
}

// TrunksConfig is the key trunks.
type TrunksConfig struct {
	Passwords string `yaml:"passwords" json:"passwords" doc:"file of what the carriers ask us for, in calls and when we register, a YAML list of trunk (a peer of the dialplan), user, and password, or realm with ha1_sha256 and ha1_md5; nobody but the switch may read it"`
}

// SoftphoneConfig is the key softphone.
type SoftphoneConfig struct {
	Listen  string   `yaml:"listen" json:"listen" doc:"address:port of the page; empty: not served. It needs a ws or wss listener of the edge, and browsers give a microphone to http://localhost and to https only"`
	TLS     bool     `yaml:"tls" json:"tls" doc:"serve the page by https, with the certificate of edge.tls; it then needs a wss listener"`
	Sockets []string `yaml:"sockets" json:"sockets" doc:"WebSocket URLs that the page is told, such as wss://phone.example.com/sip; empty: the edge's own listeners"`
	Demo    bool     `yaml:"demo" json:"demo" doc:"accounts anna and bert, whose passwords the page knows, a dialplan if there is none, and 127.0.0.1:8080 and ws:127.0.0.1:8081 where nothing else is set; 'switch serve --demo' is the same"`
}

// ListenConfig is the key api.
type ListenConfig struct {
	Listen string `yaml:"listen" json:"listen" doc:"address:port of a TCP listener without any login, on loopback only, for who calls it 127.0.0.1 or localhost and is no page of another site; empty: none, the unix socket only"`
}

// MetricsConfig is the key metrics.
type MetricsConfig struct {
	Listen string `yaml:"listen" json:"listen" doc:"address:port; empty: not served"`
}

// LogConfig is the key log.
type LogConfig struct {
	Level  string `yaml:"level" json:"level" doc:"debug, info, warn or error"`
	Format string `yaml:"format" json:"format" doc:"text or json"`
}

// DefaultConfig is the configuration of an empty switch.yaml: everything on
// loopback.
func DefaultConfig() Config {
	return Config{
		Node: "n1", State: "switch-state", Workers: 1,
		NATS: NATSConfig{Replicas: 1, Listen: "127.0.0.1:0", SyncInterval: 2 * time.Minute},
		Edge: EdgeConfig{
			Listen: []string{"udp:127.0.0.1:5060", "tcp:127.0.0.1:5060"}, DSCP: true,
			DNS: DNSConfig{Servers: []string{}}, WS: WSConfig{Origins: []string{}},
			Limits: LimitsConfig{MaxCalls: 100_000, MaxConns: 10_000, MaxPerSource: 1000, MaxMessage: 65535, PeerRate: 20_000, StrangerRate: 10, Silence: 4 * time.Second},
		},
		Media:     MediaConfig{Listen: "127.0.0.1", Ports: "20000-39999", DSCP: true, Timeout: time.Minute},
		Worker:    WorkerConfig{DrainTimeout: 8 * time.Second, Story: true},
		Registrar: RegistrarConfig{Realm: "switch", MinExpires: time.Minute, MaxExpires: time.Hour, Keepalive: 25 * time.Second},
		Softphone: SoftphoneConfig{Sockets: []string{}},
		Metrics:   MetricsConfig{Listen: "127.0.0.1:9464"},
		Log:       LogConfig{Level: "info", Format: "text"},
	}
}

// SlogLevel is Level; info when it is not valid.
func (c LogConfig) SlogLevel() (l slog.Level) {
	_ = l.UnmarshalText([]byte(c.Level))
	return l
}

// Host is the address part of Listen.
func (c NATSConfig) Host() string {
	ap, _ := netip.ParseAddrPort(c.Listen)
	return ap.Addr().String()
}

// Port is the port of Listen, 0: any.
func (c NATSConfig) Port() int {
	ap, _ := netip.ParseAddrPort(c.Listen)
	return int(ap.Port())
}

// PortRange returns the first and the last of Ports; 0, 0 when it is not valid.
func (c MediaConfig) PortRange() (first, last int) {
	a, b, _ := strings.Cut(c.Ports, "-")
	first, err1 := strconv.Atoi(strings.TrimSpace(a))
	last, err2 := strconv.Atoi(strings.TrimSpace(b))
	if err1 != nil || err2 != nil {
		return 0, 0
	}
	return first, last
}

// configKey is one key of switch.yaml.
type configKey struct {
	path  string // "edge.listen"
	doc   string
	group bool // has keys of its own
	value reflect.Value
}

func (k configKey) env() string {
	return "SWITCH_" + strings.ToUpper(strings.ReplaceAll(k.path, ".", "_"))
}

func configKeys(c *Config) (keys []configKey) {
	var walk func(prefix string, v reflect.Value)
	walk = func(prefix string, v reflect.Value) {
		for i := range v.NumField() {
			f := v.Type().Field(i)
			k := configKey{prefix + f.Tag.Get("yaml"), f.Tag.Get("doc"), f.Type.Kind() == reflect.Struct, v.Field(i)}
			keys = append(keys, k)
			if k.group {
				walk(k.path+".", v.Field(i))
			}
		}
	}
	walk("", reflect.ValueOf(c).Elem())
	return keys
}

// set parses the value of an environment variable or a flag.
func (k configKey) set(text string) (err error) {
	switch p := k.value.Addr().Interface().(type) {
	case *string:
		*p = text
	case *int:
		*p, err = strconv.Atoi(text)
	case *float64:
		*p, err = strconv.ParseFloat(text, 64)
	case *bool:
		*p, err = strconv.ParseBool(text)
	case *time.Duration:
		*p, err = time.ParseDuration(text)
	case *[]string:
		*p = nil
		for _, s := range strings.Split(text, ",") {
			if s = strings.TrimSpace(s); s != "" {
				*p = append(*p, s)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("%q is not valid: write %s", text, kinds[k.kind()])
	}
	return nil
}

// kinds says what the values of a kind look like.
var kinds = map[string]string{"string": "a text", "int": "a whole number", "float": "a number", "bool": "true or false", "duration": "a duration such as 30s or 2m", "list": "a list"}

func (k configKey) kind() string {
	switch k.value.Interface().(type) {
	case int:
		return "int"
	case float64:
		return "float"
	case bool:
		return "bool"
	case time.Duration:
		return "duration"
	case []string:
		return "list"
	}
	return "string"
}

// configFlag is a flag of serve. It only remembers; LoadConfig sets.
type configFlag struct{ text, kind string }

func (f *configFlag) String() string { return f.text }

func (f *configFlag) Set(s string) error { f.text = s; return nil }

func (f *configFlag) Type() string { return f.kind }

// BindConfigFlags adds --config and one flag for each key.
func BindConfigFlags(cmd *cobra.Command) {
	cmd.Flags().String("config", "", "configuration file (YAML); every key: cmd/switch/config.md, or --print-config")
	c := DefaultConfig()
	for _, k := range configKeys(&c) {
		if k.group {
			continue
		}
		f := cmd.Flags().VarPF(&configFlag{text: plainValue(k), kind: k.kind()}, k.path, "", k.doc)
		if k.kind() == "bool" {
			f.NoOptDefVal = "true"
		}
	}
}

func plainValue(k configKey) string {
	if list, ok := k.value.Interface().([]string); ok {
		return strings.Join(list, ",")
	}
	return fmt.Sprint(k.value.Interface())
}

// LoadConfig reads the file of --config (or SWITCH_CONFIG), then the
// environment, then the flags, and checks the whole. Errors name where the value
// came from (file and line, variable, flag), the key, and what to write instead.
func LoadConfig(cmd *cobra.Command) (Config, error) {
	path := os.Getenv("SWITCH_CONFIG")
	if f := cmd.Flag("config"); f != nil && f.Changed {
		path = f.Value.String()
	}
	var source []byte
	if path != "" {
		var err error
		if source, err = os.ReadFile(path); err != nil {
			return Config{}, fmt.Errorf("configuration: %w", err)
		}
	}
	flag := func(key string) (string, bool) {
		if f := cmd.Flag("demo"); key == "softphone.demo" && f != nil && f.Changed {
			return f.Value.String(), true
		}
		f := cmd.Flag(key)
		if f == nil || !f.Changed {
			return "", false
		}
		return f.Value.String(), true
	}
	return readConfig(path, source, os.LookupEnv, flag)
}

func readConfig(path string, source []byte, env, flag func(string) (string, bool)) (Config, error) {
	c := DefaultConfig()
	keys := configKeys(&c)
	from, err := readYAML(path, source, keys)
	if err != nil {
		return c, err
	}
	for _, k := range keys {
		if k.group {
			continue
		}
		for _, o := range []struct {
			name, key string
			look      func(string) (string, bool)
		}{{k.env(), k.env(), env}, {"--" + k.path, k.path, flag}} {
			if text, ok := o.look(o.key); ok {
				from[k.path] = o.name
				if err := k.set(text); err != nil {
					return c, fmt.Errorf("%s: %s: %w", o.name, k.path, err)
				}
			}
		}
	}
	c.fillDemo()
	var errs []error
	c.check(func(key, format string, a ...any) {
		err := fmt.Errorf("%s: "+format, append([]any{key}, a...)...)
		at := from[key]
		for _, k := range keys { // of two that do not fit one may be a default
			if at == "" && !k.group && strings.Contains(err.Error(), k.path) {
				at = from[k.path]
			}
		}
		if at != "" {
			err = fmt.Errorf("%s: %w", at, err)
		}
		errs = append(errs, err)
	})
	return c, errors.Join(errs...)
}

// readYAML sets the keys that the file has and returns where each stands,
// "switch.yaml:3". A key without a value keeps its default.
func readYAML(path string, source []byte, keys []configKey) (map[string]string, error) {
	lines := map[string]string{}
	file, err := parser.ParseBytes(source, 0)
	if err != nil {
		return lines, yamlError(path, err)
	}
	if len(file.Docs) > 1 {
		return lines, fmt.Errorf("%s: more than one YAML document; keep one", path)
	}
	var errs []error
	var walk func(prefix string, n ast.Node)
	set := func(k configKey, at string, n ast.Node) {
		switch _, isMap := n.(ast.MapNode); {
		case n.Type() == ast.NullType:
		case k.group && isMap:
			walk(k.path+".", n)
		case k.group:
			errs = append(errs, fmt.Errorf("%s: %s has keys of its own; %s", at, k.path, siblings(k.path+".", keys)))
		case yaml.NodeToValue(n, k.value.Addr().Interface(), yaml.Strict()) != nil:
			errs = append(errs, fmt.Errorf("%s: %s: %s is not valid: write %s", at, k.path, strings.Join(strings.Fields(n.String()), " "), kinds[k.kind()]))
		}
	}
	walk = func(prefix string, n ast.Node) {
		for it := n.(ast.MapNode).MapRange(); it.Next(); {
			token := it.Key().GetToken()
			at := fmt.Sprintf("%s:%d", path, token.Position.Line)
			i := slices.IndexFunc(keys, func(k configKey) bool { return k.path == prefix+token.Value })
			if i < 0 {
				errs = append(errs, fmt.Errorf("%s: unknown key %s; %s", at, prefix+token.Value, siblings(prefix, keys)))
				continue
			}
			lines[keys[i].path] = at
			set(keys[i], at, it.Value())
		}
	}
	for _, d := range file.Docs {
		switch d.Body.(type) {
		case ast.MapNode:
			walk("", d.Body)
		case nil, *ast.CommentGroupNode, *ast.NullNode:
		default:
			errs = append(errs, fmt.Errorf("%s: not a list of keys and values; %s", path, siblings("", keys)))
		}
	}
	return lines, errors.Join(errs...)
}

func siblings(prefix string, keys []configKey) string {
	var names []string
	for _, k := range keys {
		if rest, ok := strings.CutPrefix(k.path, prefix); ok && !strings.Contains(rest, ".") {
			names = append(names, rest)
		}
	}
	return "there are: " + strings.Join(names, ", ")
}

// yamlError puts file and line in front of what the parser says.
func yamlError(path string, err error) error {
	var y yaml.Error
	if errors.As(err, &y) && y.GetToken() != nil && y.GetToken().Position != nil {
		return fmt.Errorf("%s:%d: %s", path, y.GetToken().Position.Line, y.GetMessage())
	}
	return fmt.Errorf("%s: %w", path, err)
}

// clusterKeySize is the length of the secret that all nodes of a cluster share.
const clusterKeySize = 32

// LoadClusterKey returns the 32 bytes in <dir>/cluster.key, which it makes when
// there is none. Only the owner may be able to read them.
func LoadClusterKey(dir string) ([]byte, error) {
	path := filepath.Join(dir, "cluster.key")
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeClusterKey(dir, path); err != nil {
			return nil, fmt.Errorf("cluster key: %w", err)
		}
		info, err = os.Lstat(path)
	}
	if err != nil {
		return nil, fmt.Errorf("cluster key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("cluster key: %s is not a plain file: put the key itself there", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("cluster key: %s has mode %04o and others may read it: run 'chmod 600 %s', and replace the key on all nodes if it may have been read", path, mode, path)
	}
	key, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cluster key: %w", err)
	}
	if len(key) != clusterKeySize {
		return nil, fmt.Errorf("cluster key: %s has %d bytes, not %d: copy it from another node, or remove it when no call is up, and a new one is made", path, len(key), clusterKeySize)
	}
	return key, nil
}

// makeClusterKey writes a key so that it appears whole or not at all, and the
// first of two that do so wins.
func makeClusterKey(dir, path string) error {
	var key [clusterKeySize]byte
	_, _ = rand.Read(key[:])                      // never fails (crypto/rand)
	f, err := os.CreateTemp(dir, "cluster.key.*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(key[:])
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
