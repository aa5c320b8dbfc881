package vmm

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/vmm/device"
)

// Addresses at which tests attach a recorder. Nothing else answers there.
const (
	recorderPort = 0x700
	recorderMMIO = 0xd8000000
)

// recorder is a device that keeps the 32-bit numbers written to it and answers reads
// with consecutive numbers.
type recorder struct {
	mu    sync.Mutex
	got   []uint32
	reads uint32
	moved sync.Cond   // got has grown
	hook  func(n int) // called with how many numbers have come, by the vCPU's thread
}

func newRecorder() *recorder {
	r := &recorder{}
	r.moved.L = &r.mu
	return r
}

func (r *recorder) access(a device.Access) {
	r.mu.Lock()
	for data := a.Data; len(data) >= a.Size && a.Size == 4; data = data[a.Size:] {
		if a.Write {
			r.got = append(r.got, le.Uint32(data))
		} else {
			le.PutUint32(data, r.reads)
			r.reads++
		}
	}
	r.moved.Broadcast()
	n, hook := len(r.got), r.hook
	r.mu.Unlock()
	if hook != nil {
		hook(n)
	}
}

func (r *recorder) numbers() []uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]uint32(nil), r.got...)
}

// attach makes a machine that has a recorder, at a port and in memory.
func attach(vm *VM, r *recorder) {
	plug(vm, device.Ports, recorderPort, r)
	plug(vm, device.MMIO, recorderMMIO, r)
}

func plug(vm *VM, space device.Space, start uint64, r *recorder) {
	w := device.Window{Space: space, Start: start, Size: 4, Access: r.access}
	if err := vm.devices.Plug(w); err != nil {
		panic(err)
	}
}

// waitFor waits until the recorder has n numbers.
func (r *recorder) waitFor(t testing.TB, n int) {
	t.Helper()
	late := time.AfterFunc(testTimeout, r.moved.Broadcast)
	defer late.Stop()
	deadline := time.Now().Add(testTimeout)
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.got) < n {
		require.True(t, time.Now().Before(deadline), "the guest stands still after %d accesses",
			len(r.got))
		r.moved.Wait()
	}
}

// portCounter writes 0, 1, 2, ... to the recorder's port for ever.
var portCounter = code(
	0x31, 0xc0, // xor eax, eax
	0x66, 0xba, 0x00, 0x07, // mov dx, 0x700
	0xef,       // 1: out dx, eax
	0x40,       // inc eax
	0xeb, 0xfc, // jmp 1b
)

// mmioCounter writes 0, 1, 2, ... to the recorder's memory for ever.
var mmioCounter = code(
	0x31, 0xc0, // xor eax, eax
	0xa3, imm32(recorderMMIO), // 1: mov [recorder], eax
	0x40,       // inc eax
	0xeb, 0xf8, // jmp 1b
)

// inCounter reads numbers from the port and writes what it read to memory: a read
// that is repeated or lost leaves a gap.
var inCounter = code(
	0x66, 0xba, 0x00, 0x07, // mov dx, 0x700
	0xed,                      // 1: in eax, dx
	0xa3, imm32(recorderMMIO), // mov [recorder], eax
	0xeb, 0xf8, // jmp 1b
)

// mmioAdder adds 1 to the recorder's memory for ever: a read and a write in one
// instruction.
var mmioAdder = code(
	0xff, 0x05, imm32(recorderMMIO), // 1: inc dword [recorder]
	0xeb, 0xf8, // jmp 1b
)

// stringCounter fills a buffer with 64 consecutive numbers and sends it with one rep
// outsd, for ever.
var stringCounter = code(
	0xfc,       // cld
	0x31, 0xc0, // xor eax, eax
	0xbf, imm32(0x200000), // 1: mov edi, 0x200000
	0xb9, imm32(64), // mov ecx, 64
	0xab,       // 2: stosd
	0x40,       // inc eax
	0xe2, 0xfc, // loop 2b
	0xbe, imm32(0x200000), // mov esi, 0x200000
	0xb9, imm32(64), // mov ecx, 64
	0x66, 0xba, 0x00, 0x07, // mov dx, 0x700
	0xf3, 0x6f, // rep outsd
	0xeb, 0xe0, // jmp 1b
)

