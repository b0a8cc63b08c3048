// Package registrar knows who may register and where they are: accounts with
// the hashes of their passwords, HTTP digest as SIP uses it (RFC 3261 section
// 22, RFC 7616, RFC 8760), the bindings of an address of record (RFC 3261
// section 10, RFC 3327, RFC 5626) and the directory that keeps them by
// compare-and-set. It does not speak SIP: it opens no socket and sends nothing;
// the edge does, and asks here.
//
// What is decided:
//
//   - A nonce is stateless: its time, a random part, and a MAC over both, the
//     address it was given to and the realm. Each edge remembers which counts
//     (nc) of a nonce it has seen, in a table of fixed size; what the table has
//     had to forget, and what was minted before the edge was born, is stale.
//   - The digest of the password is looked at before the nonce: only who knows
//     the password hears stale=true, and a wrong one counts as a failure.
//   - qop=auth is a must (RFC 8760 2.6); the uri parameter is part of the digest
//     but not compared with the Request-URI, which proxies rewrite: that they
//     differ is no failure (RFC 3261 22.4). A captured answer is worth nothing,
//     because its count has been seen.
//   - q values are kept out: the newest binding comes first.
//   - What is stored as a binding's end is never before what the phone was told,
//     and up to [Limits].Slack after: a refresh within it costs no write.
package registrar
