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
	if q, ok := c.nc.(queuer); ok {
		return q.Queued()
	}
	raw := socketOf(c.nc)
	if raw == nil {
		return 0
	}
	n, err := 0, error(nil)
	if raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }) != nil || err != nil {
		return 0
	}
	return int64(n)
}

// Acknowledge tells the peer at once, by an acknowledgement of TCP's, that all that
// was read arrived. TCP itself waits up to 40 ms for something to send along, and a
// source that waits for its round to be taken would wait as long (TCP_QUICKACK,
// tcp(7)).
func (c *Conn) Acknowledge() {
	if c.ack.raw != nil {
		// Not a failure worth a migration: the acknowledgement comes by itself.
		_ = c.ack.raw.Control(c.ack.call)
	}
}

// acknowledger holds a callback that is made once, so that a call allocates nothing.
type acknowledger struct {
	raw  syscall.RawConn // nil: not TCP
	call func(fd uintptr)
}

func newAcknowledger(nc net.Conn) acknowledger {
	if _, ok := bareConn(nc).(*net.TCPConn); !ok {
		return acknowledger{}
	}
	return acknowledger{socketOf(nc), func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
	}}
}

// socketOf is the socket below a connection, nil if there is none.
func socketOf(nc net.Conn) syscall.RawConn {
	sc, ok := bareConn(nc).(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// bareConn is the connection below TLS.
func bareConn(nc net.Conn) net.Conn {
	if t, ok := nc.(*tls.Conn); ok {
		return t.NetConn()
	}
	return nc
}
