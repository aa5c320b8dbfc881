package trial

import (
	"errors"
	"fmt"
	"math"
	"net"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Link is a shaped link between two network namespaces, which it owns.
type Link struct {
	source, destination netns.NsHandle
	bitsPerSecond       int64
}

// The addresses at the ends of a Link, which nobody else can see.
const (
	sourceAddress      = "192.0.2.1/30" // TEST-NET-1, RFC 5737
	destinationAddress = "192.0.2.2/30"
	sourceEnd          = "source0"
	destinationEnd     = "destination0"
)

// ErrLink is returned if a link cannot be built.
var ErrLink = errors.New("cannot build network namespaces with a shaped link (it takes " +
	"CAP_NET_ADMIN and CAP_SYS_ADMIN, so run as root)")

// NewLink builds a link of that rate. Close removes it, and so does the end of this process.
func NewLink(bitsPerSecond int64) (*Link, error) {
	if bitsPerSecond <= 0 {
		return nil, fmt.Errorf("a link of %d bit/s carries nothing", bitsPerSecond)
	}
	l := &Link{source: netns.None(), destination: netns.None(), bitsPerSecond: bitsPerSecond}
	if err := l.build(); err != nil {
		l.Close()
		return nil, fmt.Errorf("%w: %w", ErrLink, err)
	}
	return l, nil
}

// sentBytes is how many bytes the source's end has sent so far, by the kernel's account. It is 0
// for the loopback, where nobody counts.
func (l *Link) sentBytes() (n int64, err error) {
	if l == nil {
		return 0, nil
	}
	err = within(l.source, func() error {
		end, err := netlink.LinkByName(sourceEnd)
		if err != nil {
			return fmt.Errorf("count at %s: %w", sourceEnd, err)
		}
		n = int64(end.Attrs().Statistics.TxBytes)
		return nil
	})
	return n, err
}

// Close releases the namespaces. They end with the last process in them, and the link ends with
// them.
func (l *Link) Close() {
	for _, ns := range []*netns.NsHandle{&l.source, &l.destination} {
		if ns.IsOpen() {
			ns.Close()
		}
	}
}

func (l *Link) build() error {
	for _, ns := range []*netns.NsHandle{&l.source, &l.destination} {
		fresh, err := newNamespace()
		if err != nil {
			return err
		}
		*ns = fresh
	}
	err := within(l.source, func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: sourceEnd},
			PeerName:      destinationEnd,
			PeerNamespace: netlink.NsFd(int(l.destination)),
		})
	})
	if err != nil {
		return fmt.Errorf("make a veth pair: %w", err)
	}
	if err := within(l.source, func() error {
		return l.setUp(sourceEnd, sourceAddress)
	}); err != nil {
		return err
	}
	return within(l.destination,
		func() error { return l.setUp(destinationEnd, destinationAddress) })
}

// setUp sets the address and rate of the link's end in the current namespace.
func (l *Link) setUp(name, address string) error {
	end, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return fmt.Errorf("address %s: %w", address, err)
	}
	if err := netlink.AddrAdd(end, addr); err != nil {
		return fmt.Errorf("give %s its address: %w", name, err)
	}
	if err := netlink.QdiscAdd(l.shaper(end.Attrs().Index)); err != nil {
		return fmt.Errorf("shape %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(end); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// shaper is a token bucket filter, tc-tbf(8). The bucket must hold what passes between two ticks of
// a coarse clock, and at least one segment as the kernel makes them for the device (64 KiB). The
// queue holds about 20 ms.
func (l *Link) shaper(index int) *netlink.Tbf {
	bytesPerS := float64(l.bitsPerSecond) / 8
	bucket := uint32(min(math.MaxUint32, max(128<<10, bytesPerS*0.004)))
	queue := uint32(min(math.MaxUint32, max(256<<10, bytesPerS*0.020)))
	return &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT,
		},
		Rate: uint64(bytesPerS),
		// The kernel takes the bucket's size as the time to send it.
		Buffer: netlink.Xmittime(uint64(bytesPerS), bucket),
		Limit:  bucket + queue,
	}
}

func hostOf(cidr string) string {
	ip, _, err := net.ParseCIDR(cidr)
	if err != nil {
		panic(err) // constants of ours
	}
	return ip.String()
}

// newNamespace makes a network namespace and brings its loopback device up.
func newNamespace() (netns.NsHandle, error) {
	fresh := netns.None()
	err := onOwnThread(func() error {
		var err error
		// New also enters the namespace.
		if fresh, err = netns.New(); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find the loopback device: %w", err)
		}
		return netlink.LinkSetUp(lo)
	})
	return fresh, err
}

func within(ns netns.NsHandle, f func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(ns); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

// onOwnThread calls f on a thread whose network namespace f may change. The thread returns to its
// first namespace, and is thrown away only if that fails: the end of a thread looks like the death
// of their parent to the processes that f started.
func onOwnThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			done <- fmt.Errorf("find this thread's network namespace: %w", err)
			return
		}
		defer home.Close()
		err = f()
		if back := retry(func() error { return netns.Set(home) }); back != nil {
			done <- errors.Join(err, fmt.Errorf("go back to the own network namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

func retry(f func() error) error {
	var err error
	for range 10 {
		if err = f(); !errors.Is(err, unix.EINTR) {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return err
}
