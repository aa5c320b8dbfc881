package vmm

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"taskguide/vmm/device/virtio"
)

// What a test's guest writes to its disk.
const (
	diskBytes  = 1 << 20
	diskSector = 3
	diskData   = testBuffer + 0x1000
	diskAnswer = testBuffer + 0x2000
)

// newImage makes an image.
func newImage(t *testing.T) Disk {
	path := filepath.Join(t.TempDir(), "disk.img")
	require.NoError(t, os.WriteFile(path, make([]byte, diskBytes), 0o600))
	return Disk{Path: path, Cache: virtio.CacheHost, Lock: virtio.LockOFD}
}

// newDiskVM makes a machine with disks. When its guest runs, it rings for a request to write to the
// first disk, and ends the machine once that is done.
func newDiskVM(t *testing.T, disks ...Disk) *VM {
	return newDiskVMWith(t, awaitUsed(slotDisk, 9), disks...)
}

// newDiskVMWith makes a machine with disks and a request to write, whose guest runs a program.
func newDiskVMWith(t *testing.T, program []byte, disks ...Disk) *VM {
	vm, err := New(Config{MemoryBytes: 16 << 20, CPUs: 1, Options: Options{Disks: disks}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, vm.Close()) })
	require.NoError(t, vm.Boot(testKernel(program), nil, ""))
	setUpDevice(vm, slotDisk,
		descriptor(testBuffer, 16, 1, 1), descriptor(diskData, 512, 1, 2),
		descriptor(diskAnswer, 1, 2, 0))
	header := le.AppendUint64([]byte{1, 0, 0, 0, 0, 0, 0, 0}, diskSector)
	vm.guest.Write(testBuffer, header)
	vm.guest.Write(diskData, diskContent())
	vm.guest.Write(diskAnswer, []byte{0xee})
	return vm
}

func diskContent() []byte { return bytes.Repeat([]byte("disk"), 128) }

// copyOf makes a machine from another one's configuration, with a copy of its RAM.
func copyOf(t *testing.T, vm *VM, disks ...Disk) *VM {
	config, err := vm.Config()
	require.NoError(t, err)
	to, err := NewFromConfig(config, Options{Disks: disks})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, to.Close()) })
	copy(to.RAM().Bytes(), vm.RAM().Bytes())
	return to
}

// takes tells whether a third process may take a disk.
func takes(t *testing.T, c Disk) bool {
	d, err := virtio.OpenDisk(c, Options{}.log())
	require.NoError(t, err)
	defer d.Close()
	return d.Own(t.Context()) == nil
}

func requireWritten(t *testing.T, vm *VM, disk Disk) {
	t.Helper()
	require.EqualValues(t, 9, waitEnd(t, vm).Status)
	answer, _ := vm.guest.Slice(diskAnswer, 1)
	require.Zero(t, answer[0])
	file, err := os.ReadFile(disk.Path)
	require.NoError(t, err)
	want := make([]byte, diskBytes)
	copy(want[diskSector*512:], diskContent())
	require.True(t, bytes.Equal(want, file))
}

// TestGuestWritesItsDisk: the guest writes its disk, and nobody else can have it meanwhile.
func TestGuestWritesItsDisk(t *testing.T) {
	disk := newImage(t)
	vm := newDiskVM(t, disk)
	require.False(t, takes(t, disk))
	require.NoError(t, vm.Resume())
	requireWritten(t, vm, disk)
}

// TestDiskMovesWithItsGuest: the disk has at most one owner at any time, and the new machine serves
// a request that waited. The old machine cannot go on any more.
func TestDiskMovesWithItsGuest(t *testing.T) {
	disk := newImage(t)
	src := newDiskVM(t, disk)
	dst := copyOf(t, src, disk)
	require.False(t, takes(t, disk), "the source has it")
	require.ErrorContains(t, dst.TakeDisks(t.Context()), "in use")
	data, err := src.SaveState()
	require.NoError(t, err)
	require.NoError(t, src.ReleaseDisks(t.Context()))
	require.NoError(t, dst.LoadState(data))
	require.True(t, takes(t, disk), "nobody has it")
	require.NoError(t, dst.Run(true))
	require.False(t, takes(t, disk), "the destination has it, though it stands still")
	require.ErrorContains(t, src.Resume(), "disk "+disk.Path+": in use")
	require.False(t, src.Running())
	require.NoError(t, dst.Resume())
	requireWritten(t, dst, disk)
	require.NoError(t, dst.Close())
	require.ErrorContains(t, src.Resume(), "it changed since the guest stood still here")
	require.ErrorContains(t, src.TakeDisks(t.Context()), "it changed since")
	require.ErrorContains(t, src.ReleaseDisks(t.Context()), "it changed since",
		"nor may a further machine go on from here")
	require.False(t, src.Running())
	require.True(t, takes(t, disk))
}

