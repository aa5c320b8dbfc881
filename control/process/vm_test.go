package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/control"
	"taskguide/dirtylog"
	"taskguide/memory"
	"taskguide/migration"
	"taskguide/tagging"
	"taskguide/transport"
	"taskguide/vmm"
)

// deadline is far beyond what anything here takes; it turns a hang into a failure.
const deadline = time.Minute

// fakeMachine is a machine without KVM.
type fakeMachine struct {
	migration.Machine // methods that no test needs
	ram               *memory.RAM
	port              *tagging.Port
	done              chan struct{}

	onPress func() (heard bool, err error) // of its power button; nil: nobody notices it

	mu      sync.Mutex
	running bool
	exit    vmm.Exit
	err     error
	ended   bool
	noDisks error

	tracker dirtylog.Tracker // unless nil: its dirty log

	disksTaken int // how often TakeDisks was called

	pausing chan struct{} // unless nil: what Pause waits for, and then fails
	// Unless nil, Resume and TakeDisks wait for these, and tell by hangs that they do.
	resuming, taking chan struct{}
	hangs            chan struct{}
}

func newFakeMachine(t *testing.T) *fakeMachine {
	ram, err := memory.New(memory.MinSize)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ram.Close()) })
	return &fakeMachine{ram: ram, port: tagging.NewPort(nil), done: make(chan struct{})}
}

func (m *fakeMachine) RAM() *memory.RAM         { return m.ram }
func (m *fakeMachine) CPUs() int                { return 3 }
func (m *fakeMachine) Tags() *tagging.Port      { return m.port }
func (m *fakeMachine) SerialInput(p []byte) int { return len(p) }
func (m *fakeMachine) HVCInput(p []byte) int    { return len(p) }
func (m *fakeMachine) Done() <-chan struct{}    { return m.done }
func (m *fakeMachine) Close() error             { return nil }
func (m *fakeMachine) DirtyLog() dirtylog.Kind  { return dirtylog.KindGetDirtyLog }

func (m *fakeMachine) Tracker() dirtylog.Tracker {
	if m.tracker != nil {
		return m.tracker
	}
	return fakeTracker{}
}

func (m *fakeMachine) Devices() ([]vmm.DeviceInfo, error) {
	return []vmm.DeviceInfo{{
		Name: "blk0", State: "broken", Broken: "queue 0: why", Queues: []vmm.QueueInfo{
			{Size: 128, Ready: true, Available: 65535, Used: 65530, InFlight: 5}, {Size: 64},
		},
	}}, nil
}

func (m *fakeMachine) Console() vmm.ConsoleInfo {
	return vmm.ConsoleInfo{Printed: 9, Written: 6, Lost: 2}
}

func (m *fakeMachine) Debug(context.Context) ([]vmm.VCPUInfo, error) {
	if !m.Running() {
		return nil, vmm.ErrEnded
	}
	return []vmm.VCPUInfo{
		{
			ID: 0, MPState: "halted", RIP: 1 << 63, LVTT: 2, TSCDeadline: 3, TSC: 4,
			IRR: []int{5}, Exits: 8,
		},
		{ID: 1, Err: vmm.ErrBusy, RIP: 7},
	}, nil
}

func (m *fakeMachine) Running() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.running
}

func (m *fakeMachine) set(running bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return vmm.ErrEnded
	}
	m.running = running
	return nil
}

func (m *fakeMachine) Pause() error {
	if m.pausing == nil {
		return m.set(false)
	}
	select {
	case <-m.pausing:
		return vmm.ErrHostBusy
	case <-m.done:
		return vmm.ErrEnded
	}
}

func (m *fakeMachine) Stop() { m.end(vmm.Exit{Reason: vmm.ExitStopped}) }

func (m *fakeMachine) TakeDisks(context.Context) error {
	m.disksTaken++
	if err := m.hang(m.taking); err != nil {
		return err
	}
	return m.noDisks
}

// hang waits as a host that hangs makes a machine wait for its disks.
func (m *fakeMachine) hang(until chan struct{}) error {
	if until == nil {
		return nil
	}
	m.hangs <- struct{}{}
	select {
	case <-until:
		return nil
	case <-m.done:
		return vmm.ErrEnded
	}
}

func (m *fakeMachine) Resume() error {
	if err := m.hang(m.resuming); err != nil {
		return err
	}
	if m.noDisks != nil {
		return m.noDisks
	}
	return m.set(true)
}

func (m *fakeMachine) end(e vmm.Exit) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.ended {
		m.ended, m.running, m.exit = true, false, e
		close(m.done)
	}
}

// fail ends the machine with an error.
func (m *fakeMachine) fail(err error) {
	m.mu.Lock()
	m.err = err
	m.mu.Unlock()
	m.end(vmm.Exit{Reason: vmm.ExitError})
}

func (m *fakeMachine) Wait() (vmm.Exit, error) {
	<-m.done
	return m.exit, m.err
}

