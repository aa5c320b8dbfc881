package relay

import (
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// prompt acknowledges at once what it reads (TCP_QUICKACK, tcp(7)), as a migration's destination
// does. TCP waits up to 40 ms for data to send along, and a source that waits until its round is
// taken would wait as long.
type prompt struct {
	io.Reader
	raw syscall.RawConn
	ack func(fd uintptr) // made once
}

func newPrompt(c *net.TCPConn) io.Reader {
	raw, err := c.SyscallConn()
	if err != nil {
		return c
	}
	return prompt{c, raw, func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
	}}
}

func (p prompt) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if n > 0 {
		_ = p.raw.Control(p.ack) // it only costs time if it fails
	}
	return n, err
}
