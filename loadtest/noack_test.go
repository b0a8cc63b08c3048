package loadtest

import (
	"net"
	"testing"
	"time"
)

// Calls whose answer is never acknowledged end with a BYE (RFC 3261 13.3.1.4),
// also when everything has died since: the new edge says the answer again for its
// 32 s, and nobody takes the ACK for granted before. Those calls that were
// acknowledged go on.
func TestNeverAcknowledgedEndsWhateverDies(t *testing.T) {
	b, calls := realSwitch(t, 3, func(rc *RigConfig) { rc.RTP = false })
	phone, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 41)})
	if err != nil {
		t.Fatal(err)
	}
	defer phone.Close()
	at := phone.LocalAddr().String()
	plan := b.rig.Dialplan()
	plan.Peers = append(plan.Peers, DialplanPeer{Name: "deaf", Kind: "phone", Sources: []string{at}})
	plan.Routes = append(plan.Routes, DialplanRoute{Prefix: "*600", To: "service:echo"})
	if err := b.sw.plan(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	var w builder
	w.line("INVITE sip:*600@", b.sw.cfg.Site.SIP.String(), " SIP/2.0")
	w.line("Via: SIP/2.0/UDP ", at, ";branch=z9hG4bKdeaf")
	w.line("From: <sip:1@", at, ">;tag=1")
	w.line("To: <sip:*600@", b.sw.cfg.Site.SIP.String(), ">")
	w.line("Call-ID: deaf")
	w.line("CSeq: 1 INVITE")
	w.line("Contact: <sip:1@", at, ">")
	w.line("Max-Forwards: 70")
	sdp := "v=0\r\no=- 1 1 IN IP4 127.0.0.41\r\ns=-\r\nc=IN IP4 127.0.0.41\r\nt=0 0\r\nm=audio 4000 RTP/AVP 8\r\n"
	if _, err := phone.WriteToUDPAddrPort(w.finish("application/sdp", []byte(sdp)), b.sw.cfg.Site.SIP); err != nil {
		t.Fatal(err)
	}
	for hear(t, phone).code != 200 {
	}
	pause(t.Context(), 10*time.Second) // the ACKs of the others are in their records
	b.sw.KillAll()
	if err := b.sw.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := hear(t, phone)
	for m.method != "BYE" {
		m = hear(t, phone)
	}
	if _, err := phone.WriteToUDPAddrPort(respond(m, 200, "OK", "", "", nil), b.sw.cfg.Site.SIP); err != nil {
		t.Fatal(err)
	}
	b.verdict(t, calls, 0)
}
