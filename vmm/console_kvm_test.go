package vmm

import (
	"encoding/json"
	"io"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/vmm/device"
	"taskguide/vmm/device/devicetest"
	"taskguide/vmm/state"
)

// blockedWriter blocks until it is opened.
type blockedWriter struct {
	open chan struct{}
	w    io.Writer
}

func (b *blockedWriter) Write(p []byte) (int, error) {
	<-b.open
	return b.w.Write(p)
}

func TestSlowConsoleDoesNotHoldUpAPause(t *testing.T) {
	var out syncBuffer
	slow := &blockedWriter{open: make(chan struct{}), w: &out}
	vm, err := New(Config{
		MemoryBytes: 16 << 20, CPUs: 1,
		Options: Options{Console: slow, consoleBytes: 1000},
	})
	require.NoError(t, err)
	defer vm.Close()
	// The guest writes 0, 1, 2, ... to COM1 for ever.
	require.NoError(t, vm.Boot(testKernel(code(
		0x31, 0xc0, // xor eax, eax
		0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xee,       // 1: out dx, al
		0xfe, 0xc0, // inc al
		0xeb, 0xfb, // jmp 1b
	)), nil, ""))
	require.NoError(t, vm.Resume())
	queued := vm.devices.Serial.Unwritten
	require.Eventually(t, func() bool { return queued() >= 1000 }, testTimeout, 1e6)
	for range 10 {
		require.NoError(t, vm.Pause())
		_, err := vm.SaveState()
		require.NoError(t, err)
		require.NoError(t, vm.Resume())
	}
	require.Less(t, queued(), 1000+20, "the guest waits for the console")
	require.NoError(t, vm.Pause())
	infos, err := vm.Debug(patient(t))
	require.NoError(t, err)
	printed := vm.Console().Printed
	require.GreaterOrEqual(t, printed, int64(1000))
	require.Equal(t, uint64(printed), infos[0].Exits, "each byte is an access")
	require.Zero(t, vm.Console().Written, "the writer has not returned yet")
	close(slow.open)
	require.Eventually(t, func() bool { return queued() == 0 }, testTimeout, 1e6)
	vm.Stop()
	_, err = vm.Wait()
	require.NoError(t, err)
	// On a busy host, the writer may have counted as stuck meanwhile. Then the last bytes are lost.
	after := vm.Console()
	require.Equal(t, printed, after.Printed)
	require.Equal(t, printed, after.Written+after.Lost)
	require.Len(t, out.String(), int(after.Written))
	for i, v := range []byte(out.String()) {
		require.Equal(t, byte(i), v, "byte %d", i)
	}
}

// TestMachineWithoutASecondConsole came from an older program. What is typed for the console that
// it lacks is dropped.
func TestMachineWithoutASecondConsole(t *testing.T) {
	vm := newTestVM(t, 1, nil)
	var mc machineConfig
	config, err := vm.Config()
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(config, &mc))
	mc.Sections = slices.DeleteFunc(mc.Sections, func(k state.Kind) bool {
		return k.Name == "console"
	})
	config, err = json.Marshal(mc)
	require.NoError(t, err)
	old, err := NewFromConfig(config, Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, old.Close()) }()
	require.Equal(t, 5000, old.HVCInput(make([]byte, 5000)))
	require.Equal(t, 4096, vm.HVCInput(make([]byte, 5000)))
}

// stayer is a device that gives something away with its state.
type stayer struct {
	*devicetest.Counter
	stayed int
}

func (s *stayer) Stay() { s.stayed++ }

// TestDevicesOfAGuestThatStays: when the disks come back, so does all else.
func TestDevicesOfAGuestThatStays(t *testing.T) {
	s := &stayer{Counter: devicetest.NewCounter(devicetest.NoFault)}
	vm, err := New(Config{
		MemoryBytes: 16 << 20, CPUs: 1, Options: Options{Devices: []device.Device{s}},
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, vm.Close()) }()
	_, err = vm.SaveState()
	require.NoError(t, err)
	require.Zero(t, s.stayed)
	require.NoError(t, vm.TakeDisks(t.Context()))
	require.Equal(t, 1, s.stayed)
}

// TestInputWhileAGuestIsHandedOver: what is typed once the state was saved is not taken, so that it
// is lost neither with the guest here nor behind it. When the guest stays, it is taken again.
func TestInputWhileAGuestIsHandedOver(t *testing.T) {
	vm, dst := newTestVM(t, 1, nil), newTestVM(t, 1, nil)
	require.NoError(t, vm.Boot(testKernel(code(0xeb, 0xfe)), nil, "")) // jmp .
	for name, input := range map[string]func(*VM, []byte) int{
		"COM1": (*VM).SerialInput, "hvc0": (*VM).HVCInput,
	} {
		require.Equal(t, 5, input(vm, []byte("first")), name)
		data, err := vm.SaveState()
		require.NoError(t, err)
		require.Zero(t, input(vm, []byte("late")), name)
		again, err := vm.SaveState()
		require.NoError(t, err)
		require.Equal(t, devicesOf(t, data), devicesOf(t, again), name)
		require.NoError(t, vm.TakeDisks(t.Context())) // it stays, and its user had paused it
		require.Equal(t, 4, input(vm, []byte("late")), name)
		_, err = vm.SaveState()
		require.NoError(t, err)
		require.Zero(t, input(vm, []byte("more")), name)
		require.NoError(t, vm.Resume())
		require.Equal(t, 4, input(vm, []byte("more")), name)
		require.NoError(t, vm.Pause())
		data, err = vm.SaveState()
		require.NoError(t, err)
		require.NoError(t, dst.LoadState(data))
		want, err := vm.SaveState()
		require.NoError(t, err)
		got, err := dst.SaveState()
		require.NoError(t, err)
		require.Equal(t, devicesOf(t, want), devicesOf(t, got), name)
		require.NoError(t, dst.Run(true))
		require.Equal(t, 4, input(dst, []byte("here")), name)
		require.NoError(t, vm.Resume())
		require.NoError(t, vm.Pause())
	}
}

// devicesOf returns the devices' sections of a saved state.
func devicesOf(t *testing.T, data []byte) []state.Section {
	vm := newTestVM(t, 1, nil)
	s, err := decodeState(data, 1, vm.devices.Catalog())
	require.NoError(t, err)
	return s.devices
}
