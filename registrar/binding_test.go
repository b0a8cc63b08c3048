package registrar

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"callswitch/codecore"
)

// register makes a REGISTER of bob: "name: value" lines beside the needed ones.
func register(t *testing.T, cseq int, lines ...string) Request {
	t.Helper()
	r, no := readRegister(cseq, lines...)
	if no != nil {
		t.Fatalf("%v: refused %+v", lines, no)
	}
	return r
}

func readRegister(cseq int, lines ...string) (Request, *Refusal) {
	m := codecore.Message{Method: "REGISTER", URI: "sip:switch"}
	m.Add("To", "<sip:bob@switch>")
	m.Add("CSeq", fmt.Sprint(cseq, " REGISTER"))
	for _, l := range append(lines, "Call-ID: one") {
		name, value, _ := strings.Cut(l, ": ")
		m.Add(name, value)
	}
	r, no := Read(&m, "bob")
	r.Edge, r.Flow, r.Source = "n1", "udp/a/b", "192.0.2.7:5060"
	return r, no
}

func contacts(told []Told) (out []string) {
	for _, b := range told {
		out = append(out, b.Header().Value)
	}
	return out
}

const phone1, phone2 = "Contact: <sip:bob@192.0.2.7:5060>", "Contact: \"B, ob\" <sip:bob@192.0.2.8:5062;transport=udp>;q=0.1"

// One table of RFC 3261 10.3, in order, on one entry.
func TestBindings(t *testing.T) {
	var e Entry
	now := morning
	step := func(what string, r Request, want ...string) {
		t.Helper()
		next, told, _, no := e.Apply(r, Limits{}, now)
		if no != nil {
			t.Fatalf("%s: refused: %+v", what, no)
		}
		if got := contacts(told); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s:\n got %v\nwant %v", what, got, want)
		}
		e = next
	}
	refused := func(what string, r Request, status int) {
		t.Helper()
		next, _, write, no := e.Apply(r, Limits{}, now)
		if no == nil || no.Status != status || write || fmt.Sprint(next) != fmt.Sprint(e) {
			t.Errorf("%s: %+v", what, no)
		}
	}
	step("nothing yet", register(t, 1))
	step("one", register(t, 2, phone1, "Expires: 600"), "<sip:bob@192.0.2.7:5060>;expires=600")
	now = now.Add(10 * time.Second)
	step("a second, newest first", register(t, 3, phone2+";expires=120", "Expires: 600"), "<sip:bob@192.0.2.8:5062;transport=udp>;expires=120", "<sip:bob@192.0.2.7:5060>;expires=650")
	step("the first by another spelling", register(t, 4, "Contact: sip:bob@192.0.2.7:5060;expires=300"), "<sip:bob@192.0.2.7:5060>;expires=300", "<sip:bob@192.0.2.8:5062;transport=udp>;expires=180")
	refused("an older one that comes late", register(t, 3, phone1), 500)
	refused("too short", register(t, 5, phone1, "Expires: 59"), 423)
	step("the same again, when its answer got lost", register(t, 4, "Contact: sip:bob@192.0.2.7:5060;expires=300"), "<sip:bob@192.0.2.7:5060>;expires=300", "<sip:bob@192.0.2.8:5062;transport=udp>;expires=180")
	step("far too long", register(t, 6, phone1, "Expires: 4000000000"), "<sip:bob@192.0.2.7:5060>;expires=3600", "<sip:bob@192.0.2.8:5062;transport=udp>;expires=180")
	step("one goes", register(t, 7, phone1+";expires=0"), "<sip:bob@192.0.2.8:5062;transport=udp>;expires=180")
	now = now.Add(3 * time.Minute)
	step("the other has ended", register(t, 8))
	step("without any wish", register(t, 9, phone1), "<sip:bob@192.0.2.7:5060>;expires=3600")
	refused("all, late", register(t, 8, "Contact: *", "Expires: 0"), 500)
	step("all", register(t, 10, "Contact: *", "Expires: 0"))
	step("twice in one, the last counts", register(t, 11, phone1, "Contact: <sip:bob@192.0.2.7:5060;x=1>;expires=120"), "<sip:bob@192.0.2.7:5060;x=1>;expires=120")
	step("twice in one, and gone", register(t, 12, phone1, phone1+";expires=0"))
	for i := range 12 {
		r := register(t, 20+i, fmt.Sprintf("Contact: <sip:bob@192.0.2.%d>", i))
		next, told, _, _ := e.Apply(r, Limits{}, now)
		if len(told) > 8 || told[0].Contact != fmt.Sprintf("sip:bob@192.0.2.%d", i) {
			t.Errorf("%d bindings", len(told))
		}
		e = next
	}
}

