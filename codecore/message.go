package codecore

import "strings"

// A Message is a SIP message as a plain value: what the edge parsed and
// validated, or is to serialise. Header names are in long form ("Via", never
// "v"); one Header is one value, in wire order (a comma-separated Via, Route,
// Record-Route or Contact list arrives split).
type Message struct {
	Method  string   `json:"method,omitempty"` // of a request, and of the CSeq of a response
	URI     string   `json:"uri,omitempty"`    // Request-URI; empty in a response
	Status  int      `json:"status,omitempty"` // of a response; 0 in a request
	Reason  string   `json:"reason,omitempty"` // reason phrase of a response
	Headers []Header `json:"headers,omitempty"`
	Body    []byte   `json:"body,omitempty"`
}

// A Header is one header field value. Content-Length is never among them: the
// edge writes it.
type Header struct {
	Name  string `json:"n"`
	Value string `json:"v"`
}

// IsRequest reports whether m is a request.
func (m *Message) IsRequest() bool { return m.Status == 0 }

// Get returns the first value of the named header, or "".
func (m *Message) Get(name string) string {
	for _, h := range m.Headers {
		if strings.EqualFold(h.Name, name) {
			return h.Value
		}
	}
	return ""
}

// All returns every value of the named header, in order.
func (m *Message) All(name string) []string {
	var vs []string
	for _, h := range m.Headers {
		if strings.EqualFold(h.Name, name) {
			vs = append(vs, h.Value)
		}
	}
	return vs
}

// Add appends a header value.
func (m *Message) Add(name, value string) {
	m.Headers = append(m.Headers, Header{Name: name, Value: value})
}