// TestDiskComesBack: a source whose handover failed goes on with its disk, as soon as nobody else
// has it.
func TestDiskComesBack(t *testing.T) {
	disk, other := newImage(t), newImage(t)
	src := newDiskVM(t, other, disk)
	require.NoError(t, src.ReleaseDisks(t.Context()))
	third, err := virtio.OpenDisk(disk, Options{}.log())
	require.NoError(t, err)
	defer third.Close()
	require.NoError(t, third.Own(t.Context()))
	require.ErrorContains(t, src.Resume(), "in use")
	require.True(t, takes(t, other), "all of them or none")
	third.Close()
	require.NoError(t, src.TakeDisks(t.Context()))
	require.False(t, takes(t, disk))
	require.False(t, takes(t, other))
	require.NoError(t, src.Resume())
	requireWritten(t, src, other)
}

// TestDiskThatCannotBeLetGo: if one of them cannot be made durable, the source keeps all of them,
// and its guest goes on.
func TestDiskThatCannotBeLetGo(t *testing.T) {
	disk, bad := newImage(t), newImage(t)
	src := newDiskVM(t, disk, bad)
	var pipe [2]int
	require.NoError(t, unix.Pipe2(pipe[:], unix.O_CLOEXEC))
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	require.NoError(t, unix.Dup3(pipe[1], fdOf(t, bad), unix.O_CLOEXEC)) // it has no fdatasync
	err := src.ReleaseDisks(t.Context())
	require.ErrorContains(t, err, "disk "+bad.Path+": make it durable: invalid argument")
	require.False(t, takes(t, disk), "all of them or none")
	require.NoError(t, src.Resume())
	requireWritten(t, src, disk)
}

// fdOf is this process's file descriptor of a disk that is open once.
func fdOf(t *testing.T, disk Disk) int {
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, e := range entries {
		if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); to == disk.Path {
			fd, err := strconv.Atoi(e.Name())
			require.NoError(t, err)
			return fd
		}
	}
	require.FailNow(t, "nobody has opened the disk", disk.Path)
	return 0
}

// TestDestinationWithoutTheDisk: a destination that finds the disk taken does not run, and leaves
// the disk alone.
func TestDestinationWithoutTheDisk(t *testing.T) {
	disk := newImage(t)
	src := newDiskVM(t, disk)
	dst := copyOf(t, src, disk)
	data, err := src.SaveState()
	require.NoError(t, err)
	require.NoError(t, src.ReleaseDisks(t.Context()))
	require.NoError(t, dst.LoadState(data))
	require.NoError(t, src.TakeDisks(t.Context()))
	require.ErrorContains(t, dst.Run(false), "in use")
	require.False(t, dst.Running())
	dst.Discard()
	require.NoError(t, src.Resume())
	requireWritten(t, src, disk)
}

// TestDisksThatDoNotFit are refused before anything of the guest is sent.
func TestDisksThatDoNotFit(t *testing.T) {
	a, b := newImage(t), newImage(t)
	b.ReadOnly = true
	src := newDiskVM(t, a, b)
	config, err := src.Config()
	require.NoError(t, err)
	writable := b
	writable.ReadOnly = false
	none, err := newTestVM(t, 1, nil).Config()
	require.NoError(t, err)
	endless := bytes.Replace(config, []byte(`"disks":[`),
		[]byte(`"disks":[`+strings.Repeat("{},", 100_000)), 1)
	for _, c := range []struct {
		name   string
		config []byte
		disks  []Disk
		want   string
	}{
		{
			"none", config, nil, "it has 2 and 0 were given: use vmm run --incoming " +
				"--disk FILE --disk FILE,readonly",
		},
		{"one", config, []Disk{a}, "it has 2 and 1 were given"},
		{"swapped", config, []Disk{b, a}, "only one of it and the source's is readonly"},
		{"writable", config, []Disk{a, writable}, "only one of it and the source's is readonly"},
		{"another", config, []Disk{newImage(t), b}, "it is not the source's disk at this place"},
		{"missing", config, []Disk{a, {Path: "/nothing"}}, "there is no such file"},
		{"more than any machine", endless, []Disk{a, b}, "it has 100002, more than any machine"},
		{"for a guest without", none, []Disk{a}, "it has 0 and 1 were given: use vmm run " +
			"--incoming without --disk, --net and --vsock"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := NewFromConfig(c.config, Options{Disks: c.disks})
			require.ErrorContains(t, err, c.want)
		})
	}
	_, err = New(Config{MemoryBytes: 16 << 20, CPUs: 1, Options: Options{
		Disks: make([]Disk, virtio.MaxDisks+1),
	}})
	require.ErrorContains(t, err, "17 disks: a machine has at most 16")
	require.NoError(t, src.Resume(), "none of it touched the source")
	requireWritten(t, src, a)
}
