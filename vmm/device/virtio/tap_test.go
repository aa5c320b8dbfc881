package virtio

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"taskguide/integration/need"
)

// inNetwork runs a test on a thread in a network namespace of its own, with a TAP interface tap0.
func inNetwork(t *testing.T, test func(t *testing.T)) {
	if _, err := os.Stat(tunDevice); os.Getuid() != 0 || err != nil {
		need.Skip(t, "needs root and "+tunDevice)
	}
	t.Run("in a namespace", func(t *testing.T) {
		runtime.LockOSThread() // never unlocked: the thread ends with the test
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			need.Skip(t, "no network namespaces: "+err.Error())
		}
		makeTAP(t, "tap0", 0)
		test(t)
	})
}

func openTUN(t *testing.T) int {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	return fd
}

// makeTAP makes an interface that stays, and is up.
func makeTAP(t *testing.T, name string, flags uint16) {
	fd := openTUN(t)
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	require.NoError(t, err)
	r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | flags)
	require.NoError(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, r))
	require.NoError(t, unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1))
	setFlags(t, name, unix.IFF_UP)
}

// setFlags takes an interface up or down.
func setFlags(t *testing.T, name string, flags uint16) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(s)
	r, err := unix.NewIfreq(name)
	require.NoError(t, err)
	r.SetUint16(flags)
	require.NoError(t, unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r))
}

// station sends and receives frames of one protocol at an interface of the host.
type station struct {
	t  *testing.T
	fd int
}

const testProtocol = 0x88b5 // for experiments

func newStation(t *testing.T, name string) *station {
	i, err := net.InterfaceByName(name)
	require.NoError(t, err)
	protocol := binary.NativeEndian.Uint16([]byte{testProtocol >> 8, testProtocol & 0xff})
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(protocol))
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	require.NoError(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: i.Index}))
	timeout := unix.NsecToTimeval(int64(patience))
	require.NoError(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout))
	return &station{t, fd}
}

// payload is a frame of n bytes for an address.
func payload(to MAC, n int) []byte {
	f := append(to[:], 2, 0, 0, 0, 0, 1, testProtocol>>8, testProtocol&0xff)
	return append(f, bytes.Repeat([]byte{byte(n)}, n-len(f))...)
}

func (s *station) read() []byte {
	s.t.Helper()
	b := make([]byte, 1<<16)
	n, err := unix.Read(s.fd, b)
	require.NoError(s.t, err)
	return b[:n]
}

// TestNetOnATAP: a card's frames are those of the interface, whose offloads are what the driver
// agreed on. The log says once that the interface is down.
func TestNetOnATAP(t *testing.T) {
	inNetwork(t, func(t *testing.T) {
		var log bytes.Buffer
		n, err := OpenNet(NetConfig{Backend: NetTAP, Name: "tap0", MAC: testMAC},
			slog.New(slog.NewTextHandler(&log, nil)))
		require.NoError(t, err)
		require.True(t, n.Identity().Offloads())
		dev := NewNet(newRNG().host, 0, n, noLog)
		d, _ := newDriver(t, dev)
		dev.Resume()
		d.start(64, netGuestTSO6|netGuestECN)
		s := newStation(t, "tap0")
		d.offerRoom(8, 2048)

		f := payload(testMAC, 600)
		_, err = unix.Write(s.fd, f)
		require.NoError(t, err)
		await(t, func() bool { // among others: the host's kernel says hello by IPv6
			for i := range d.queues[queueReceive].given() {
				if bytes.Equal(f, d.received(i)[netHeaderBytes:]) {
					return true
				}
			}
			return false
		})
		await(t, func() bool {
			const told = netChecksum | netGuestChecksum | netGuestTSO4 | netHostTSO4 |
				netHostTSO6 | netHostECN | 1<<63
			return n.wire.(*tap).offloads.Load() == told
		})

		out := append(make([]byte, netHeaderBytes), payload(MAC{2, 0, 0, 0, 0, 9}, 900)...)
		d.ram.Write(requestAt, out)
		send := func() {
			d.queues[queueTransmit].do(desc{gpa: requestAt, bytes: 12},
				desc{gpa: requestAt + 12, bytes: 900})
		}
		send()
		require.True(t, bytes.Equal(out[netHeaderBytes:], s.read()))
		d.ram.Write(requestAt, []byte{0, 0x7f}) // to be cut in a way that nobody knows
		send()
		require.Empty(t, log.String(), "that is the guest's own affair")
		d.ram.Write(requestAt, []byte{0, 0})
		setFlags(t, "tap0", 0)
		for range 3 {
			send()
		}
		require.Equal(t, 1, bytes.Count(log.Bytes(), []byte("\n")))
		require.Contains(t, log.String(), "the interface is down: use ip link set up")
	})
}