// TestDebug: what is known of each vCPU is shown. A vCPU that is held has only an error.
func TestDebug(t *testing.T) {
	h := newVM("vm", func(control.Event) {})
	_, err := h.Debug(context.Background())
	require.ErrorIs(t, err, control.ErrConflict, "no guest yet")
	m := newFakeMachine(t)
	require.NoError(t, h.start(m))
	d, err := h.Debug(context.Background())
	require.NoError(t, err)
	require.Equal(t, control.Debug{VCPUs: []control.VCPUDebug{
		{
			ID: 0, MPState: "halted", RIP: 1 << 63, LVTT: 2, TSCDeadline: 3, TSC: 4,
			IRR: []int{5}, Exits: 8,
		},
		{ID: 1, Error: vmm.ErrBusy.Error()},
	}, Devices: []control.DeviceDebug{{
		Name: "blk0", State: "broken", Broken: "queue 0: why", Queues: []control.QueueDebug{
			{Size: 128, Ready: true, Available: 65535, Used: 65530, InFlight: 5}, {Size: 64},
		},
	}}, Console: control.ConsoleDebug{Printed: 9, Written: 6, Lost: 2}}, d)
	text, err := json.Marshal(d)
	require.NoError(t, err)
	require.Contains(t, string(text), `"rip":"0x8000000000000000","lvtt":"0x2"`)
	var back control.Debug
	require.NoError(t, json.Unmarshal(text, &back))
	require.Equal(t, d, back)
	require.ErrorContains(t, json.Unmarshal([]byte(`{"vcpus":[{"rip":"12"}]}`), &back), `"12"`)
	require.NoError(t, m.Pause())
	_, err = h.Debug(context.Background())
	require.ErrorIs(t, err, control.ErrConflict)
	require.ErrorIs(t, err, vmm.ErrEnded)
}

type fakeTracker struct{}

func (fakeTracker) Start() error                           { return nil }
func (fakeTracker) Stop() error                            { return nil }
func (fakeTracker) Harvest(*memory.Bitmap) (int, error)    { return 0, nil }
func (fakeTracker) OnDemand() bool                         { return false }
func (fakeTracker) Protect(*memory.Bitmap, int, int) error { return nil }

// fakeEngine migrates until it is told how to end, or cancelled.
type fakeEngine struct {
	m    migration.Machine
	o    migration.Observer
	fate migration.Fate
	end  chan migration.Report
	deaf bool // past its commit: a cancellation has no effect
	// In doubt: the destination's answer, and why a force is refused.
	answer chan migration.Fate
	refuse error

	started atomic.Bool // its tracker is

	mu     sync.Mutex
	report migration.Report
}

func (e *fakeEngine) LogTo(*slog.Logger) {}

func (e *fakeEngine) Run(ctx context.Context) migration.Report {
	if err := e.m.Tracker().Start(); err != nil {
		panic(err)
	}
	e.started.Store(true)
	var r migration.Report
	if e.deaf {
		ctx = context.Background()
	}
	select {
	case r = <-e.end:
	case <-ctx.Done():
		r = migration.Report{Status: migration.StatusCancelled, Error: context.Cause(ctx).Error()}
	}
	if err := e.m.Tracker().Stop(); err != nil {
		panic(err)
	}
	e.mu.Lock()
	e.report = r
	e.mu.Unlock()
	e.o(migration.Notice{Kind: migration.NoticeDone, Report: &r})
	return r
}

func (e *fakeEngine) Report() migration.Report {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.report
}

func (e *fakeEngine) Fate() migration.Fate { return e.fate }

func (e *fakeEngine) ID() transport.ID { return transport.ID{0xab, 15: 0xcd} }

// Settle returns once a test sends an answer.
func (e *fakeEngine) Settle(ctx context.Context) (migration.Fate, error) {
	select {
	case f := <-e.answer:
		if f == migration.FateStays {
			return f, e.m.Resume()
		}
		return f, nil
	case <-ctx.Done():
		return migration.FateUnknown, nil
	}
}

func (e *fakeEngine) Force(context.Context) error {
	if e.refuse == nil {
		e.answer <- migration.FateStays
	}
	return e.refuse
}

// rig is a VM with a fake machine and engine, and what it published.
type rig struct {
	*VM
	t       *testing.T
	machine *fakeMachine
	engine  *fakeEngine // of the last migration
	fate    migration.Fate
	deaf    bool
	events  chan control.Event
	ended   chan ending
}

func newRig(t *testing.T) *rig {
	b := &rig{
		t: t, machine: newFakeMachine(t),
		events: make(chan control.Event, 100), ended: make(chan ending, 1),
	}
	b.VM = newVM("vm", func(e control.Event) { b.events <- e })
	b.prepare = func(p migration.Params) (newEngine, error) {
		if p.Destination == "bad" {
			return nil, errors.New("bad destination")
		}
		return func(m migration.Machine, o migration.Observer) engine {
			b.engine = &fakeEngine{
				m: m, o: o, fate: b.fate, deaf: b.deaf, end: make(chan migration.Report, 1),
				answer: make(chan migration.Fate, 1),
				report: migration.Report{Destination: p.Destination}}
			return b.engine
		}, nil
	}
	return b
}

