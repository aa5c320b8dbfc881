package vmm

import (
	"encoding/json"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/vmm/device"
	"taskguide/vmm/probe"
)

// waitCrash waits for the end of a machine that does not end well.
func waitCrash(t testing.TB, vm *VM) (Exit, error) {
	t.Helper()
	select {
	case <-vm.Done():
	case <-time.After(testTimeout):
		require.Fail(t, "the machine did not end")
	}
	return vm.Wait()
}

func TestEnds(t *testing.T) {
	for _, c := range []struct {
		name string
		code []byte
		want Exit
		err  string
	}{
		{"exit port", exitWith(7), Exit{ExitGuest, 7}, ""},
		{
			"reset by the keyboard controller",
			code(0xb0, device.I8042Reset, 0xe6, device.PortI8042), Exit{ExitReset, 0}, "",
		},
		// An invalid instruction without an IDT.
		{
			"triple fault", code(0x0f, 0x0b), Exit{ExitCrash, 0},
			"the guest crashed: triple fault on vCPU 0, ",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			vm := newTestVM(t, 2, nil)
			require.NoError(t, vm.Boot(testKernel(c.code), nil, ""))
			require.NoError(t, vm.Resume())
			exit, err := waitCrash(t, vm)
			require.Equal(t, c.want, exit)
			if c.err == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.err)
				require.NotContains(t, err.Error(), "\n")
			}
		})
	}
}

func TestStopEndsARunningAndAPausedMachine(t *testing.T) {
	for _, paused := range []bool{false, true} {
		vm := newTestVM(t, 2, nil)
		require.NoError(t, vm.Boot(testKernel(code(0xeb, 0xfe)), nil, "")) // jmp .
		require.NoError(t, vm.Resume())
		if paused {
			require.NoError(t, vm.Pause())
		}
		vm.Stop()
		require.Equal(t, Exit{Reason: ExitStopped}, waitEnd(t, vm))
		_, err := vm.SaveState()
		require.ErrorIs(t, err, ErrEnded)
		vm.RequestPause()
	}
}

func TestClosedMachineDoesNothing(t *testing.T) {
	vm := newTestVM(t, 2, nil)
	require.NoError(t, vm.Boot(testKernel(code(0xeb, 0xfe)), nil, "")) // jmp .
	require.NoError(t, vm.Resume())
	// Other goroutines pause it and send it input while it is closed.
	done := make(chan struct{})
	started := make(chan struct{}, 3)
	for range 3 {
		go func() {
			defer func() { done <- struct{}{} }()
			started <- struct{}{}
			for range 2000 {
				vm.RequestPause()
				vm.SerialInput([]byte{1})
				_ = vm.Resume()
			}
		}()
	}
	for range 3 {
		<-started
	}
	require.NoError(t, vm.Close())
	require.NoError(t, vm.Close())
	for range 3 {
		<-done
	}
	require.ErrorIs(t, vm.Pause(), ErrEnded)
	require.ErrorIs(t, vm.Resume(), ErrEnded)
	_, err := vm.SaveState()
	require.ErrorIs(t, err, ErrEnded)
	require.False(t, vm.Running())
	require.Equal(t, 2, vm.CPUs())
}

func TestUnknownPortsAndAddresses(t *testing.T) {
	r := newRecorder()
	vm := newTestVM(t, 1, nil)
	attach(vm, r)
	require.NoError(t, vm.Boot(testKernel(code(
		0x66, 0xba, 0x80, 0x00, // mov dx, 0x80
		0xef,                      // out dx, eax
		0xed,                      // in eax, dx
		0xa3, imm32(recorderMMIO), // mov [recorder], eax
		0xa1, imm32(0xcf000000), // mov eax, [nowhere]
		0xa3, imm32(0xcf000000), // mov [nowhere], eax
		0xa3, imm32(recorderMMIO), // mov [recorder], eax
		0x31, 0xc0, 0xe4, 0x64, // xor eax, eax; in al, 0x64
		0xa3, imm32(recorderMMIO), // mov [recorder], eax
		exitWith(0),
	)), nil, ""))
	require.NoError(t, vm.Resume())
	waitEnd(t, vm)
	require.Equal(t, []uint32{0xffffffff, 0xffffffff, 0}, r.numbers())
}

