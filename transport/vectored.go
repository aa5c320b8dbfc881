package transport

import (
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// vectored reads into several slices with one system call on a socket, and one slice after the
// other on anything else (TLS).
type vectored struct {
	nc  net.Conn
	raw syscall.RawConn // nil: no socket
	got func(int) error // is called for every byte that arrives, and may stop the read

	// State of the readv under way. It lives here, with the callback made once, so
	// that a call allocates nothing.
	store []unix.Iovec
	iovs  []unix.Iovec // of store, what is still to be filled
	n     int
	err   error
	call  func(fd uintptr) bool
}

func (v *vectored) init(nc net.Conn, got func(int) error) {
	v.nc, v.got = nc, got
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	v.raw = raw
	v.store = make([]unix.Iovec, 0, MaxEntries)
	v.call = func(fd uintptr) bool {
		for {
			n, errno := readv(fd, v.iovs)
			if errno == unix.EINTR {
				continue
			}
			v.n, v.err = n, nil
			if errno != 0 {
				v.err = errno
			}
			return errno != unix.EAGAIN
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
	v.store = v.store[:0]
	for _, b := range bufs {
		v.store = append(v.store, iovec(b))
	}
	v.iovs = v.store
	for len(v.iovs) > 0 {
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
		v.iovs = consume(v.iovs, v.n)
		if err := v.got(v.n); err != nil {
			return total, err
		}
	}
	return total, nil
}

func (v *vectored) readEach(bufs [][]byte) (int, error) {
	total := 0
	for _, b := range bufs {
		for len(b) > 0 {
			n, err := v.nc.Read(b)
			total, b = total+n, b[n:]
			if errGot := v.got(n); err == nil {
				err = errGot
			}
			if err != nil && len(b) > 0 {
				return total, err
			}
		}
	}
	return total, nil
}

// consume drops the first n bytes of what iovs point to.
func consume(iovs []unix.Iovec, n int) []unix.Iovec {
	for len(iovs) > 0 && uint64(n) >= iovs[0].Len {
		n -= int(iovs[0].Len)
		iovs = iovs[1:]
	}
	if n > 0 {
		iovs[0] = advance(iovs[0], n)
	}
	return iovs
}
