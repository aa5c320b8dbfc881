package virtio

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestDiskLocks: readers share a disk, and a lock ends when its disk is closed.
func TestDiskLocks(t *testing.T) {
	path, _ := newFile(t)
	reader := DiskConfig{Path: path, Cache: CacheHost, Lock: LockOFD, ReadOnly: true}
	writer := reader
	writer.ReadOnly = false
	a, b := openDisk(t, reader), openDisk(t, reader)
	_, err := own(writer)
	require.ErrorIs(t, err, errInUse)
	a.Close()
	a.Close()
	_, err = own(writer)
	require.ErrorIs(t, err, errInUse)
	b.Close()
	openDisk(t, writer)
}

// TestOwnership hands a disk over and back: it has at most one owner, and a former owner gets it
// back only if it is unchanged.
func TestOwnership(t *testing.T) {
	path, _ := newFile(t)
	c := DiskConfig{Path: path, Cache: CacheHost, Lock: LockOFD}
	open := func() *Disk {
		d, err := OpenDisk(c, noLog)
		require.NoError(t, err)
		t.Cleanup(d.Close)
		return d
	}
	source, destination := open(), open()
	require.NoError(t, source.Own(t.Context()))
	require.NoError(t, source.Own(t.Context()), "once more")
	require.ErrorIs(t, destination.Own(t.Context()), errInUse)
	require.NoError(t, source.Release(t.Context()))
	require.NoError(t, source.Release(t.Context()), "once more")
	require.NoError(t, source.Own(t.Context()), "nobody took it")
	require.NoError(t, source.Release(t.Context()))
	require.NoError(t, destination.Own(t.Context()))
	require.ErrorIs(t, source.Own(t.Context()), errInUse)
	require.NoError(t, destination.Release(t.Context()))
	require.NoError(t, source.Own(t.Context()), "nobody wrote it")
	require.NoError(t, source.Release(t.Context()))
	for name, change := range map[string]func(){
		"written": func() {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = f.WriteAt([]byte{1}, 4096)
			require.NoError(t, err)
			require.NoError(t, f.Close())
		},
		"made to look old": func() {
			require.NoError(t, os.Chtimes(path, time.Time{}, time.Unix(1, 0)))
		},
		"longer": func() { require.NoError(t, os.Truncate(path, 2*testDisk)) },
	} {
		fresh := open()
		require.NoError(t, fresh.Own(t.Context()), name)
		require.NoError(t, fresh.Release(t.Context()))
		time.Sleep(20 * time.Millisecond) // so that the file's times differ
		change()
		require.ErrorContains(t, fresh.Own(t.Context()), "disk "+path+": it", name)
		require.ErrorContains(t, source.Own(t.Context()), "disk "+path+": it", name)
		require.NoError(t, os.Truncate(path, testDisk))
	}
}

// TestReleaseThatFails: a disk that cannot be made durable keeps its owner. The host reports that
// only once, so the disk is released only after the guest's next flush has told it.
func TestReleaseThatFails(t *testing.T) {
	path, _ := newFile(t)
	c := DiskConfig{Path: path, Cache: CacheHost, Lock: LockOFD}
	disk := openDisk(t, c)
	said := []error{unix.EINTR, unix.EIO}
	disk.Intercept(func(op Op) error {
		if op != OpSync || len(said) == 0 {
			return nil
		}
		defer func() { said = said[1:] }()
		return said[0]
	})
	for range 2 {
		require.ErrorContains(t, disk.Release(t.Context()),
			"disk "+path+": make it durable: input/output error")
		require.True(t, disk.owned)
		_, err := own(c)
		require.ErrorIs(t, err, errInUse)
	}
	require.ErrorIs(t, disk.flush(), unix.EIO)
	require.NoError(t, disk.flush())
	require.NoError(t, disk.Release(t.Context()))
	openDisk(t, c)
}

// TestSameDisk: a destination finds out whether a file is the source's.
func TestSameDisk(t *testing.T) {
	path, content := newFile(t)
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, content, 0o600))
		return path
	}
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(path, link))
	c := DiskConfig{Path: path, Cache: CacheHost, Lock: LockOFD}
	source := openDisk(t, c)
	with := func(change func(c *DiskConfig)) DiskConfig {
		other := c
		change(&other)
		return other
	}
	for _, test := range []struct {
		name string
		disk DiskConfig
		want string
	}{
		{"the same", c, ""},
		{"by another name", with(func(c *DiskConfig) { c.Path = link }), ""},
		{
			"a copy", with(func(c *DiskConfig) { c.Path = file("copy", content) }),
			"it is not the source's disk",
		},
		{
			"shorter", with(func(c *DiskConfig) { c.Path = file("shorter", content[512:]) }),
			"it has 1048064 bytes, and the source's 1048576",
		},
		{
			"readonly", with(func(c *DiskConfig) { c.ReadOnly = true }),
			"only one of it and the source's is readonly",
		},
		{
			"no lock", with(func(c *DiskConfig) { c.Lock = LockNone }),
			"only one of it and the source's has lock=none",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, err := OpenDisk(test.disk, noLog)
			require.NoError(t, err)
			defer d.Close()
			if test.want == "" {
				require.NoError(t, d.Is(source.Identity()))
				require.NotEqual(t, source.Identity(), d.Identity(), "each has a proof of its own")
				return
			}
			require.ErrorContains(t, d.Is(source.Identity()), test.want)
		})
	}
	d, err := OpenDisk(c, noLog)
	require.NoError(t, err)
	defer d.Close()
	blocks, data := source.Identity(), source.Identity()
	blocks.BlockBytes, data.Proof = 4096, 1
	require.ErrorContains(t, d.Is(blocks), "it has blocks of 512 bytes, and the source's of 4096")
	require.ErrorContains(t, d.Is(data), "among the data")
	source.Close()
	require.ErrorContains(t, d.Is(blocks), "blocks")
	require.ErrorContains(t, d.Is(source.Identity()), "it is not the source's disk",
		"a source that is gone proves nothing")
	readOnly := with(func(c *DiskConfig) { c.ReadOnly = true })
	require.NoError(t, openDisk(t, readOnly).Is(openDisk(t, readOnly).Identity()))
	free := with(func(c *DiskConfig) { c.Lock = LockNone })
	require.NoError(t, openDisk(t, free).Is(openDisk(t, free).Identity()), "at their user's word")
}
