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

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const tunDevice = "/dev/net/tun"

// tap is a TAP interface of the host: an interface whose other end is a file. The kernel takes and
// gives frames with the same header as a driver of virtio, so they pass as they are. An interface
// with several queues has a file for each of them. The kernel passes the frames of a connection to
// the queue by which the last frame of that connection came.
type tap struct {
	lanes []lane
	mtu   int
	lost  func(error) // tells the log that frames are lost

	offloads atomic.Uint64 // what the kernel was told, and bit 63 once it was told

	mu      sync.Mutex // guards what follows
	failing bool
	lastBad time.Time
}

// lane is a queue of an interface.
type lane struct {
	file *os.File
	raw  syscall.RawConn
}

// openTAP attaches to an interface that is there, with so many queues. The kernel lets its owner do
// that without privileges.
func openTAP(name string, queues int, lost func(error)) (*tap, error) {
	if len(name) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("want the name of an interface, at most %d bytes", unix.IFNAMSIZ-1)
	}
	// The kernel would make an interface for a privileged user, connected to nothing.
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("there is no such interface: make one with "+
			"ip tuntap add dev %s mode tap%s user $USER", name, multiQueueWord(queues))
	}
	t := &tap{mtu: i.MTU, lost: lost}
	if err := t.open(name, i.Index, queues); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// multiQueueWord is what ip tuntap wants for an interface with several queues.
func multiQueueWord(queues int) string {
	if queues > 1 {
		return " multi_queue"
	}
	return ""
}

// open opens the queues. The kernel lets several processes attach to an interface with several
// queues, and would share the guest's frames among them. So the number of queues is compared before
// the first one, which could take frames from somebody, and after the last one.
func (t *tap) open(name string, index, queues int) error {
	if queues > 1 {
		if err := checkQueues(index, 0); err != nil {
			return err
		}
	}
	for range queues {
		if err := t.openLane(name, queues); err != nil {
			return err
		}
	}
	if queues > 1 {
		return checkQueues(index, queues)
	}
	return nil
}

var errTAPInUse = errors.New("in use: another process is attached to it")

// checkQueues returns an error if an interface has not as many queues attached as this process has.
func checkQueues(index, ours int) error {
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		return fmt.Errorf("ask for its queues: %w", err)
	}
	if tap, ok := link.(*netlink.Tuntap); ok && tap.Queues+tap.DisabledQueues != ours {
		return errTAPInUse
	}
	return nil
}

func (t *tap) openLane(name string, queues int) error {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return errors.New("no " + tunDevice + ": load the kernel's module tun")
	case err != nil:
		return fmt.Errorf("open %s: %w", tunDevice, err)
	}
	if err := attachTAP(fd, name, queues); err != nil {
		unix.Close(fd)
		return err
	}
	l := lane{file: os.NewFile(uintptr(fd), tunDevice)}
	t.lanes = append(t.lanes, l)
	t.lanes[len(t.lanes)-1].raw, err = l.file.SyscallConn()
	return err
}

func attachTAP(fd int, name string, queues int) error {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	r.SetUint16(flags)
	switch err := unix.IoctlIfreq(fd, unix.TUNSETIFF, r); {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("it belongs to another user: make one for this user with "+
			"ip tuntap add dev %s mode tap%s user $USER", name, multiQueueWord(queues))
	case errors.Is(err, unix.EINVAL) && queues > 1:
		return errors.New("it is not a TAP interface, or has one queue: make one with " +
			"ip tuntap add mode tap multi_queue, or leave queues= out")
	case errors.Is(err, unix.EINVAL):
		return errors.New("it is not a TAP interface, or has several queues: make one with " +
			"ip tuntap add mode tap, without multi_queue, or give queues=2 or more")
	case errors.Is(err, unix.EBUSY):
		return errTAPInUse
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
	// What one queue is told holds for all of them.
	_ = t.lanes[0].raw.Control(func(fd uintptr) { err = setOffloads(int(fd), features) })
	if err != nil {
		t.note(err) // a driver may start over as often as it likes
	}
}

func (t *tap) receive(lane int, frame []byte) (int, error) {
	for {
		n, err := t.lanes[lane].file.Read(frame)
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
func (t *tap) send(lane int, parts [][]byte) {
	var err error
	e := t.lanes[lane].raw.Write(func(fd uintptr) bool {
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

func (t *tap) close() {
	for _, l := range t.lanes {
		l.file.Close()
	}
}
