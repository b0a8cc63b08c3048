package codecore

// Kinds of protection of a leg's media. Stored: never rename.
const (
	SecureSDES = "sdes" // SRTP with keys from the SDP (RFC 4568)
	SecureDTLS = "dtls" // ICE, and SRTP with keys from a DTLS handshake (RFC 8827)
)

// Secure is how a leg's packets are protected. No secret stands in it, nor
// anywhere in State: what is ours is derived, by edge and media alone, from the
// cluster key, the call and the label Own (package secrets); what is the party's
// was sealed by the edge before we saw it.
//
// An SDP of ours names what the edge puts in its place when it sends it:
//
//	{own:ufrag:LABEL} {own:pwd:LABEL}  ICE credentials
//	{own:fingerprint}                  of the certificate of the cluster: "sha-256 AB:…"
//	{own:srtp:SUITE:LABEL}             SDES key||salt in base64
//
// and of what a party says, a=ice-pwd:VALUE and the key of a=crypto:TAG SUITE
// inline:KEY|… reach us as {sealed:TEXT}.
type Secure struct {
	Kind string `json:"kind"`
	// Own is the label of our secrets: another one, other secrets (ICE restart, new
	// keys). "<slot>.<n>"; a call never uses a label for two parties, and n only grows.
	Own string `json:"own"`

	// SDES.
	Suite string `json:"suite,omitempty"` // "AES_CM_128_HMAC_SHA1_80", …
	Key   string `json:"key,omitempty"`   // the party's key||salt in base64, sealed

	// DTLS.
	Ufrag       string `json:"ufrag,omitempty"`       // the party's
	Pwd         string `json:"pwd,omitempty"`         // the party's, sealed
	Fingerprint string `json:"fingerprint,omitempty"` // of its certificate: "sha-256 AB:…"
	Active      bool   `json:"active,omitempty"`      // we send the ClientHello (RFC 8842)
	// Assoc names the DTLS association: another one, another handshake. An ICE
	// restart changes Own alone.
	Assoc string `json:"assoc,omitempty"`
}

func (s *Secure) same(o *Secure) bool {
	if s == nil || o == nil {
		return s == o
	}
	return *s == *o
}
