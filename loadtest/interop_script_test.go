package loadtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
)

// The scenarios of testdata/sipp are sipp's own, with words in place of whole
// messages. A caller says call, cancel, refused (the ACK of a refusal), ack and
// ask (a request in the dialog); a callee says answer (to the first INVITE), reply
// and tell (a request in the dialog, after them has kept who the caller is). The
// last argument but headers is the SDP: "" for none, a direction, or "fax".
var sippWords = template.FuncMap{
	"call": func(cseq int, sdp string, headers ...string) string {
		return sippMessage("INVITE sip:[service]@[remote_ip]:[remote_port] SIP/2.0", sippBranch(cseq), sippCaller, "To: <sip:[service]@[remote_ip]:[remote_port]>", cseq, "INVITE", sdp, headers)
	},
	"cancel": func(cseq int) string {
		return sippMessage("CANCEL sip:[service]@[remote_ip]:[remote_port] SIP/2.0", sippBranch(cseq), sippCaller, "To: <sip:[service]@[remote_ip]:[remote_port]>", cseq, "CANCEL", "", nil)
	},
	"refused": func(cseq int) string {
		return sippMessage("ACK sip:[service]@[remote_ip]:[remote_port] SIP/2.0", sippBranch(cseq), sippCaller, "[last_To:]", cseq, "ACK", "", nil)
	},
	"ack": func(cseq int, sdp string) string {
		return sippMessage("ACK [next_url] SIP/2.0", sippBranch(cseq)+"ack", sippCaller, sippCallee, cseq, "ACK", sdp, []string{"[routes]"})
	},
	"ask": func(method string, cseq int, sdp string, headers ...string) string {
		return sippMessage(method+" [next_url] SIP/2.0", sippBranch(cseq)+method, sippCaller, sippCallee, cseq, method, sdp, append(headers, "[routes]"))
	},
	"answer": func(code int, reason, sdp string, headers ...string) string {
		return sippResponse(code, reason, "[last_To:];tag=[pid]b[call_number]", sdp, headers)
	},
	"reply": func(code int, reason, sdp string, headers ...string) string {
		return sippResponse(code, reason, "[last_To:]", sdp, headers)
	},
	"them": func() string {
		return `<action>` + sippKeep("From", "them") + `</action>`
	},
	// keep remembers a request, for what late answers after others have come, and who
	// the caller is.
	"keep": func() string {
		return `<action>` + sippKeep("Via", "via") + sippKeep("From", "from") + sippKeep("To", "to") + sippKeep("From", "them") + `</action>`
	},
	"late": func(code int, reason string, cseq int, method, tag, sdp string) string {
		if tag != "" {
			tag = ";tag=" + tag + "[call_number]"
		}
		return sippEnd([]string{fmt.Sprintf("SIP/2.0 %d %s", code, reason), "Via:[$via]", "From:[$from]", "To:[$to]" + tag, "Call-ID: [call_id]", fmt.Sprintf("CSeq: %d %s", cseq, method)}, code, sdp)
	},
	"tell": func(method string, cseq int, sdp string, headers ...string) string {
		return sippMessage(method+" [next_url] SIP/2.0", sippBranch(cseq)+method, "From: <sip:sipp@[local_ip]>;tag=[pid]b[call_number]", "To:[$them]", cseq, method, sdp, headers)
	},
	"tellAck": func(cseq int, sdp string) string {
		return sippMessage("ACK [next_url] SIP/2.0", sippBranch(cseq)+"ack", "From: <sip:sipp@[local_ip]>;tag=[pid]b[call_number]", "To:[$them]", cseq, "ACK", sdp, nil)
	},
	// again takes repetitions of a request, before what is awaited: sipp knows them by
	// itself only until it has said two things since.
	"again": func(method string) string {
		return fmt.Sprintf(`<label id="%[1]s"/><recv request="%[1]s" optional="true" next="%[1]s"/>`, method)
	},
	// acked awaits the ACK of one INVITE among those of others: each repetition of a
	// refusal gets one, and the next INVITE may overtake it.
	"acked": func(cseq int) string {
		return fmt.Sprintf(`<label id="ack"/><recv request="ACK" next="acked" test="mine"><action><ereg regexp="^ *%d " search_in="hdr" header="CSeq:" assign_to="mine"/></action></recv><nop next="ack"/><label id="acked"/>`, cseq)
	},
	// want is an action: a header (or the body) of what came has this in it.
	"want": func(where, regexp string) string {
		at := fmt.Sprintf(`search_in="hdr" header="%s:"`, where)
		if where == "body" {
			at = `search_in="body"`
		}
		return fmt.Sprintf(`<ereg regexp="%s" %s check_it="true" assign_to="seen"/>`, regexp, at)
	},
}