// RFC 5626: the phone that comes back with another address takes its place.
func TestInstance(t *testing.T) {
	var e Entry
	for i, c := range []struct {
		line string
		left int
	}{
		{`Contact: <sip:bob@10.0.0.1>;+sip.instance="<urn:uuid:1>";reg-id=1`, 1},
		{`Contact: <sip:bob@10.0.0.2>;+sip.instance="<urn:uuid:1>";reg-id=1`, 1},
		{`Contact: <sip:bob@10.0.0.2>;+sip.instance="<urn:uuid:1>";reg-id=2`, 2},
		{`Contact: <sip:bob@10.0.0.2>;+sip.instance="<urn:uuid:2>";reg-id=1`, 3},
	} {
		next, told, _, no := e.Apply(register(t, i+1, c.line), Limits{}, morning)
		if no != nil || len(told) != c.left || !strings.Contains(contacts(told)[0], `;+sip.instance="<urn:uuid:`) {
			t.Errorf("%s: %v %+v", c.line, contacts(told), no)
		}
		e = next
	}
}

func TestRegisterThatIsNone(t *testing.T) {
	for _, c := range []struct {
		status int
		lines  []string
	}{
		{400, []string{"Contact: *", "Expires: 1"}},
		{400, []string{"Contact: *"}},
		{400, []string{"Contact: *", phone1, "Expires: 0"}},
		{400, []string{"Contact: <tel:+123>"}},
		{400, []string{"Contact: <sip:>"}},
		{400, []string{"Contact: <sip:bob@" + strings.Repeat("a", 600) + ">"}},
		{400, strings.Split(strings.Repeat(phone1+"\n", 16)+phone1, "\n")},
		{420, []string{phone1, "Require: path, gruu"}},
	} {
		if _, no := readRegister(1, c.lines...); no == nil || no.Status != c.status {
			t.Errorf("%.80q: %+v", c.lines, no)
		}
	}
	m := codecore.Message{Method: "REGISTER"}
	m.Add("To", "<sip:alice@switch>")
	if _, no := Read(&m, "bob"); no == nil || no.Status != 403 {
		t.Errorf("somebody else's address: %+v", no)
	}
}

// memStore is a Store in memory.
type memStore struct {
	mu     sync.Mutex
	values map[string][]byte
	revs   map[string]uint64
	puts   int
	rev    uint64
	beaten int // so many next writes find that another was faster
}

func newMemStore() *memStore {
	return &memStore{values: map[string][]byte{}, revs: map[string]uint64{}}
}

func (s *memStore) Put(_ context.Context, key string, value []byte, rev uint64, _ time.Duration) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.beaten > 0 {
		s.beaten--
		s.rev++
		s.revs[key] = s.rev
	}
	if s.revs[key] != rev {
		return 0, ErrConflict
	}
	s.puts++
	s.rev++
	s.values[key], s.revs[key] = value, s.rev
	return s.rev, nil
}

func (s *memStore) Get(_ context.Context, key string) ([]byte, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.revs[key] == 0 {
		return nil, 0, ErrNotFound
	}
	return s.values[key], s.revs[key], nil
}

func (s *memStore) Scan(_ context.Context, fn func(string, []byte, uint64) error) error {
	for k, v := range s.values {
		if err := fn(k, v, s.revs[k]); err != nil {
			return err
		}
	}
	return nil
}

