package trial

import (
	"net"
	"path/filepath"

	"github.com/vishvananda/netns"
)

// Side is where a process of a trial runs: at one end of a Link, at another host or, for the zero
// value, in this process' own namespace.
type Side struct {
	ns      netns.NsHandle
	isSet   bool
	address string // to listen on
	host    *Host  // nil for this one
}

// Source is the end that guests leave. l may be nil, for the loopback.
func (l *Link) Source() Side {
	if l == nil {
		return Side{address: "127.0.0.1"}
	}
	return Side{ns: l.source, isSet: true, address: hostOf(sourceAddress)}
}

// Destination is the end at which guests arrive. l may be nil, for the loopback.
func (l *Link) Destination() Side {
	if l == nil {
		return Side{address: "127.0.0.1"}
	}
	return Side{ns: l.destination, isSet: true, address: hostOf(destinationAddress)}
}

// source is where guests start.
func (site *Site) source() Side {
	if site.Hosts == nil {
		return site.Link.Source()
	}
	return Side{host: site.Hosts.Source, address: anyAddress(site.Hosts.Source.Conn.Address)}
}

// destination is where guests arrive.
func (site *Site) destination() Side {
	if site.Hosts == nil {
		return site.Link.Destination()
	}
	return Side{
		host: site.Hosts.Destination, address: anyAddress(site.Hosts.Destination.Conn.Address),
	}
}

// path is where a file of this host's folder for a trial is at the side's host.
func (s Side) path(file string) string {
	if s.host == nil {
		return file
	}
	return filepath.Join(s.host.Conn.Dir, filepath.Base(filepath.Dir(file)), filepath.Base(file))
}

// listenAddress is where to wait for a migration, on a port that the kernel chooses.
func (s Side) listenAddress() string { return "tcp:" + net.JoinHostPort(s.address, "0") }

// do calls f on that side, and so the processes that f starts are there, too.
func (s Side) do(f func() error) error {
	if !s.isSet {
		return f()
	}
	return within(s.ns, f)
}
