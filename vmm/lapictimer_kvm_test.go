package vmm

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/vmm/device"
)

// timerGuest takes LAPIC timer interrupts. It stores a number to the recorder's memory in
// each, from 1, and to the recorder's port for ever. timerTables puts its tables into RAM.
func timerGuest(lvt, divide, initial uint32) []byte {
	const vector = 0x41
	start := code(
		0x0f, 0x01, 0x15, imm32(timerGDTR), // lgdt
		0x0f, 0x01, 0x1d, imm32(timerIDTR), // lidt
		0xbc, imm32(0x9000), // mov esp, 0x9000
		0x31, 0xdb, // xor ebx, ebx
		0x66, 0xba, 0x00, 0x07, // mov dx, 0x700
		0xc7, 0x05, imm32(0xfee000f0), imm32(apicEnabled),
		0xc7, 0x05, imm32(0xfee00320), imm32(lvt|vector),
		0xc7, 0x05, imm32(0xfee003e0), imm32(divide),
		0xc7, 0x05, imm32(0xfee00380), imm32(initial),
		0xfb,       // sti
		0xef,       // 1: out dx, eax
		0xeb, 0xfd, // jmp 1b
	)
	if len(start) > timerHandler {
		panic("the handler is in the way")
	}
	b := make([]byte, timerHandler)
	copy(b, start)
	return append(b, code(
		0x43,                            // inc ebx
		0x89, 0x1d, imm32(recorderMMIO), // mov [recorder], ebx
		0xc7, 0x05, imm32(0xfee000b0), imm32(0), // end of interrupt
		0xbc, imm32(0x9000), // mov esp, 0x9000: it never returns
		0xfb,       // sti
		0xef,       // 1: out dx, eax
		0xeb, 0xfd, // jmp 1b
	)...)
}

const (
	timerHandler = 256 // offset in the code
	timerGDTR    = 0x200000
	timerIDTR    = 0x200010
	timerGDT     = 0x200100
	timerIDT     = 0x201000
)

func timerTables(t testing.TB, vm *VM) {
	t.Helper()
	b, ok := vm.RAM().Slice(timerGDTR, 8192)
	require.True(t, ok)
	at := func(gpa int) []byte { return b[gpa-timerGDTR:] }
	le.PutUint16(at(timerGDTR), 4*8-1)
	le.PutUint32(at(timerGDTR+2), timerGDT)
	le.PutUint16(at(timerIDTR), 256*8-1)
	le.PutUint32(at(timerIDTR+2), timerIDT)
	// Flat segments of 4 GiB: code and data, at every selector that PVH may have left.
	le.PutUint64(at(timerGDT+8), 0x00cf9b000000ffff)
	le.PutUint64(at(timerGDT+16), 0x00cf9b000000ffff)
	le.PutUint64(at(timerGDT+24), 0x00cf93000000ffff)
	for v := range 256 {
		gate := at(timerIDT + 8*v)
		le.PutUint16(gate, (testEntry+timerHandler)&0xffff)
		le.PutUint16(gate[2:], 8)
		le.PutUint16(gate[4:], 0x8e00)
		le.PutUint16(gate[6:], (testEntry+timerHandler)>>16)
	}
}

// startTimer runs a timer's guest. The first recorder has its interrupts, the second that
// it goes on.
func startTimer(t *testing.T, lvt, initial uint32) (vm *VM, ticks, alive *recorder) {
	t.Helper()
	ticks, alive = newRecorder(), newRecorder()
	vm = newTestVM(t, 1, nil)
	attachTimer(vm, ticks, alive)
	timerTables(t, vm)
	require.NoError(t, vm.Boot(testKernel(timerGuest(lvt, 0xb, initial)), nil, ""))
	require.NoError(t, vm.Resume())
	return vm, ticks, alive
}

func attachTimer(vm *VM, ticks, alive *recorder) {
	plug(vm, device.Ports, recorderPort, alive)
	plug(vm, device.MMIO, recorderMMIO, ticks)
}

// moveOn moves a guest and lets it run until it has done some more accesses: an interrupt
// that is requested comes before those.
func moveOn(t *testing.T, vm *VM, ticks, alive *recorder) *VM {
	t.Helper()
	vm = moveVM(t, vm, func(dst *VM) { attachTimer(dst, ticks, alive) })
	require.NoError(t, vm.Resume())
	alive.waitFor(t, len(alive.numbers())+200)
	return vm
}

// TestAnExpiredOneShotTimerFiresAtMostOnceMore moves a guest several times after its timer has
// fired. At the first move KVM shows the same for an interrupt that was delivered and one that was
// not, so one extra interrupt is right.
func TestAnExpiredOneShotTimerFiresAtMostOnceMore(t *testing.T) {
	vm, ticks, alive := startTimer(t, timerOneShot, 0x10000)
	ticks.waitFor(t, 1)
	for range 6 {
		vm = moveOn(t, vm, ticks, alive)
	}
	require.NoError(t, vm.Pause())
	require.LessOrEqual(t, len(ticks.numbers()), 2)
}

// TestAOneShotTimerThatExpiresInAMoveFires: the timer's interrupt is not lost, whether it expired
// before the pause, while the machine stood still, or after.
func TestAOneShotTimerThatExpiresInAMoveFires(t *testing.T) {
	for _, ns := range []uint32{1, 100_000, 3_000_000, 10_000_000, 100_000_000} {
		t.Run(time.Duration(ns).String(), func(t *testing.T) {
			vm, ticks, alive := startTimer(t, timerOneShot, ns)
			alive.waitFor(t, 1)
			for range 3 {
				vm = moveOn(t, vm, ticks, alive)
			}
			ticks.waitFor(t, 1)
			require.NoError(t, vm.Pause())
			require.LessOrEqual(t, len(ticks.numbers()), 2)
		})
	}
}

// TestAPeriodicTimerGoesOnInAMove loads a state that was saved a while ago, in the middle of a
// period: the count must be where it would be had the timer gone on, and one tick must come.
func TestAPeriodicTimerGoesOnInAMove(t *testing.T) {
	const (
		period = 60 * time.Second
		ago    = 50 * time.Second
		left   = 45 * time.Second
		next   = left + period - ago
	)
	vm := newTestVM(t, 1, nil)
	s := stateOf(t, vm)
	l := lapicTimer(s.vcpus[0].lapic.Regs[:])
	l.set(apicSpurious, apicEnabled)
	l.set(apicLVTTimer, timerPeriodic<<lvtModeShift|0x41)
	l.set(apicDivide, 3) // by 16
	l.set(apicInitialCount, uint32(period/16))
	l.set(apicCurrentCount, uint32(left/16))
	start := time.Now()
	s.clock.Realtime = uint64(start.Add(-ago).UnixNano())
	require.NoError(t, vm.LoadState(s.encode()))
	after := stateOf(t, vm)
	got := lapicTimer(after.vcpus[0].lapic.Regs[:])
	require.LessOrEqual(t, got.left(), next)
	require.GreaterOrEqual(t, got.left(), next-time.Since(start)-time.Millisecond)
	require.True(t, irqRequested(after, 0x41), "a tick")
	require.Equal(t, period, got.period())
}