// running returns a rig whose guest runs.
func running(t *testing.T) *rig {
	b := newRig(t)
	require.NoError(t, b.start(b.machine))
	go func() { b.ended <- b.live(b.machine) }()
	return b
}

func (b *rig) end() ending {
	b.t.Helper()
	select {
	case e := <-b.ended:
		return e
	case <-time.After(deadline):
		require.FailNow(b.t, "the VM's life does not end")
		return ending{}
	}
}

// next waits for the next event of a kind.
func (b *rig) next(kind string) control.Event {
	b.t.Helper()
	for {
		select {
		case e := <-b.events:
			if e.Kind == kind {
				return e
			}
		case <-time.After(deadline):
			require.FailNow(b.t, "no event of kind "+kind)
		}
	}
}

func (b *rig) migrate() {
	b.t.Helper()
	_, err := b.StartMigration(b.t.Context(), migration.Params{Destination: "unix:/d"})
	require.NoError(b.t, err)
}

func TestPauseAndResume(t *testing.T) {
	b := running(t)
	require.Equal(t, control.StateRunning, b.Info().State)
	require.NoError(t, b.Pause())
	require.NoError(t, b.Pause(), "twice is once")
	require.False(t, b.machine.Running())
	require.Equal(t, control.StatePaused, b.Info().State)
	require.NoError(t, b.Resume(control.ResumeSafe))
	require.True(t, b.machine.Running())
	require.NoError(t, b.Resume(control.ResumeForced))
	require.Equal(t, control.VM{
		Name: "vm", State: control.StateRunning, MemoryBytes: memory.MinSize, CPUs: 3,
	},
		func() control.VM { vm := b.Info(); vm.PID, vm.UptimeMS = 0, 0; return vm }())
}

func TestWithoutGuest(t *testing.T) {
	b := newRig(t)
	b.await("tcp:127.0.0.1:9")
	info := b.Info()
	require.Equal(t, control.StateIncoming, info.State)
	require.Equal(t, "tcp:127.0.0.1:9", info.Incoming)
	require.ErrorIs(t, b.Pause(), control.ErrConflict)
	require.ErrorIs(t, b.Resume(control.ResumeForced), control.ErrConflict)
	_, err := b.StartMigration(b.t.Context(), migration.Params{Destination: "unix:/d"})
	require.ErrorIs(t, err, control.ErrConflict)
	_, err = b.Tags()
	require.ErrorIs(t, err, control.ErrConflict)
	_, err = b.FollowTags(func(tagging.Transition) {})
	require.ErrorIs(t, err, control.ErrConflict)
	require.Equal(t, 5, b.input([]byte("hello")), "dropped")
	_, err = b.MigrationReport()
	require.ErrorIs(t, err, control.ErrNotFound)
	_, err = b.CancelMigration(context.Background())
	require.ErrorIs(t, err, control.ErrConflict)
}

// TestFollowersOfABootAnew: who follows the tags hears of those of the machine that a reset makes,
// until it unsubscribes.
func TestFollowersOfABootAnew(t *testing.T) {
	b := newRig(t)
	b.onReset = ResetReboots
	require.NoError(t, b.start(b.machine))
	heard := make(chan uint32, 10)
	unfollow, err := b.FollowTags(func(x tagging.Transition) { heard <- x.Task })
	require.NoError(t, err)
	b.machine.end(vmm.Exit{Reason: vmm.ExitReset})
	require.Equal(t, ending{again: true}, b.live(b.machine))
	next := newFakeMachine(t)
	require.NoError(t, b.start(next))
	next.port.Write(tagging.RegEnter, 4, 7)
	require.EqualValues(t, 7, <-heard)
	unfollow()
	require.Empty(t, b.followers)
	require.NoError(t, b.Stop(control.StopNow))
	b.live(next)
}

// TestUnfollowLosesNothing: what happened before the end of a subscription is heard, and nobody who
// asks about the VM waits meanwhile.
func TestUnfollowLosesNothing(t *testing.T) {
	b := running(t)
	listen := make(chan struct{})
	var heard []uint32 // by the time that unfollow returns, nobody else has it
	unfollow, err := b.FollowTags(func(x tagging.Transition) {
		<-listen
		heard = append(heard, x.Task)
	})
	require.NoError(t, err)
	for id := range uint32(3) {
		b.machine.port.Write(tagging.RegEnter, 4, id)
	}
	unfollowed := make(chan struct{})
	go func() {
		defer close(unfollowed)
		unfollow()
	}()
	require.Eventually(t, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.followers) == 0
	}, deadline, time.Millisecond)
	require.Equal(t, control.StateRunning, b.Info().State)
	close(listen)
	<-unfollowed
	require.Equal(t, []uint32{0, 1, 2}, heard)
	require.NoError(t, b.Stop(control.StopNow))
	b.end()
}

