// Package certs makes the certificates by which hosts prove to each other who they are.
//
// A migration over TLS needs three files at each end: the certificate of a CA that both ends trust,
// a certificate that this CA signed, and its key ([transport.LoadTLS]). Whoever has that pair can
// send guests and receive them. So one folder holds the CA, and each host gets a copy of its own
// folder below that, and nothing else:
//
//	DIR/ca.pem          the CA's certificate: 10 years
//	DIR/ca-key.pem      its key: whoever has it can make a pair for anybody
//	DIR/web1/ca.pem     what host web1 needs
//	DIR/web1/cert.pem   its certificate: 1 year
//	DIR/web1/key.pem    its key, which only its user may read
//
// A certificate names its host as others dial it (subject alternative names), because nobody checks
// the common name any more. A host sends and receives, so its certificate is good for both ends of
// a connection.
//
// A pair is renewed by making it again: the other hosts know the CA only, and need nothing new. A
// CA is never replaced, as all pairs that it has signed would be worth nothing from then on.
package certs
