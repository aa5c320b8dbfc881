package virtio

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/integration/need"
)

// TestBlockDeviceThatChanged: a block device has no times that tell whether it was written, but the
// kernel counts the writes.
func TestBlockDeviceThatChanged(t *testing.T) {
	file, _ := newFile(t)
	device := need.LoopDevice(t, file)
	for _, cache := range []Cache{CacheHost, CacheAuto} {
		c := DiskConfig{Path: device, Cache: cache, Lock: LockOFD}
		disk := openDisk(t, c)
		write := func(d *Disk) {
			page, err := newBounce()
			require.NoError(t, err)
			defer page.free()
			require.NoError(t, d.transfer(d.pwritev, [][]byte{page[:4096]}, 4096))
			require.NoError(t, d.flush())
		}
		write(disk)
		require.NoError(t, disk.Release(t.Context()))
		require.NoError(t, os.Chtimes(device, time.Unix(1, 0), time.Unix(1, 0)), "as udev may do")
		require.NoError(t, disk.Own(t.Context()), "nobody wrote it")
		require.NoError(t, disk.Release(t.Context()))
		other := openDisk(t, c)
		require.ErrorIs(t, disk.Own(t.Context()), errInUse)
		write(other)
		other.Close()
		require.ErrorContains(t, disk.Own(t.Context()), "disk "+device+": it changed since", cache)
		disk.Close()
	}
}

func TestSectorsChanged(t *testing.T) {
	const counts = "    1   2   3   4   5   6   70   8   9   10   11   12   13   400   15   16  17"
	require.EqualValues(t, 470, sectorsChanged(counts))
	require.EqualValues(t, 7, sectorsChanged("1 2 3 4 5 6 7 8 9 10 11"), "of an older kernel")
	require.Zero(t, sectorsChanged(""))
	require.Zero(t, sectorsChanged(strings.Repeat("x ", 20)))
}

// TestTwice: a machine that has a file twice is told so, by whatever name.
func TestTwice(t *testing.T) {
	path, _ := newFile(t)
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(path, link))
	another, _ := newFile(t)
	writable := DiskConfig{Path: path, Cache: CacheHost, Lock: LockOFD}
	with := func(change func(c *DiskConfig)) DiskConfig {
		c := writable
		change(&c)
		return c
	}
	readOnly := with(func(c *DiskConfig) { c.ReadOnly = true })
	for _, test := range []struct {
		name          string
		first, second DiskConfig
		want          string
	}{
		{"the same", writable, writable, "disk " + path + ": given twice"},
		{"one readonly", readOnly, writable, "disk " + path + ": given twice"},
		{"both readonly", readOnly, readOnly, ""},
		{
			"by another name", writable, with(func(c *DiskConfig) { c.Path = link }),
			"disk " + link + ": the same file as disk " + path,
		},
		{"another", writable, with(func(c *DiskConfig) { c.Path = another }), ""},
		{
			"at the user's word", writable, with(func(c *DiskConfig) { c.Lock = LockNone }), "",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var disks [2]*Disk
			for i, c := range []DiskConfig{test.first, test.second} {
				d, err := OpenDisk(c, noLog)
				require.NoError(t, err)
				defer d.Close()
				disks[i] = d
			}
			if err := disks[1].Twice(disks[0]); test.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, test.want)
			}
		})
	}
}
