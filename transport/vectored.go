package transport

import (
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// vectored reads into several slices with one system call where the connection is
// a socket, and one after the other where it is not (TLS).
type vectored struct {
	nc  net.Conn
	raw syscall.RawConn // nil: no socket

	// State of the readv under way. It lives here, with the callback made once, so
	// that a call allocates nothing.
	bufs [][]byte
	n    int
	err  error
	call func(fd uintptr) bool
}

func (v *vectored) init(nc net.Conn) {
	v.nc = nc
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	v.raw = raw
	v.call = func(fd uintptr) bool {
		for {
			v.n, v.err = unix.Readv(int(fd), v.bufs)
			if v.err != unix.EINTR {
				return v.err != unix.EAGAIN
			}
		}
	}
}

// readFull fills all slices of bufs, at most 1024 of them, and consumes them. It
// returns how many bytes arrived.
func (v *vectored) readFull(bufs [][]byte) (int, error) {
	if v.raw == nil {
		return v.readEach(bufs)
	}
	total := 0
	for len(bufs) > 0 {
		v.bufs = bufs
		if err := v.raw.Read(v.call); err != nil {
			return total, err
		}
		if v.err != nil {
			return total, v.err
		}
		if v.n == 0 {
			return total, io.ErrUnexpectedEOF
		}
		total += v.n
		bufs = consume(bufs, v.n)
	}
	return total, nil
}

func (v *vectored) readEach(bufs [][]byte) (int, error) {
	total := 0
	for _, b := range bufs {
		n, err := io.ReadFull(v.nc, b)
		total += n
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// consume drops the first n bytes of bufs.
func consume(bufs [][]byte, n int) [][]byte {
	for len(bufs) > 0 && n >= len(bufs[0]) {
		n -= len(bufs[0])
		bufs = bufs[1:]
	}
	if n > 0 {
		bufs[0] = bufs[0][n:]
	}
	return bufs
}
