package loadtest

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// chat is what a program says while it runs.
type chat struct {
	mu   sync.Mutex
	said strings.Builder
}

// Write takes what the program says.
func (c *chat) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said.Write(b)
}

// mark is where it is now; all is what it has said since a mark.
func (c *chat) mark() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said.Len()
}

func (c *chat) all(since int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said.String()[since:]
}

// says waits until it has said something since a mark.
func (c *chat) says(t *testing.T, since int, what string) {
	t.Helper()
	for ctx := patient(t, 30*time.Second); !strings.Contains(c.all(since), what); {
		if !pause(ctx, 20*time.Millisecond) {
			t.Fatalf("it has not said %q", what)
		}
	}
}

// linphone is one linphonec that is spoken to on its input. It plays a tone and
// records what it hears, by files in place of a sound card.
type linphone struct {
	chat
	dir string
	cmd *exec.Cmd
	in  io.WriteCloser
}

// do says a command and waits until linphonec has said so.
func (p *linphone) do(t *testing.T, command, until string) {
	t.Helper()
	since := p.mark()
	if _, err := io.WriteString(p.in, command+"\n"); err != nil {
		t.Fatal(err)
	}
	p.says(t, since, until)
}

// startLinphone starts linphonec, which registers as an account of the switch
// with the password sesame-<user>, and answers every call.
func startLinphone(t *testing.T, ip, user string, sw netip.AddrPort) *linphone {
	t.Helper()
	need(t, "linphonec", "linphone-cli")
	p := &linphone{dir: t.TempDir()}
	at, rtp := sippPort(t, ip), sippPort(t, ip)
	writeTone(t, filepath.Join(p.dir, "tone.wav"), 60)
	// It looks for a network, which a machine of loopback alone does not have.
	config := fmt.Sprintf(`[sip]
bind_address=%s
sip_port=%d
sip_tcp_port=0
sip_tls_port=0
auto_net_state_mon=0
register_only_when_network_is_up=0
[rtp]
audio_rtp_port=%d
[sound]
echocancellation=0
`, ip, at.Port(), rtp.Port())
	rc := filepath.Join(p.dir, "linphonerc")
	if err := os.WriteFile(rc, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(p.dir, ".local/share/linphone"), 0o700); err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command("linphonec", "-a", "-S", "-c", rc) //nolint:noctx,gosec // ended by its command
	p.cmd.Env, p.cmd.Dir = append(os.Environ(), "HOME="+p.dir), p.dir
	p.cmd.Stdout, p.cmd.Stderr = p, p
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.quit(t)
		if t.Failed() {
			t.Logf("linphonec of %s:\n%s", user, tail(p.all(0)))
		}
	})
	p.do(t, "soundcard use files", "instead of soundcard")
	p.record(t, "heard.wav")
	p.do(t, "play "+filepath.Join(p.dir, "tone.wav"), "")
	p.do(t, fmt.Sprintf("register sip:%s@%s sip:%s sesame-%s", user, sw, sw, user), "")
	return p
}

// quit ends linphonec.
func (p *linphone) quit(t *testing.T) {
	t.Helper()
	if p.cmd.ProcessState != nil {
		return
	}
	_, _ = io.WriteString(p.in, "quit\n")
	timer := time.AfterFunc(20*time.Second, func() { _ = p.cmd.Process.Kill() })
	_ = p.cmd.Wait()
	timer.Stop()
}

// record has the next call recorded.
func (p *linphone) record(t *testing.T, name string) {
	t.Helper()
	p.do(t, "record "+filepath.Join(p.dir, name), "")
}

// mustHearTone wants so many tenths of a second of a recording to be the tone,
// and at most other of them something else: silence, noise, a gap.
func (p *linphone) mustHearTone(t *testing.T, name string, least, most int) {
	t.Helper()
	wav, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil || len(wav) < 44 || !strings.HasPrefix(string(wav), "RIFF") {
		t.Fatalf("recording: %d bytes, %v", len(wav), err)
	}
	// One sample of each, for 8 kHz: 48 in stereo where the codec is Opus.
	skip := int(binary.LittleEndian.Uint16(wav[22:])) * int(binary.LittleEndian.Uint32(wav[24:])) / 8000
	s := make([]int16, 0, len(wav)/2)
	for at := 44; at+1 < len(wav); at += 2 * skip {
		s = append(s, int16(binary.LittleEndian.Uint16(wav[at:])))
	}
	tone, other, picture := 0, 0, ""
	for ; len(s) >= 800; s = s[800:] {
		if toneShare(s[:800], toneHz) >= 0.8 {
			tone++
			picture += "~"
		} else {
			other++
			picture += "."
		}
	}
	t.Logf("%s, tenths of a second: %s", name, picture)
	if tone < least || other > most {
		t.Errorf("%s: the tone for %d tenths of a second, at least %d, something else for %d, at most %d", name, tone, least, other, most)
	}
}

