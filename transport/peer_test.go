package transport

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAdmit checks which names count.
func TestAdmit(t *testing.T) {
	var web1 Peer
	web1.know(&x509.Certificate{
		Subject:  pkix.Name{CommonName: "web9.example"},
		DNSNames: []string{"Web1.example"}, IPAddresses: []net.IP{net.ParseIP("2001:db8::1")},
	})
	web1.Proven = true
	for allow, ok := range map[string]bool{
		"web1.example": true, "WEB1.EXAMPLE": true, "2001:DB8:0::1": true,
		"web1": false, "example": false, "*.example": false, "2001:db8::2": false,
		"web9.example": false, // a CA's restrictions do not cover subjects
	} {
		s := Security{Allow: []string{"other", allow}}
		if ok {
			require.NoError(t, s.Admit(web1), allow)
			unproven := web1
			unproven.Proven = false
			require.ErrorIs(t, s.Admit(unproven), ErrNotAllowed, "it only says so")
			continue
		}
		require.ErrorIs(t, s.Admit(web1), ErrNotAllowed, allow)
		require.ErrorContains(t, s.Admit(web1), "Web1.example, 2001:db8::1")
	}
	require.NoError(t, Security{}.Admit(web1))
	require.NoError(t, Security{}.Admit(Peer{}), "plain text, where that may be")
	require.ErrorIs(t, Security{Allow: []string{""}}.Admit(Peer{Proven: true}), ErrNotAllowed)
}

// TestNamesOfPeers: a certificate's text is made safe before it goes to a log.
func TestNamesOfPeers(t *testing.T) {
	c := &x509.Certificate{
		Subject:  pkix.Name{CommonName: "web1\x1b[2J"},
		DNSNames: []string{"web1"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)},
	}
	require.Equal(t, []string{"web1", "10.0.0.1", "web1 [2J"}, namesOf(c))
	p := Peer{Names: strings.Split(strings.Repeat("n ", 50), " ")[:50]}
	require.Equal(t, strings.Repeat("n, ", maxNames-1)+"n and 42 more", p.Title())
	require.Equal(t, "no host by name", Peer{}.Title())
}
