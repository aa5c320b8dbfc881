package vmm

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/vmm/device"
	"taskguide/vmm/device/pci"
	"taskguide/vmm/kvm"
)

// enableAPIC makes the guest's LAPIC take interrupts.
func enableAPIC(t *testing.T, vm *VM) {
	s := stateOf(t, vm)
	le.PutUint32(s.vcpus[0].lapic.Regs[apicSpurious:], apicEnabled)
	require.NoError(t, vm.LoadState(s.encode()))
}

// requireRequested waits until a vCPU's LAPIC has a request for a vector.
func requireRequested(t *testing.T, vm *VM, vector int) {
	t.Helper()
	require.Eventually(t, func() bool { return irqRequested(stateOf(t, vm), vector) },
		testTimeout, time.Millisecond)
}

// TestMessagesReachTheAPIC: an interrupt delivers the message that was sent last, and a store to
// another address goes nowhere.
func TestMessagesReachTheAPIC(t *testing.T) {
	vm := newTestVM(t, 1, nil)
	enableAPIC(t, vm)
	a, b := board{vm}.Interrupt(), board{vm}.Interrupt()
	for _, elsewhere := range []uint64{0, 0xfed00000, 0xfef00000, apicMessages | 1<<32} {
		a.Send(elsewhere, 0x30)
	}
	a.Send(apicMessages, 0x41)
	requireRequested(t, vm, 0x41)
	b.Send(apicMessages, 0x42)
	requireRequested(t, vm, 0x42)
	a.Send(apicMessages, 0x43)
	requireRequested(t, vm, 0x43)
	require.False(t, irqRequested(stateOf(t, vm), 0x30))
	select {
	case <-vm.Done():
		t.Fatal("the machine has ended")
	default:
	}
}

// TestMessagesLeavePinsAlone: a machine whose devices send messages still has all its pins.
func TestMessagesLeavePinsAlone(t *testing.T) {
	for pin := 1; pin < 16; pin++ {
		if pin == 2 {
			continue // the input of the second PIC
		}
		t.Run(fmt.Sprint(pin), func(t *testing.T) {
			vm := newTestVM(t, 1, nil)
			board{vm}.Interrupt().Send(apicMessages, 0x7f)
			wireIRQ(t, vm, pin, false)
			board{vm}.SetIRQ(uint32(pin), true)
			s := stateOf(t, vm)
			require.True(t, irqRequested(s, irqTestVector(pin)))
			require.NotZero(t, s.pic[pin/8].Chip[picIRR]&(1<<(pin%8)))
		})
	}
}

// nobodysAddress is in the range of devices, but belongs to none.
const nobodysAddress = pci.BAREnd - 0x1000

// TestDoorbell: a guest's store of 16 bits rings it without any device, and other stores do not.
func TestDoorbell(t *testing.T) {
	vm := newTestVM(t, 1, nil)
	bell, other := board{vm}.Doorbell(nobodysAddress), board{vm}.Doorbell(nobodysAddress+4)
	require.NoError(t, vm.Boot(testKernel(code(
		0xc6, 0x05, imm32(nobodysAddress+4), 1, // mov byte [other], 1
		0xc7, 0x05, imm32(nobodysAddress+4), imm32(1), // mov dword [other], 1
		0x66, 0xc7, 0x05, imm32(nobodysAddress), 7, 0, // mov word [bell], 7
		exitWith(3),
	)), nil, ""))
	require.NoError(t, vm.Resume())
	require.EqualValues(t, 3, waitEnd(t, vm).Status)
	require.True(t, bell.Wait())
	rung := make(chan bool, 1)
	var waits sync.WaitGroup
	waits.Go(func() { rung <- other.Wait() })
	other.Close()
	waits.Wait()
	require.False(t, <-rung)
	bell.Ring()
	require.True(t, bell.Wait())
	bell.Close()
	require.False(t, bell.Wait())
	bell.Ring()
}

// Slots on the bus, and what the tests set up of a device there.
const (
	slotRNG  = 1
	slotDisk = 8

	testRings  = 0x300000
	testUsed   = testRings + 0x2000
	testBuffer = 0x400000
	testBytes  = 64
	testVector = 0x51
)

func barOf(slot int) uint64    { return pci.BARBase + uint64(slot)<<20 }
func notifyOf(slot int) uint32 { return uint32(barOf(slot)) + 0x3000 }

// setUpDevice does what a driver does, with one request available that it has not rung for: it
// writes registers as a vCPU does, and descriptors that follow one another.
func setUpDevice(vm *VM, slot int, descriptors ...[]byte) {
	setUpQueue(vm, slot, 0, descriptors...)
}

