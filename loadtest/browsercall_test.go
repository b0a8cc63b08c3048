package loadtest

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// browserPlan lets accounts call each other and the phone at an address by 5….
func browserPlan(phone netip.AddrPort, change func(*DialplanPeer)) Dialplan {
	peer := DialplanPeer{Name: "phone", Kind: "phone", Sources: []string{phone.Addr().String()}, Target: "sip:5551@" + phone.String()}
	if change != nil {
		change(&peer)
	}
	return Dialplan{
		Peers: []DialplanPeer{peer},
		Routes: []DialplanRoute{
			{Prefix: "5", To: "phone", From: "account"},
			{Prefix: "", To: "account:{number}"},
		},
	}
}

// raw: the tone is not to be taken for noise. What the page has said of its state is
// kept, for it may say something else before anybody has looked.
const raw = `localStorage.setItem('cleaned', 'no');
window.said = [];
addEventListener('DOMContentLoaded', () => {
  const words = document.getElementById('state-words');
  new MutationObserver(() => window.said.push(words.textContent)).observe(words, {childList: true});
});
window.states = [];
window.sockets = 0;
window.WebSocket = class extends WebSocket {
  constructor(...a) {
    super(...a);
    window.sockets++;
  }
};
const Plain = RTCPeerConnection;
window.RTCPeerConnection = class extends Plain {
  constructor(...a) {
    super(...a);
    const mine = [];
    window.states.push(mine);
    this.addEventListener('connectionstatechange', () => mine.push(this.connectionState));
    this.addEventListener('iceconnectionstatechange', () => mine.push('ice ' + this.iceConnectionState));
  }
};`

// signIn opens the page and registers, over ws or wss.
func (b *bed) signIn(t *testing.T, chrome *browser, page netip.AddrPort, account, scheme string) *tab {
	t.Helper()
	return b.signInAt(t, chrome, fmt.Sprintf("http://localhost:%d/", page.Port()), account, scheme)
}

func (b *bed) signInAt(t *testing.T, chrome *browser, url, account, scheme string) *tab {
	t.Helper()
	b.account(t, account, "sesame-"+account)
	p := chrome.open(t, url, raw)
	p.await(`document.getElementById('socket').options.length > 0`)
	socket := evaluate[string](p, fmt.Sprintf(`[...document.getElementById('socket').options].map((o) => o.value).find((v) => v.startsWith('%s:')) || ''`, scheme))
	if socket == "" {
		t.Fatalf("the page knows no %s socket:\n%s", scheme, p.text())
	}
	p.fill("socket", socket)
	p.fill("account", account)
	p.fill("password", "sesame-"+account)
	p.do(chromedp.Click(chromedp.CSS("#sign-in button.wide")))
	p.await(`document.getElementById('state').dataset.state === 'registered'`)
	return p
}

// fill sets the value of a field.
func (p *tab) fill(id, value string) {
	p.t.Helper()
	p.do(chromedp.SetValue(chromedp.ID(id), value))
}

func (p *tab) click(id string) {
	p.t.Helper()
	p.do(chromedp.Click(chromedp.ID(id)))
}

func (p *tab) dial(number string) {
	p.t.Helper()
	p.fill("number", number)
	p.click("dial-now")
}

// phase awaits a phase of the page's call.
func (p *tab) phase(want string) {
	p.t.Helper()
	p.await(fmt.Sprintf(`document.getElementById('call').dataset.phase === %q`, want))
}

// mustHearNothing waits until the element has been silent for a second.
func (p *tab) mustHearNothing(id string, hz float64) {
	p.t.Helper()
	limit := patient(p.t, time.Minute)
	for row := 0; row < 5; row++ {
		if p.hears(id, hz) > 0.2 {
			row = 0
		}
		if !pause(limit, 200*time.Millisecond) {
			p.t.Fatalf("the tone of %.0f Hz is still heard", hz)
		}
	}
}

// mustHaveStayed: of each call, from "connected" on its connection was nothing else.
func (p *tab) mustHaveStayed() {
	p.t.Helper()
	for _, states := range evaluate[[][]string](p, `window.states`) {
		up := slices.Index(states, "connected")
		if up < 0 {
			p.t.Errorf("the connection never came: %q", states)
			continue
		}
		for _, s := range states[up:] {
			if !slices.Contains([]string{"connected", "closed", "ice connected", "ice completed", "ice closed"}, s) {
				p.t.Errorf("the connection was not kept: %q", states)
			}
		}
	}
}