// A refresh every 50 s of 60: every second one is written, and at no time is the
// stored end before what the phone was told.
func TestRefreshesAreCheapAndHonest(t *testing.T) {
	s := newMemStore()
	d := NewDirectory(s, Limits{})
	for i := range 100 {
		now := morning.Add(time.Duration(i) * 50 * time.Second)
		told, _, no, err := d.Register(t.Context(), register(t, i+1, phone1, "Expires: 60"), now)
		if err != nil || no != nil || len(told) != 1 || told[0].Expires != time.Minute {
			t.Fatal(told, no, err)
		}
		other, err := NewDirectory(s, Limits{}).Lookup(t.Context(), "bob", now.Add(time.Minute-time.Millisecond))
		if err != nil || len(other) != 1 {
			t.Fatalf("refresh %d: at the end that the phone was told: %v, %v", i, other, err)
		}
	}
	if s.puts != 50 {
		t.Errorf("%d writes for 100 refreshes", s.puts)
	}
	moved := register(t, 200, phone1, "Expires: 60")
	moved.Source, moved.Flow = "192.0.2.7:6060", "udp/a/c"
	_, wrote, _, err := d.Register(t.Context(), moved, morning.Add(100*50*time.Second))
	if err != nil || !wrote {
		t.Errorf("a phone that comes by another way is not written: %v", err)
	}
}

func TestDirectoryConflicts(t *testing.T) {
	s := newMemStore()
	d, e := NewDirectory(s, Limits{Slack: -1}), NewDirectory(s, Limits{Slack: -1})
	for i := range 10 { // two edges in turn
		one := []*Directory{d, e}[i%2]
		line := []string{phone1, phone2}[i%2]
		if told, _, no, err := one.Register(t.Context(), register(t, i+1, line), morning.Add(time.Duration(i)*time.Second)); err != nil || no != nil || len(told) != min(i+1, 2) {
			t.Fatal(i, told, no, err)
		}
	}
	s.beaten = slowPut
	if _, _, _, err := d.Register(t.Context(), register(t, 50, phone1), morning); !errors.Is(err, ErrConflict) {
		t.Errorf("beaten for ever: %v", err)
	}
	if _, _, no, err := d.Register(t.Context(), register(t, 51, "Contact: *", "Expires: 0"), morning); err != nil || no != nil {
		t.Error(no, err)
	}
	if bs, err := d.Lookup(t.Context(), "bob", morning); err != nil || len(bs) != 0 {
		t.Error(bs, err)
	}
	n := 0
	if err := d.List(t.Context(), morning, func(Entry) error { n++; return nil }); err != nil || n != 0 {
		t.Error(n, err)
	}
}

func TestAccounts(t *testing.T) {
	for _, bad := range []Account{{}, {Name: "a b", MD5: bob.MD5}, {Name: "bob"}, {Name: "bob", MD5: "xyz"}, {Name: "bob", MD5: strings.ToUpper(bob.MD5)}, {Name: "bob", SHA256: bob.MD5}} {
		if bad.Check() == nil {
			t.Errorf("%+v", bad)
		}
	}
	if bob.Check() != nil {
		t.Error(bob.Check())
	}
	a := NewAccounts([]Account{bob})
	a.Set(Account{Name: "bob"})
	a.Set(Account{Name: "eve"})
	if got, _ := a.Get("bob"); got != bob || a.Len() != 2 || !a.Configured("bob") || a.Configured("eve") {
		t.Error("a stored account takes a configured one's place")
	}
	a.Remove("eve")
	if _, ok := a.Get("eve"); ok || len(a.Names()) != 1 {
		t.Error("removed, and there")
	}
	if name, ok := NameOf(Key("bob")); name != "bob" || !ok {
		t.Error(name)
	}
}

func TestBehindNAT(t *testing.T) {
	for _, c := range []struct {
		contact, source string
		nat             bool
	}{
		{"sip:bob@192.0.2.7:5060", "192.0.2.7:5060", false},
		{"sip:bob@192.0.2.7", "192.0.2.7:5060", false},
		{"sip:bob@[2001:db8::7]", "[2001:db8::7]:5060", false},
		{"sip:bob@[2001:DB8::7]:5062", "[2001:db8::7]:5062", false},
		{"sip:bob@192.0.2.7", "192.0.2.7:1024", true},
		{"sip:bob@10.0.0.7:5060", "192.0.2.7:5060", true},
	} {
		if got := (Binding{Contact: c.contact, Source: c.source}).BehindNAT(); got != c.nat {
			t.Errorf("%s from %s: %v", c.contact, c.source, got)
		}
	}
}