// setUpQueue is setUpDevice for another queue than the first.
func setUpQueue(vm *VM, slot, queue int, descriptors ...[]byte) {
	write := func(gpa uint64, size int, v uint64) {
		vm.devices.Access(device.MMIO, gpa, size, le.AppendUint64(nil, v)[:size], true)
	}
	const offered = 1 << 0 // of the upper half: VIRTIO_F_VERSION_1
	config, common := uint64(pci.ECAMBase+slot<<15), barOf(slot)
	table := common + 0x4000
	write(config+4, 2, 6)          // memory, and mastering the bus
	write(table+16, 8, 0xfee00000) // the message of vector 1
	write(table+24, 8, testVector)
	write(config+0x42, 2, 1<<15)
	write(common+0x14, 1, 3)
	write(common+0x08, 4, 1)
	write(common+0x0c, 4, offered)
	write(common+0x14, 1, 11)
	write(common+0x16, 2, uint64(queue))
	write(common+0x18, 2, 4)
	write(common+0x1a, 2, 1)
	for offset, gpa := range map[uint64]uint64{
		0x20: testRings, 0x28: testRings + 0x1000, 0x30: testUsed,
	} {
		write(common+offset, 4, gpa)
	}
	write(common+0x1c, 2, 1)
	write(common+0x14, 1, 15)
	for i, d := range descriptors {
		vm.guest.Write(testRings+uint64(i)*16, d)
	}
	vm.guest.Write(testRings+0x1000, []byte{0, 0, 1, 0, 0, 0})
}

// descriptor is one of a virtio queue.
func descriptor(gpa uint64, bytes uint32, flags, next uint16) []byte {
	d := le.AppendUint32(le.AppendUint64(nil, gpa), bytes)
	return le.AppendUint16(le.AppendUint16(d, flags), next)
}

// setUpRNG asks the source of random numbers for some.
func setUpRNG(vm *VM) {
	setUpDevice(vm, slotRNG, descriptor(testBuffer, testBytes, 2, 0)) // the device writes
}

// awaitUsed is code that rings a device's doorbell, waits until a request was used, and ends the
// machine.
func awaitUsed(slot int, status byte) []byte { return awaitUsedOf(notifyOf(slot), status) }

// awaitUsedOf is awaitUsed for a doorbell.
func awaitUsedOf(doorbell uint32, status byte) []byte {
	return code(
		0x66, 0xc7, 0x05, imm32(doorbell), 0, 0, // mov word [notify], 0
		0x66, 0x83, 0x3d, imm32(testUsed+2), 1, // 1: cmp word [used index], 1
		0x75, 0xf6, // jne 1b
		exitWith(status),
	)
}

// TestGuestHasRandomNumbers: a guest's store to a doorbell gets it random bytes and an interrupt.
func TestGuestHasRandomNumbers(t *testing.T) {
	vm := newTestVM(t, 1, nil)
	require.NoError(t, vm.Boot(testKernel(awaitUsed(slotRNG, 9)), nil, ""))
	enableAPIC(t, vm)
	setUpRNG(vm)
	require.NoError(t, vm.Resume())
	require.EqualValues(t, 9, waitEnd(t, vm).Status)
	got, _ := vm.guest.Slice(testBuffer, testBytes)
	require.NotEqual(t, make([]byte, testBytes), got)
}

// TestRandomNumbersMove: a request that waits where the machine was paused is served where it goes
// on, and interrupts of its queue come by a route that was set together with the state.
func TestRandomNumbersMove(t *testing.T) {
	src := newTestVM(t, 1, nil)
	require.NoError(t, src.Boot(testKernel(code(
		0x66, 0xc7, 0x05, imm32(notifyOf(slotRNG)), 0, 0, // mov word [notify], 0
		0xeb, 0xfe, // jmp .
	)), nil, ""))
	enableAPIC(t, src)
	setUpRNG(src)
	config, err := src.Config()
	require.NoError(t, err)
	dst, err := NewFromConfig(config, Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, dst.Close()) })
	copy(dst.RAM().Bytes(), src.RAM().Bytes())
	data, err := src.SaveState()
	require.NoError(t, err)
	var told atomic.Int32
	set := dst.routes.set
	dst.routes.set = func(all []kvm.Route) error {
		told.Add(1)
		return set(all)
	}
	require.NoError(t, dst.LoadState(data))
	require.EqualValues(t, 1, told.Load())
	want, err := src.StateDigest()
	require.NoError(t, err)
	digest, err := dst.StateDigest()
	require.NoError(t, err)
	require.Equal(t, want, digest)
	require.False(t, irqRequested(stateOf(t, dst), testVector))
	require.NoError(t, dst.Run(false))
	require.Eventually(t, func() bool {
		used, _ := dst.guest.LoadUint16(testUsed + 2)
		return used == 1
	}, testTimeout, time.Millisecond)
	require.NoError(t, dst.Pause())
	got, _ := dst.guest.Slice(testBuffer, testBytes)
	require.NotEqual(t, make([]byte, testBytes), got)
	// The guest takes no interrupts, so a request for one stays. Two may have been sent: a device
	// that has moved sends one to be sure, and then one for what it gives back.
	requireRequested(t, dst, testVector)
	require.EqualValues(t, 1, told.Load(), "it came by the route that was loaded")
}

// TestMachineWithoutABus: one that comes from a program without PCI has none, and can move on.
func TestMachineWithoutABus(t *testing.T) {
	config := recorded(t, "sample.config", nil)
	devices := newDevices(Options{}, backends{})
	mc, err := parseConfig(config, reads(devices.Catalog()))
	require.NoError(t, err)
	devices.Keep(mc.Sections)
	require.Empty(t, announced(devices.Catalog()))
	require.Equal(t, device.Base(), devices.Catalog())
}
