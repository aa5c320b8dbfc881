package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// DialTimeout bounds how long one attempt to connect may take.
const DialTimeout = 10 * time.Second

// ErrAddress is returned for an address that is neither tcp:HOST:PORT nor unix:PATH.
var ErrAddress = errors.New("invalid address")

// ParseAddress splits tcp:HOST:PORT or unix:PATH into the network and address
// that package net takes.
func ParseAddress(s string) (network, address string, err error) {
	network, address, _ = strings.Cut(s, ":")
	switch network {
	case "tcp":
		host, port, err := net.SplitHostPort(address)
		if err == nil && host != "" && port != "" {
			return network, address, nil
		}
	case "unix":
		if address != "" {
			return network, address, nil
		}
	}
	return "", "", fmt.Errorf("%w %q: use tcp:HOST:PORT or unix:PATH", ErrAddress, s)
}

// Dial connects to a destination. A nil security means plain text.
func Dial(ctx context.Context, addr string, security *TLS) (net.Conn, error) {
	network, address, err := ParseAddress(addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, DialTimeout)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	if security == nil {
		return nc, nil
	}
	tc := tls.Client(nc, security.clientConfig(network, address))
	if err := tc.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, fmt.Errorf("TLS with %s: %w", addr, err)
	}
	return tc, nil
}

// Listen waits for sources at an address. A unix socket that nobody listens on
// any more is replaced.
func Listen(addr string, security *TLS) (net.Listener, error) {
	network, address, err := ParseAddress(addr)
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen(network, address)
	if errors.Is(err, unix.EADDRINUSE) && network == "unix" && isStale(address) {
		if err := os.Remove(address); err != nil {
			return nil, fmt.Errorf("replace the stale socket %s: %w", address, err)
		}
		ln, err = net.Listen(network, address)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	if security != nil {
		ln = tls.NewListener(ln, security.serverConfig())
	}
	return ln, nil
}

// isStale tells whether path is a socket that refuses connections.
func isStale(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != os.ModeSocket {
		return false
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
		return false
	}
	return errors.Is(err, unix.ECONNREFUSED)
}