func TestSerialInputReachesTheGuest(t *testing.T) {
	var console syncBuffer
	vm := newTestVM(t, 1, &console)
	// Echoes until it gets a '.'.
	require.NoError(t, vm.Boot(testKernel(code(
		0x66, 0xba, 0xfd, 0x03, // 1: mov dx, 0x3fd
		0xec,       // in al, dx
		0xa8, 0x01, // test al, 1
		0x74, 0xf7, // jz 1b
		0xb2, 0xf8, // mov dl, 0xf8
		0xec,      // in al, dx
		0xee,      // out dx, al
		0x3c, '.', // cmp al, '.'
		0x75, 0xef, // jne 1b
		exitWith(0),
	)), nil, ""))
	require.Equal(t, 5, vm.SerialInput([]byte("early")))
	require.NoError(t, vm.Resume())
	require.Equal(t, 6, vm.SerialInput([]byte(" late.")))
	waitEnd(t, vm)
	require.Equal(t, "early late.", console.String())
}

// TestPauseFromAnExit asks for a pause while a vCPU's own access is being handled:
// no further access may come.
func TestPauseFromAnExit(t *testing.T) {
	for _, g := range counters {
		t.Run(g.name, func(t *testing.T) {
			r := newRecorder()
			vm := newTestVM(t, 2, nil)
			attach(vm, r)
			var at atomic.Int64
			at.Store(-1)
			r.hook = func(n int) {
				if at.Load() < 0 && n >= 100 {
					at.Store(int64(n))
					vm.RequestPause()
				}
			}
			require.NoError(t, vm.Boot(testKernel(g.code), nil, ""))
			for range 100 {
				require.NoError(t, vm.Resume())
				require.Eventually(t, func() bool { return at.Load() >= 0 }, testTimeout,
					100*time.Microsecond)
				require.NoError(t, vm.Pause())
				// `inc` reads and writes in one instruction, and a string instruction may have its
				// next part to write: the access that is held is complete, but no other instruction
				// has begun.
				require.LessOrEqual(t, len(r.numbers()), int(at.Load())+64)
				if g.name == "out" || g.name == "mmio write" {
					require.Len(t, r.numbers(), int(at.Load()))
				}
				at.Store(-1)
			}
			requireConsecutive(t, g.first, r.numbers())
		})
	}
}

// TestManyThreadsPauseAndResume mixes all callers; the machine must neither hang nor
// lose an access.
func TestManyThreadsPauseAndResume(t *testing.T) {
	r := newRecorder()
	vm := newTestVM(t, 3, nil)
	attach(vm, r)
	require.NoError(t, vm.Boot(testKernel(mmioCounter), nil, ""))
	require.NoError(t, vm.Resume())
	done := make(chan struct{})
	for range 3 {
		go func() {
			defer func() { done <- struct{}{} }()
			for range 200 {
				if err := vm.Pause(); err != nil && err != ErrRunning {
					t.Errorf("pause: %v", err)
				}
				vm.RequestPause()
				if err := vm.Resume(); err != nil {
					t.Errorf("resume: %v", err)
				}
			}
		}()
	}
	for range 3 {
		<-done
	}
	require.NoError(t, vm.Resume())
	r.waitFor(t, len(r.numbers())+10)
	require.NoError(t, vm.Pause())
	requireConsecutive(t, 0, r.numbers())
}

