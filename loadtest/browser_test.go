package loadtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// browser is a Chromium without a screen, whose microphone is a tone.
type browser struct{ ctx context.Context }

// startBrowser starts one; its microphone gives a sine of hz for ever.
func startBrowser(t *testing.T, hz float64) *browser {
	t.Helper()
	if os.Getenv("SWITCH_SYSTEM") == "" {
		t.Skip("SWITCH_SYSTEM is not set: browsers run in .ci/run")
	}
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed")
	}
	// Not t.TempDir: a child of Chromium may outlive it and write there, and a directory
	// that is not empty must not fail the test.
	dir, err := os.MkdirTemp("", "chromium")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for begin := time.Now(); os.RemoveAll(dir) != nil && time.Since(begin) < 5*time.Second; {
			time.Sleep(20 * time.Millisecond)
		}
	})
	tone := filepath.Join(dir, "tone.wav")
	writeSine(t, tone, hz)
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("use-fake-device-for-media-stream", true),
		chromedp.Flag("use-fake-ui-for-media-stream", true),
		chromedp.Flag("use-file-for-fake-audio-capture", tone),
		chromedp.Flag("autoplay-policy", "no-user-gesture-required"),
		chromedp.Flag("host-resolver-rules", "MAP phone.test 127.0.0.1"), // a page of no secure context
		chromedp.Flag("ignore-certificate-errors", true),
		chromedp.Flag("allow-loopback-in-peer-connection", true),
		chromedp.Flag("disable-features", "WebRtcHideLocalIpsWithMdns,Translate"),
		chromedp.WSURLReadTimeout(time.Minute),
		chromedp.UserDataDir(filepath.Join(dir, "profile")), chromedp.Env("TMPDIR="+dir),
	)
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("chromium: %v", err)
	}
	return &browser{ctx}
}

// tab is one page of it.
type tab struct {
	t   *testing.T
	ctx context.Context
}

// open shows a page; first, if it is not empty, is run before any script of its.
func (b *browser) open(t *testing.T, url, first string) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx)
	t.Cleanup(cancel)
	p := &tab{t, ctx}
	err := chromedp.Listen(ctx, func(ev any) {
		if e, ok := ev.(*runtime.EventExceptionThrown); ok {
			t.Errorf("the page threw: %+v", e.ExceptionDetails)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	p.do(func(ctx context.Context, target *chromedp.Target) (v chromedp.Void, err error) {
		_, err = cdp.Call(ctx, target, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: first})
		return v, err
	}, chromedp.Navigate(url))
	return p
}

// do runs actions, for at most a minute.
func (p *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		p.t.Fatalf("browser: %v\n%s", err, p.text())
	}
}

func (p *tab) text() string {
	ctx, cancel := context.WithTimeout(p.ctx, 2*time.Second)
	defer cancel()
	s, _ := chromedp.Run(ctx, chromedp.Evaluate[string](`document.body.innerText`))
	return s
}

// await waits until a JavaScript expression is true.
func (p *tab) await(expression string) {
	p.t.Helper()
	p.do(chromedp.Poll[chromedp.Void](expression, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(40*time.Second)))
}

// evaluate is the value of an expression, a promise's too.
func evaluate[T any](p *tab, expression string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("browser: %v\n%s", err, p.text())
	}
	return v
}

// ear takes the sound of the element with an id: the last 4,096 samples.
const ear = `(async (id) => {
  const stream = document.getElementById(id).srcObject;
  if (!stream) return {rate: 0, samples: []};
  window.ears ??= new WeakMap();
  if (!window.ears.has(stream)) {
    const context = new AudioContext();
    const analyser = context.createAnalyser();
    analyser.fftSize = 4096;
    context.createMediaStreamSource(stream).connect(analyser);
    await context.resume();
    window.ears.set(stream, analyser);
    await new Promise((f) => setTimeout(f, 300));
  }
  const analyser = window.ears.get(stream);
  const samples = new Float32Array(analyser.fftSize);
  analyser.getFloatTimeDomainData(samples);
  return {rate: analyser.context.sampleRate, samples: Array.from(samples)};
})(%q)`