func TestAdoptsAPausedGuest(t *testing.T) {
	b := newRig(t)
	b.await("unix:/d")
	b.adopt(b.machine)
	require.Equal(t, control.StatePaused, b.Info().State)
	require.Empty(t, b.Info().Incoming)
}

func TestExitStatus(t *testing.T) {
	b := running(t)
	b.machine.end(vmm.Exit{Reason: vmm.ExitGuest, Status: 42})
	e := b.end()
	require.Nil(t, e.movedTo)
	require.Equal(t, vmm.Exit{Reason: vmm.ExitGuest, Status: 42}, e.exit)
	require.Equal(t, control.StateStopped, b.Info().State)
}

func TestStop(t *testing.T) {
	b := running(t)
	require.NoError(t, b.obey(bySignal(syscall.SIGINT), control.StopSafe))
	require.NoError(t, b.Stop(control.StopSafe))
	e := b.end()
	require.Equal(t, control.EndSignal, e.how)
	require.Equal(t, "SIGINT", e.order.by, "the first order counts")
	require.ErrorIs(t, b.Pause(), control.ErrConflict)
}

// TestEndings: the last event, the log's last line and the exit status tell one end from another.
func TestEndings(t *testing.T) {
	stop := func(o order) func(*rig) {
		return func(b *rig) { require.NoError(t, b.obey(o, control.StopSafe)) }
	}
	machine := func(e vmm.Exit) func(*rig) { return func(b *rig) { b.machine.end(e) } }
	for _, c := range []struct {
		name   string
		end    func(*rig)
		state  control.State
		how    control.Ending
		status int
		line   string
	}{
		{"vmm stop", stop(byCommand), control.StateStopped, control.EndStop, 0,
			"stopped by vmm stop"},
		{"the key", stop(byKey), control.StateStopped, control.EndStop, 0, "stopped by Ctrl-A X"},
		{"SIGTERM", stop(bySignal(syscall.SIGTERM)), control.StateStopped, control.EndSignal, 0,
			"stopped by SIGTERM"},
		{"SIGINT", stop(bySignal(syscall.SIGINT)), control.StateStopped, control.EndSignal, 130,
			"stopped by SIGINT"},
		{"SIGHUP", stop(bySignal(syscall.SIGHUP)), control.StateStopped, control.EndSignal, 129,
			"stopped by SIGHUP"},
		{"exit port", machine(vmm.Exit{Reason: vmm.ExitGuest, Status: 42}),
			control.StateStopped, control.EndExit, 42, "ended by the guest, with status 42"},
		{"power off", machine(vmm.Exit{Reason: vmm.ExitPowerOff}), control.StateStopped,
			control.EndPowerOff, 0, "ended by the guest, which switched itself off"},
		{"reset", machine(vmm.Exit{Reason: vmm.ExitReset}), control.StateStopped,
			control.EndReset, 0, "ended by the guest, which asked for a reset"},
		{"moved", func(b *rig) {
			b.fate = migration.FateMoved
			b.migrate()
			b.engine.end <- migration.Report{
				Status: migration.StatusCompleted, Destination: "unix:/d", DowntimeMS: 2,
			}
		}, control.StateMoved, control.EndMoved, 75, "moved to unix:/d in 0.0 ms, downtime 2.0 ms"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := running(t)
			require.Equal(t, control.StateRunning, b.next("state").State)
			c.end(b)
			e := b.end()
			last := b.next("state")
			require.Equal(t, c.state, last.State)
			require.Equal(t, c.how, last.Ending)
			var log strings.Builder
			p := process{
				cfg: Config{MovedStatus: 75}, log: slog.New(slog.NewTextHandler(&log, nil)),
			}
			require.Equal(t, c.status, p.conclude(e))
			require.Contains(t, log.String(), `msg="`+c.line+`"`)
			require.Equal(t, 1, strings.Count(log.String(), "\n"))
		})
	}
}

// TestEndOfACrash: the error is the log's last line, and it is main that writes it.
func TestEndOfACrash(t *testing.T) {
	b := running(t)
	b.machine.fail(errors.New("triple fault"))
	e := b.end()
	require.ErrorContains(t, e.err, "triple fault")
	require.Equal(t, control.StateRunning, b.next("state").State)
	require.Equal(t, control.EndFailed, b.next("state").Ending)
}

// TestEndWithoutAGuest: a VM that waits for a guest and is told to stop logs that, too. Without an
// order it has failed, and its clients learn of that.
func TestEndWithoutAGuest(t *testing.T) {
	b := newRig(t)
	_, ordered := b.endUnborn()
	require.False(t, ordered)
	require.Equal(t, control.EndFailed, b.next("state").Ending)

	b = newRig(t)
	b.await("unix:/d")
	require.NoError(t, b.obey(bySignal(syscall.SIGTERM), control.StopSafe))
	e, ordered := b.endUnborn()
	require.True(t, ordered)
	require.Equal(t, ending{how: control.EndSignal, order: bySignal(syscall.SIGTERM)}, e)
	require.Equal(t, control.StateIncoming, b.next("state").State)
	last := b.next("state")
	require.Equal(t, control.StateStopped, last.State)
	require.Equal(t, control.EndSignal, last.Ending)
}