// recorded waits for so many CDRs.
func (b *bed) recorded(t *testing.T, n int) []CDR {
	t.Helper()
	for limit := patient(t, 30*time.Second); ; {
		cdrs, err := b.sw.API.CDRs(t.Context())
		if err == nil && len(cdrs) == n {
			return cdrs
		}
		if !pause(limit, 100*time.Millisecond) {
			t.Fatalf("want %d CDRs: %+v, %v", n, cdrs, err)
		}
	}
}

// Two browsers talk, one by ws and one by wss, while their call moves to the next
// release and back; they hold, mute and press keys.
func TestBrowsersTalkAcrossARelease(t *testing.T) {
	one, two := startBrowser(t, 1000), startBrowser(t, 1700)
	b, at := softphoneSwitch(t, "ws:127.0.0.1:0", "wss:127.0.0.1:0")
	if err := b.sw.plan(t.Context(), browserPlan(netip.MustParseAddrPort("127.0.0.7:9"), nil)); err != nil {
		t.Fatal(err)
	}
	anna, bert := b.signIn(t, one, at, "anna", "ws"), b.signIn(t, two, at, "bert", "wss")
	anna.dial("bert")
	bert.phase("incoming")
	anna.phase("ringing")
	bert.click("answer")
	anna.phase("talking")
	bert.phase("talking")
	anna.mustHear("remote", 1700, 3)
	bert.mustHear("remote", 1000, 3)

	bin, _ := binaries()
	moves, err := b.moves(patient(t, time.Minute), BenchConfig{NextBinary: bin[1], Rounds: 1, Progress: io.Discard})
	if err != nil || len(moves) != 2 || moves[0].Moved != 1 || moves[1].Moved != 1 {
		t.Errorf("moves: %+v %v", moves, err)
	}
	for _, p := range []*tab{anna, bert} {
		p.await(`document.getElementById('releases').innerText.match(/this call has been on releases \S+ → \S+-next → \S+/)`)
		p.await(`document.getElementById('q-codec').innerText.match(/kHz/)`)
	}
	anna.mustHear("remote", 1700, 3)
	bert.mustHear("remote", 1000, 3)

	anna.click("mute")
	bert.mustHearNothing("remote", 1000)
	anna.click("mute")
	bert.mustHear("remote", 1000, 3)
	anna.click("hold")
	bert.await(`document.getElementById('phase').innerText.includes('holds the call')`)
	bert.mustHearNothing("remote", 1000)
	anna.click("hold")
	bert.mustHear("remote", 1000, 3)
	anna.mustHear("remote", 1700, 3)

	anna.mustHaveStayed()
	bert.mustHaveStayed()
	bert.click("hang-up")
	anna.phase("ended")
	anna.await(`document.getElementById('phase').innerText.includes('hung up by the other side')`)
	if c := b.recorded(t, 1); c[0].Result != "answered" || c[0].HungUpBy != "b" {
		t.Errorf("%+v", c)
	}
	b.mustKeepSecrets(t, "sesame", "ice-pwd", "inline:")
}

// A browser and a phone talk, whoever calls.
func TestBrowserAndBaresip(t *testing.T) {
	for _, c := range []struct {
		name, account string
		change        func(*DialplanPeer)
	}{
		{name: "RTP"},
		{name: "SDES", account: ";mediaenc=srtp-mand", change: func(p *DialplanPeer) { p.SRTP = "required" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			chrome := startBrowser(t, 1700)
			b, page := softphoneSwitch(t, "ws:127.0.0.1:0")
			at := b.sw.cfg.Site.SIP
			phone := startPhoneWith(t, "127.0.0.7", "5551", c.account)
			if err := b.sw.plan(t.Context(), browserPlan(phone.at, c.change)); err != nil {
				t.Fatal(err)
			}
			anna := b.signIn(t, chrome, page, "anna", "ws")
			anna.dial("5551")
			anna.phase("talking")
			anna.mustHear("remote", toneHz, 10)
			anna.click("hang-up")
			anna.phase("ended")
			phone.stop(t)
			phone.mustHear(t, 1700, 2)

			caller := startPhoneWith(t, "127.0.0.7", "5551", c.account, dial("anna", at)...)
			anna.phase("incoming")
			anna.click("answer")
			anna.phase("talking")
			anna.mustHear("remote", toneHz, 10)
			anna.mustHaveStayed()
			caller.stop(t)
			anna.phase("ended")
			caller.mustHear(t, 1700, 2)
		})
	}
}

