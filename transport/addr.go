package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// DialTimeout bounds how long one attempt to connect may take.
const DialTimeout = 10 * time.Second

// ErrAddress is returned for an address that is neither tcp:HOST:PORT nor unix:PATH.
var ErrAddress = errors.New("invalid address")

// ParseAddress splits tcp:HOST:PORT or unix:PATH into the network and the address that package net
// takes. It refuses what the kernel would refuse: a port that is not a number, a unix path of more
// than [MaxUnixPath] bytes, and a link-local IPv6 address without its interface. Its errors wrap
// [ErrAddress].
func ParseAddress(s string) (network, address string, err error) {
	network, address, _ = strings.Cut(s, ":")
	switch network {
	case "tcp":
		host, port, err := net.SplitHostPort(address)
		if err != nil || host == "" || port == "" {
			break
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return "", "", fmt.Errorf("%w %q: port %q is no number from 0 to 65535",
				ErrAddress, s, port)
		}
		ip, err := netip.ParseAddr(host)
		if err == nil && ip.Is6() && ip.IsLinkLocalUnicast() && ip.Zone() == "" {
			return "", "", fmt.Errorf("%w %q: a link-local address needs its interface: "+
				"add it, as in tcp:[%s%%eth0]:%s", ErrAddress, s, host, port)
		}
		return network, address, nil
	case "unix":
		if address == "" {
			break
		}
		address = inFileSystem(address)
		if err := CheckUnixPath(address); err != nil {
			return "", "", fmt.Errorf("%w: %w", ErrAddress, err)
		}
		return network, address, nil
	}
	return "", "", fmt.Errorf("%w %q: use tcp:HOST:PORT or unix:PATH", ErrAddress, s)
}

// family returns the network that covers exactly the given address. Package net takes "tcp" with
// 0.0.0.0 or [::] to mean both IPv4 and IPv6.
func family(network, address string) string {
	host, _, _ := net.SplitHostPort(address)
	ip, err := netip.ParseAddr(host)
	switch {
	case network != "tcp" || err != nil:
		return network
	case ip.Unmap().Is4():
		return "tcp4"
	}
	return "tcp6"
}

// Bound returns addr, at which ln listens, with the port that the kernel chose for port 0. The host
// is the one in addr, because ln's own address may lack the interface of a link-local address.
func Bound(addr string, ln net.Listener) string {
	network, address, err := ParseAddress(addr)
	tcp, ok := ln.Addr().(*net.TCPAddr)
	if err != nil || !ok || network != "tcp" {
		return addr
	}
	host, _, _ := net.SplitHostPort(address)
	return "tcp:" + net.JoinHostPort(host, strconv.Itoa(tcp.Port))
}

// Dial connects to the destination at addr and completes the TLS handshake if security asks for
// TLS. It gives up after [DialTimeout].
func Dial(ctx context.Context, addr string, security Security) (net.Conn, error) {
	network, address, err := ParseAddress(addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, DialTimeout)
	defer cancel()
	d := net.Dialer{Control: security.guard}
	nc, err := d.DialContext(ctx, family(network, address), address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w%s", addr, plainCause(err), advice(err))
	}
	if security.TLS == nil {
		return nc, nil
	}
	tc := tls.Client(nc, security.TLS.clientConfig(network, address))
	if err := tc.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, fmt.Errorf("TLS with %s: %w", addr, explainTLS(err, source))
	}
	return tc, nil
}

// advice returns what to do about a failed connection, or nothing if the error does not tell.
func advice(err error) string {
	switch {
	case errors.As(err, new(*net.DNSError)):
		return ": use a name that this host can resolve, or an address"
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOENT):
		return ": is a vmm run --incoming waiting there?"
	case errors.Is(err, unix.EACCES):
		return ": that socket is for its owner only"
	case errors.Is(err, unix.EAGAIN):
		return ": its process does not answer"
	}
	return ""
}

// adviceToListen returns what to do if listening fails, or nothing if the error does not tell.
func adviceToListen(err error) string {
	switch {
	case errors.As(err, new(*net.DNSError)), errors.Is(err, unix.EADDRNOTAVAIL):
		return ": use an address of this host, or 0.0.0.0 for all"
	case errors.Is(err, unix.EADDRINUSE):
		return ": use another port, or 0 for a free one"
	case errors.Is(err, unix.ENOENT):
		return ": make its folder first"
	}
	return ""
}

// Listen listens for sources at addr. It makes a unix socket as [ListenUnix] does.
func Listen(addr string, security Security) (net.Listener, error) {
	network, address, err := ParseAddress(addr)
	if err != nil {
		return nil, err
	}
	var ln net.Listener
	if network == "unix" {
		ln, err = ListenUnix(address)
	} else {
		lc := net.ListenConfig{Control: security.guard}
		ln, err = lc.Listen(context.Background(), family(network, address), address)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w%s", addr, plainCause(err), adviceToListen(err))
	}
	if security.TLS != nil {
		ln = tls.NewListener(ln, security.TLS.serverConfig())
	}
	return ln, nil
}
