package loadtest

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// softphoneSwitch is a switch with the softphone's page and further transports of
// the edge; it returns where the page is. "tls" for a transport is the page by
// https with wss, as one that is reached by the name phone.test.
func softphoneSwitch(t *testing.T, listen ...string) (b *bed, page netip.AddrPort) {
	t.Helper()
	page, err := freePort(netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	b, _ = realSwitchAs(t, 0, nil, func(s Site) []byte {
		y, more := DefaultConfig(s), ""
		for _, l := range listen {
			if l == "tls" {
				wss, _ := freePort(s.MediaIP)
				l = "wss:" + wss.String()
				more = fmt.Sprintf("  tls: true\n  sockets: [%q]\n", fmt.Sprintf("wss://phone.test:%d", wss.Port()))
				y = bytes.Replace(y, []byte("edge:\n"), []byte("edge:\n  ws: {origins: [\"*\"]}\n"), 1)
			}
			y = bytes.Replace(y, []byte("listen: ["), fmt.Appendf(nil, "listen: [%q, ", l), 1)
		}
		return fmt.Appendf(y, "softphone:\n  listen: %q\n%s", page, more)
	})
	return b, page
}

// The page says why it cannot be a phone.
func TestSoftphoneSaysWhatIsMissing(t *testing.T) {
	chrome := startBrowser(t, 1000)
	_, at := softphoneSwitch(t)
	p := chrome.open(t, fmt.Sprintf("http://localhost:%d/", at.Port()), "")
	p.await(`document.getElementById('notice').innerText.includes('no WebSocket listener')`)
	if s := p.text(); !strings.Contains(s, "Sign in") {
		t.Error(s)
	}
	// A name that is not this machine's own is no secure context by http.
	p = chrome.open(t, fmt.Sprintf("http://phone.test:%d/", at.Port()), "")
	p.await(`document.getElementById('notice').innerText.includes('secure pages only')`)
}
