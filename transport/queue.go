package transport

import (
	"crypto/tls"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// queuer is a connection that knows itself how much of what was written to it is
// still on this side.
type queuer interface {
	Queued() int64
}

// Queued is how many of the bytes sent still wait on this side, in the socket's
// buffer, for the link or for the peer to take them (SIOCOUTQ, tcp(7) and unix(7)).
// It is 0 where nobody knows.
func (c *Conn) Queued() int64 {
	switch nc := c.nc.(type) {
	case queuer:
		return nc.Queued()
	case *tls.Conn:
		return queuedIn(nc.NetConn())
	}
	return queuedIn(c.nc)
}

func queuedIn(nc net.Conn) int64 {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return 0
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	if raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }) != nil || err != nil {
		return 0
	}
	return int64(n)
}
