package vmm

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/dirtylog"
	"taskguide/migration"
	"taskguide/transport"
	"taskguide/vmm/device"
	"taskguide/vmm/device/devicetest"
	"taskguide/vmm/probe"
	"taskguide/vmm/state"
)

// counterMachine is the destination's machine, whose counter is checked before it runs.
type counterMachine struct {
	*VM
	counter *devicetest.Counter
	arrived uint64 // its number
	wrong   error
}

// Run implements [migration.Incoming].
func (m *counterMachine) Run(paused bool) error {
	m.arrived, m.wrong = m.counter.Count(), m.counter.Check()
	return m.VM.Run(paused)
}

// slowSaving is the source's machine. It waits for its counter before it pauses, and while it saves
// its state, so that what a faulty counter does is detected.
type slowSaving struct {
	*VM
	counter *devicetest.Counter
	fault   devicetest.Fault
}

// Park implements [migration.Machine]. By now round 1 has sent each page, and a counter that marks
// nothing writes each page once more.
func (m slowSaving) Park() error {
	if m.fault == devicetest.Unmarked {
		m.dawdle(testTimeout)
	}
	return m.VM.Park()
}

// SaveState implements [migration.Machine].
func (m slowSaving) SaveState() ([]byte, error) {
	atMost := 50 * time.Millisecond // a counter that is quiet counts no further
	if m.fault == devicetest.WritesOn {
		atMost = testTimeout
	}
	m.dawdle(atMost)
	data, err := m.VM.SaveState()
	m.dawdle(atMost)
	return data, err
}

// dawdle waits until each page has a further number.
func (m slowSaving) dawdle(atMost time.Duration) {
	begin, from := time.Now(), m.counter.Count()
	for m.counter.Count() < from+devicetest.CounterPages && time.Since(begin) < atMost {
		time.Sleep(time.Millisecond)
	}
}

// counterBuilder makes it.
type counterBuilder struct {
	kind dirtylog.Kind
	made *counterMachine
}

// Build implements [migration.Builder].
func (b *counterBuilder) Build(config []byte) (migration.Incoming, error) {
	counter := devicetest.NewCounter(devicetest.NoFault)
	vm, err := NewFromConfig(config, Options{DirtyLog: b.kind, Devices: []device.Device{counter}})
	if err != nil {
		return nil, err
	}
	b.made = &counterMachine{VM: vm, counter: counter}
	return b.made, nil
}

// runWith runs a machine with a device, whose guest writes RAM.
func runWith(t *testing.T, kind dirtylog.Kind, d device.Device) *VM {
	vm, err := New(Config{
		MemoryBytes: 16 << 20, CPUs: 1,
		Options: Options{DirtyLog: kind, Devices: []device.Device{d}},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, vm.Close()) })
	require.NoError(t, vm.Boot(testKernel(scatter), nil, ""))
	require.NoError(t, vm.Resume())
	return vm
}

// migrate moves a machine to where b builds one. The destination waits for another if it fails.
func migrate(
	t *testing.T, m migration.Machine, b migration.Builder, p migration.Params,
) migration.Report {
	p.Destination = "unix:" + filepath.Join(t.TempDir(), "migration")
	p.BitsPerSecond, p.MaxRounds, p.Channels = 1e9, 4, 2
	p.StandstillLimit = migration.NoStandstillLimit // a busy host may take any time
	ln, err := transport.Listen(p.Destination, transport.Security{})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	served := make(chan error, 1)
	d := migration.Destination{Builder: b}
	go func() {
		_, err := d.Serve(ctx, ln)
		served <- err
	}()
	defer func() { cancel(); <-served }()
	s, err := migration.NewSource(m, p, func(migration.Notice) {})
	require.NoError(t, err)
	return s.Run(ctx)
}

// moveCounter migrates a running machine whose guest and counter both write RAM.
func moveCounter(t *testing.T, kind dirtylog.Kind, fault devicetest.Fault) *counterMachine {
	_, made, r := tryToMoveCounter(t, kind, fault)
	require.Equal(t, migration.StatusCompleted, r.Status, r.Error)
	return made
}

// tryToMoveCounter is moveCounter where a migration may fail. It returns both machines.
func tryToMoveCounter(
	t *testing.T, kind dirtylog.Kind, fault devicetest.Fault,
) (*VM, *counterMachine, migration.Report) {
	counter := devicetest.NewCounter(fault)
	vm := runWith(t, kind, counter)
	counted := func() bool { return counter.Count() > 1000 }
	require.Eventually(t, counted, testTimeout, time.Millisecond)
	b := &counterBuilder{kind: kind}
	p := migration.Params{Verify: fault == devicetest.NoFault}
	r := migrate(t, slowSaving{vm, counter, fault}, b, p)
	if r.Status != migration.StatusCompleted {
		return vm, nil, r
	}
	t.Cleanup(func() { require.NoError(t, b.made.Close()) })
	require.Greater(t, b.made.arrived, uint64(1000))
	return vm, b.made, r
}

