package virtio

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// imprint is what shows that somebody has written a disk.
type imprint struct {
	bytes        int64
	mtime, ctime unix.StatxTimestamp // of a file
	sectors      uint64              // of a block device: written or discarded on this host
}

// look returns how the disk is now. The times of a block device's node say nothing of its content,
// so for a block device the kernel's count of what this host wrote stands for them. It does not
// count what another host writes, and it is 0 if the kernel does not count.
func (d *Disk) look() (imprint, error) {
	st, err := d.stat()
	if err != nil {
		return imprint{}, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		return imprint{bytes: int64(st.Size), mtime: st.Mtime, ctime: st.Ctime}, nil
	}
	n, err := unix.Seek(d.fd, 0, io.SeekEnd)
	if err != nil {
		return imprint{}, err
	}
	path := fmt.Sprintf("/sys/dev/block/%d:%d/stat", st.Rdev_major, st.Rdev_minor)
	counts, err := os.ReadFile(path)
	if err != nil {
		counts = nil // there is no sysfs here
	}
	return imprint{bytes: n, sectors: sectorsChanged(string(counts))}, nil
}

// sectorsChanged returns how many sectors were written or discarded, from a block device's counts
// (Documentation/block/stat.rst of the kernel).
func sectorsChanged(counts string) (n uint64) {
	const written, discarded = 6, 13 // fields, from 0
	for i, field := range strings.Fields(counts) {
		if i == written || i == discarded {
			v, _ := strconv.ParseUint(field, 10, 64)
			n += v
		}
	}
	return n
}

// sameFile tells whether two disks are the same file or block device.
func (d *Disk) sameFile(other *Disk) bool {
	a, errA := d.stat()
	b, errB := other.stat()
	switch {
	case errA != nil || errB != nil || a.Mode&unix.S_IFMT != b.Mode&unix.S_IFMT:
		return false
	case a.Mode&unix.S_IFMT == unix.S_IFBLK:
		return a.Rdev_major == b.Rdev_major && a.Rdev_minor == b.Rdev_minor
	}
	return a.Dev_major == b.Dev_major && a.Dev_minor == b.Dev_minor && a.Ino == b.Ino
}

// Twice returns an error if two disks of one machine are the same file, and their locks exclude
// each other.
func (d *Disk) Twice(before *Disk) error {
	locked := d.Lock != LockNone && before.Lock != LockNone
	if !locked || d.ReadOnly && before.ReadOnly || !d.sameFile(before) {
		return nil
	}
	if d.Path == before.Path {
		return d.wrap(errors.New("given twice: a machine can have it once, or twice readonly"))
	}
	return d.wrap(fmt.Errorf("the same file as disk %s: "+
		"a machine can have it once, or twice readonly", before.Path))
}
