package vmm

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/vmm/kvm"
)

// TestWhatFirmwareLeaves: each vCPU of a new machine has write-back memory and fast strings.
func TestWhatFirmwareLeaves(t *testing.T) {
	vm := newTestVM(t, 2, nil)
	for _, c := range vm.vcpus {
		msrs, err := c.readMSRs([]uint32{msrMTRRDefine, msrMiscEnable})
		require.NoError(t, err)
		require.Len(t, msrs, 2)
		require.Equal(t, uint64(0x806), msrs[0].Data)
		require.NotZero(t, msrs[1].Data&1)
	}
}

// TestChannelTwoOfThePIT counts down as its gate, bit 0 of port 0x61, says, and shows its output in
// bit 5. Kernels measure clocks by it. It does so after a move, too.
func TestChannelTwoOfThePIT(t *testing.T) {
	for range 10 {
		vm, numbers := channelTwo(t)
		if vm == nil {
			return
		}
		require.Equal(t, uint32(0x21), numbers[1]&0x21, "done")
		if numbers[0]&0x21 == 0x21 { // the vCPU was stopped for longer than the count takes
			require.NoError(t, vm.Pause())
			continue
		}
		require.Equal(t, uint32(0x01), numbers[0]&0x21, "counting")
		dst := moveVM(t, vm, func(*VM) {})
		require.True(t, dst.config.has(optionSpeaker))
		return
	}
	t.Fatal("the channel was never seen counting")
}

// channelTwo is a machine, and what it shows of the channel: while it counts, and once it has.
// There is no machine without a PIT.
func channelTwo(t *testing.T) (*VM, []uint32) {
	r := newRecorder()
	vm := newTestVM(t, 1, nil)
	if !vm.hasPIT {
		require.Zero(t, vm.kvmFD.Check(kvm.CapPIT2), "KVM has a PIT, and the machine has none")
		return nil, nil
	}
	attach(vm, r)
	require.NoError(t, vm.Boot(testKernel(code(
		0xb0, 0x01, 0xe6, 0x61, // mov al, 1; out 0x61, al: gate up, speaker off
		0xb0, 0xb0, 0xe6, 0x43, // mov al, 0xb0; out 0x43, al: channel 2, both bytes, mode 0
		0xb0, 0xff, 0xe6, 0x42, // mov al, 0xff; out 0x42, al: as long as it gets, 55 ms
		0xe6, 0x42, // out 0x42, al
		0x0f, 0xb6, 0xc0, 0xe4, 0x61, // movzx eax, al; in al, 0x61
		0xa3, imm32(recorderMMIO), // mov [recorder], eax
		0xe4, 0x61, // 1: in al, 0x61
		0xa8, 0x20, // test al, 0x20
		0x74, 0xfa, // jz 1b
		0xa3, imm32(recorderMMIO), // mov [recorder], eax
		0xeb, 0xfe, // jmp .
	)), nil, ""))
	require.NoError(t, vm.Resume())
	r.waitFor(t, 2)
	return vm, r.numbers()
}