// TestMemoryAboveTheHole runs a guest that writes above 4 GiB, which takes paging.
func TestMemoryAboveTheHole(t *testing.T) {
	r := newRecorder()
	vm, err := New(Config{MemoryBytes: 3<<30 + 64<<20, CPUs: 1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, vm.Close()) })
	attach(vm, r)
	// Paging as long mode has it: linear 0 is physical 0, linear 2 MiB is physical 4 GiB,
	// linear 4 MiB the recorder. Three levels of tables are at 0x200000.
	tables, ok := vm.RAM().Slice(0x200000, 3*4096)
	require.True(t, ok)
	const present, large = 3, 0x83
	le.PutUint64(tables[0:], 0x201000|present)
	le.PutUint64(tables[4096:], 0x202000|present)
	le.PutUint64(tables[8192:], 0|large)
	le.PutUint64(tables[8192+8:], 4<<30|large)
	le.PutUint64(tables[8192+16:], recorderMMIO|large)
	require.NoError(t, vm.Boot(testKernel(code(
		0xb8, imm32(0x200000), 0x0f, 0x22, 0xd8, // mov eax, 0x200000; mov cr3, eax
		// mov eax, cr4; or eax, PAE; mov cr4, eax
		0x0f, 0x20, 0xe0, 0x83, 0xc8, 0x20, 0x0f, 0x22, 0xe0,
		0xb9, imm32(0xc0000080), 0xb8, imm32(1<<8), // mov ecx, EFER; mov eax, LME
		0x31, 0xd2, 0x0f, 0x30, // xor edx, edx; wrmsr
		0x0f, 0x20, 0xc0, 0x0d, imm32(1<<31), // mov eax, cr0; or eax, PG
		0x0f, 0x22, 0xc0, // mov cr0, eax
		// mov dword [4 GiB + 0x5008], 0x12345678
		0xc7, 0x05, imm32(2<<20+0x5008), imm32(0x12345678),
		0xa3, imm32(4<<20), // mov [recorder], eax
		0xeb, 0xfe, // jmp .
	)), nil, ""))
	tr := vm.Tracker()
	require.NoError(t, tr.Start())
	dirty := memory.NewBitmap(vm.RAM().Pages())
	_, err = tr.Harvest(dirty)
	require.NoError(t, err)
	dirty.Reset()
	require.NoError(t, vm.Resume())
	r.waitFor(t, 1)
	require.NoError(t, vm.Pause())
	b, ok := vm.RAM().Slice(4<<30+0x5008, 4)
	require.True(t, ok)
	require.Equal(t, uint32(0x12345678), le.Uint32(b))
	_, err = tr.Harvest(dirty)
	require.NoError(t, err)
	page := 3<<30/memory.PageSize + 5
	require.True(t, dirty.Test(page))
	dirty.ClearRange(0, 1024) // the page tables' accessed bits
	require.Equal(t, 1, dirty.Count())
	require.NoError(t, tr.Stop())
}

// TestEveryVCPUMoves starts the second vCPU by INIT and SIPI; both count, each at its
// own place, while the machine moves.
func TestEveryVCPUMoves(t *testing.T) {
	var r [2]*recorder
	for i := range r {
		r[i] = newRecorder()
	}
	attachBoth := func(vm *VM) {
		for i := range r {
			plug(vm, device.Ports, uint64(recorderPort+4*i), r[i])
		}
	}
	vm := newTestVM(t, 2, nil)
	attachBoth(vm)
	// This is real-mode code at 0x8000 that does what the first vCPU does, at another port.
	second, ok := vm.RAM().Slice(0x8000, 16)
	require.True(t, ok)
	copy(second, code(
		0x66, 0x31, 0xc0, // xor eax, eax
		0xba, 0x04, 0x07, // mov dx, 0x704
		0x66, 0xef, // 1: out dx, eax
		0x66, 0x40, // inc eax
		0xeb, 0xfa, // jmp 1b
	))
	const icrHigh, icrLow = 0xfee00310, 0xfee00300
	require.NoError(t, vm.Boot(testKernel(code(
		0xc7, 0x05, imm32(0xfee000f0), imm32(0x1ff), // enable the APIC
		0xc7, 0x05, imm32(icrHigh), imm32(1<<24), // to APIC 1
		0xc7, 0x05, imm32(icrLow), imm32(0x4500), // INIT
		0xc7, 0x05, imm32(icrHigh), imm32(1<<24),
		0xc7, 0x05, imm32(icrLow), imm32(0x4608), // SIPI to 0x8000
		portCounter,
	)), nil, ""))
	require.NoError(t, vm.Resume())
	for hop := range 4 {
		for i := range r {
			r[i].waitFor(t, 20*(hop+1))
		}
		vm = moveVM(t, vm, attachBoth)
		require.NoError(t, vm.Resume())
	}
	for i := range r {
		r[i].waitFor(t, 120)
	}
	require.NoError(t, vm.Pause())
	for i := range r {
		requireConsecutive(t, 0, r[i].numbers())
	}
}

func TestMoveBeforeTheSecondVCPUStarts(t *testing.T) {
	r := newRecorder()
	vm := newTestVM(t, 4, nil)
	attach(vm, r)
	require.NoError(t, vm.Boot(testKernel(portCounter), nil, ""))
	require.NoError(t, vm.Resume())
	r.waitFor(t, 10)
	vm = moveVM(t, vm, func(dst *VM) { attach(dst, r) })
	require.NoError(t, vm.Run(true))
	require.False(t, vm.Running())
	require.NoError(t, vm.Run(false))
	require.True(t, vm.Running())
	r.waitFor(t, len(r.numbers())+10)
	require.NoError(t, vm.Pause())
	requireConsecutive(t, 0, r.numbers())
}