// TestTAPRefusals: an interface that cannot be a card is refused by a line that says what to do.
func TestTAPRefusals(t *testing.T) {
	inNetwork(t, func(t *testing.T) {
		makeTAP(t, "many", unix.IFF_MULTI_QUEUE)
		card := func(name string, queues int) error {
			n, err := OpenNet(NetConfig{Backend: NetTAP, Name: name, Queues: queues}, noLog)
			if err == nil {
				t.Cleanup(n.Close)
			}
			return err
		}
		require.ErrorContains(t, card("many", 1), "has several queues")
		require.ErrorContains(t, card("lo", 1), "not a TAP interface")
		require.ErrorContains(t, card("lo", 2), "not a TAP interface")
		require.ErrorContains(t, card("tap0", 2), "has one queue: make one with "+
			"ip tuntap add mode tap multi_queue, or leave queues= out")
		require.NoError(t, card("tap0", 1))
		require.ErrorContains(t, card("tap0", 1), "in use: another process is attached to it")
		// The kernel would let another process in, and give it frames of the guest's.
		require.NoError(t, card("many", 2))
		require.ErrorContains(t, card("many", 2), "in use: another process is attached to it")
		makeTAP(t, "others", unix.IFF_MULTI_QUEUE)
		fd := openTUN(t)
		defer unix.Close(fd)
		require.NoError(t, attachTAP(fd, "others", 2))
		require.ErrorContains(t, card("others", 3), "in use: another process is attached to it")
	})
}

// TestNetOnATAPWithQueues: each frame of the host comes to one of the card's queues, and those of
// one connection all to the same. What the driver sends by any queue goes out. So it is again after
// the card was closed and another one opened.
func TestNetOnATAPWithQueues(t *testing.T) {
	inNetwork(t, func(t *testing.T) {
		makeTAP(t, "many", unix.IFF_MULTI_QUEUE)
		setMTU(t, "many", 9000)
		s := newStation(t, "many")
		i, err := net.InterfaceByName("many")
		require.NoError(t, err)
		protocol := binary.NativeEndian.Uint16([]byte{8, 0})
		ipv4 := &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: i.Index}
		for range 2 {
			n, err := OpenNet(NetConfig{
				Backend: NetTAP, Name: "many", MAC: testMAC, Queues: 3,
			}, noLog)
			require.NoError(t, err)
			require.Equal(t, 3, n.Identity().Pairs)
			require.Equal(t, 9000, n.Identity().MTU)
			dev := NewNet(newRNG().host, 0, n, noLog)
			d, _ := newDriver(t, dev)
			dev.Resume()
			d.start(64, 0)
			require.EqualValues(t, 9000, d.read(barConfig+netConfigMTU, 2))
			require.EqualValues(t, controlOK, d.usePairs(3))
			for pair := range 3 {
				d.queues[2*pair+queueReceive].offerAt(64)
			}
			const flows = 16
			for flow := range byte(flows) {
				for range 2 {
					require.NoError(t, unix.Sendto(s.fd, datagram(testMAC, flow), 0, ipv4))
				}
			}
			var by map[byte][]int // the queues of each flow's frames
			await(t, func() bool {
				frames := 0
				by = map[byte][]int{}
				for pair := range 3 {
					r := d.queues[2*pair+queueReceive]
					for i := range r.given() {
						f := r.got(i)[netHeaderBytes:]
						if len(f) > 42 && bytes.Equal(f[12:14], []byte{8, 0}) {
							by[f[42]] = append(by[f[42]], pair)
							frames++
						}
					}
				}
				return frames == 2*flows
			})
			used := map[int]bool{}
			for flow, queues := range by {
				require.Len(t, queues, 2, flow)
				require.Equal(t, queues[0], queues[1], flow)
				used[queues[0]] = true
			}
			require.Greater(t, len(used), 1)
			for pair := range 3 {
				f := payload(MAC{2, 0, 0, 0, 0, 9}, 100+pair)
				d.ram.Write(requestAt, append(make([]byte, netHeaderBytes), f...))
				d.queues[2*pair+queueTransmit].do(desc{
					gpa: requestAt, bytes: uint32(netHeaderBytes + len(f)),
				})
				require.True(t, bytes.Equal(f, s.read()), pair)
			}
			dev.Close()
		}
	})
}

