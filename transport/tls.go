package transport

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// TLS holds the certificates of one side. Both sides prove who they are: each
// must hold a certificate that the common CA signed.
type TLS struct {
	ca   *x509.CertPool
	cert tls.Certificate
}

// LoadTLS reads ca.pem, cert.pem and key.pem from a directory. An empty dir means
// no TLS and returns nil.
func LoadTLS(dir string) (*TLS, error) {
	if dir == "" {
		return nil, nil
	}
	caFile := filepath.Join(dir, "ca.pem")
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("load TLS CA: %w", err)
	}
	ca := x509.NewCertPool()
	if !ca.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("load TLS CA: %s holds no PEM certificate", caFile)
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return nil, fmt.Errorf("load TLS certificate: %w", err)
	}
	return &TLS{ca: ca, cert: cert}, nil
}

func (t *TLS) serverConfig() *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{t.cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    t.ca,
	}
}

// clientConfig verifies the destination's name as it was dialled; a unix socket
// has no name and is taken to be localhost.
func (t *TLS) clientConfig(network, address string) *tls.Config {
	name := "localhost"
	if network == "tcp" {
		name, _, _ = net.SplitHostPort(address)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{t.cert},
		RootCAs:      t.ca,
		ServerName:   name,
	}
}