func TestDigestSeesARegister(t *testing.T) {
	vm := newTestVM(t, 2, nil)
	require.NoError(t, vm.Boot(testKernel(portCounter), nil, ""))
	before, err := vm.StateDigest()
	require.NoError(t, err)
	again, err := vm.StateDigest()
	require.NoError(t, err)
	if before != again {
		explainDigest(t, vm, vm)
	}
	require.Equal(t, before, again)
	state, err := vm.SaveState()
	require.NoError(t, err)
	s, err := decodeState(state, 2, vm.devices.Catalog())
	require.NoError(t, err)
	s.vcpus[1].regs.RDX++
	require.NoError(t, vm.LoadState(s.encode()))
	changed, err := vm.StateDigest()
	require.NoError(t, err)
	require.NotEqual(t, before, changed)
	require.NoError(t, vm.LoadState(state))
	back, err := vm.StateDigest()
	require.NoError(t, err)
	require.Equal(t, before, back)
}

func TestStateOfARunningMachineIsRefused(t *testing.T) {
	vm := newTestVM(t, 1, nil)
	require.NoError(t, vm.Boot(testKernel(code(0xeb, 0xfe)), nil, ""))
	state, err := vm.SaveState()
	require.NoError(t, err)
	require.NoError(t, vm.Resume())
	_, err = vm.SaveState()
	require.ErrorIs(t, err, ErrRunning)
	_, err = vm.StateDigest()
	require.ErrorIs(t, err, ErrRunning)
	require.ErrorIs(t, vm.LoadState(state), ErrRunning)
	require.ErrorIs(t, vm.Boot(testKernel(nil), nil, ""), ErrRunning)
}

func TestStateOfAnotherMachineIsRefused(t *testing.T) {
	one, two := newTestVM(t, 1, nil), newTestVM(t, 2, nil)
	state, err := two.SaveState()
	require.NoError(t, err)
	require.ErrorIs(t, one.LoadState(state), ErrState)
	require.ErrorIs(t, one.LoadState([]byte("garbage")), ErrState)
}

func TestNewRefusesAbsurdMachines(t *testing.T) {
	_, err := New(Config{MemoryBytes: 1 << 20, CPUs: 1})
	require.ErrorIs(t, err, memory.ErrSize)
	for _, cpus := range []int{-1, 0, MaxCPUs + 1} {
		_, err = New(Config{MemoryBytes: 16 << 20, CPUs: cpus})
		require.ErrorIs(t, err, ErrCPUs)
	}
}

func TestNewFromConfigRefusesALesserCPU(t *testing.T) {
	data, err := newTestVM(t, 1, nil).Config()
	require.NoError(t, err)
	change := func(f func(c *machineConfig)) []byte {
		var c machineConfig
		require.NoError(t, json.Unmarshal(data, &c))
		f(&c)
		out, err := json.Marshal(&c)
		require.NoError(t, err)
		return out
	}
	_, err = NewFromConfig(change(func(c *machineConfig) {
		for i := range c.CPUID {
			if c.CPUID[i].Function == 7 && c.CPUID[i].Index == 0 {
				c.CPUID[i].EBX |= 1 << 26 // of Xeon Phi only
			}
		}
	}), Options{})
	require.ErrorIs(t, err, ErrCPUFeatures)
	require.ErrorContains(t, err, "avx512pf")
	_, err = NewFromConfig(change(func(c *machineConfig) { c.XSaveBytes = xsaveMaxBytes }),
		Options{})
	require.ErrorIs(t, err, ErrCPUFeatures)
	_, err = NewFromConfig([]byte("{}"), Options{})
	require.ErrorIs(t, err, ErrConfig)
	h, err := probe.Ask()
	require.NoError(t, err)
	if !h.TSCScaling {
		var size int64
		other := change(func(c *machineConfig) { size, c.TSCKHz = c.MemoryBytes, c.TSCKHz/2 })
		ready, err := memory.New(size)
		require.NoError(t, err)
		defer ready.Close()
		_, err = NewFromConfig(other, Options{RAM: ready})
		require.ErrorIs(t, err, ErrTSC)
		require.Equal(t, size, ready.Size(), "for the next source")
	}
}

func TestKeptConfigGivesTheSameMachine(t *testing.T) {
	src := newTestVM(t, 3, nil)
	config, err := src.Config()
	require.NoError(t, err)
	dst, err := NewFromConfig(config, Options{})
	require.NoError(t, err)
	defer dst.Close()
	again, err := dst.Config()
	require.NoError(t, err)
	require.JSONEq(t, string(config), string(again))
	require.Equal(t, 3, dst.CPUs())
	require.Equal(t, src.RAM().Size(), dst.RAM().Size())
}