// The echo service says what it hears.
func TestBrowserHearsItsEcho(t *testing.T) {
	chrome := startBrowser(t, 1700)
	b, page := softphoneSwitch(t, "ws:127.0.0.1:0")
	plan := Dialplan{Routes: []DialplanRoute{{Prefix: "600", To: "service:echo"}}}
	if err := b.sw.plan(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	anna := b.signIn(t, chrome, page, "anna", "ws")
	anna.dial("600")
	anna.phase("talking")
	anna.mustHear("remote", 1700, 5)
	anna.click("hang-up")
	anna.phase("ended")
}

// What is pressed on the page arrives at a phone (RFC 4733). The page came by
// https, under a name that is not this machine's own.
func TestBrowserPressesKeys(t *testing.T) {
	chrome := startBrowser(t, 1700)
	b, page := softphoneSwitch(t, "tls")
	phone := startPhone(t, "127.0.0.7", "5551")
	if err := b.sw.plan(t.Context(), browserPlan(phone.at, nil)); err != nil {
		t.Fatal(err)
	}
	heard := phone.control(t)
	anna := b.signInAt(t, chrome, fmt.Sprintf("https://phone.test:%d/", page.Port()), "anna", "wss")
	anna.dial("5551")
	anna.phase("talking")
	anna.mustHear("remote", toneHz, 3)
	for _, key := range []string{"5", "#"} {
		since := heard.mark()
		anna.do(chromedp.Click(chromedp.CSS(fmt.Sprintf("#keys [data-key='%s']", key))))
		heard.says(t, since, `"type":"CALL_DTMF_START"`)
		heard.says(t, since, `"param":"`+key+`"`)
	}
}

// A newcomer's first minute: 'serve --demo', its one URL, and the echo.
func TestDemoOfThePage(t *testing.T) {
	chrome := startBrowser(t, 1700)
	page, err := freePort(netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "demo") // a short path, for the unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	site, err := NewSite(dir, 10)
	if err != nil {
		t.Fatal(err)
	}
	sw, err := StartSwitch(t.Context(), ServeConfig{
		Site: site, Argv: []string{bin[0], "serve", "--demo", "--config", dir + "/switch.yaml", "--softphone.listen", page.String()},
		Config: func(s Site) []byte {
			return bytes.Replace(DefaultConfig(s), []byte("listen: ["), []byte(`listen: ["ws:127.0.0.1:0", `), 1)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sw.Stop(5 * time.Second) })
	url := fmt.Sprintf("http://localhost:%d/#anna", page.Port())
	for limit := patient(t, 20*time.Second); !strings.Contains(sw.LogTail(), url); {
		if !pause(limit, 20*time.Millisecond) {
			t.Fatalf("%s is not printed:\n%s", url, sw.LogTail())
		}
	}
	p := chrome.open(t, url, raw)
	p.await(`document.getElementById('state').dataset.state === 'registered'`)
	p.do(chromedp.Click(chromedp.CSS("#numbers button")))
	p.phase("talking")
	p.mustHear("remote", 1700, 3)
	p.click("hang-up")
	p.phase("ended")
}

// The edge dies under a browser's call: the sound goes on, the page says that the
// switch is away, registers again, and the call can still be ended from the other side.
func TestBrowserSurvivesTheEdge(t *testing.T) {
	one, two := startBrowser(t, 1000), startBrowser(t, 1700)
	b, at := softphoneSwitch(t, "ws:127.0.0.1:0")
	if err := b.sw.plan(t.Context(), browserPlan(netip.MustParseAddrPort("127.0.0.7:9"), nil)); err != nil {
		t.Fatal(err)
	}
	anna, bert := b.signIn(t, one, at, "anna", "ws"), b.signIn(t, two, at, "bert", "ws")
	anna.dial("bert")
	bert.phase("incoming")
	bert.click("answer")
	anna.phase("talking")
	anna.mustHear("remote", 1700, 3)
	edge := b.only(t, RoleEdge)
	if err := b.sw.Kill(edge); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*tab{anna, bert} {
		p.await(`window.said.some((s) => s.includes('the switch is away'))`)
		p.await(`document.getElementById('state').dataset.state === 'registered'`)
	}
	anna.mustHear("remote", 1700, 3)
	bert.mustHear("remote", 1000, 3)
	bert.click("hang-up")
	anna.phase("ended")
	anna.mustHaveStayed()
}

// The edge is replaced while two browsers by wss ring and talk, twice: their sockets
// are the first ones, a re-INVITE gets through, and either end can hang up.
func TestBrowsersByWSSStayWithTheirEdge(t *testing.T) {
	one, two := startBrowser(t, 1000), startBrowser(t, 1700)
	b, page := softphoneSwitch(t, "tls")
	if err := b.sw.plan(t.Context(), browserPlan(netip.MustParseAddrPort("127.0.0.7:9"), nil)); err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("https://phone.test:%d/", page.Port())
	anna, bert := b.signInAt(t, one, url, "anna", "wss"), b.signInAt(t, two, url, "bert", "wss")
	for i, ends := range []*tab{anna, bert} {
		anna.dial("bert")
		bert.phase("incoming")
		b.inherit(t, "edge")
		bert.click("answer")
		anna.phase("talking")
		anna.mustHear("remote", 1700, 3)
		bert.mustHear("remote", 1000, 3)
		anna.click("hold") // a re-INVITE
		bert.mustHearNothing("remote", 1000)
		anna.click("hold")
		bert.mustHear("remote", 1000, 3)
		ends.click("hang-up")
		for _, p := range []*tab{anna, bert} {
			p.phase("ended")
			if n := evaluate[int](p, `window.sockets`); n != 1 {
				t.Errorf("%d inherits: the page has opened %d sockets", i+1, n)
			}
		}
	}
	anna.mustHaveStayed()
}

// The process that carries the sound is replaced under a browser's call, and then
// killed: the browser notices neither.
func TestBrowserSurvivesTheMedia(t *testing.T) {
	one, two := startBrowser(t, 1000), startBrowser(t, 1700)
	b, at := softphoneSwitch(t, "ws:127.0.0.1:0")
	if err := b.sw.plan(t.Context(), browserPlan(netip.MustParseAddrPort("127.0.0.7:9"), nil)); err != nil {
		t.Fatal(err)
	}
	anna, bert := b.signIn(t, one, at, "anna", "ws"), b.signIn(t, two, at, "bert", "ws")
	anna.dial("bert")
	bert.phase("incoming")
	bert.click("answer")
	anna.phase("talking")
	both := func() {
		t.Helper()
		anna.mustHear("remote", 1700, 5)
		bert.mustHear("remote", 1000, 5)
	}
	both()
	first := b.only(t, RoleMedia)
	b.cli(t, "", "inherit", "media")
	second := b.only(t, RoleMedia)
	if second.PID == first.PID {
		t.Errorf("the media process is still %d", first.PID)
	}
	both()
	dead, _ := b.killMedia(t)
	if _, err := b.sw.Successor(patient(t, 20*time.Second), RoleMedia, dead); err != nil {
		t.Fatal(err)
	}
	both()
	anna.mustHaveStayed()
	bert.mustHaveStayed()
	anna.click("hang-up")
	bert.phase("ended")
}

// The page says what is wrong with an account, the microphone and a number, and
// closes a microphone that comes when nobody wants it any more.
func TestSoftphoneSaysWhatIsWrong(t *testing.T) {
	chrome := startBrowser(t, 1000)
	b, at := softphoneSwitch(t, "ws:127.0.0.1:0")
	if err := b.sw.plan(t.Context(), browserPlan(netip.MustParseAddrPort("127.0.0.7:9"), nil)); err != nil {
		t.Fatal(err)
	}
	b.account(t, "anna", "sesame")
	url := fmt.Sprintf("http://localhost:%d/", at.Port())
	p := chrome.open(t, url, `
		const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
		let microphone = async () => { throw new DOMException('no', 'NotAllowedError'); };
		navigator.mediaDevices.getUserMedia = (wish) => microphone(wish);`)
	p.await(`document.getElementById('socket').options.length > 0`)
	p.fill("account", "anna")
	p.fill("password", "wrong")
	p.do(chromedp.Click(chromedp.CSS("#sign-in button.wide")))
	p.await(`document.getElementById('notice').innerText.includes('does not know this account')`)
	p.fill("password", "sesame")
	p.do(chromedp.Click(chromedp.CSS("#sign-in button.wide")))
	p.await(`document.getElementById('state').dataset.state === 'registered'`)
	p.dial("5551")
	p.await(`document.getElementById('notice').innerText.includes('denies the microphone')`)
	if s := p.text(); strings.Contains(s, "calling") {
		t.Error(s)
	}
	evaluate[bool](p, `(microphone = real, true)`)
	p.dial("sip:")
	p.await(`document.getElementById('phase').innerText.includes('no number')`)

	evaluate[bool](p, `(microphone = async (wish) => {
		await new Promise((allow) => { window.allow = allow; });
		return window.opened = await real(wish);
	}, true)`)
	p.dial("5551")
	p.await(`window.allow !== undefined`)
	evaluate[bool](p, `(document.getElementById('sign-out').click(), allow(), true)`)
	p.await(`window.opened?.getTracks().every((t) => t.readyState === 'ended')`)
}
