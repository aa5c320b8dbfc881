package transport

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// newTLSDir makes a CA and a certificate that it signed for this host.
func newTLSDir(t *testing.T) string {
	dir := t.TempDir()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	require.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	host := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	hostDER, err := x509.CreateCertificate(rand.Reader, host, ca, &key.PublicKey, caKey)
	require.NoError(t, err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	for name, block := range map[string]*pem.Block{
		"ca.pem":   {Type: "CERTIFICATE", Bytes: caDER},
		"cert.pem": {Type: "CERTIFICATE", Bytes: hostDER},
		"key.pem":  {Type: "EC PRIVATE KEY", Bytes: keyDER},
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600))
	}
	return dir
}

// TestTLS: both sides must hold a certificate of the common CA.
func TestTLS(t *testing.T) {
	load := func() *TLS {
		security, err := LoadTLS(newTLSDir(t))
		require.NoError(t, err)
		return security
	}
	ours, theirs := load(), load()
	for _, addr := range []string{"tcp:127.0.0.1:0", "unix:" + t.TempDir() + "/s"} {
		ln, err := Listen(addr, ours)
		require.NoError(t, err)
		defer ln.Close()
		if tcp, ok := ln.Addr().(*net.TCPAddr); ok {
			addr = "tcp:" + tcp.String()
		}
		heard := make(chan error, 1)
		go func() {
			for {
				nc, err := ln.Accept()
				if err != nil {
					return
				}
				nc.SetDeadline(time.Now().Add(20 * time.Second))
				_, err = ReadHello(nc)
				heard <- err
				nc.Close()
			}
		}()
		greet := func(security *TLS) error {
			nc, err := Dial(context.Background(), addr, security)
			if err != nil {
				<-heard
				return err
			}
			defer nc.Close()
			_ = WriteHello(nc, Hello{Purpose: PurposeQuery})
			return <-heard // a server judges its client after the client's handshake
		}
		require.NoError(t, greet(ours))
		require.Error(t, greet(nil), "plain text")
		require.ErrorContains(t, greet(theirs), "TLS", "the destination is not of our CA")
		require.Error(t, greet(&TLS{ca: ours.ca, cert: theirs.cert}), "the source is not of its CA")
		require.Error(t, greet(&TLS{ca: ours.ca, cert: tls.Certificate{}}), "the source has no certificate")
	}
	_, err := LoadTLS(t.TempDir())
	require.ErrorIs(t, err, os.ErrNotExist)
	none, err := LoadTLS("")
	require.NoError(t, err)
	require.Nil(t, none)
}

// TestQueuedBehindTLS: the buffers are those of the socket below.
func TestQueuedBehindTLS(t *testing.T) {
	security, err := LoadTLS(newTLSDir(t))
	require.NoError(t, err)
	addr := "unix:" + t.TempDir() + "/s"
	ln, err := Listen(addr, security)
	require.NoError(t, err)
	defer ln.Close()
	go func() {
		nc, err := ln.Accept()
		if err == nil {
			defer nc.Close()
			nc.(*tls.Conn).Handshake()
			<-t.Context().Done()
		}
	}()
	nc, err := Dial(context.Background(), addr, security)
	require.NoError(t, err)
	c := NewConn(nc)
	defer c.Close()
	require.NoError(t, c.WriteMessage(TypeState, 0, make([]byte, 10_000)))
	require.GreaterOrEqual(t, c.Queued(), int64(10_000))
}
