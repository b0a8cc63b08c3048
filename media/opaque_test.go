package media

import (
	"encoding/binary"
	"net"
	"testing"
	"time"

	"callswitch/codecore"
)

func (p *phone) datagram(seq uint16, text string) {
	p.write(append(binary.BigEndian.AppendUint16(nil, seq), text...), p.to)
}

func (p *phone) mustDatagram(want string) {
	p.t.Helper()
	var buf [2048]byte
	p.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, _, err := p.conn.ReadFromUDP(buf[:])
	if err != nil || n < 2 || string(buf[2:n]) != want {
		p.t.Fatalf("%q, %v; want %q", buf[:n], err, want)
	}
}

// TestFaxIsRelayedAsItIs: UDPTL has no RTP header, and its first byte may be
// anything; strangers are kept out all the same.
func TestFaxIsRelayedAsItIs(t *testing.T) {
	n := start(t, config(&memBus{}), nil)
	ports, a, b := n.pairOfPhones("c1")
	fax := func(id codecore.LegID, port int, remote string) codecore.MediaLeg {
		m := talk(id, port, remote, 2)
		m.Opaque, m.Payloads, m.DTMF = true, nil, 0
		return m
	}
	n.do("c1", 1, 2, fax("a", ports[0], a.addr()), fax("b", ports[1], b.addr()))
	for i, text := range []string{"\x00first", "\x80\x80", "\xff\xff\xff"} {
		a.datagram(uint16(i), text)
		b.mustDatagram(text)
		b.datagram(uint16(0x8000+i), text)
		a.mustDatagram(text)
	}
	evil, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: ports[0]})
	if err != nil {
		t.Fatal(err)
	}
	defer evil.Close()
	for i := range 10 {
		evil.Write([]byte{0, byte(i), 'e', 'v', 'i', 'l'})
	}
	a.datagram(3, "last")
	b.mustDatagram("last")
	// And back to sound.
	n.do("c1", 1, 3, talk("a", ports[0], a.addr(), 3), talk("b", ports[1], b.addr(), 3))
	a.send(7)
	b.must(7)
}
