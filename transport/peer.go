package transport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
)

// maxNames is how many names of a certificate a log line or a refusal shows.
const maxNames = 8

// Peer is who is at the other end of a connection, as far as the connection tells.
type Peer struct {
	// Address is where it connects from; empty on a unix socket.
	Address string
	// Names are the names in its certificate.
	Names []string
	// Hosts are those of Names by which the peer can be dialled. They leave out the subject's name,
	// because a CA that may sign only for certain hosts is restricted in host names alone.
	Hosts []string
	// Proven says that the CA vouches for the names and that the peer has the certificate's key.
	// Otherwise the names are only what the peer claims.
	Proven bool
}

// PeerOf returns the peer of a connection whose greeting was read, or failed with err.
func PeerOf(nc net.Conn, err error) Peer {
	var p Peer
	if tcp, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		p.Address = tcp.String()
	}
	var unproven *tls.CertificateVerificationError
	if errors.As(err, &unproven) && len(unproven.UnverifiedCertificates) > 0 {
		p.know(unproven.UnverifiedCertificates[0])
		return p
	}
	if tc, ok := nc.(*tls.Conn); ok {
		// A server that asks for certificates completes a handshake only with a valid one.
		if s := tc.ConnectionState(); s.HandshakeComplete && len(s.VerifiedChains) > 0 {
			p.know(s.PeerCertificates[0])
			p.Proven = true
		}
	}
	return p
}

// know takes the names of a certificate.
func (p *Peer) know(c *x509.Certificate) { p.Names, p.Hosts = namesOf(c), hostsOf(c) }

// namesOf returns the names in a certificate, safe for a log: its hosts and addresses, and its
// subject's name if that is a different one.
func namesOf(c *x509.Certificate) []string {
	names := hostsOf(c)
	cn := Printable([]byte(c.Subject.CommonName))
	if cn != "" && !slices.Contains(names, cn) {
		names = append(names, cn)
	}
	return names
}

// hostsOf are the names by which a certificate's owner can be dialled.
func hostsOf(c *x509.Certificate) []string {
	var names []string
	for _, n := range c.DNSNames {
		names = append(names, Printable([]byte(n)))
	}
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// Title joins the peer's names, bounded in number.
func (p Peer) Title() string {
	switch n := len(p.Names); {
	case n == 0:
		return "no host by name"
	case n > maxNames:
		return strings.Join(p.Names[:maxNames], ", ") + fmt.Sprintf(" and %d more", n-maxNames)
	}
	return strings.Join(p.Names, ", ")
}

// ErrNotAllowed is returned for a peer that the CA vouches for and that is not on the list of
// senders.
var ErrNotAllowed = errors.New("not allowed to send guests here")

// Admit refuses a peer that is not in Allow. Call it after the greeting, when the certificate is
// known.
func (s Security) Admit(p Peer) error {
	if len(s.Allow) == 0 {
		return nil
	}
	for _, name := range p.Hosts {
		allowed := slices.ContainsFunc(s.Allow, func(a string) bool { return sameHost(a, name) })
		if p.Proven && allowed {
			return nil
		}
	}
	return fmt.Errorf("%w: the source is %s: vmm run --allow NAME there says who is", ErrNotAllowed,
		Peer{Names: p.Hosts}.Title())
}

// sameHost compares two host names without regard to case, or two addresses, which can be written
// in several ways.
func sameHost(a, b string) bool {
	ipA, ipB := net.ParseIP(a), net.ParseIP(b)
	if ipA != nil || ipB != nil {
		return ipA.Equal(ipB)
	}
	return strings.EqualFold(a, b)
}
