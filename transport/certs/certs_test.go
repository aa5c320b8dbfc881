package certs

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/transport"
)

func host(t *testing.T, s string) Host {
	t.Helper()
	h, err := ParseHost(s)
	require.NoError(t, err)
	return h
}

// authority opens or makes the CA in dir, with now as the time.
func authority(t *testing.T, dir string, now time.Time) (*Authority, Origin) {
	t.Helper()
	a, origin, err := Open(dir, now)
	require.NoError(t, err)
	return a, origin
}

func issue(t *testing.T, a *Authority, names string) Pair {
	t.Helper()
	p, err := a.Issue(host(t, names))
	require.NoError(t, err)
	return p
}

func certificate(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	block, rest := pem.Decode(b)
	require.Empty(t, rest)
	c, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	return c
}

// greet has a source with one pair say hello to a destination with another pair, and returns the
// error at each side.
func greet(t *testing.T, address, source, destination string) (atSource, atDestination error) {
	t.Helper()
	load := func(dir string) transport.Security {
		s, err := transport.LoadTLS(dir)
		require.NoError(t, err)
		return transport.Security{TLS: s}
	}
	ln, err := transport.Listen("tcp:"+address+":0", load(destination))
	require.NoError(t, err)
	defer ln.Close()
	heard := make(chan error, 1)
	go func() {
		nc, err := ln.Accept()
		if err == nil {
			nc.SetDeadline(time.Now().Add(time.Minute))
			var hello transport.Hello
			if hello, err = transport.ReadHello(nc); err == nil {
				err = transport.WriteWelcome(nc, transport.Terms{Version: hello.Version})
			}
			nc.Close()
		}
		heard <- err
	}()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	require.NoError(t, err)
	nc, err := transport.Dial(t.Context(), "tcp:"+address+":"+port, load(source))
	if err == nil {
		nc.SetDeadline(time.Now().Add(time.Minute))
		err = transport.WriteHello(nc, transport.Hello{Purpose: transport.PurposeQuery})
		if err == nil {
			_, err = transport.ReadWelcome(nc, 0)
		}
		nc.Close()
	}
	return err, <-heard
}

// TestPairsWork: each of two hosts can send to the other, by name and by address. Nobody else can.
func TestPairsWork(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "certs")
	a, origin := authority(t, dir, time.Now())
	require.Equal(t, Made, origin)
	one, two := issue(t, a, "localhost,127.0.0.1"), issue(t, a, "127.0.0.1,::1,localhost")
	for _, address := range []string{"localhost", "127.0.0.1"} {
		for _, way := range [][2]string{{one.Dir, two.Dir}, {two.Dir, one.Dir}} {
			source, destination := greet(t, address, way[0], way[1])
			require.NoError(t, source)
			require.NoError(t, destination)
		}
	}
	elsewhere, _ := authority(t, t.TempDir(), time.Now())
	stranger := issue(t, elsewhere, "localhost")
	source, _ := greet(t, "localhost", stranger.Dir, one.Dir)
	require.ErrorContains(t, source, "another CA", "it does not know the destination's")
	ours, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(stranger.Dir, "ca.pem"), ours, 0o600))
	source, destination := greet(t, "localhost", stranger.Dir, one.Dir)
	require.ErrorContains(t, source, "trusts another CA")
	require.ErrorContains(t, destination, "the certificate of the source is by another CA")
	source, _ = greet(t, "localhost", one.Dir, stranger.Dir)
	require.ErrorContains(t, source, "the certificate of the destination is by another CA")
	other := issue(t, a, "web7,10.0.0.7")
	source, _ = greet(t, "localhost", one.Dir, other.Dir)
	require.ErrorContains(t, source, "is for web7, 10.0.0.7, not for localhost")
}

// TestCertificates checks what certificates contain and how long they are valid.
func TestCertificates(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	a, _ := authority(t, dir, now)
	pair := issue(t, a, "web1,10.0.0.1,2001:db8::1,web1.example")
	ca := certificate(t, filepath.Join(dir, "ca.pem"))
	leaf := certificate(t, filepath.Join(pair.Dir, "cert.pem"))
	require.True(t, ca.IsCA)
	require.Equal(t, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, ca.KeyUsage)
	require.True(t, ca.MaxPathLenZero, "it signs hosts only")
	require.False(t, leaf.IsCA)
	require.Equal(t, []string{"web1", "web1.example"}, leaf.DNSNames)
	require.Len(t, leaf.IPAddresses, 2)
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	require.ElementsMatch(t, both, leaf.ExtKeyUsage)
	require.WithinDuration(t, now.AddDate(10, 0, 0), ca.NotAfter, time.Second)
	require.WithinDuration(t, now.AddDate(1, 0, 0), leaf.NotAfter, time.Second)
	require.Equal(t, leaf.NotAfter, pair.Until.UTC().Truncate(time.Second))
	require.WithinDuration(t, now.Add(-time.Hour), leaf.NotBefore, time.Second, "clocks are behind")
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := d.Info()
		require.NoError(t, err)
		if !d.IsDir() {
			require.Equal(t, os.FileMode(0o600), info.Mode(), path)
		} else if path != dir {
			require.Equal(t, os.FileMode(0o700), info.Mode().Perm(), path)
		}
		return nil
	})
	require.NoError(t, err)
}

