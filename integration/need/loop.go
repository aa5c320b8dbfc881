package need

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// LoopDevice returns a block device with the content of a file. It ends with the test.
func LoopDevice(t testing.TB, file string) string {
	t.Helper()
	if os.Getuid() != 0 {
		Skip(t, "only root can make a loop device")
	}
	backing := open(t, file)
	defer backing.Close()
	control := open(t, "/dev/loop-control")
	defer control.Close()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Fatal("find a free loop device: ", err)
		}
		device := open(t, fmt.Sprintf("/dev/loop%d", n))
		err = unix.IoctlSetInt(int(device.Fd()), unix.LOOP_SET_FD, int(backing.Fd()))
		if errors.Is(err, unix.EBUSY) {
			device.Close()
			continue // somebody else was faster
		}
		if err != nil {
			t.Fatal("set up a loop device: ", err)
		}
		t.Cleanup(func() {
			if err := unix.IoctlSetInt(int(device.Fd()), unix.LOOP_CLR_FD, 0); err != nil {
				t.Error("free a loop device: ", err)
			}
			device.Close()
		})
		return device.Name()
	}
}

// open opens what a loop device needs.
func open(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		Skip(t, "no loop devices here: "+err.Error())
	}
	return f
}

// SmallFileSystem mounts a file system in memory, with room for some bytes, at a folder that it
// makes. It ends with the test.
func SmallFileSystem(t testing.TB, folder string, bytes int64) {
	t.Helper()
	if os.Getuid() != 0 {
		Skip(t, "only root can mount a file system")
	}
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	size := fmt.Sprintf("size=%d", bytes)
	if err := unix.Mount("tmpfs", folder, "tmpfs", unix.MS_NODEV, size); err != nil {
		Skip(t, "no file system can be mounted here: "+err.Error())
	}
	t.Cleanup(func() {
		// Detached, because a process that has just been killed may still have a file open there.
		if err := unix.Unmount(folder, unix.MNT_DETACH); err != nil {
			t.Error("unmount ", folder, ": ", err)
		}
	})
}