func TestMigrationOwnsTheMachine(t *testing.T) {
	b := running(t)
	b.migrate()
	require.ErrorIs(t, b.Pause(), control.ErrConflict)
	require.ErrorIs(t, b.Resume(control.ResumeForced), control.ErrConflict)
	_, err := b.StartMigration(b.t.Context(), migration.Params{Destination: "unix:/e"})
	require.ErrorIs(t, err, control.ErrConflict)
	require.ErrorContains(t, err, "unix:/d")

	r, err := b.CancelMigration(context.Background())
	require.NoError(t, err)
	require.Equal(t, migration.StatusCancelled, r.Status)
	require.Equal(t, migration.ErrCancelled.Error(), r.Error)
	require.False(t, b.Info().DirtyLogging)
	require.NoError(t, b.Pause())
	require.Equal(t, migration.StatusCancelled, b.Info().Migration.Status)
}

func TestBadOrderToMigrate(t *testing.T) {
	b := running(t)
	_, err := b.StartMigration(b.t.Context(), migration.Params{Destination: "bad"})
	require.ErrorIs(t, err, control.ErrInvalid)
	require.Nil(t, b.Info().Migration)
	b.migrate()
}

// TestPlainTextIsNotAwaited from other hosts without an order, even if the caller checked the
// address.
func TestPlainTextIsNotAwaited(t *testing.T) {
	p := &process{cfg: Config{Incoming: "tcp:192.0.2.1:1"}}
	_, err := p.receive(t.Context())
	require.ErrorAs(t, err, new(*transport.PlainError))
}

func TestMoved(t *testing.T) {
	b := running(t)
	b.fate = migration.FateMoved
	b.migrate()
	b.engine.end <- migration.Report{Status: migration.StatusCompleted, Destination: "unix:/d"}
	e := b.end()
	require.Equal(t, "unix:/d", e.movedTo.Destination)
	done := b.next("done")
	require.Equal(t, migration.StatusCompleted, done.Report.Status)
	require.Equal(t, 1, done.MigrationID)
	info := b.Info()
	require.Equal(t, control.StateMoved, info.State)
	require.Equal(t, "unix:/d", info.MovedTo)
	require.False(t, b.machine.Running())
	require.ErrorIs(t, b.Resume(control.ResumeForced), control.ErrConflict)
	require.ErrorIs(t, b.machine.Resume(), vmm.ErrEnded, "nothing can run it here any more")
}

// TestStateBeforeDone: a client that is told of the end always finds the VM ready for the next
// order.
func TestStateBeforeDone(t *testing.T) {
	b := running(t)
	for i := range 50 {
		b.migrate()
		b.engine.end <- migration.Report{Status: migration.StatusFailed, Error: "no"}
		done := b.next("done")
		require.Equal(t, i+1, done.MigrationID)
		require.Equal(t, "no", done.Report.Error)
	}
	require.Empty(t, b.events, "one end each")
}

// unknown returns a rig whose VM is in doubt.
func unknown(t *testing.T) *rig {
	b := running(t)
	b.fate = migration.FateUnknown
	b.migrate()
	require.NoError(t, b.machine.Pause())
	b.engine.end <- migration.Report{Status: migration.StatusFailed, Error: "lost"}
	b.next("done")
	require.Equal(t, control.StateUnknown, b.Info().State)
	return b
}

func TestUnknownFate(t *testing.T) {
	b := unknown(t)
	require.ErrorIs(t, b.Resume(control.ResumeSafe), control.ErrConflict)
	require.ErrorIs(t, b.Pause(), control.ErrConflict)
	_, err := b.StartMigration(b.t.Context(), migration.Params{Destination: "unix:/e"})
	require.ErrorIs(t, err, control.ErrConflict)
	require.False(t, b.machine.Running())

	b.engine.refuse = fmt.Errorf("%w: wait 7s", migration.ErrTooEarly)
	err = b.Resume(control.ResumeForced)
	require.ErrorIs(t, err, control.ErrConflict)
	require.ErrorContains(t, err, "wait 7s")
	require.False(t, b.machine.Running())
	require.Equal(t, control.StateUnknown, b.Info().State)

	b.engine.refuse = nil
	require.NoError(t, b.Resume(control.ResumeForced))
	require.True(t, b.machine.Running())
	require.Equal(t, control.StateRunning, b.Info().State)
	b.fate = migration.FateStays
	b.migrate()
}

// TestGuestWithoutItsDisks: a guest that stays, and whose disks another process has, is shown as
// paused, whether that is found at once or after a doubt.
func TestGuestWithoutItsDisks(t *testing.T) {
	b := unknown(t)
	b.machine.noDisks = errors.New("disk a: in use")
	b.engine.answer <- migration.FateStays
	require.Equal(t, control.StatePaused, b.next("state").State)
	require.ErrorIs(t, b.Resume(control.ResumeSafe), b.machine.noDisks)
	require.Equal(t, control.StatePaused, b.Info().State)
}

