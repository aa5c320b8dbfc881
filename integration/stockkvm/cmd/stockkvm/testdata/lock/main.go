// Command lock takes the write lock of a file's first byte, as vmm does with a disk that it owns,
// and keeps it until its input ends. It fails at once if somebody else has it.
package main

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

func main() {
	f, err := os.OpenFile(os.Args[1], os.O_RDWR|unix.O_DIRECT, 0)
	if err == nil {
		first := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Len: 1}
		err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &first)
	}
	if err != nil {
		fmt.Println("not locked:", err)
		os.Exit(1)
	}
	fmt.Println("locked")
	_, _ = io.Copy(io.Discard, os.Stdin)
}