const (
	sippCaller = "From: <sip:sipp@[local_ip]:[local_port]>;tag=[pid]a[call_number]"
	sippCallee = "To: <sip:[service]@[remote_ip]:[remote_port]>[peer_tag_param]"
)

func sippKeep(header, variable string) string {
	return fmt.Sprintf(`<ereg regexp=".*" search_in="hdr" header="%s:" assign_to="%s"/>`, header, variable)
}

func sippBranch(cseq int) string { return fmt.Sprintf("z9hG4bK[pid]x[call_number]x%d", cseq) }

func sippMessage(start, branch, from, to string, cseq int, method, sdp string, headers []string) string {
	lines := []string{
		start, "Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=" + branch, from, to,
		"Call-ID: [call_id]", fmt.Sprintf("CSeq: %d %s", cseq, method), "Max-Forwards: 70",
	}
	return sippEnd(append(lines, headers...), cseq, sdp)
}

func sippResponse(code int, reason, to, sdp string, headers []string) string {
	lines := []string{fmt.Sprintf("SIP/2.0 %d %s", code, reason), "[last_Via:]", "[last_From:]", to, "[last_Call-ID:]", "[last_CSeq:]"}
	return sippEnd(append(lines, headers...), code, sdp)
}

func sippEnd(lines []string, version int, sdp string) string {
	if !strings.Contains(strings.Join(lines, "\n"), "\nContact:") {
		lines = append(lines, "Contact: <sip:sipp@[local_ip]:[local_port];transport=[transport]>")
	}
	if sdp == "" {
		lines = append(lines, "Content-Length: 0", "", "")
	} else {
		lines = append(lines, "Content-Type: application/sdp", "Content-Length: [len]", "",
			"v=0", fmt.Sprintf("o=sipp 1 %d IN IP4 [local_ip]", version), "s=-", "c=IN IP4 [local_ip]", "t=0 0")
		if sdp == "fax" {
			lines = append(lines, "m=image [media_port] udptl t38", "a=T38FaxVersion:0", "a=T38FaxUdpEC:t38UDPRedundancy")
		} else {
			lines = append(lines, "m=audio [media_port] RTP/AVP 0 101", "a=rtpmap:0 PCMU/8000", "a=rtpmap:101 telephone-event/8000", "a="+sdp)
		}
	}
	return "<![CDATA[\n" + strings.Join(lines, "\n") + "\n]]>"
}

// sippScenario writes a scenario of testdata/sipp out as sipp reads it.
func sippScenario(t *testing.T, name string) string {
	t.Helper()
	if !strings.HasSuffix(name, ".tmpl") {
		path, err := filepath.Abs(filepath.Join("sipp", name))
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	scenario, err := template.New(name).Funcs(sippWords).ParseFiles(filepath.Join("testdata", "sipp", name))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString(`<?xml version="1.0" encoding="ISO-8859-1" ?>` + "\n<scenario name=\"" + name + "\">\n")
	if err := scenario.Execute(&b, nil); err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"them", "seen", "via", "from", "to", "mine"} {
		if strings.Contains(b.String(), `assign_to="`+v+`"`) {
			b.WriteString("<Reference variables=\"" + v + "\"/>\n")
		}
	}
	b.WriteString("</scenario>\n")
	path := filepath.Join(t.TempDir(), name+".xml")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
