package kvm

import (
	"testing"

	gokvm "github.com/bobuhiro11/gokvm/kvm"
	"github.com/stretchr/testify/require"
)

// fakeRun is a run area with an exit in it.
func fakeRun(reason ExitType, union []byte) RunArea {
	r := RunAreaOf(make([]byte, 3*4096))
	le.PutUint32(r.mem[runExitReason:], uint32(reason))
	copy(r.mem[runUnion:], union)
	return r
}

func TestPortExit(t *testing.T) {
	union := func(out, size byte, port uint16, count uint32, offset uint64) []byte {
		b := []byte{out, size}
		b = le.AppendUint16(b, port)
		b = le.AppendUint32(b, count)
		return le.AppendUint64(b, offset)
	}
	r := fakeRun(ExitIO, union(gokvm.EXITIOOUT, 2, 0x3f8, 3, 4096))
	copy(r.mem[4096:], "abcdefgh")
	io, err := r.PortIO()
	require.NoError(t, err)
	require.Equal(t, PortIO{Write: true, Size: 2, Port: 0x3f8, Data: []byte("abcdef")}, io)
	require.Equal(t, ExitIO, r.ExitReason())
	for _, bad := range [][]byte{
		union(0, 4, 1, 1, 3*4096),
		union(0, 4, 1, 1, ^uint64(0)),
		union(0, 255, 1, ^uint32(0), 4096),
	} {
		_, err := fakeRun(ExitIO, bad).PortIO()
		require.ErrorContains(t, err, "KVM_EXIT_IO")
	}
}

func TestMMIOExit(t *testing.T) {
	union := func(gpa uint64, data string, length uint32, write byte) []byte {
		b := append(le.AppendUint64(nil, gpa), data...)
		return append(le.AppendUint32(b, length), write)
	}
	m, err := fakeRun(ExitMMIO, union(0xd0000004, "12345678", 4, 1)).MMIO()
	require.NoError(t, err)
	require.Equal(t, MMIO{Write: true, GPA: 0xd0000004, Data: []byte("1234")}, m)
	_, err = fakeRun(ExitMMIO, union(0, "12345678", 9, 0)).MMIO()
	require.ErrorContains(t, err, "9 bytes")
}

func TestImmediateExitIsTheSecondByte(t *testing.T) {
	r := fakeRun(ExitIntr, nil)
	r.SetImmediateExit()
	require.Equal(t, []byte{0, 1, 0, 0}, r.mem[:4])
	r.ClearImmediateExit()
	require.Equal(t, []byte{0, 0, 0, 0}, r.mem[:4])
}
