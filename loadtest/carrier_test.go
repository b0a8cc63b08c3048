package loadtest

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const trunkPassword = "open-trunk"

// atCarrier is a switch that registers at a carrier of the rig's.
func atCarrier(t *testing.T) (*bed, *Registrar) {
	t.Helper()
	b, _ := realSwitchAs(t, 0, nil, func(s Site) []byte {
		path := filepath.Join(s.StateDir, "trunks.yaml")
		if err := os.WriteFile(path, []byte("- {trunk: carrier, user: us-at-them, password: "+trunkPassword+"}\n"), 0o600); err != nil {
			t.Error(err)
		}
		return append(DefaultConfig(s), "trunks:\n  passwords: "+path+"\n"...)
	})
	r, err := NewRegistrar(netip.MustParseAddrPort("127.0.0.30:0"), b.sw.cfg.Site.SIP, "us-at-them", trunkPassword)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		if a, _ := r.Account(); t.Failed() {
			t.Logf("the registrar: %+v", a)
		}
	})
	return b, r
}

// register puts a plan in force with a registration for so many seconds; 0: none.
func (b *bed) register(t *testing.T, r *Registrar, expires int, more ...DialplanPeer) {
	t.Helper()
	p := b.rig.Dialplan()
	p.Peers = append(p.Peers, more...)
	for _, q := range more {
		p.Routes = append(p.Routes, DialplanRoute{Prefix: "4930", To: q.Name})
	}
	if expires > 0 {
		p.Peers = append(p.Peers, DialplanPeer{Name: "carrier", Kind: "trunk", Target: "sip:" + r.Addr().String(), Register: &DialplanRegister{
			AOR: "sip:49301234@carrier.example", URI: "sip:" + r.Addr().String(), Expires: expires,
		}})
	}
	if err := b.sw.plan(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

// wait waits for an account that is as wanted.
func (r *Registrar) wait(t *testing.T, what string, ok func(RegistrarAccount) bool) RegistrarAccount {
	t.Helper()
	ctx := patient(t, 30*time.Second)
	for {
		a, changed := r.Account()
		if ok(a) {
			return a
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("%s: %+v", what, a)
		}
	}
}

// refreshed waits for so many further bindings.
func (r *Registrar) refreshed(t *testing.T, what string, n int) {
	t.Helper()
	first, _ := r.Account()
	r.wait(t, what, func(a RegistrarAccount) bool { return a.Granted >= first.Granted+n })
}

// enlisted waits until the registration is as wanted in the switch's own eyes.
func (b *bed) enlisted(t *testing.T, what string, ok func(Carrier) bool) Carrier {
	t.Helper()
	ctx := patient(t, 20*time.Second)
	for {
		cs, err := b.sw.API.Carriers(ctx)
		if err == nil && len(cs) == 1 && ok(cs[0]) {
			return cs[0]
		}
		if !pause(ctx, 50*time.Millisecond) {
			t.Fatalf("%s: %+v %v", what, cs, err)
		}
	}
}

// The owner of a registration is upgraded, taken back, killed, its edge is
// killed, and then everything: somebody owns it each time, and the carrier hears
// nothing of it, for nothing is due.
func TestRegistrationMovesInSilence(t *testing.T) {
	b, r := atCarrier(t)
	bin, _ := binaries()
	b.register(t, r, 600)
	before := r.wait(t, "not registered", func(a RegistrarAccount) bool { return a.Granted == 1 })
	one := b.enlisted(t, "not bound", func(c Carrier) bool { return c.State == "bound" })
	if one.Epoch != 1 {
		t.Errorf("%+v", one)
	}
	b.moveAll(t, bin[1])
	two := b.enlisted(t, "did not move", func(c Carrier) bool { return c.Owner != one.Owner && c.Epoch == 2 && c.Release != one.Release })
	if err := b.say(t, "undo"); err != nil {
		t.Fatal(err)
	}
	b.inState(t, RolloutRolledBack)
	three := b.enlisted(t, "did not come back", func(c Carrier) bool { return c.Owner != two.Owner && c.Epoch == 3 && c.Release == one.Release })
	_, _ = b.sw.Processes(t.Context())
	for _, p := range mustFind(t, b, RoleWorker) {
		if p.ID == three.Owner {
			if err := b.sw.Kill(p); err != nil {
				t.Fatal(err)
			}
		}
	}
	four := b.enlisted(t, "not taken over", func(c Carrier) bool { return c.Owner != three.Owner && c.Epoch == 4 })
	if err := b.sw.Kill(b.only(t, RoleEdge)); err != nil {
		t.Fatal(err)
	}
	_, _ = b.sw.Processes(t.Context())
	b.sw.KillAll()
	if err := b.sw.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	five := b.enlisted(t, "not taken over after everything was killed", func(c Carrier) bool { return c.Epoch == 5 })
	if after, _ := r.Account(); after.CSeq != before.CSeq || len(after.Faults) > 0 || five.State != "bound" || five.Owner == four.Owner {
		t.Errorf("the carrier heard of it: %+v, before %+v; %+v", after, before, five)
	}
	b.mustKeepSecrets(t, trunkPassword)
}

func mustFind(t *testing.T, b *bed, role string) []Process {
	t.Helper()
	ps, err := b.sw.Find(t.Context(), role)
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

// Refreshed every few seconds, through a release and back, kill -9 of the worker,
// of the edge and of everything, and with an answer under way at each kill: the
// binding never lapses, the Call-ID stays, the CSeq grows, no nc comes twice, and
// a REGISTER under way is repeated, not sent anew. At the end it is taken back.
func TestRegistrationOutlivesEverything(t *testing.T) {
	b, r := atCarrier(t)
	bin, _ := binaries()
	b.register(t, r, 15)
	r.refreshed(t, "registered", 2)
	b.moveAll(t, bin[1])
	r.refreshed(t, "on the next release", 1)
	if err := b.say(t, "undo"); err != nil {
		t.Fatal(err)
	}
	b.inState(t, RolloutRolledBack)
	r.refreshed(t, "back", 1)
	for _, role := range []string{RoleWorker, RoleEdge} {
		r.Hold(true)
		asked := r.wait(t, "due", func(a RegistrarAccount) bool { return a.Waiting > 0 })
		was := mustFind(t, b, role)
		for _, p := range was {
			if err := b.sw.Kill(p); err != nil {
				t.Fatal(err)
			}
		}
		if role == RoleEdge { // its successor says it again, byte for byte
			r.wait(t, "not repeated", func(a RegistrarAccount) bool { return a.Repeated > asked.Repeated })
		} // and of the worker nobody is left to take the answer
		r.Hold(false)
		done := b.enlisted(t, "the answer was lost with the "+role, func(c Carrier) bool { return c.Until.After(time.Now().Add(9 * time.Second)) })
		// It was granted, or challenged once more, by the REGISTER that waited.
		if done.CSeq > asked.CSeq+1 {
			t.Errorf("%s killed: CSeq %d, and %d was under way", role, done.CSeq, asked.CSeq)
		}
		r.refreshed(t, "after the "+role+" was killed", 1)
	}
	_, _ = b.sw.Processes(t.Context())
	b.sw.KillAll()
	if err := b.sw.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.refreshed(t, "after everything was killed", 2)
	b.register(t, r, 0)
	a := r.wait(t, "not taken back", func(a RegistrarAccount) bool { return a.Removed == 1 })
	if len(a.Faults) > 0 {
		t.Errorf("%q", a.Faults)
	}
	t.Logf("%d bindings granted, CSeq %d, %d retransmissions", a.Granted, a.CSeq, a.Repeated)
	ctx := patient(t, 30*time.Second)
	for {
		cs, err := b.sw.API.Carriers(ctx)
		if err == nil && len(cs) == 0 {
			break
		}
		if !pause(ctx, 50*time.Millisecond) {
			t.Fatalf("%+v %v", cs, err)
		}
	}
}

// The carrier calls the Contact that it was given, from an address of which the
// dialplan knows nothing: the call is that trunk's, and for the number that we
// are there. One who has invented a Contact is a stranger.
func TestCarrierCallsTheContact(t *testing.T) {
	b, r := atCarrier(t)
	phone, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 32)})
	if err != nil {
		t.Fatal(err)
	}
	defer phone.Close()
	b.register(t, r, 600, DialplanPeer{Name: "anna", Kind: "phone", Target: "sip:" + phone.LocalAddr().String()})
	contact := r.wait(t, "registered", func(a RegistrarAccount) bool { return a.Granted == 1 }).Contact
	if host := contact[strings.IndexByte(contact, '@')+1:]; host != b.sw.cfg.Site.SIP.String() {
		t.Errorf("Contact %s", contact)
	}
	gateway, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 31)})
	if err != nil {
		t.Fatal(err)
	}
	defer gateway.Close()
	call := func(uri, branch string) *message {
		t.Helper()
		var w builder
		w.line("INVITE ", uri, " SIP/2.0")
		w.line("Via: SIP/2.0/UDP ", gateway.LocalAddr().String(), ";branch=z9hG4bK", branch)
		w.line("From: <sip:0301@carrier.example>;tag=1")
		w.line("To: <sip:49301234@carrier.example>")
		w.line("Call-ID: ", branch)
		w.line("CSeq: 1 INVITE")
		w.line("Contact: <sip:gw@", gateway.LocalAddr().String(), ">")
		w.line("Max-Forwards: 70")
		sdp := "v=0\r\no=- 1 1 IN IP4 127.0.0.31\r\ns=-\r\nc=IN IP4 127.0.0.31\r\nt=0 0\r\nm=audio 4000 RTP/AVP 8\r\n"
		if _, err := gateway.WriteToUDPAddrPort(w.finish("application/sdp", []byte(sdp)), b.sw.cfg.Site.SIP); err != nil {
			t.Fatal(err)
		}
		m := hear(t, gateway)
		for m.callID() != branch { // a final response to another comes until its ACK
			m = hear(t, gateway)
		}
		return m
	}
	if m := call(strings.Replace(contact, "sip:", "sip:0", 1), "invented"); m.code != 403 {
		t.Errorf("an invented Contact got %d", m.code)
	}
	if m := call(contact, "honest"); m.code != 100 {
		t.Fatalf("the carrier's call got %d", m.code)
	}
	if m := hear(t, phone); m.method != "INVITE" || userOf(m.uri) != "49301234" {
		t.Errorf("the phone got %s %s", m.method, m.uri)
	}
	if calls, err := b.sw.API.Calls(t.Context()); err != nil || len(calls) != 1 || calls[0].FromPeer != "carrier" || calls[0].To != "49301234" {
		t.Errorf("%+v %v", calls, err)
	}
}

func hear(t *testing.T, c *net.UDPConn) *message {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second)) // a guard: answers are repeated every 4 s
	buf := make([]byte, 65536)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	m, err := parseMessage(buf[:n])
	if err != nil {
		t.Fatal(err)
	}
	return m
}