// counters are guests whose recorded numbers must be 0, 1, 2, ... or, for the adder,
// 1, 2, 3, ...
var counters = []struct {
	name   string
	code   []byte
	first  uint32
	pauses int // of TestPauseNeitherLosesNorRepeatsAnAccess
}{
	{"out", portCounter, 0, 400},
	{"mmio write", mmioCounter, 0, 150},
	{"in", inCounter, 0, 150},
	{"mmio read and write", mmioAdder, 1, 150},
	{"rep outs", stringCounter, 0, 150},
}

func requireConsecutive(t testing.TB, first uint32, got []uint32) {
	t.Helper()
	for i, v := range got {
		require.Equal(t, first+uint32(i), v, "number %d of %d", i, len(got))
	}
}

func TestPauseNeitherLosesNorRepeatsAnAccess(t *testing.T) {
	for _, g := range counters {
		t.Run(g.name, func(t *testing.T) {
			r := newRecorder()
			vm := newTestVM(t, 1, nil)
			attach(vm, r)
			require.NoError(t, vm.Boot(testKernel(g.code), nil, ""))
			for range g.pauses {
				before := len(r.numbers())
				require.NoError(t, vm.Resume())
				r.waitFor(t, before+1)
				require.NoError(t, vm.Pause())
				still := len(r.numbers())
				require.NoError(t, vm.Pause(), "a second pause")
				require.Len(t, r.numbers(), still, "the guest goes on while paused")
			}
			requireConsecutive(t, g.first, r.numbers())
		})
	}
}

func TestStateMovesBetweenAccesses(t *testing.T) {
	for _, g := range counters {
		t.Run(g.name, func(t *testing.T) {
			r := newRecorder()
			vm := newTestVM(t, 1, nil)
			attach(vm, r)
			require.NoError(t, vm.Boot(testKernel(g.code), nil, ""))
			require.NoError(t, vm.Resume())
			for hop := range 8 {
				r.waitFor(t, 20*(hop+1))
				vm = moveVM(t, vm, func(dst *VM) { attach(dst, r) })
				require.NoError(t, vm.Resume())
			}
			r.waitFor(t, len(r.numbers())+20)
			require.NoError(t, vm.Pause())
			requireConsecutive(t, g.first, r.numbers())
		})
	}
}

// explainDigest shows what differs between two machines' states without time.
func explainDigest(t testing.TB, a, b *VM) {
	t.Helper()
	var states [2]*machineState
	for i, vm := range []*VM{a, b} {
		s, err := vm.readState()
		require.NoError(t, err)
		s.withoutTime()
		states[i] = s
	}
	assert.Equal(t, states[0], states[1])
}

// moveVM pauses a machine and carries it over into a new one, which it returns.
func moveVM(t testing.TB, src *VM, prepare func(dst *VM)) *VM {
	t.Helper()
	require.NoError(t, src.Pause())
	config, err := src.Config()
	require.NoError(t, err)
	dst, err := NewFromConfig(config, Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, dst.Close()) })
	prepare(dst)
	written := memory.NewBitmap(src.RAM().Pages())
	require.NoError(t, src.RAM().Allocated(written))
	for first, count := written.NextRun(0,
		written.Len()); count > 0; first, count = written.NextRun(first+count, written.Len()) {
		copy(dst.RAM().Range(first, count), src.RAM().Range(first, count))
	}
	state, err := src.SaveState()
	require.NoError(t, err)
	require.NoError(t, dst.LoadState(state))
	want, err := src.StateDigest()
	require.NoError(t, err)
	got, err := dst.StateDigest()
	require.NoError(t, err)
	if want != got {
		explainDigest(t, src, dst)
	}
	require.Equal(t, want, got, "state digest")
	src.Stop()
	return dst
}