// hears is the share of a tone in what the element plays now.
func (p *tab) hears(id string, hz float64) float64 {
	p.t.Helper()
	v := evaluate[struct {
		Rate    float64
		Samples []float64
	}](p, fmt.Sprintf(ear, id))
	return share(v.Samples, v.Rate, hz)
}

// mustHear waits until the element plays the tone, and wants it for so many
// looks, 200 ms apart, in a row.
func (p *tab) mustHear(id string, hz float64, looks int) {
	p.t.Helper()
	limit := patient(p.t, time.Minute)
	var heard []float64
	for row := 0; row < looks; {
		s := p.hears(id, hz)
		heard = append(heard, s)
		if row++; s < 0.8 {
			row = 0
		}
		if row < looks && !pause(limit, 200*time.Millisecond) {
			p.t.Fatalf("the tone of %.0f Hz is not heard; its share of the sound was %.2f\n%s", hz, heard, p.text())
		}
	}
}

// share is the part of the energy of samples that lies at hz (Goertzel 1958).
func share(samples []float64, rate, hz float64) float64 {
	var s1, s2, energy float64
	k := 2 * math.Cos(2*math.Pi*hz/rate)
	for _, x := range samples {
		energy += x * x
		s1, s2 = x+k*s1-s2, s1
	}
	if n := float64(len(samples)); energy < n*1e-5 { // quieter than -50 dB, or nothing
		return 0
	}
	return 2 * (s1*s1 + s2*s2 - k*s1*s2) / (float64(len(samples)) * energy)
}

// writeSine writes a second of a sine that can be repeated, 48 kHz mono, 16 bit.
func writeSine(t *testing.T, path string, hz float64) {
	t.Helper()
	const rate = 48000
	var b bytes.Buffer
	b.WriteString("RIFF")
	_ = binary.Write(&b, binary.LittleEndian, uint32(2*rate+36))
	b.WriteString("WAVEfmt ")
	for _, v := range []any{uint32(16), uint16(1), uint16(1), uint32(rate), uint32(2 * rate), uint16(2), uint16(16)} {
		_ = binary.Write(&b, binary.LittleEndian, v)
	}
	b.WriteString("data")
	_ = binary.Write(&b, binary.LittleEndian, uint32(2*rate))
	for i := range rate {
		_ = binary.Write(&b, binary.LittleEndian, int16(10000*math.Sin(2*math.Pi*hz*float64(i)/rate)))
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The ear tells tones apart, through a browser's own two connections.
func TestBrowserAlone(t *testing.T) {
	b := startBrowser(t, 1000)
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, `<body>alone<audio id="remote" autoplay></audio></body>`)
	}))
	defer site.Close()
	p := b.open(t, site.URL, "")
	if s := evaluate[string](p, `(async () => {
		const a = new RTCPeerConnection(), b = new RTCPeerConnection();
		a.onicecandidate = (e) => b.addIceCandidate(e.candidate);
		b.onicecandidate = (e) => a.addIceCandidate(e.candidate);
		b.ontrack = (e) => { document.getElementById('remote').srcObject = e.streams[0]; };
		const sound = {echoCancellation: false, noiseSuppression: false, autoGainControl: false};
		const stream = await navigator.mediaDevices.getUserMedia({audio: sound});
		stream.getTracks().forEach((t) => a.addTrack(t, stream));
		await a.setLocalDescription();
		await b.setRemoteDescription(a.localDescription);
		await b.setLocalDescription();
		await a.setRemoteDescription(b.localDescription);
		return 'ok';
	})()`); s != "ok" {
		t.Fatal(s)
	}
	p.mustHear("remote", 1000, 5)
	if s := p.hears("remote", 1700); s > 0.05 {
		t.Errorf("a tone that is not there has a share of %.2f", s)
	}
}
