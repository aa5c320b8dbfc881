// Command taps makes TAP interfaces with several queues, which stay and belong to nobody. It does
// what ip tuntap does, which busybox does not have.
//
//	taps NAME...
package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func main() {
	for _, name := range os.Args[1:] {
		if err := makeTAP(name); err != nil {
			fmt.Println("taps:", err)
			os.Exit(1)
		}
	}
}

func makeTAP(name string) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, r); err != nil {
		return err
	}
	return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1)
}
