package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"taskguide/transport"
)

const (
	// caYears and pairYears are how long certificates are valid, in years.
	caYears   = 10
	pairYears = 1
	// skew is how far a host's clock may be behind the clock of the host that makes certificates.
	skew = time.Hour

	caKeyFile = "ca-key.pem"
)

// Authority is a CA whose files are in a folder.
type Authority struct {
	dir  string
	cert *x509.Certificate
	key  crypto.Signer
	now  time.Time
}

// Origin tells where something comes from.
type Origin int

const (
	Made  Origin = iota // it is new
	Found               // it was there before; Issue renews a pair that was there
)

// Pair is a host's folder.
type Pair struct {
	Host   Host
	Dir    string
	Until  time.Time // when its certificate ends
	Origin Origin
}

// Open loads the CA in dir, or makes one if dir has none.
func Open(dir string, now time.Time) (*Authority, Origin, error) {
	a := &Authority{dir: dir, now: now}
	err := a.load()
	if errors.Is(err, fs.ErrNotExist) {
		return a, Made, a.make()
	}
	return a, Found, err
}

// Until is when the CA's certificate ends.
func (a *Authority) Until() time.Time { return a.cert.NotAfter }

// load returns fs.ErrNotExist if dir has neither file of a CA. One file without the other is an
// error: the missing one may be kept elsewhere, and a new CA in its place would end the trust of
// all hosts.
func (a *Authority) load() error {
	cert, key := filepath.Join(a.dir, transport.CAFile), filepath.Join(a.dir, caKeyFile)
	_, errCert := os.Lstat(cert)
	info, errKey := os.Lstat(key)
	switch {
	case errors.Is(errCert, fs.ErrNotExist) && errors.Is(errKey, fs.ErrNotExist):
		return fs.ErrNotExist
	case errors.Is(errKey, fs.ErrNotExist):
		return fmt.Errorf("%s is here and %s is not: put the CA's key there, or make another CA "+
			"in another folder", cert, caKeyFile)
	case errors.Is(errCert, fs.ErrNotExist):
		return fmt.Errorf("%s is here and %s is not: put the CA's certificate there, or make "+
			"another CA in another folder", key, transport.CAFile)
	case errKey == nil && info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s may be read by others, who can then make certificates: chmod 600 it",
			key)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("load the CA in %s: %w", a.dir, err)
	}
	a.cert, a.key = pair.Leaf, pair.PrivateKey.(crypto.Signer)
	switch {
	case !a.cert.IsCA:
		return fmt.Errorf("%s is no CA's certificate: use another folder", cert)
	case a.now.After(a.cert.NotAfter):
		return fmt.Errorf("the CA in %s expired on %s: make another in another folder, and new "+
			"pairs for all hosts", a.dir, a.cert.NotAfter.Format(time.DateOnly))
	}
	return nil
}

// make makes a CA. If two processes do so at the same time, one of them fails.
func (a *Authority) make() error {
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return fmt.Errorf("make a CA: %w", err)
	}
	key, keyPEM, err := newKey()
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "vmm CA"},
		NotBefore: a.now.Add(-skew), NotAfter: a.now.AddDate(caYears, 0, 0),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	certPEM, err := sign(template, template, key.Public(), key)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name    string
		content []byte
	}{{caKeyFile, keyPEM}, {transport.CAFile, certPEM}} {
		if err := writeNew(filepath.Join(a.dir, f.name), f.content); err != nil {
			return fmt.Errorf("make a CA: %w", err)
		}
	}
	return a.load()
}

// Issue makes the certificate and key of a host. For a host that has a pair, it makes them again,
// with the names in h and for another year.
func (a *Authority) Issue(h Host) (Pair, error) {
	p := Pair{Host: h, Dir: filepath.Join(a.dir, h.Name()), Until: a.now.AddDate(pairYears, 0, 0)}
	if a.cert.NotAfter.Before(p.Until) {
		p.Until = a.cert.NotAfter // nobody would trust it for longer
	}
	key, keyPEM, err := newKey()
	if err != nil {
		return p, err
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: h.Name()},
		NotBefore: a.now.Add(-skew), NotAfter: p.Until,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{
			x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth,
		},
	}
	for _, name := range h.names {
		if ip, err := netip.ParseAddr(name); err == nil {
			template.IPAddresses = append(template.IPAddresses, ip.AsSlice())
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	certPEM, err := sign(template, a.cert, key.Public(), a.key)
	if err != nil {
		return p, err
	}
	caPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
	p.Origin, err = openPair(p.Dir, caPEM)
	for _, f := range []struct {
		name    string
		content []byte
	}{{transport.CAFile, caPEM}, {transport.KeyFile, keyPEM}, {transport.CertFile, certPEM}} {
		if err == nil {
			err = replace(filepath.Join(p.Dir, f.name), f.content)
		}
	}
	if err != nil {
		return p, fmt.Errorf("make the pair of %s: %w", h.Name(), err)
	}
	return p, nil
}

// openPair makes a host's folder, or takes the one that is there. It refuses a folder with files of
// another CA, because Issue would overwrite a key that belongs to somebody else.
func openPair(dir string, caPEM []byte) (Origin, error) {
	err := os.Mkdir(dir, 0o700)
	if !errors.Is(err, fs.ErrExist) {
		return Made, err
	}
	info, err := os.Lstat(dir)
	switch {
	case err != nil:
		return Found, err
	case !info.IsDir():
		return Found, fmt.Errorf("%s is no folder: give another name of the host first", dir)
	}
	ca, err := os.ReadFile(filepath.Join(dir, transport.CAFile))
	if err == nil && bytes.Equal(ca, caPEM) {
		return Found, nil
	}
	for _, name := range []string{transport.CAFile, transport.KeyFile, transport.CertFile} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return Found, fmt.Errorf("%s has a %s that is not of this CA: move it away, or make "+
				"the pairs in another folder", dir, name)
		}
	}
	return Found, nil
}

func newKey() (key *ecdsa.PrivateKey, keyPEM []byte, err error) {
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func sign(template, parent *x509.Certificate, public crypto.PublicKey, by crypto.Signer) (
	[]byte, error,
) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, by)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// writeNew writes a file of mode 0600. It fails if the file exists.
func writeNew(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// replace writes a file so that readers see the old content or the new one.
func replace(path string, content []byte) error {
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeNew(fresh, content); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}