// TestGuestWhoseDisksCameLate: a guest that could not go on, because another process just had its
// disks, is shown as paused.
func TestGuestWhoseDisksCameLate(t *testing.T) {
	b := running(t)
	require.Equal(t, control.StateRunning, b.next("state").State)
	b.fate = migration.FateStays
	b.migrate()
	require.NoError(t, b.machine.Pause()) // as its engine does
	b.engine.end <- migration.Report{Status: migration.StatusFailed}
	require.Equal(t, control.StatePaused, b.next("state").State)
	require.Equal(t, 1, b.machine.disksTaken)
	require.NoError(t, b.Resume(control.ResumeSafe))
	require.Equal(t, control.StateRunning, b.Info().State)
}

// TestLateAnswer: a doubt ends by itself when the destination can be asked again.
func TestLateAnswer(t *testing.T) {
	b := unknown(t)
	b.engine.answer <- migration.FateStays
	require.Equal(t, control.StateRunning, b.next("state").State)
	require.True(t, b.machine.Running())
	require.NoError(t, b.Stop(control.StopSafe), "there is no doubt any more")
	require.Nil(t, b.end().movedTo)

	b = unknown(t)
	b.engine.answer <- migration.FateMoved
	require.NotNil(t, b.end().movedTo)
	require.Equal(t, control.StateMoved, b.Info().State)
}

// TestStopInDoubt: only force ends what may be the guest's only copy, whether the order comes
// before the doubt or after it.
func TestStopInDoubt(t *testing.T) {
	alive := func(b *rig) {
		t.Helper()
		err := b.obey(bySignal(syscall.SIGINT), control.StopSafe)
		require.ErrorIs(t, err, control.ErrConflict)
		require.ErrorContains(t, err, "vmm stop --force")
		require.Empty(t, b.ended)
		require.False(t, b.machine.ended)
		require.Equal(t, control.StateUnknown, b.Info().State)
	}
	b := unknown(t)
	alive(b)
	require.NoError(t, b.Stop(control.StopForced))
	require.Equal(t, vmm.ExitStopped, b.end().exit.Reason)

	b = running(t)
	b.fate, b.deaf = migration.FateUnknown, true
	b.migrate()
	require.NoError(t, b.obey(bySignal(syscall.SIGINT), control.StopSafe))
	b.engine.end <- migration.Report{Status: migration.StatusFailed, Error: "lost"}
	require.Eventually(t, func() bool {
		return !b.Info().Stopping
	}, deadline, time.Millisecond, "the order is withdrawn")
	alive(b)
	b.engine.answer <- migration.FateMoved
	require.NotNil(t, b.end().movedTo)

	b = running(t)
	first, cancel := b.untilStop()
	defer cancel()
	b.fate, b.deaf = migration.FateUnknown, true
	b.migrate()
	require.NoError(t, b.obey(bySignal(syscall.SIGINT), control.StopSafe))
	b.engine.end <- migration.Report{Status: migration.StatusFailed, Error: "lost"}
	require.Eventually(t, func() bool {
		return !b.Info().Stopping
	}, deadline, time.Millisecond)
	<-first.Done()
	_, err := b.bootAgain(func(ctx context.Context) (*vmm.VM, error) { return nil, ctx.Err() })
	require.NoError(t, err, "a guest that goes on may boot again")
	require.NoError(t, b.Stop(control.StopForced))
	b.end()

	b = running(t)
	b.fate, b.deaf = migration.FateUnknown, true
	b.migrate()
	require.NoError(t, b.obey(bySignal(syscall.SIGINT), control.StopSafe))
	require.NoError(t, b.Stop(control.StopForced), "of an order under way, too")
	b.engine.end <- migration.Report{Status: migration.StatusFailed, Error: "lost"}
	require.Equal(t, vmm.ExitStopped, b.end().exit.Reason)
}

// TestResetInDoubt: a guest that asks for a reset just as it is known to stay here begins again.
// The answer changes nothing about that.
func TestResetInDoubt(t *testing.T) {
	b := running(t)
	b.fate, b.deaf = migration.FateUnknown, true
	b.migrate()
	b.engine.end <- migration.Report{Status: migration.StatusFailed, Error: "lost"}
	b.next("done")
	b.mu.Lock()
	m := b.last
	b.vm, b.state = nil, control.StateStarting // as beginsAgain leaves it
	b.mu.Unlock()
	b.engine.answer <- migration.FateStays
	<-m.settled
	require.Equal(t, control.StateStarting, b.Info().State)
	require.NoError(t, b.start(b.machine))
	require.NoError(t, b.Stop(control.StopNow))
	b.end()
}

func TestStopCancelsTheMigration(t *testing.T) {
	b := running(t)
	b.migrate()
	require.NoError(t, b.Stop(control.StopSafe))
	e := b.end()
	require.Nil(t, e.movedTo)
	require.Equal(t, vmm.ExitStopped, e.exit.Reason)
	require.Equal(t, migration.StatusCancelled, b.next("done").Report.Status)
}

