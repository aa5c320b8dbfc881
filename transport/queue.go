package transport

import (
	"crypto/tls"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// queuer is a connection that knows how many of the bytes written to it are still on this side.
type queuer interface {
	Queued() int64
}

// Queued is how many of the bytes sent still wait in this side's socket buffer for the link or the
// peer to take them (SIOCOUTQ, tcp(7) and unix(7)). It is 0 where the kernel does not tell.
func (c *Conn) Queued() int64 {
	if q, ok := c.nc.(queuer); ok {
		return q.Queued()
	}
	raw := socketOf(c.nc)
	if raw == nil {
		return 0
	}
	n, err := 0, error(nil)
	if raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }) != nil ||
		err != nil {
		return 0
	}
	return int64(n)
}

// BoundQueue makes the socket hold at most about n bytes that it has not sent yet
// (TCP_NOTSENT_LOWAT, tcp(7)). Further writes wait. A queue of megabytes speeds nothing up and
// delays whatever is sent next. Bytes that were sent and not acknowledged do not count. Sockets
// other than TCP's bound themselves.
func (c *Conn) BoundQueue(n int) error {
	if _, ok := bareConn(c.nc).(*net.TCPConn); !ok {
		return nil
	}
	var err error
	set := func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, n)
	}
	if raw := socketOf(c.nc); raw != nil {
		if errRaw := raw.Control(set); errRaw != nil {
			err = errRaw
		}
	}
	if err != nil {
		return fmt.Errorf("bound the queue of a connection: %w", err)
	}
	return nil
}

// Acknowledge sends a TCP acknowledgement at once for all that was read (TCP_QUICKACK, tcp(7)). TCP
// itself waits up to 40 ms for data to send along, and a source that waits for its round to be
// taken would wait as long.
func (c *Conn) Acknowledge() {
	if c.ack.raw != nil {
		// Not a failure worth a migration: the acknowledgement comes by itself.
		_ = c.ack.raw.Control(c.ack.call)
	}
}

// acknowledger holds a callback that is made once, so that calls allocate nothing.
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

// socketOf is the socket below a connection, or nil if there is none.
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
