package vmm

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"taskguide/vmm/device/virtio"
)

const (
	slotNet   = 24
	netHeader = 12
)

// network is a program that is a guest's network.
type network struct {
	net.Conn
	l net.Listener
}

func newNetwork(t *testing.T) (*network, Net) {
	path := filepath.Join(t.TempDir(), "net")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return &network{l: l}, Net{Backend: virtio.NetUnix, Name: path}
}

// awaitRead waits until the card has read all that was sent. It drops what it does not want right
// after that.
func (n *network) awaitRead(t *testing.T) {
	raw, err := n.Conn.(*net.UnixConn).SyscallConn()
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		left, failed := 0, error(nil)
		err := raw.Control(func(fd uintptr) {
			left, failed = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		})
		return err == nil && failed == nil && left == 0
	}, time.Minute, time.Millisecond)
}

// accept takes the connection of a machine's card.
func (n *network) accept(t *testing.T) {
	var err error
	n.Conn, err = n.l.Accept()
	require.NoError(t, err)
	require.NoError(t, n.SetDeadline(time.Now().Add(testTimeout)))
	t.Cleanup(func() { n.Close() })
}

func (n *network) send(t *testing.T, frame []byte) {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(frame)))
	_, err := n.Write(append(b, frame...))
	require.NoError(t, err)
}

func (n *network) read(t *testing.T) []byte {
	t.Helper()
	var length [4]byte
	_, err := io.ReadFull(n, length[:])
	require.NoError(t, err)
	frame := make([]byte, binary.BigEndian.Uint32(length[:]))
	_, err = io.ReadFull(n, frame)
	require.NoError(t, err)
	return frame
}

func newNetVM(t *testing.T, kernel []byte, cards ...Net) *VM {
	vm, err := New(Config{MemoryBytes: 16 << 20, CPUs: 1, Options: Options{Nets: cards}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, vm.Close()) })
	require.NoError(t, vm.Boot(testKernel(kernel), nil, ""))
	return vm
}

// TestGuestSendsAFrame: a guest's store to a doorbell sends a frame.
func TestGuestSendsAFrame(t *testing.T) {
	n, card := newNetwork(t)
	vm := newNetVM(t, awaitUsedOf(notifyOf(slotNet)+4, 9), card)
	n.accept(t)
	frame := bytes.Repeat([]byte{7}, 60)
	setUpQueue(vm, slotNet, 1, descriptor(testBuffer, netHeader+60, 0, 0))
	vm.guest.Write(testBuffer, make([]byte, netHeader))
	vm.guest.Write(testBuffer+netHeader, frame)
	require.NoError(t, vm.Resume())
	require.Equal(t, frame, n.read(t))
	require.EqualValues(t, 9, waitEnd(t, vm).Status)
}

// TestCardMoves: a guest gets a frame where it runs, and the network is told where that is. Before
// it runs there, nothing comes from the destination's card, and what comes to it is not for the
// guest. The address comes along.
func TestCardMoves(t *testing.T) {
	here, card := newNetwork(t)
	src := newNetVM(t, awaitUsed(slotNet, 9), card)
	here.accept(t)
	setUpDevice(src, slotNet, descriptor(testBuffer, 2048, 2, 0))
	config, err := src.Config()
	require.NoError(t, err)
	there, other := newNetwork(t)
	dst, err := NewFromConfig(config, Options{Nets: []Net{other}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, dst.Close()) })
	there.accept(t)
	require.Equal(t, src.config.Nets, dst.config.Nets)
	there.send(t, bytes.Repeat([]byte{1}, 60))
	there.awaitRead(t)
	copy(dst.RAM().Bytes(), src.RAM().Bytes())
	data, err := src.SaveState()
	require.NoError(t, err)
	require.NoError(t, dst.LoadState(data))
	want, err := src.StateDigest()
	require.NoError(t, err)
	digest, err := dst.StateDigest()
	require.NoError(t, err)
	require.Equal(t, want, digest)
	require.NoError(t, dst.Run(false))
	mac := src.config.Nets[0].MAC
	announced := there.read(t)
	require.Equal(t, mac[:], announced[6:12])
	require.Equal(t, []byte{0x80, 0x35}, announced[12:14])
	there.send(t, bytes.Repeat([]byte{2}, 60))
	require.EqualValues(t, 9, waitEnd(t, dst).Status)
	got, _ := dst.guest.Slice(testBuffer, netHeader+60)
	require.Equal(t, bytes.Repeat([]byte{2}, 60), got[netHeader:])
	require.NoError(t, here.SetReadDeadline(time.Now()))
	_, err = here.Read(make([]byte, 1))
	require.ErrorContains(t, err, "timeout", "the source said nothing")
}