// TestStopTooLate: a migration that is past its commit completes, and the VM counts as moved, not
// stopped.
func TestStopTooLate(t *testing.T) {
	b := running(t)
	b.fate, b.deaf = migration.FateMoved, true
	b.migrate()
	require.NoError(t, b.Stop(control.StopSafe))
	select {
	case <-b.ended:
		require.Fail(t, "the VM's life ended before its migration")
	case <-time.After(20 * time.Millisecond): // long enough to catch a VM that does not wait
	}
	require.True(t, b.machine.Running(), "the engine's until it ends")
	b.engine.end <- migration.Report{Status: migration.StatusCompleted, Destination: "unix:/d"}
	require.Equal(t, "unix:/d", b.end().movedTo.Destination)
}

func TestGuestEndsDuringMigration(t *testing.T) {
	b := running(t)
	b.migrate()
	b.machine.end(vmm.Exit{Reason: vmm.ExitGuest, Status: 7})
	e := b.end()
	require.EqualValues(t, 7, e.exit.Status)
	require.Equal(t, errGuestEnded.Error(), b.next("done").Report.Error)
}

// lateMachine is asked for a migration after its life has ended.
type lateMachine struct {
	*fakeMachine
	onStop func()
}

func (m lateMachine) Stop() {
	m.onStop()
	m.fakeMachine.Stop()
}

// TestNoMigrationOfAnEndedGuest, because the machine is freed soon and nobody may use it.
func TestNoMigrationOfAnEndedGuest(t *testing.T) {
	b := newRig(t)
	require.NoError(t, b.start(b.machine))
	b.machine.end(vmm.Exit{Reason: vmm.ExitGuest, Status: 7})
	tried := false
	e := b.live(lateMachine{b.machine, func() {
		tried = true
		_, err := b.StartMigration(b.t.Context(), migration.Params{Destination: "unix:/d"})
		require.ErrorIs(t, err, control.ErrConflict)
	}})
	require.True(t, tried)
	require.Equal(t, uint8(7), e.exit.Status)
	require.Equal(t, control.StateStopped, b.Info().State)
}

// TestPauseThatHangs: while a pause waits for storage, the VM answers, begins nothing else, and can
// be ended. When the pause fails, the guest is said to run on.
func TestPauseThatHangs(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		b := running(t)
		b.machine.pausing = make(chan struct{})
		paused := make(chan error, 1)
		go func() { paused <- b.Pause() }()
		require.Eventually(t, func() bool {
			return errors.Is(b.Resume(control.ResumeSafe), control.ErrConflict)
		}, deadline, time.Millisecond)
		require.Equal(t, control.StateRunning, b.Info().State)
		_, err := b.StartMigration(b.t.Context(), migration.Params{Destination: "unix:/d"})
		require.ErrorContains(t, err, "the VM is being paused")
		if stopped {
			require.NoError(t, b.Stop(control.StopNow))
			require.Equal(t, control.EndStop, b.end().how)
			require.ErrorIs(t, <-paused, vmm.ErrEnded)
			require.Equal(t, control.StateStopped, b.Info().State)
			continue
		}
		close(b.machine.pausing)
		err = <-paused
		require.ErrorIs(t, err, control.ErrConflict)
		require.ErrorContains(t, err, "not paused, the guest runs on")
		require.Equal(t, control.StateRunning, b.Info().State)
		b.machine.pausing = nil
		require.NoError(t, b.Pause())
		require.Equal(t, control.StatePaused, b.Info().State)
	}
}

// TestCertificatesThatHang: a migration that cannot be prepared, because certificates are on a host
// that hangs, keeps nobody from asking about the VM, or from pausing or ending it. It does not
// begin once its VM has ended, or its client has gone.
func TestCertificatesThatHang(t *testing.T) {
	for _, but := range []string{"", "stopped", "moving", "without a client"} {
		b := running(t)
		prepare := b.prepare
		reading, read := make(chan struct{}), make(chan struct{})
		b.prepare = func(p migration.Params) (newEngine, error) {
			if p.TLSDir != "" {
				close(reading)
				<-read
			}
			return prepare(p)
		}
		ordered, leave := context.WithCancel(t.Context())
		started := make(chan error, 1)
		go func() {
			_, err := b.StartMigration(ordered, migration.Params{
				Destination: "unix:/d", TLSDir: "/net",
			})
			started <- err
		}()
		<-reading
		require.Equal(t, control.StateRunning, b.Info().State)
		require.NoError(t, b.Pause())
		require.NoError(t, b.Resume(control.ResumeSafe))
		_, err := b.StartMigration(t.Context(), migration.Params{
			Destination: "unix:/d", TLSDir: "/net",
		})
		require.ErrorContains(t, err, "still reads its certificates")
		switch but {
		case "stopped":
			require.NoError(t, b.Stop(control.StopNow))
			require.Equal(t, control.EndStop, b.end().how)
		case "moving":
			b.migrate()
		case "without a client":
			leave()
		}
		close(read)
		if err := <-started; but == "" {
			require.NoError(t, err)
			require.ErrorContains(t, b.Pause(), "a migration to unix:/d is under way")
		} else {
			require.ErrorIs(t, err, control.ErrConflict, but)
			require.Equal(t, but == "moving", b.last != nil)
		}
		leave()
		if b.last != nil {
			b.engine.end <- migration.Report{Status: migration.StatusFailed}
			require.Eventually(t, func() bool {
				return b.Info().Migration.Status == migration.StatusFailed
			}, deadline, time.Millisecond)
		}
	}
}

