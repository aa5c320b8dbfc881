package transport

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// RoundTrip returns the shortest round trip that the kernel has measured on a TCP connection
// (tcpi_min_rtt of TCP_INFO, see tcp(7)). The kernel of the other host acknowledges, so no process
// there is waited for. ok is false if nothing was measured, and of other sockets.
func (c *Conn) RoundTrip() (shortest time.Duration, ok bool) {
	raw := socketOf(c.nc)
	if _, tcp := bareConn(c.nc).(*net.TCPConn); !tcp || raw == nil {
		return 0, false
	}
	var info *unix.TCPInfo
	err := raw.Control(func(fd uintptr) {
		info, _ = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if err != nil || info == nil || info.Min_rtt == 0 || info.Min_rtt == ^uint32(0) {
		return 0, false
	}
	return time.Duration(info.Min_rtt) * time.Microsecond, true
}