// TestCardOfAMoveThatFails: a destination connects before it is known whether the guest moves. If
// it does not, the program has got nothing by that connection, and the guest's own has lasted.
func TestCardOfAMoveThatFails(t *testing.T) {
	own, card := newNetwork(t)
	src := newNetVM(t, awaitUsed(slotNet, 9), card)
	own.accept(t)
	setUpDevice(src, slotNet, descriptor(testBuffer, 2048, 2, 0))
	config, err := src.Config()
	require.NoError(t, err)
	dst, err := NewFromConfig(config, Options{Nets: []Net{card}})
	require.NoError(t, err)
	other := &network{l: own.l}
	other.accept(t)
	copy(dst.RAM().Bytes(), src.RAM().Bytes())
	data, err := src.SaveState()
	require.NoError(t, err)
	require.NoError(t, dst.LoadState(data))
	other.send(t, bytes.Repeat([]byte{1}, 60))
	require.NoError(t, dst.Close())
	said, _ := io.ReadAll(other) // it may end by a reset, as what was sent was not read
	require.Empty(t, said)
	require.NoError(t, src.Resume())
	own.send(t, bytes.Repeat([]byte{2}, 60))
	require.EqualValues(t, 9, waitEnd(t, src).Status)
	got, _ := src.guest.Slice(testBuffer, netHeader+60)
	require.Equal(t, bytes.Repeat([]byte{2}, 60), got[netHeader:])
}

// TestNetsThatDoNotFit are refused before anything of the guest is sent.
func TestNetsThatDoNotFit(t *testing.T) {
	n, a := newNetwork(t)
	disk := newImage(t)
	with := a
	with.MAC = virtio.MAC{2, 0, 0, 0, 0, 1}
	src, err := New(Config{MemoryBytes: 16 << 20, CPUs: 1, Options: Options{
		Nets: []Net{with, a}, Disks: []Disk{disk},
	}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, src.Close()) })
	require.NotEqual(t, src.config.Nets[0].MAC, src.config.Nets[1].MAC)
	config, err := src.Config()
	require.NoError(t, err)
	none, err := newTestVM(t, 1, nil).Config()
	require.NoError(t, err)
	endless := bytes.Replace(config, []byte(`"nets":[`),
		[]byte(`"nets":[`+strings.Repeat(string(mustJSON(t, src.config.Nets[0]))+",", 100)), 1)
	wrong := a
	wrong.MAC = virtio.MAC{2, 0, 0, 0, 0, 2}
	gone := a
	gone.Name += "-gone"
	for _, c := range []struct {
		name   string
		config []byte
		disks  []Disk
		nets   []Net
		want   string
	}{
		{
			"none", config, []Disk{disk}, nil, "it has 2 and 0 were given: use vmm run " +
				"--incoming --disk FILE --net unix:PATH --net unix:PATH",
		},
		{
			"neither disks nor cards", config, nil, nil, "it has 1 and 0 were given: use vmm run " +
				"--incoming --disk FILE --net unix:PATH --net unix:PATH",
		},
		{"one", config, []Disk{disk}, []Net{a}, "it has 2 and 1 were given"},
		{"address", config, []Disk{disk}, []Net{wrong, a}, "is to be 02:00:00:00:00:02"},
		{"swapped", config, []Disk{disk}, []Net{a, with}, "is to be 02:00:00:00:00:01"},
		{"missing", config, []Disk{disk}, []Net{a, gone}, "start the program that listens there"},
		{"more than any machine", endless, []Disk{disk}, []Net{a, a}, "more than any machine"},
		{
			"for a guest without", none, nil, []Net{a}, "it has 0 and 1 were given: use vmm run " +
				"--incoming without --disk, --net and --vsock",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := NewFromConfig(c.config, Options{Disks: c.disks, Nets: c.nets})
			require.ErrorContains(t, err, c.want)
		})
	}
	_, err = New(Config{MemoryBytes: 16 << 20, CPUs: 1, Options: Options{
		Nets: make([]Net, virtio.MaxNets+1),
	}})
	require.ErrorContains(t, err, "9 network cards: a machine has at most 8")
	_, err = New(Config{MemoryBytes: 16 << 20, CPUs: 1, Options: Options{Nets: []Net{with, with}}})
	require.ErrorContains(t, err, "two network cards with the address 02:00:00:00:00:01")
	_, err = New(Config{MemoryBytes: 16 << 20, CPUs: 2, Options: Options{Nets: []Net{
		{Backend: virtio.NetTAP, Name: "tap9", Queues: 3},
	}}})
	require.ErrorContains(t, err, "network card tap:tap9: 3 pairs of queues, and the machine has "+
		"2 vCPUs: give queues=2 or less")
	require.Equal(t, " --net tap:IFNAME,queues=2 --net tap:IFNAME --net unix:PATH",
		netFlags([]virtio.NetIdentity{
			{Pairs: 2, Features: 1}, {Pairs: 1, Features: 1}, {Pairs: 1},
		}))
	n.accept(t)
}

func mustJSON(t *testing.T, v any) []byte {
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return b
}
