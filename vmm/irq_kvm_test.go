package vmm

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/vmm/device"
)

// irqTestVector is the vector of an IOAPIC pin in these tests.
func irqTestVector(pin int) int { return 0x40 + pin }

const (
	ioapicLevel = 1 << 7 // in byte 1 of a redirection entry: level-triggered
	apicEnabled = 0x1ff
	picMask     = 2
	picELCR     = 14
	// One byte in the FIFO, and the interrupt for that enabled.
	serialWithInput = "\x01\x00\x00\x00\x00\x01\x00\x01x"
)

// irqRequested tells whether a vCPU's LAPIC has a request for a vector.
func irqRequested(s *machineState, vector int) bool {
	return s.vcpus[0].lapic.Regs[apicIRR+vector/32*16+vector%32/8]&(1<<(vector%8)) != 0
}

func stateOf(t testing.TB, vm *VM) *machineState {
	t.Helper()
	data, err := vm.SaveState()
	require.NoError(t, err)
	s, err := decodeState(data, vm.CPUs(), vm.devices.Catalog())
	require.NoError(t, err)
	return s
}

// wireIRQ loads a state in which a pin of the IOAPIC and a line of the PICs reach the
// guest, which never runs here.
func wireIRQ(t testing.TB, vm *VM, pin int, level bool) {
	t.Helper()
	s := stateOf(t, vm)
	le.PutUint32(s.vcpus[0].lapic.Regs[apicSpurious:], apicEnabled)
	entry := s.ioapic.Chip[ioapicTable+8*pin:]
	le.PutUint64(entry, uint64(irqTestVector(pin)))
	pic := &s.pic[pin/8]
	pic.Chip[picMask] = 0
	if level {
		entry[1] |= ioapicLevel
		pic.Chip[picELCR] |= 1 << (pin % 8)
	}
	if pin == device.SerialIRQ {
		sectionOf(s, "serial").Data = []byte(serialWithInput)
	}
	require.NoError(t, vm.LoadState(s.encode()))
}

// TestLoadingRaisesNoInterrupt moves machines with a device's line up. A pending interrupt arrives
// once, one that was taken does not come again, and the next one comes.
func TestLoadingRaisesNoInterrupt(t *testing.T) {
	for pin := 1; pin < 16; pin++ {
		if pin == 2 {
			continue // the input of the second PIC
		}
		for _, level := range []bool{false, true} {
			if level && pin == 8 {
				continue // the clock's line is edge-triggered in every PC
			}
			for _, taken := range []bool{false, true} {
				name := fmt.Sprintf("pin %d, level %t, taken %t", pin, level, taken)
				t.Run(name, func(t *testing.T) { checkLoadedLine(t, pin, level, taken) })
			}
		}
	}
}

func checkLoadedLine(t *testing.T, pin int, level, taken bool) {
	src, dst := newTestVM(t, 1, nil), newTestVM(t, 1, nil)
	wireIRQ(t, src, pin, level)
	board{src}.SetIRQ(uint32(pin), true)
	vector := irqTestVector(pin)
	want := stateOf(t, src)
	require.True(t, irqRequested(want, vector))
	pic, bit := pin/8, byte(1<<(pin%8))
	require.NotZero(t, want.pic[pic].Chip[picIRR]&bit)
	if taken {
		want.vcpus[0].lapic.Regs[apicIRR+vector/32*16+vector%32/8] &^= 1 << (vector % 8)
		if !level {
			want.pic[pic].Chip[picIRR] &^= bit
		}
	}
	require.NoError(t, dst.LoadState(want.encode()))
	got := stateOf(t, dst)
	require.Equal(t, !taken, irqRequested(got, vector), "at the LAPIC")
	require.Equal(t, want.pic, got.pic)
	require.Equal(t, want.ioapic, got.ioapic)

	// The line falls and rises, which is a new interrupt to the PIC and to an edge-triggered pin.
	board{dst}.SetIRQ(uint32(pin), false)
	board{dst}.SetIRQ(uint32(pin), true)
	again := stateOf(t, dst)
	require.NotZero(t, again.pic[pic].Chip[picIRR]&bit)
	if !level {
		require.True(t, irqRequested(again, vector))
	}
	require.Equal(t, want.ioapic.Chip, again.ioapic.Chip)
}

// TestInputReachesAMachineWhoseResumeOvertookItsPause lifts a pause after a vCPU has seen
// it and before it parks.
func TestInputReachesAMachineWhoseResumeOvertookItsPause(t *testing.T) {
	r := newRecorder()
	vm := newTestVM(t, 1, nil)
	attach(vm, r)
	var accesses int // by the vCPU's thread
	r.hook = func(int) {
		accesses++
		switch accesses {
		case 1: // inc reads
			vm.RequestPause()
		case 2: // and, as the vCPU has seen the pause, writes
			require.NoError(t, vm.Resume())
		}
	}
	require.NoError(t, vm.Boot(testKernel(mmioAdder), nil, ""))
	require.NoError(t, vm.Resume())
	r.waitFor(t, 10)
	vm.SerialInput([]byte("x"))
	require.Equal(t, []byte("x"), fifoOf(vm), "the guest can read it")
	require.NoError(t, vm.Pause())
}

// TestInputWaitsWhateverOvertakesWhat pauses a machine again before it has noticed that it
// was resumed: once Pause has returned, input must not change what the guest can see.
func TestInputWaitsWhateverOvertakesWhat(t *testing.T) {
	vm := newTestVM(t, 2, nil)
	require.NoError(t, vm.Boot(testKernel(code(0xeb, 0xfe)), nil, "")) // jmp .
	require.NoError(t, vm.Resume())
	require.NoError(t, vm.Pause())
	for i := range 2000 {
		require.NoError(t, vm.Resume())
		require.NoError(t, vm.Pause())
		before := vm.devices.Serial.Fingerprint()
		vm.SerialInput([]byte("x"))
		require.Equal(t, before, vm.devices.Serial.Fingerprint(), "after %d pauses", i)
	}
	require.NoError(t, vm.Resume())
	require.Len(t, fifoOf(vm), serialFIFO, "what waited is let in")
}

// What the serial port's guest can see: registers, and then the FIFO.
const (
	serialRegisters = 8
	serialFIFO      = 16
)

func fifoOf(vm *VM) []byte { return vm.devices.Serial.Fingerprint()[serialRegisters:] }
