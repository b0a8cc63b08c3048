package loadtest

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/srtp/v3"
)

func mustAddr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// The suite of RFC 4568 that every phone has.
const (
	sdesSuite   = "AES_CM_128_HMAC_SHA1_80"
	sdesProfile = srtp.ProtectionProfileAes128CmHmacSha1_80
	sdesKey     = 16
	sdesSalt    = 14
)

// phoneMedium is RTP over a socket of its own, with or without keys from the SDP.
type phoneMedium struct {
	far    *far
	conn   *net.UDPConn
	remote atomic.Pointer[netip.AddrPort]
	done   sync.WaitGroup

	key []byte // ours, with salt; nil: plain
	tag string // of the a=crypto that we answer

	mu      sync.Mutex
	out, in *srtp.Context
}

func newPhoneMedium(f *far, at netip.AddrPort, secure bool) (*phoneMedium, error) {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		said := raw.Control(func(fd uintptr) { err = stampArrivals(int(fd)) })
		err = cmp.Or(said, err)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	m := &phoneMedium{far: f, conn: conn, tag: "1"}
	if secure {
		m.key = make([]byte, sdesKey+sdesSalt)
		_, _ = rand.Read(m.key)
		if m.out, err = srtp.CreateContext(m.key[:sdesKey], m.key[sdesKey:], sdesProfile); err != nil {
			return nil, err
		}
	}
	m.done.Go(m.read)
	return m, nil
}

func (m *phoneMedium) close() {
	_ = m.conn.Close()
	m.done.Wait()
}

func (m *phoneMedium) describe() []byte {
	at := addrOf(m.conn.LocalAddr())
	var w builder
	proto := "RTP/AVP"
	if m.key != nil {
		proto = "RTP/SAVP"
	}
	for _, l := range []string{
		"v=0", fmt.Sprintf("o=rig %d 1 IN IP4 %s", at.Port(), at.Addr()), "s=-", "c=IN IP4 " + at.Addr().String(), "t=0 0",
		fmt.Sprintf("m=audio %d %s 0", at.Port(), proto), "a=rtpmap:0 PCMU/8000", "a=rtcp-mux", "a=sendrecv",
	} {
		w.line(l)
	}
	if m.key != nil {
		w.line("a=crypto:", m.tag, " ", sdesSuite, " inline:", base64.StdEncoding.EncodeToString(m.key))
	}
	return w.b.Bytes()
}

func (m *phoneMedium) offer() []byte { return m.describe() }

func (m *phoneMedium) answer(offer []byte) []byte {
	m.answered(offer)
	return m.describe()
}

var cryptoLine = regexp.MustCompile(`a=crypto:(\d+) ` + sdesSuite + ` inline:([^|\s]+)`)

// answered reads where the switch is and what its keys are.
func (m *phoneMedium) answered(sdp []byte) {
	s, ok := readSDP(sdp)
	if !ok {
		m.far.fault("no sound in the SDP:\n%s", sdp)
		return
	}
	defer m.remote.Store(&s.addr)
	if m.key == nil {
		return
	}
	found := cryptoLine.FindSubmatch(sdp)
	if found == nil {
		m.far.fault("no %s in the SDP:\n%s", sdesSuite, sdp)
		return
	}
	key, err := base64.StdEncoding.DecodeString(string(found[2]))
	if err != nil || len(key) != sdesKey+sdesSalt {
		m.far.fault("a key of %d bytes: %v", len(key), err)
		return
	}
	m.tag = string(found[1])
	in, err := srtp.CreateContext(key[:sdesKey], key[sdesKey:], sdesProfile, srtp.SRTPReplayProtection(128))
	if err != nil {
		m.far.fault("%v", err)
		return
	}
	m.mu.Lock()
	m.in = in
	m.mu.Unlock()
}

func (m *phoneMedium) send(seq uint16, stamp uint32, payload []byte) error {
	to := m.remote.Load()
	if to == nil {
		return net.ErrClosed
	}
	p := rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: seq, Timestamp: stamp, SSRC: m.far.call<<1 | uint32(m.far.dir&1) | 0x40000000}, Payload: payload}
	b, err := p.Marshal()
	if err != nil {
		return err
	}
	if m.out != nil {
		if b, err = m.out.EncryptRTP(nil, b, nil); err != nil {
			return err
		}
	}
	_, err = m.conn.WriteToUDPAddrPort(b, *to)
	return err
}

func (m *phoneMedium) read() {
	buf, oob := make([]byte, 2048), make([]byte, oobLen)
	for {
		n, said, _, from, err := m.conn.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			return
		}
		b, at := buf[:n], arrival(oob[:said], time.Now())
		if n < rtpHeader || b[1] >= 200 && b[1] <= 207 { // RTCP (RFC 5761 section 4)
			continue
		}
		if to := m.remote.Load(); to == nil || *to != from {
			m.far.fault("a packet came from %v, the SDP says %v", from, to)
			continue
		}
		if m.key != nil {
			m.mu.Lock()
			in := m.in
			m.mu.Unlock()
			if in == nil {
				continue
			}
			if b, err = in.DecryptRTP(nil, b, nil); err != nil {
				m.far.fault("a packet that is none: %v", err)
				continue
			}
		}
		var p rtp.Packet
		if err := p.Unmarshal(b); err != nil {
			m.far.fault("%v", err)
			continue
		}
		m.far.hear(p.SequenceNumber, p.Payload, at)
	}
}
