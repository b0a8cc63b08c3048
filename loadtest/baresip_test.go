package loadtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const toneHz = 1000

// writeTone writes n seconds of a sine, 8 kHz mono, 16 bit.
func writeTone(t *testing.T, path string, seconds int) {
	t.Helper()
	var b bytes.Buffer
	size := uint32(16000 * seconds)
	b.WriteString("RIFF")
	_ = binary.Write(&b, binary.LittleEndian, size+36)
	b.WriteString("WAVEfmt ")
	for _, v := range []any{uint32(16), uint16(1), uint16(1), uint32(8000), uint32(16000), uint16(2), uint16(16)} {
		_ = binary.Write(&b, binary.LittleEndian, v)
	}
	b.WriteString("data")
	_ = binary.Write(&b, binary.LittleEndian, size)
	for i := range 8000 * seconds {
		_ = binary.Write(&b, binary.LittleEndian, int16(8000*math.Sin(2*math.Pi*toneHz*float64(i)/8000)))
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// toneShare is the part of the energy of samples at 8 kHz that lies at hz
// (Goertzel 1958): near 1 for the tone, near 0 for noise or silence.
func toneShare(samples []int16, hz float64) float64 {
	var s1, s2, energy float64
	k := 2 * math.Cos(2*math.Pi*hz/8000)
	for _, v := range samples {
		x := float64(v)
		energy += x * x
		s1, s2 = x+k*s1-s2, s1
	}
	if energy < float64(len(samples))*100 { // quieter than -50 dB
		return 0
	}
	power := s1*s1 + s2*s2 - k*s1*s2
	return 2 * power / (float64(len(samples)) * energy)
}

func TestToneShare(t *testing.T) {
	t.Parallel()
	tone, other := make([]int16, 800), make([]int16, 800)
	for i := range tone {
		tone[i] = int16(8000 * math.Sin(2*math.Pi*toneHz*float64(i)/8000))
		other[i] = int16(8000 * math.Sin(2*math.Pi*1700*float64(i)/8000))
	}
	for name, c := range map[string]struct {
		s        []int16
		min, max float64
	}{"tone": {tone, 0.95, 1.05}, "other tone": {other, 0, 0.05}, "silence": {make([]int16, 800), 0, 0}} {
		if got := toneShare(c.s, toneHz); got < c.min || got > c.max {
			t.Errorf("%s: %.3f", name, got)
		}
	}
}

// phone is one baresip with its own directory.
type phone struct {
	dir string
	at  netip.AddrPort
	ctl netip.AddrPort // takes commands, tells events (interop_baresip_test.go)
	cmd *exec.Cmd
	out bytes.Buffer
}

func startPhone(t *testing.T, ip, user string, args ...string) *phone {
	t.Helper()
	return startPhoneAs(t, ip, user, "", args...)
}

// startPhoneWith has more in its account, say ";mediaenc=srtp-mand".
func startPhoneWith(t *testing.T, ip, user, more string, args ...string) *phone {
	t.Helper()
	return startPhoneAs(t, ip, user, more, args...)
}

// startAccount starts a phone that registers; its password is sesame-<user>.
func startAccount(t *testing.T, ip, user string, at netip.AddrPort, args ...string) *phone {
	t.Helper()
	return startPhoneAs(t, ip, user, fmt.Sprintf("<sip:%s@%s>;auth_pass=sesame-%s;regint=60;answermode=auto;audio_codecs=PCMU/8000/1,PCMA/8000/1\n", user, at, user), args...)
}

func startPhoneAs(t *testing.T, ip, user, account string, args ...string) *phone {
	t.Helper()
	if _, err := exec.LookPath("baresip"); err != nil {
		t.Skip("baresip is not installed")
	}
	p := &phone{dir: t.TempDir(), at: sippPort(t, ip), ctl: sippPort(t, ip)}
	tone := filepath.Join(p.dir, "tone.wav")
	writeTone(t, tone, 60)
	config := fmt.Sprintf(`sip_listen %s
audio_player aubridge,%s
audio_source aufile,%s
audio_alert aubridge,%s
ausrc_srate 8000
auplay_srate 8000
ausrc_channels 1
auplay_channels 1
rtp_timeout 0
snd_path %s
module_path %s
module g711.so
module aufile.so
module aubridge.so
module sndfile.so
module srtp.so
module_tmp account.so
module_app menu.so
module_app ctrl_tcp.so
ctrl_tcp_listen %s
`, p.at, user, tone, user, p.dir, "/usr/lib/baresip/modules", p.ctl)
	if account == "" || account[0] == ';' {
		account = fmt.Sprintf("<sip:%s@%s>;regint=0;answermode=auto;audio_codecs=PCMU/8000/1%s\n", user, p.at, account)
	}
	for name, s := range map[string]string{"config": config, "accounts": account, "contacts": ""} {
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.cmd = exec.Command("baresip", append([]string{"-f", p.dir}, args...)...) //nolint:noctx,gosec // ended by signal
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = &p.out, &p.out, p.dir
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.stop(t) })
	listens(t, p.cmd.Process.Pid, p.at)
	return p
}

// stop quits baresip, so that it closes its recordings.
func (p *phone) stop(t *testing.T) {
	t.Helper()
	if p.cmd.ProcessState != nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(20*time.Second, func() { _ = p.cmd.Process.Kill() })
	_ = p.cmd.Wait()
	timer.Stop()
	if t.Failed() {
		t.Logf("baresip:\n%s", tail(p.out.String()))
	}
}

// heard reads the recording of what the phone decoded.
func (p *phone) heard(t *testing.T) []int16 {
	t.Helper()
	names, _ := filepath.Glob(filepath.Join(p.dir, "*dec.wav"))
	if len(names) == 0 {
		t.Fatalf("no recording:\n%s", tail(p.out.String()))
	}
	b, err := os.ReadFile(names[0])
	if err != nil || len(b) < 44 || !strings.HasPrefix(string(b), "RIFF") {
		t.Fatalf("recording: %v, %d bytes", err, len(b))
	}
	out := make([]int16, (len(b)-44)/2)
	for i := range out {
		out[i] = int16(binary.LittleEndian.Uint16(b[44+2*i:]))
	}
	return out
}

// mustHearTone checks windows of 100 ms over the whole recording but its first
// second (the jitter buffer fills) and its last half (hanging up).
func (p *phone) mustHearTone(t *testing.T, seconds float64) {
	t.Helper()
	p.mustHear(t, toneHz, seconds)
}

func (p *phone) mustHear(t *testing.T, hz, seconds float64) {
	t.Helper()
	s := p.heard(t)
	if float64(len(s))/8000 < seconds {
		t.Errorf("recording is %.1f s long, the talk was %.1f s", float64(len(s))/8000, seconds)
	}
	for i := 8000; i+800 < len(s)-4000; i += 800 {
		if share := toneShare(s[i:i+800], hz); share < 0.8 {
			t.Errorf("at %.1f s only %.0f %% of the sound is the tone", float64(i)/8000, 100*share)
		}
	}
}

func dial(number string, to netip.AddrPort) []string {
	return []string{"-e", "/dial sip:" + number + "@" + to.String()}
}

func TestBaresipAlone(t *testing.T) {
	b := startPhone(t, "127.0.0.7", "5551")
	heard := b.control(t)
	a := startPhone(t, "127.0.0.6", "alice", dial("5551", b.at)...)
	heard.says(t, 0, `"type":"CALL_ESTABLISHED"`)
	pause(t.Context(), 3500*time.Millisecond)
	a.stop(t)
	b.stop(t)
	b.mustHearTone(t, 2)
	a.mustHearTone(t, 2)
}

// Two phones talk while their call moves to the next release and back.
func TestBaresipHearsTheToneAcrossAMove(t *testing.T) {
	sw, _ := realSwitch(t, 0, nil)
	bin, _ := binaries()
	b := startPhone(t, "127.0.0.7", "5551")
	at := sw.sw.cfg.Site.SIP
	plan := Dialplan{
		Peers: []DialplanPeer{
			{Name: "alice", Kind: "phone", Sources: []string{"127.0.0.6"}, Target: "sip:alice@127.0.0.6"},
			{Name: "bob", Kind: "phone", Sources: []string{b.at.String()}, Target: "sip:5551@" + b.at.String()},
		},
		Routes: []DialplanRoute{{Prefix: "5", To: "bob"}},
	}
	if err := sw.sw.plan(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	a := startPhone(t, "127.0.0.6", "alice", dial("5551", at)...)
	sw.talking(t, 1)
	pause(t.Context(), 3*time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	moves, err := sw.moves(ctx, BenchConfig{NextBinary: bin[1], Rounds: 1, Progress: io.Discard})
	if err != nil || len(moves) != 2 || moves[0].Moved != 1 || moves[1].Moved != 1 {
		t.Errorf("moves: %+v %v", moves, err)
	}
	pause(t.Context(), 3*time.Second)
	a.stop(t)
	pause(t.Context(), time.Second)
	b.stop(t)
	a.mustHearTone(t, 6)
	b.mustHearTone(t, 6)
}