// answers requires that a VM whose machine waits for its disks answers nevertheless.
func (b *rig) answers(t *testing.T, state control.State) {
	t.Helper()
	require.Equal(t, state, b.Info().State)
	_, err := b.Tags()
	require.NoError(t, err)
	_, err = b.Debug(t.Context())
	require.ErrorIs(t, err, vmm.ErrEnded, "the machine itself was asked")
	require.ErrorIs(t, b.Pause(), control.ErrConflict)
	_, err = b.StartMigration(b.t.Context(), migration.Params{Destination: "unix:/d"})
	require.ErrorIs(t, err, control.ErrConflict)
}

// TestResumeThatHangs: while a resume waits for storage, the VM answers, begins nothing else, and
// can be ended.
func TestResumeThatHangs(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		b := running(t)
		require.NoError(t, b.Pause())
		b.machine.resuming, b.machine.hangs = make(chan struct{}), make(chan struct{})
		resumed := make(chan error, 1)
		go func() { resumed <- b.Resume(control.ResumeSafe) }()
		<-b.machine.hangs
		b.answers(t, control.StatePaused)
		if stopped {
			require.NoError(t, b.Stop(control.StopNow))
			require.Equal(t, control.EndStop, b.end().how)
			require.ErrorIs(t, <-resumed, vmm.ErrEnded)
			require.Equal(t, control.StateStopped, b.Info().State)
			continue
		}
		close(b.machine.resuming)
		require.NoError(t, <-resumed)
		require.Equal(t, control.StateRunning, b.Info().State)
	}
}

// TestDisksThatComeLate: the same while the guest of a migration that failed, or whose doubt is
// settled, waits for its disks.
func TestDisksThatComeLate(t *testing.T) {
	for _, doubt := range []bool{false, true} {
		b := running(t)
		b.fate = migration.FateStays
		if doubt {
			b.fate, b.deaf = migration.FateUnknown, true
		}
		b.migrate()
		require.NoError(t, b.machine.Pause()) // as its engine does
		b.machine.taking, b.machine.hangs = make(chan struct{}), make(chan struct{})
		b.engine.end <- migration.Report{Status: migration.StatusFailed}
		during := control.StateRunning // the migration is not over
		if doubt {
			b.engine.answer <- migration.FateStays
			during = control.StateUnknown
		}
		<-b.machine.hangs
		require.NoError(t, b.machine.set(false)) // as a guest that its user had paused
		b.answers(t, during)
		close(b.machine.taking)
		require.Equal(t, control.StateRunning, b.next("state").State)
		if doubt {
			require.Equal(t, control.StateUnknown, b.next("state").State)
		}
		require.Equal(t, control.StatePaused, b.next("state").State)
		b.machine.end(vmm.Exit{})
		b.end()
	}
}

// TestBuildsOnlyWhatFits: a machine larger than the host is refused before it is made.
func TestBuildsOnlyWhatFits(t *testing.T) {
	vm := newVM("vm", func(control.Event) {})
	b := builder{process: &process{hvc: &hvc{}, vm: vm}, ctx: context.Background()}
	config, err := json.Marshal(map[string]any{
		"version": 2, "memory_bytes": int64(memory.MaxSize), "cpus": 1,
	})
	require.NoError(t, err)
	_, err = b.Build(config)
	require.ErrorContains(t, err, "is more than this host has")
	_, err = b.Build([]byte("{"))
	require.ErrorIs(t, err, vmm.ErrConfig)
}

// TestWatchedTracker: dirty logging counts as on from before it begins until it has ended.
func TestWatchedTracker(t *testing.T) {
	var on atomic.Bool
	w := watchedTracker{fakeTracker{}, &on}
	require.NoError(t, w.Start())
	require.True(t, on.Load())
	require.NoError(t, w.Stop())
	require.False(t, on.Load())
}

// TestOrdersRace: whichever order wins, a guest that moved away does not run here, and nothing
// hangs.
func TestOrdersRace(t *testing.T) {
	for range 200 {
		b := running(t)
		b.fate = migration.FateMoved
		b.migrate()
		e := b.engine
		var wg sync.WaitGroup
		wg.Go(func() { e.end <- migration.Report{Status: migration.StatusCompleted} })
		wg.Go(func() { _ = b.Resume(control.ResumeForced) })
		wg.Go(func() { _ = b.Pause() })
		wg.Go(func() { _ = b.Stop(control.StopSafe) })
		wg.Go(func() { b.Info() })
		wg.Wait()
		b.end()
		require.False(t, b.machine.Running())
	}
}