// datagram is a UDP datagram of one of several connections, with the number of the connection.
func datagram(to MAC, flow byte) []byte {
	f := append(to[:], 2, 0, 0, 0, 0, 1, 8, 0)
	f = append(f, 0x45, 0, 0, 20+8+20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2)
	f = append(f, 0x30+flow, flow, 0x40, flow, 0, 8+20, 0, 0)
	return append(f, bytes.Repeat([]byte{flow}, 20)...)
}

// setMTU sets how large a packet an interface takes.
func setMTU(t *testing.T, name string, mtu int) {
	link, err := netlink.LinkByName(name)
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetMTU(link, mtu))
}

// TestTAPOfAUser: an interface's owner can attach to it without privileges, and others cannot.
func TestTAPOfAUser(t *testing.T) {
	inNetwork(t, func(t *testing.T) {
		testOwner(t, "tap0", 1)
		makeTAP(t, "many", unix.IFF_MULTI_QUEUE)
		testOwner(t, "many", 2)
	})
}

func testOwner(t *testing.T, name string, queues int) {
	const owner, other = 65534, 65533
	fd := openTUN(t)
	r, err := unix.NewIfreq(name)
	require.NoError(t, err)
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	r.SetUint16(flags)
	require.NoError(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, r))
	require.NoError(t, unix.IoctlSetInt(fd, unix.TUNSETOWNER, owner))
	unix.Close(fd)
	for _, uid := range []uintptr{other, owner} {
		var fds []int
		for range queues {
			fds = append(fds, openTUN(t))
		}
		// This changes this thread alone. It takes the privileges, and saved-set-UID 0 gives them
		// back.
		_, _, no := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uid, 0)
		require.Zero(t, no)
		var errs []error
		for _, fd := range fds {
			errs = append(errs, attachTAP(fd, name, queues))
		}
		_, _, no = unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 0, 0)
		require.Zero(t, no)
		for i, fd := range fds {
			unix.Close(fd)
			if uid == owner {
				require.NoError(t, errs[i])
			} else {
				require.ErrorContains(t, errs[i],
					"it belongs to another user: make one for this user")
			}
		}
	}
}

// TestTAPThatGoesAway: when the interface is deleted, the link goes down for good.
func TestTAPThatGoesAway(t *testing.T) {
	inNetwork(t, func(t *testing.T) {
		n, err := OpenNet(NetConfig{Backend: NetTAP, Name: "tap0", MAC: testMAC}, noLog)
		require.NoError(t, err)
		dev := NewNet(newRNG().host, 0, n, noLog)
		d, _ := newDriver(t, dev)
		dev.Resume()
		d.start(64, 0)
		deleteLink(t, "tap0")
		await(t, func() bool { return d.netStatus() == 0 })
		d.queues[queueTransmit].do(desc{gpa: requestAt, bytes: 64})
	})
}

// deleteLink deletes an interface, by RTM_DELLINK.
func deleteLink(t *testing.T, name string) {
	i, err := net.InterfaceByName(name)
	require.NoError(t, err)
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	require.NoError(t, err)
	defer unix.Close(s)
	m := binary.NativeEndian.AppendUint32(nil, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg)
	m = binary.NativeEndian.AppendUint16(m, unix.RTM_DELLINK)
	m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST)
	m = append(m, make([]byte, 8+4)...)
	m = binary.NativeEndian.AppendUint32(m, uint32(i.Index))
	m = append(m, make([]byte, 8)...)
	require.NoError(t, unix.Sendto(s, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if _, err := net.InterfaceByName(name); err != nil {
			return
		}
		require.True(t, time.Now().Before(end))
	}
}

// TestTAPOffloadsInTheLog: a driver that starts over again and again, on an interface that was
// deleted, does not fill the log.
func TestTAPOffloadsInTheLog(t *testing.T) {
	f, err := os.Open(os.DevNull) // which refuses the request as well
	require.NoError(t, err)
	defer f.Close()
	lines := 0
	raw, err := f.SyscallConn()
	require.NoError(t, err)
	tap := &tap{lanes: []lane{{f, raw}}, lost: func(error) { lines++ }}
	for range 10 {
		tap.offload(netGuestChecksum)
		tap.offload(0)
	}
	require.Equal(t, 1, lines)
}