// TestRenewal: the CA stays the same, the first hosts trust later ones, and a renewed pair works
// with pairs that were not renewed.
func TestRenewal(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	a, _ := authority(t, dir, now)
	first := issue(t, a, "localhost")
	require.Equal(t, Made, first.Origin)
	before, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	require.NoError(t, err)
	old := certificate(t, filepath.Join(first.Dir, "cert.pem"))

	again, origin := authority(t, dir, now.AddDate(0, 11, 0))
	require.Equal(t, Found, origin)
	after, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	require.NoError(t, err)
	require.Equal(t, before, after)
	renewed := issue(t, again, "localhost")
	require.Equal(t, Found, renewed.Origin)
	fresh := certificate(t, filepath.Join(first.Dir, "cert.pem"))
	require.Greater(t, fresh.NotAfter, old.NotAfter)
	require.NotEqual(t, old.PublicKey, fresh.PublicKey)
	entries, err := os.ReadDir(first.Dir)
	require.NoError(t, err)
	require.Len(t, entries, 3, "nothing is left over")

	// The renewed one begins in the future, by this test's clock: now it is made once more.
	last, _ := authority(t, dir, now)
	second := issue(t, last, "two,localhost")
	issue(t, last, "localhost")
	source, destination := greet(t, "localhost", second.Dir, first.Dir)
	require.NoError(t, source)
	require.NoError(t, destination)
}

// TestNoPairOutlivesItsCA: a pair ends with its CA, and an expired CA makes no pairs.
func TestNoPairOutlivesItsCA(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	a, _ := authority(t, dir, now)
	late, _ := authority(t, dir, now.AddDate(9, 6, 0))
	require.Equal(t, a.Until(), issue(t, late, "web1").Until)
	_, _, err := Open(dir, now.AddDate(10, 0, 1))
	require.ErrorContains(t, err, "expired")
}

// TestNoCAIsReplaced: a CA that is there, whole or in part, stays as it is.
func TestNoCAIsReplaced(t *testing.T) {
	overwrite := func(d, with, file string) error {
		b, err := os.ReadFile(d + with)
		if err != nil {
			return err
		}
		return os.WriteFile(d+file, b, 0o600)
	}
	for name, c := range map[string]struct {
		want  string
		spoil func(dir string) error
	}{
		"no key": {"ca-key.pem is not", func(d string) error {
			return os.Remove(d + "/ca-key.pem")
		}},
		"no certificate": {"ca.pem is not", func(d string) error {
			return os.Remove(d + "/ca.pem")
		}},
		"open key": {"chmod 600", func(d string) error {
			return os.Chmod(d+"/ca-key.pem", 0o640)
		}},
		"no PEM": {"load the CA", func(d string) error { return os.Truncate(d+"/ca.pem", 0) }},
		"another's key": {"load the CA", func(d string) error {
			return overwrite(d, "/web1/key.pem", "/ca-key.pem")
		}},
		"a host's": {"no CA's certificate", func(d string) error {
			return errors.Join(overwrite(d, "/web1/key.pem", "/ca-key.pem"),
				overwrite(d, "/web1/cert.pem", "/ca.pem"))
		}},
	} {
		dir := t.TempDir()
		a, _ := authority(t, dir, time.Now())
		issue(t, a, "web1")
		require.NoError(t, c.spoil(dir), name)
		state := func() map[string]string {
			files := map[string]string{}
			for _, f := range []string{"ca.pem", "ca-key.pem"} {
				if b, err := os.ReadFile(filepath.Join(dir, f)); err == nil {
					files[f] = string(b)
				}
			}
			return files
		}
		before := state()
		_, _, err := Open(dir, time.Now())
		require.ErrorContains(t, err, c.want, name)
		require.Equal(t, before, state(), name)
	}
}

// TestNoPairOfOthersIsReplaced: a folder can have a host's name and belong to somebody else.
func TestNoPairOfOthersIsReplaced(t *testing.T) {
	a, _ := authority(t, t.TempDir(), time.Now())
	require.Equal(t, Made, issue(t, a, "web1").Origin)
	require.Equal(t, Found, issue(t, a, "web1").Origin)
	other, _ := authority(t, t.TempDir(), time.Now())
	theirs := issue(t, other, "web1").Dir
	require.NoError(t, os.Rename(theirs, filepath.Join(a.dir, "web2")))
	require.NoError(t, os.Symlink(issue(t, a, "web3").Dir, filepath.Join(a.dir, "web4")))
	require.NoError(t, os.Mkdir(filepath.Join(a.dir, "web5"), 0o700))
	require.Equal(t, Found, issue(t, a, "web5").Origin, "empty, from an attempt cut off")
	for _, file := range []string{"ca.pem", "key.pem", "cert.pem"} {
		dir := filepath.Join(a.dir, "with-"+file)
		require.NoError(t, os.Mkdir(dir, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte("precious"), 0o600))
		_, err := a.Issue(host(t, "with-"+file))
		require.ErrorContains(t, err, file+" that is not of this CA")
		kept, err := os.ReadFile(filepath.Join(dir, file))
		require.NoError(t, err)
		require.Equal(t, "precious", string(kept))
	}
	for name, want := range map[string]string{
		"web2": "not of this CA", "web4": "no folder", "ca.pem": "no folder",
	} {
		_, err := a.Issue(host(t, name))
		require.ErrorContains(t, err, want, name)
	}
}

func TestHosts(t *testing.T) {
	for _, good := range []string{
		"web1", "web1.example", "a_b", "10.0.0.1", "::1", "web1,10.0.0.1", "X",
	} {
		_, err := ParseHost(good)
		require.NoError(t, err, good)
	}
	for _, bad := range []string{
		"", ",", "web1,", "a b", "../x", "/etc", ".", "..", "-a", "a-", "10.0.0", "1.2.3.4.5",
		"*.x", "a/b", "fe80::1%eth0", "a\nb",
	} {
		_, err := ParseHost(bad)
		require.ErrorContains(t, err, "host", "%q", bad)
	}
}
