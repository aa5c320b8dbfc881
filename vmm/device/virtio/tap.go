package virtio

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const tunDevice = "/dev/net/tun"

// tap is a TAP interface of the host: an interface whose other end is a file. The kernel takes and
// gives frames with the same header as a driver of virtio, so they pass as they are.
type tap struct {
	file *os.File
	raw  syscall.RawConn
	lost func(error) // tells the log that frames are lost

	offloads atomic.Uint64 // what the kernel was told, and bit 63 once it was told

	mu      sync.Mutex // guards what follows
	failing bool
	lastBad time.Time
}

// openTAP attaches to an interface that is there. The kernel lets its owner do that without
// privileges.
func openTAP(name string, lost func(error)) (*tap, error) {
	if len(name) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("want the name of an interface, at most %d bytes", unix.IFNAMSIZ-1)
	}
	// The kernel would make an interface for a privileged user, connected to nothing.
	if _, err := net.InterfaceByName(name); err != nil {
		return nil, fmt.Errorf("there is no such interface: make one with "+
			"ip tuntap add dev %s mode tap user $USER", name)
	}
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return nil, errors.New("no " + tunDevice + ": load the kernel's module tun")
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", tunDevice, err)
	}
	if err := attachTAP(fd, name); err != nil {
		unix.Close(fd)
		return nil, err
	}
	t := &tap{file: os.NewFile(uintptr(fd), tunDevice), lost: lost}
	if t.raw, err = t.file.SyscallConn(); err != nil {
		t.file.Close()
		return nil, err
	}
	return t, nil
}

func attachTAP(fd int, name string) error {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	switch err := unix.IoctlIfreq(fd, unix.TUNSETIFF, r); {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("it belongs to another user: make one for this user with "+
			"ip tuntap add dev %s mode tap user $USER", name)
	case errors.Is(err, unix.EINVAL):
		return errors.New("it is not a TAP interface, or has several queues: make one with " +
			"ip tuntap add mode tap, without multi_queue")
	case errors.Is(err, unix.EBUSY):
		return errors.New("in use: another process is attached to it")
	case err != nil:
		return fmt.Errorf("attach to it: %w", err)
	}
	return setHeader(fd)
}

// setHeader makes the header before each frame the one that drivers of virtio 1 use.
func setHeader(fd int) error {
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, netHeaderBytes); err != nil {
		return fmt.Errorf("set the size of its header: %w", err)
	}
	return setOffloads(fd, 0)
}

// Bits of TUNSETOFFLOAD: what of frames for the guest may be unfinished (linux/if_tun.h).
const (
	tunChecksum = 0x01
	tunTSO4     = 0x02
	tunTSO6     = 0x04
	tunECN      = 0x08
)

func setOffloads(fd int, features uint64) error {
	bits := 0
	for _, b := range []struct {
		feature uint64
		bit     int
	}{
		{netGuestChecksum, tunChecksum},
		{netGuestChecksum | netGuestTSO4, tunTSO4},
		{netGuestChecksum | netGuestTSO6, tunTSO6},
	} {
		if features&b.feature == b.feature {
			bits |= b.bit
		}
	}
	if features&netGuestECN != 0 && bits&(tunTSO4|tunTSO6) != 0 {
		bits |= tunECN
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, bits); err != nil {
		return fmt.Errorf("set its offloads: %w", err)
	}
	return nil
}

// offload implements [wire]. It asks the kernel only if something has changed.
func (t *tap) offload(features uint64) {
	const told = 1 << 63
	features = features&netOffloads | told
	if t.offloads.Swap(features) == features {
		return
	}
	var err error
	// Control returns an error of its own once the file is closed.
	_ = t.raw.Control(func(fd uintptr) { err = setOffloads(int(fd), features) })
	if err != nil {
		t.note(err) // a driver may start over as often as it likes
	}
}

func (t *tap) receive(frame []byte) (int, error) {
	for {
		n, err := t.file.Read(frame)
		switch {
		case errors.Is(err, os.ErrClosed):
			return 0, errClosed
		case err != nil:
			return 0, fmt.Errorf("read from the interface: %w", err)
		case n >= netHeaderBytes+minFrame:
			return n, nil
		}
	}
}

// reconnect implements [wire]: an interface that was deleted does not come back.
func (t *tap) reconnect() bool { return false }

// send implements [wire]. The kernel checks the header, which the guest may change at any time.
func (t *tap) send(parts [][]byte) {
	var err error
	e := t.raw.Write(func(fd uintptr) bool {
		_, err = unix.Writev(int(fd), parts)
		return true // a full queue loses the frame
	})
	switch {
	case e != nil: // closed
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		// The frame makes no sense, or was too much at once.
	default:
		t.note(err)
	}
}

// note tells the log when frames begin to be lost because of the interface. It says so again only
// after it has worked, and not more often than every [calm].
func (t *tap) note(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		t.failing = false
		return
	}
	if !t.failing && time.Since(t.lastBad) >= calm {
		if errors.Is(err, unix.EIO) {
			err = errors.New("the interface is down: use ip link set up")
		}
		t.lost(err)
	}
	t.failing, t.lastBad = true, time.Now()
}

func (t *tap) hold()    {}
func (t *tap) release() {}
func (t *tap) close()   { t.file.Close() }