// TestADeviceThatWritesRAMMoves: a device that writes RAM on its own moves with its machine under
// load, and no write is lost, before or after the move. If KVM overfills a ring because no harvest
// came in time, the migration fails, says why, and leaves the guest.
func TestADeviceThatWritesRAMMoves(t *testing.T) {
	h, err := probe.Ask()
	require.NoError(t, err)
	for _, kind := range h.DirtyTrackers {
		t.Run(kind, func(t *testing.T) {
			vm, m, r := tryToMoveCounter(t, dirtylog.Kind(kind), devicetest.NoFault)
			overfills := dirtylog.Kind(kind) == dirtylog.KindRing && h.EmulatedRing0
			if overfills && r.Status == migration.StatusFailed {
				require.Contains(t, r.Error, dirtylog.ErrRingOverflow.Error())
				require.True(t, vm.Running())
				return
			}
			require.Equal(t, migration.StatusCompleted, r.Status, r.Error)
			require.NoError(t, m.wrong)
			goesOn := func() bool { return m.counter.Count() > m.arrived+2*devicetest.CounterPages }
			require.Eventually(t, goesOn, testTimeout, time.Millisecond)
			require.NoError(t, m.Pause())
			require.NoError(t, m.counter.Check())
		})
	}
}

// TestWithoutTheContractWritesAreLost: the test above would detect a device that is not quiesced,
// and one that does not mark what it writes.
func TestWithoutTheContractWritesAreLost(t *testing.T) {
	for _, fault := range []devicetest.Fault{devicetest.WritesOn, devicetest.Unmarked} {
		t.Run(string(fault), func(t *testing.T) {
			m := moveCounter(t, dirtylog.KindGetDirtyLog, fault)
			require.ErrorContains(t, m.wrong, "is lost")
		})
	}
}

// plainBuilder makes machines of the standard devices.
type plainBuilder struct{ made *VM }

// Build implements [migration.Builder].
func (b *plainBuilder) Build(config []byte) (migration.Incoming, error) {
	vm, err := NewFromConfig(config, Options{})
	b.made = vm
	if err != nil {
		return nil, err
	}
	return vm, nil
}

// TestADestinationWithoutTheDeviceRefuses: a destination without the device refuses the machine by
// the device's name, before a page is sent. The guest stays.
func TestADestinationWithoutTheDeviceRefuses(t *testing.T) {
	vm := runWith(t, dirtylog.KindGetDirtyLog, devicetest.NewCounter(devicetest.NoFault))
	r := migrate(t, vm, &plainBuilder{}, migration.Params{})
	require.Equal(t, migration.StatusFailed, r.Status)
	require.Contains(t, r.Error, `unknown section "counter"`)
	require.Zero(t, r.PagesSent+r.PagesZero)
	require.True(t, vm.Running())
	require.NoError(t, vm.Pause())
	data, err := vm.SaveState()
	require.NoError(t, err)
	_, err = decodeState(data, 1, newDevices(Options{}, backends{}).Catalog())
	require.ErrorIs(t, err, ErrState, "if it came so far")
	require.ErrorContains(t, err, `unknown section "counter"`)
}

// statistics is a counter that the guest can do without.
type statistics struct{ *devicetest.Counter }

func (s statistics) Kind() state.Kind {
	k := s.Counter.Kind()
	k.Optional = true
	return k
}

// TestAnOptionalDeviceIsLeftBehind: a destination without it still takes the machine.
func TestAnOptionalDeviceIsLeftBehind(t *testing.T) {
	counter := statistics{devicetest.NewCounter(devicetest.NoFault)}
	vm := runWith(t, dirtylog.KindGetDirtyLog, counter)
	var b plainBuilder
	r := migrate(t, vm, &b, migration.Params{Verify: true})
	require.Equal(t, migration.StatusCompleted, r.Status, r.Error)
	defer b.made.Close()
	require.True(t, b.made.Running())
	config, err := b.made.Config()
	require.NoError(t, err)
	require.NotContains(t, string(config), "counter", "the next destination need not know")
}

// TestAMachineGetsNoDeviceOnTheWay: a destination that has one more leaves it out.
func TestAMachineGetsNoDeviceOnTheWay(t *testing.T) {
	vm := newTestVM(t, 1, nil)
	config, err := vm.Config()
	require.NoError(t, err)
	require.NoError(t, vm.Pause())
	data, err := vm.SaveState()
	require.NoError(t, err)
	counter := devicetest.NewCounter(devicetest.NoFault)
	dst, err := NewFromConfig(config, Options{Devices: []device.Device{counter}})
	require.NoError(t, err)
	defer dst.Close()
	require.NoError(t, dst.LoadState(data))
	again, err := dst.Config()
	require.NoError(t, err)
	require.Equal(t, string(config), string(again))
}
