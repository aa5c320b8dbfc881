package transport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// TLS holds the certificates of one side. Both sides prove who they are: each
// must hold a certificate that the common CA signed.
type TLS struct {
	ca   *x509.CertPool
	cert tls.Certificate
}

// The files of a directory for TLS.
const (
	CAFile   = "ca.pem"
	CertFile = "cert.pem"
	KeyFile  = "key.pem"
)

// LoadTLS reads ca.pem, cert.pem and key.pem from a directory. An empty dir means
// no TLS and returns nil.
func LoadTLS(dir string) (*TLS, error) {
	if dir == "" {
		return nil, nil
	}
	caFile := filepath.Join(dir, CAFile)
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("load TLS CA: %w", err)
	}
	ca := x509.NewCertPool()
	if !ca.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("load TLS CA: %s holds no PEM certificate", caFile)
	}
	certFile := filepath.Join(dir, CertFile)
	cert, err := tls.LoadX509KeyPair(certFile, filepath.Join(dir, KeyFile))
	if err != nil {
		return nil, fmt.Errorf("load TLS certificate: %w", err)
	}
	// Without this check the peer would refuse it, and say only "expired" in both cases.
	if err := checkTimes(cert.Leaf, time.Now()); err != nil {
		return nil, fmt.Errorf("load TLS certificate %s: %w", certFile, err)
	}
	return &TLS{ca: ca, cert: cert}, nil
}

// checkTimes refuses a certificate that is not valid at now, and says whether it has expired or is
// not valid yet.
func checkTimes(cert *x509.Certificate, now time.Time) error {
	const layout = "2006-01-02 15:04:05 MST"
	switch {
	case now.Before(cert.NotBefore):
		return fmt.Errorf("it is valid from %s on, and it is %s by this host's clock: "+
			"set the clock right, or wait",
			cert.NotBefore.Local().Format(layout), now.Local().Format(layout))
	case now.After(cert.NotAfter):
		return fmt.Errorf("it expired on %s: make a new one", cert.NotAfter.Local().Format(layout))
	}
	return nil
}

// side is an end of a connection.
type side string

const (
	source      side = "the source"
	destination side = "the destination"
)

func (s side) other() side {
	if s == source {
		return destination
	}
	return source
}

// explained is an error with our own text.
type explained struct {
	words string
	cause error
}

func (e explained) Error() string { return e.words }
func (e explained) Unwrap() error { return e.cause }

// oneSided returns the error of a connection on which only one side, who, speaks TLS.
func oneSided(who side, cause error) error {
	return explained{fmt.Sprintf("only one side uses TLS, %s: "+
		"give --tls-dir to vmm run --incoming and to vmm migrate, or to neither", who), cause}
}

// explainTLS says in our own words why a handshake, or what came after it, failed at this side.
func explainTLS(err error, here side) error {
	var record tls.RecordHeaderError
	if errors.As(err, &record) {
		return oneSided(here, err)
	}
	if words := explainCertificate(err, here.other()); words != "" {
		return explained{words, err}
	}
	for alert, words := range alerts {
		// crypto/tls does not export the alerts that a peer sends.
		if strings.Contains(err.Error(), "remote error: tls: "+alert) {
			return fmt.Errorf("%w: %s", err, fmt.Sprintf(words, here.other()))
		}
	}
	if strings.Contains(err.Error(), "client didn't provide a certificate") {
		return fmt.Errorf("the source gave no certificate, or none that this side's %s signed: "+
			"both sides need pairs of one CA (vmm tls init)", CAFile)
	}
	return err
}

// alerts are what a peer says about our certificate before it closes the connection, and what that
// means.
var alerts = map[string]string{
	"expired certificate": "or not valid yet by the clock of %s: compare the clocks of both hosts",
	"unknown certificate authority": "%s trusts another CA than that of this side's certificate: " +
		"both sides need pairs of one CA (vmm tls init)",
	"bad certificate": "%s does not accept this side's certificate, and says why on its host",
	"certificate required": "%s wants a certificate that its CA signed: " +
		"both sides need pairs of one CA (vmm tls init)",
}

// explainCertificate says what is wrong with a peer's certificate. It returns "" for other errors.
func explainCertificate(err error, whose side) string {
	var unknown x509.UnknownAuthorityError
	var elsewhere x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return fmt.Sprintf("the certificate of %s is by another CA than this side's %s: "+
			"both sides need pairs of one CA (vmm tls init)", whose, CAFile)
	case errors.As(err, &elsewhere):
		names := Peer{Names: hostsOf(elsewhere.Certificate)}.Title()
		return fmt.Sprintf("the certificate of %s is for %s, not for %s: use a name that it has, "+
			"or give it one (vmm tls init DIR --host %[3]s)", whose, names, elsewhere.Host)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil:
		if times := checkTimes(invalid.Cert, time.Now()); times != nil {
			return fmt.Sprintf("the certificate of %s: %v", whose, times)
		}
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return fmt.Sprintf("the certificate of %s is not made for that end of a connection "+
			"(extended key usage): vmm tls init makes one for both", whose)
	}
	return ""
}

func (t *TLS) serverConfig() *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{t.cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    t.ca,
	}
}

// clientConfig verifies the destination's name as it was dialled. A unix socket has no name and
// counts as localhost.
func (t *TLS) clientConfig(network, address string) *tls.Config {
	name := "localhost"
	if network == "tcp" {
		name, _, _ = net.SplitHostPort(address)
		name, _, _ = strings.Cut(name, "%") // the interface means something on this host only
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{t.cert},
		RootCAs:      t.ca,
		ServerName:   name,
	}
}