// Two linphonecs register with digest and talk; one holds and takes back, the
// call moves to the next release and back, the other hangs up. Then baresip calls
// one of them.
func TestLinphoneRegistersAndCalls(t *testing.T) {
	b, _ := realSwitch(t, 0, nil)
	at := b.sw.cfg.Site.SIP
	if err := b.sw.plan(t.Context(), accountPlan(netip.MustParseAddrPort("127.0.0.5:9"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lina", "linb"} { // SHA-256 and MD5: it takes the first
		b.account(t, name, "sesame-"+name)
	}
	b.account(t, "alice", "sesame-alice", "--md5-only")
	lina, linb := startLinphone(t, "127.0.0.30", "lina", at), startLinphone(t, "127.0.0.31", "linb", at)
	b.registered(t, 2)
	lina.do(t, "call sip:linb@"+at.String(), "Media streams established")
	pause(t.Context(), 2*time.Second)
	lina.do(t, "pause", "is now paused")
	linb.says(t, 0, "has been paused")
	pause(t.Context(), time.Second)
	lina.do(t, "resume", "Media streams established")
	b.onward(t, 1)
	pause(t.Context(), time.Second)
	linb.do(t, "terminate", "ended")
	lina.says(t, 0, "ended")

	lina.record(t, "again.wav")
	alice := startAccount(t, "127.0.0.6", "alice", at, dial("lina", at)...)
	b.talking(t, 1)
	pause(t.Context(), 3*time.Second)
	alice.stop(t)
	lina.says(t, 0, "Call 2 with sip:alice@127.0.0.1 ended")
	alice.mustHearTone(t, 1.5)
	for _, p := range []*linphone{lina, linb} {
		p.do(t, "unregister", "")
	}
	b.registered(t, 0)
	lina.quit(t)
	linb.quit(t)
	// Player and jitter buffer begin anew after a hold.
	lina.mustHearTone(t, "heard.wav", 35, 12)
	linb.mustHearTone(t, "heard.wav", 35, 12)
	lina.mustHearTone(t, "again.wav", 15, 5)
	if cdrs := b.cdrs(t, 2); cdrs[0].Result != "answered" || cdrs[0].HungUpBy != "b" || cdrs[1].Result != "answered" || cdrs[1].HungUpBy != "a" {
		t.Errorf("%+v", cdrs)
	}
	b.mustKeepSecrets(t, "sesame")
}

// A codec changes while the call is on the next release, and the call goes back
// with it; then the phone that changed it transfers its caller to a third phone
// that it has called (REFER with Replaces), and the call moves again.
func TestLinphoneChangesTheCodecAndTransfers(t *testing.T) {
	b, _ := realSwitch(t, 0, nil)
	bin, _ := binaries()
	at := b.sw.cfg.Site.SIP
	if err := b.sw.plan(t.Context(), accountPlan(netip.MustParseAddrPort("127.0.0.5:9"))); err != nil {
		t.Fatal(err)
	}
	b.account(t, "lina", "sesame-lina")
	for _, name := range []string{"alice", "carol"} {
		b.account(t, name, "sesame-"+name, "--md5-only")
	}
	lina, carol := startLinphone(t, "127.0.0.30", "lina", at), startAccount(t, "127.0.0.7", "carol", at)
	b.registered(t, 2)
	alice := startAccount(t, "127.0.0.6", "alice", at, dial("lina", at)...)
	control := alice.control(t)
	lina.says(t, 0, "Media streams established")
	pause(t.Context(), time.Second)

	b.moveAll(t, bin[1])
	lina.do(t, "codec disable 3", "PCMU (8000) disabled")
	lina.do(t, "pause", "is now paused")
	lina.do(t, "resume", "Media streams established")
	if err := b.say(t, "undo"); err != nil {
		t.Fatal(err)
	}
	b.inState(t, RolloutRolledBack)
	pause(t.Context(), time.Second)
	if s := control.ask(t, "callstat"); !strings.Contains(s, "PCMA") {
		t.Errorf("no word of PCMA: %s", s)
	}

	lina.do(t, "pause", "is now paused")
	lina.do(t, "call sip:carol@"+at.String(), "Media streams established")
	pause(t.Context(), time.Second)
	lina.do(t, "transfer 1 --to-call 2", "Call 1 with sip:alice@127.0.0.1 ended")
	lina.says(t, 0, "Call 2 with sip:carol@"+at.String()+" ended")
	ctx := patient(t, 20*time.Second)
	for {
		calls, err := b.sw.API.Calls(ctx)
		n := 0
		for _, c := range calls {
			if c.Phase == "talking" && c.FromPeer == "account:alice" {
				n++
			}
		}
		if n == 1 {
			break
		}
		if !pause(ctx, 20*time.Millisecond) {
			t.Fatalf("alice and carol do not talk: %+v %v", calls, err)
		}
	}
	pause(t.Context(), 2*time.Second)
	alice.stop(t)
	carol.stop(t)
	s := carol.heard(t)
	for i := len(s) - 12000; i >= 0 && i+800 < len(s)-4000; i += 800 {
		if share := toneShare(s[i:i+800], toneHz); share < 0.8 {
			t.Errorf("after the transfer carol hears %.0f %% of alice's tone", 100*share)
		}
	}
	lina.quit(t)
	lina.mustHearTone(t, "heard.wav", 15, 40)
	if cdrs := b.cdrs(t, 2); len(cdrs) != 2 {
		t.Errorf("%+v", cdrs)
	}
}
