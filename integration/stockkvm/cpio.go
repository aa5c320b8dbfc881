package stockkvm

import (
	"fmt"
	"io"
	"math"
)

// cpioWriter writes the "newc" cpio format that the kernel unpacks as its
// initramfs (Documentation/driver-api/early-userspace/buffer-format.rst): a
// header of fixed-width hexadecimal fields, the name, the data, each padded to 4
// bytes.
type cpioWriter struct {
	w     io.Writer
	n     int64
	inode int
	err   error
}

const (
	modeDir     = 0o040000
	modeRegular = 0o100000
	modeSymlink = 0o120000
)

func newCPIOWriter(w io.Writer) *cpioWriter { return &cpioWriter{w: w} }

// Dir adds a directory with the given permissions. Parents must come before their contents.
func (c *cpioWriter) Dir(name string, perm uint32) { c.entry(name, modeDir|perm, nil) }

// File adds a regular file with the given permissions.
func (c *cpioWriter) File(name string, perm uint32, data []byte) {
	c.entry(name, modeRegular|perm, data)
}

// Symlink adds a symbolic link to target.
func (c *cpioWriter) Symlink(name, target string) {
	c.entry(name, modeSymlink|0o777, []byte(target))
}

// Close ends the archive. It returns the first error of all writes.
func (c *cpioWriter) Close() error {
	c.entry("TRAILER!!!", 0, nil)
	return c.err
}

func (c *cpioWriter) entry(name string, mode uint32, data []byte) {
	if uint64(len(data)) > math.MaxUint32 && c.err == nil {
		c.err = fmt.Errorf("%s has %d bytes: the format ends at 4 GiB, give it as a disk",
			name, len(data))
	}
	c.inode++
	c.write(fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		c.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0))
	c.write([]byte(name + "\x00"))
	c.pad()
	c.write(data)
	c.pad()
}

func (c *cpioWriter) pad() {
	if rest := c.n % 4; rest != 0 {
		c.write(make([]byte, 4-rest))
	}
}

func (c *cpioWriter) write(p []byte) {
	if c.err != nil {
		return
	}
	n, err := c.w.Write(p)
	c.n += int64(n)
	c.err = err
}
