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
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// newTLSDir makes a CA and a certificate that it signed for this host.
func newTLSDir(t *testing.T) string {
	return newTLSDirFor(t, time.Time{}, time.Now().Add(time.Hour))
}

// newTLSDirFor makes them, with a certificate that is valid from and until those times.
func newTLSDirFor(t *testing.T, from, until time.Time) string {
	dir := t.TempDir()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"},
		NotAfter: time.Now().Add(time.Hour),
		IsCA:     true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	require.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	host := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: from, NotAfter: until,
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
		ln, err := Listen(addr, Security{TLS: ours})
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
				nc.SetDeadline(time.Now().Add(time.Minute))
				_, err = ReadHello(nc)
				heard <- err
				nc.Close()
			}
		}()
		greet := func(security *TLS) error {
			nc, err := Dial(context.Background(), addr, Security{TLS: security})
			if err != nil {
				<-heard
				return err
			}
			defer nc.Close()
			_ = WriteHello(nc, Hello{Purpose: PurposeQuery})
			return <-heard // a server judges its client only after the client's handshake
		}
		require.NoError(t, greet(ours))
		require.Error(t, greet(nil), "plain text")
		require.ErrorContains(t, greet(theirs), "TLS", "the destination is not of our CA")
		require.Error(t, greet(&TLS{ca: ours.ca, cert: theirs.cert}), "the source is not of its CA")
		require.Error(t, greet(&TLS{ca: ours.ca, cert: tls.Certificate{}}),
			"the source has no certificate")
	}
	_, err := LoadTLS(t.TempDir())
	require.ErrorIs(t, err, os.ErrNotExist)
	none, err := LoadTLS("")
	require.NoError(t, err)
	require.Nil(t, none)
}

// TestTLSVersion: neither side goes back to what is older than TLS 1.3.
func TestTLSVersion(t *testing.T) {
	security, err := LoadTLS(newTLSDir(t))
	require.NoError(t, err)
	older := func(c *tls.Config) *tls.Config {
		c.MinVersion, c.MaxVersion = 0, tls.VersionTLS12
		return c
	}
	here, there := security.clientConfig("unix", ""), security.serverConfig()
	for _, c := range []struct {
		source, destination *tls.Config
		agree               bool
	}{
		{here, there, true},
		{older(here.Clone()), there, false},
		{here, older(there.Clone()), false},
	} {
		near, far := net.Pipe()
		heard := make(chan error, 1)
		go func() {
			heard <- tls.Server(far, c.destination).Handshake()
			far.Close()
		}()
		errSource := tls.Client(near, c.source).Handshake()
		near.Close()
		errDestination := <-heard
		if c.agree {
			require.NoError(t, errSource)
			continue
		}
		require.ErrorContains(t, errors.Join(errSource, errDestination), "version")
	}
}

// TestTLSAtOneSide: both sides are told what is wrong, whichever side lacks TLS.
func TestTLSAtOneSide(t *testing.T) {
	security, err := LoadTLS(newTLSDir(t))
	require.NoError(t, err)
	for who, c := range map[string]struct{ source, destination *TLS }{
		"the source": {security, nil}, "the destination": {nil, security},
	} {
		addr := "unix:" + t.TempDir() + "/s"
		ln, err := Listen(addr, Security{TLS: c.destination})
		require.NoError(t, err)
		defer ln.Close()
		heard := make(chan error, 1)
		go func() {
			nc, err := ln.Accept()
			if err == nil {
				nc.SetDeadline(time.Now().Add(time.Minute))
				if _, err = ReadHello(nc); err != nil {
					_ = Refuse(nc, err)
				}
				nc.Close()
			}
			heard <- err
		}()
		nc, err := Dial(t.Context(), addr, Security{TLS: c.source})
		if err == nil {
			nc.SetDeadline(time.Now().Add(time.Minute))
			require.NoError(t, WriteHello(nc, Hello{Purpose: PurposeMigrate, Channels: 1}))
			_, err = ReadWelcome(nc, 0)
			nc.Close()
		}
		require.ErrorContains(t, err, "only one side uses TLS, "+who)
		require.ErrorContains(t, <-heard, "only one side uses TLS, "+who)
	}
}

// TestTLSTimes: a certificate that is not valid yet is not called an expired one.
func TestTLSTimes(t *testing.T) {
	now := time.Now()
	_, err := LoadTLS(newTLSDirFor(t, now.Add(time.Hour), now.Add(2*time.Hour)))
	require.ErrorContains(t, err, "it is valid from")
	require.ErrorContains(t, err, "set the clock right, or wait")
	require.NotContains(t, err.Error(), "expired")
	_, err = LoadTLS(newTLSDirFor(t, time.Time{}, now.Add(-time.Hour)))
	require.ErrorContains(t, err, "it expired on")

	// The peer's certificate is judged in the handshake, by the same rule.
	cert := &x509.Certificate{NotBefore: now.Add(time.Hour), NotAfter: now.Add(2 * time.Hour)}
	err = x509.CertificateInvalidError{Cert: cert, Reason: x509.Expired}
	err = explainTLS(fmt.Errorf("handshake: %w", err), source)
	require.ErrorContains(t, err, "the certificate of the destination: it is valid from")
	told := &net.OpError{Op: "remote error", Err: errors.New("tls: expired certificate")}
	err = explainTLS(told, source)
	require.ErrorContains(t, err, "or not valid yet by the clock of the destination")
}

// TestQueuedBehindTLS: the buffers are those of the socket below.
func TestQueuedBehindTLS(t *testing.T) {
	security, err := LoadTLS(newTLSDir(t))
	require.NoError(t, err)
	addr := "unix:" + t.TempDir() + "/s"
	ln, err := Listen(addr, Security{TLS: security})
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
	nc, err := Dial(context.Background(), addr, Security{TLS: security})
	require.NoError(t, err)
	c := NewConn(nc)
	defer c.Close()
	require.NoError(t, c.WriteMessage(TypeState, 0, make([]byte, 10_000)))
	require.GreaterOrEqual(t, c.Queued(), int64(10_000))
}

// TestAbort: a peer that takes nothing, not even the goodbye of TLS, holds up nobody.
func TestAbort(t *testing.T) {
	security, err := LoadTLS(newTLSDir(t))
	require.NoError(t, err)
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		client := tls.Client(near, security.clientConfig("unix", ""))
		server := tls.Server(far, security.serverConfig())
		heard := make(chan error, 1)
		go func() { heard <- server.Handshake() }()
		require.NoError(t, client.Handshake())
		require.NoError(t, <-heard)
		c := NewConn(client)
		begin := time.Now()
		c.Abort()
		require.Zero(t, time.Since(begin))
		require.Error(t, c.WriteMessage(TypeKeepAlive, 0, nil), "it is closed")
	})
}
