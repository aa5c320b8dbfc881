package transport

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// Security says how connections are protected. Its zero value keeps plain text within this host.
type Security struct {
	// TLS, unless nil, encrypts all connections and makes both sides prove who they are.
	TLS *TLS
	// Plain says where connections may go to or come from without TLS.
	Plain Plain
	// Allow lists the certificate names of peers that may connect. If it is empty, all peers whose
	// certificates the CA signed may. It has an effect with TLS only.
	Allow []string
}

// Plain says where plain text may go.
type Plain int

const (
	PlainLocal    Plain = iota // to and from processes of this host: loopback and unix sockets
	PlainAnywhere              // also where others can read and change a guest on its way
)

// PlainError refuses plain text where others could read and change a guest on its way.
type PlainError struct {
	Address netip.Addr
}

func (e *PlainError) Error() string {
	return fmt.Sprintf("plain text at %v: others on the network could read and change the guest: "+
		"use --tls-dir (vmm tls init makes its files), or --insecure", e.Address)
}

// Check refuses an address off this host if plain text may not go there. It does not resolve names:
// [Dial] and [Listen] check the address that a name leads to.
func (s Security) Check(addr string) error {
	network, address, err := ParseAddress(addr)
	if err != nil || network != "tcp" {
		return err
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return s.check(ip)
	}
	return nil
}

func (s Security) check(ip netip.Addr) error {
	if s.TLS != nil || s.Plain == PlainAnywhere || ip.Unmap().IsLoopback() {
		return nil
	}
	return &PlainError{ip}
}

// guard checks the address of a socket, after names are resolved, before it is connected or bound.
func (s Security) guard(network, address string, _ syscall.RawConn) error {
	if network == "unix" {
		return nil
	}
	ip, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return s.check(ip.Addr())
}

// plainCause returns the PlainError in err without what package net says around it, or else err.
func plainCause(err error) error {
	var plain *PlainError
	if errors.As(err, &plain) {
		return plain
	}
	return err
}
