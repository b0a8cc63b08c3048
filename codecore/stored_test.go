package codecore

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestStoredFormSaysEverything: what a message can hold comes back, whatever
// it looks like.
func TestStoredFormSaysEverything(t *testing.T) {
	w := newWorld(t)
	w.do("a INVITE sdp", "b 200 sdp", "a ACK", "a INFO dtmf")
	r := w.s.Pending[len(w.s.Pending)-1].Request
	if r == nil || r.Msg.Method != "INFO" {
		t.Fatalf("%+v", w.s.Pending)
	}
	for name, v := range map[string]string{
		"a dollar": "$", "two": "$$", "a name": "$a.us", "no name": "$a.nobody", "a branch of ours": "$.1", "empty": "",
		"said by name": w.s.A.Remote, "a colon": "a: b", "quotes": `"<&>"`,
	} {
		t.Run(name, func(t *testing.T) {
			s := w.s
			s.Pending = []Action{{To: "edge.n1", Seq: 1, Effect: Effect{Request: &SendRequest{
				Msg:    Message{Method: "INFO", URI: v, Headers: []Header{{"X", v}, {"Call-ID", v}}, Body: []byte(v)},
				Branch: v, Target: v, Flow: v, ContactUser: v,
			}}}}
			same(t, s)
			s.Pending[0].Request.Branch = "z9hG4bK" + s.Token + "." + v
			s.Pending[0].Request.Msg.Body = []byte("\xff\x00" + v)
			same(t, s)
			s.A.Local, s.A.Tag = v, v
			same(t, s)
		})
	}
	// Media that does not follow from the legs is stored whole.
	s := w.s
	s.Media.Legs = []MediaLeg{{Leg: LegA, Port: 1, Map: map[byte]byte{8: 0}}, {Leg: LegB, Port: 2}}
	same(t, s)
}

func same(t *testing.T, s State) {
	t.Helper()
	schema, raw, err := Encode(s, SchemaMin)
	if err != nil {
		t.Fatal(err)
	}
	back, err := Decode(schema, raw)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(s)
	if b, _ := json.Marshal(back); string(a) != string(b) {
		t.Errorf("was\n%s\nis\n%s\nstored\n%s", a, b, raw)
	}
}

func TestNameOfNothingIsRefused(t *testing.T) {
	w := newWorld(t)
	w.do("a INVITE sdp", "b 200 sdp")
	schema, raw, _ := Encode(w.s, SchemaMin)
	odd := strings.Replace(string(raw), "From: $b.us", "From: $c.us", 1)
	if _, err := Decode(schema, []byte(odd)); err == nil || odd == string(raw) {
		t.Error("a message was read that names nothing")
	}
}
