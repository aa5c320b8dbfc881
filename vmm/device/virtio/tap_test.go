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
		card := func(name string) error {
			n, err := OpenNet(NetConfig{Backend: NetTAP, Name: name}, noLog)
			if err == nil {
				t.Cleanup(n.Close)
			}
			return err
		}
		require.ErrorContains(t, card("many"), "has several queues")
		require.ErrorContains(t, card("lo"), "not a TAP interface")
		require.NoError(t, card("tap0"))
		require.ErrorContains(t, card("tap0"), "in use: another process is attached to it")
	})
}

// TestTAPOfAUser: an interface's owner can attach to it without privileges, and others cannot.
func TestTAPOfAUser(t *testing.T) {
	inNetwork(t, func(t *testing.T) {
		const owner, other = 65534, 65533
		fd := openTUN(t)
		r, err := unix.NewIfreq("tap0")
		require.NoError(t, err)
		r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		require.NoError(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, r))
		require.NoError(t, unix.IoctlSetInt(fd, unix.TUNSETOWNER, owner))
		unix.Close(fd)
		for _, uid := range []uintptr{other, owner} {
			fd := openTUN(t)
			// This changes this thread alone. It takes the privileges, and saved-set-UID 0 gives
			// them back.
			_, _, no := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uid, 0)
			require.Zero(t, no)
			err := attachTAP(fd, "tap0")
			_, _, no = unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 0, 0)
			require.Zero(t, no)
			unix.Close(fd)
			if uid == owner {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, "it belongs to another user: make one for this user")
			}
		}
	})
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
	tap := &tap{file: f, lost: func(error) { lines++ }}
	tap.raw, err = f.SyscallConn()
	require.NoError(t, err)
	for range 10 {
		tap.offload(netGuestChecksum)
		tap.offload(0)
	}
	require.Equal(t, 1, lines)
}
