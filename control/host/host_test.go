package host

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/control"
	"taskguide/dirtylog"
	"taskguide/memory"
	"taskguide/migration"
	"taskguide/tagging"
	"taskguide/vmm"
)

// deadline is far beyond what anything here takes; it turns a hang into a failure.
const deadline = 20 * time.Second

// fakeMachine is a machine without KVM.
type fakeMachine struct {
	migration.Machine // what is not needed here
	ram               *memory.RAM
	port              *tagging.Port
	done              chan struct{}

	mu      sync.Mutex
	running bool
	exit    vmm.Exit
	ended   bool
}

func newFakeMachine(t *testing.T) *fakeMachine {
	ram, err := memory.New(memory.MinSize)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ram.Close()) })
	return &fakeMachine{ram: ram, port: tagging.NewPort(nil), done: make(chan struct{})}
}

func (m *fakeMachine) RAM() *memory.RAM          { return m.ram }
func (m *fakeMachine) CPUs() int                 { return 3 }
func (m *fakeMachine) Tags() *tagging.Port       { return m.port }
func (m *fakeMachine) Tracker() dirtylog.Tracker { return fakeTracker{} }
func (m *fakeMachine) SerialInput(p []byte) int  { return len(p) }
func (m *fakeMachine) Done() <-chan struct{}     { return m.done }
func (m *fakeMachine) Close() error              { return nil }

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

func (m *fakeMachine) Pause() error  { return m.set(false) }
func (m *fakeMachine) Resume() error { return m.set(true) }
func (m *fakeMachine) Stop()         { m.end(vmm.Exit{Reason: vmm.ExitStopped}) }

func (m *fakeMachine) end(e vmm.Exit) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.ended {
		m.ended, m.running, m.exit = true, false, e
		close(m.done)
	}
}

func (m *fakeMachine) Wait() (vmm.Exit, error) {
	<-m.done
	return m.exit, nil
}

type fakeTracker struct{}

func (fakeTracker) Start() error                        { return nil }
func (fakeTracker) Stop() error                         { return nil }
func (fakeTracker) Harvest(*memory.Bitmap) (int, error) { return 0, nil }

// fakeEngine migrates until it is told how to end, or cancelled.
type fakeEngine struct {
	m    migration.Machine
	o    migration.Observer
	fate migration.Fate
	end  chan migration.Report
	deaf bool // past its commit: a cancellation has no effect

	mu     sync.Mutex
	report migration.Report
}

func (e *fakeEngine) Run(ctx context.Context) migration.Report {
	if err := e.m.Tracker().Start(); err != nil {
		panic(err)
	}
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
	e.o(migration.Event{Kind: migration.EventDone, Report: &r})
	return r
}

func (e *fakeEngine) Report() migration.Report {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.report
}

func (e *fakeEngine) Fate() migration.Fate { return e.fate }

// bed is a Host with a fake machine and engine, and what it published.
type bed struct {
	*Host
	t       *testing.T
	machine *fakeMachine
	engine  *fakeEngine // of the last migration
	fate    migration.Fate
	deaf    bool
	events  chan control.Event
	ended   chan ending
}

func newBed(t *testing.T) *bed {
	b := &bed{t: t, machine: newFakeMachine(t), events: make(chan control.Event, 100), ended: make(chan ending, 1)}
	b.Host = newHost("vm", func(e control.Event) { b.events <- e })
	b.newEngine = func(m migration.Machine, p migration.Params, o migration.Observer) (engine, error) {
		if p.Destination == "bad" {
			return nil, errors.New("bad destination")
		}
		b.engine = &fakeEngine{m: m, o: o, fate: b.fate, deaf: b.deaf, end: make(chan migration.Report, 1), report: migration.Report{Destination: p.Destination}}
		return b.engine, nil
	}
	return b
}

// running is a bed whose guest runs.
func running(t *testing.T) *bed {
	b := newBed(t)
	require.NoError(t, b.start(b.machine))
	go func() { b.ended <- b.live(b.machine) }()
	return b
}

func (b *bed) end() ending {
	b.t.Helper()
	select {
	case e := <-b.ended:
		return e
	case <-time.After(deadline):
		require.FailNow(b.t, "the VM's life does not end")
		return ending{}
	}
}

// next is the next event of a kind.
func (b *bed) next(kind string) control.Event {
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

func (b *bed) migrate() {
	b.t.Helper()
	_, err := b.StartMigration(migration.Params{Destination: "unix:/d"})
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
	require.Equal(t, control.VM{Name: "vm", State: control.StateRunning, MemoryBytes: memory.MinSize, CPUs: 3},
		func() control.VM { vm := b.Info(); vm.PID, vm.UptimeMS = 0, 0; return vm }())
}

func TestWithoutGuest(t *testing.T) {
	b := newBed(t)
	b.await("tcp:127.0.0.1:9")
	info := b.Info()
	require.Equal(t, control.StateIncoming, info.State)
	require.Equal(t, "tcp:127.0.0.1:9", info.Incoming)
	require.ErrorIs(t, b.Pause(), control.ErrConflict)
	require.ErrorIs(t, b.Resume(control.ResumeForced), control.ErrConflict)
	_, err := b.StartMigration(migration.Params{Destination: "unix:/d"})
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

func TestAdoptsAPausedGuest(t *testing.T) {
	b := newBed(t)
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
	b.stopWith(143)
	require.NoError(t, b.Stop())
	e := b.end()
	require.Equal(t, 143, e.status, "the first order counts")
	require.ErrorIs(t, b.Pause(), control.ErrConflict)
}

func TestMigrationOwnsTheMachine(t *testing.T) {
	b := running(t)
	b.migrate()
	require.ErrorIs(t, b.Pause(), control.ErrConflict)
	require.ErrorIs(t, b.Resume(control.ResumeForced), control.ErrConflict)
	_, err := b.StartMigration(migration.Params{Destination: "unix:/e"})
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
	_, err := b.StartMigration(migration.Params{Destination: "bad"})
	require.ErrorIs(t, err, control.ErrInvalid)
	require.Nil(t, b.Info().Migration)
	b.migrate()
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

// TestStateBeforeDone: a client that is told of the end finds the VM ready for what comes next, every time.
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

func TestUnknownFate(t *testing.T) {
	b := running(t)
	b.fate = migration.FateUnknown
	b.migrate()
	require.NoError(t, b.machine.Pause())
	b.engine.end <- migration.Report{Status: migration.StatusFailed, Error: "lost"}
	b.next("done")
	require.Equal(t, control.StateUnknown, b.Info().State)
	require.ErrorIs(t, b.Resume(control.ResumeSafe), control.ErrConflict)
	require.ErrorIs(t, b.Pause(), control.ErrConflict)
	_, err := b.StartMigration(migration.Params{Destination: "unix:/e"})
	require.ErrorIs(t, err, control.ErrConflict)
	require.False(t, b.machine.Running())

	require.NoError(t, b.Resume(control.ResumeForced))
	require.True(t, b.machine.Running())
	require.Equal(t, control.StateRunning, b.Info().State)
	b.fate = migration.FateStays
	b.migrate()
}

func TestStopCancelsTheMigration(t *testing.T) {
	b := running(t)
	b.migrate()
	require.NoError(t, b.Stop())
	e := b.end()
	require.Nil(t, e.movedTo)
	require.Equal(t, vmm.ExitStopped, e.exit.Reason)
	require.Equal(t, migration.StatusCancelled, b.next("done").Report.Status)
}

// TestStopTooLate: a migration that is past its commit completes, and the VM has moved rather than stopped.
func TestStopTooLate(t *testing.T) {
	b := running(t)
	b.fate, b.deaf = migration.FateMoved, true
	b.migrate()
	require.NoError(t, b.Stop())
	select {
	case <-b.ended:
		require.Fail(t, "the VM's life ended before its migration")
	case <-time.After(20 * time.Millisecond): // long enough for a Host that does not wait
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

// lateMachine is asked for a migration when its life has ended.
type lateMachine struct {
	*fakeMachine
	onStop func()
}

func (m lateMachine) Stop() {
	m.onStop()
	m.fakeMachine.Stop()
}

// TestNoMigrationOfAnEndedGuest: the machine is freed soon, nobody may still use it.
func TestNoMigrationOfAnEndedGuest(t *testing.T) {
	b := newBed(t)
	require.NoError(t, b.start(b.machine))
	b.machine.end(vmm.Exit{Reason: vmm.ExitGuest, Status: 7})
	tried := false
	e := b.live(lateMachine{b.machine, func() {
		tried = true
		_, err := b.StartMigration(migration.Params{Destination: "unix:/d"})
		require.ErrorIs(t, err, control.ErrConflict)
	}})
	require.True(t, tried)
	require.Equal(t, uint8(7), e.exit.Status)
	require.Equal(t, control.StateStopped, b.Info().State)
}

// TestBuildsOnlyWhatFits: a machine larger than the host is refused before it is made.
func TestBuildsOnlyWhatFits(t *testing.T) {
	b := builder{process: &process{}, ctx: context.Background()}
	config, err := json.Marshal(map[string]any{"version": 1, "memory_bytes": int64(memory.MaxSize), "cpus": 1})
	require.NoError(t, err)
	_, err = b.Build(config)
	require.ErrorContains(t, err, "is more than this host has")
	_, err = b.Build([]byte("{"))
	require.ErrorIs(t, err, vmm.ErrConfig)
}

type fakeProtector struct {
	fakeTracker
	protected *int
}

func (p fakeProtector) Protect(_ *memory.Bitmap, _, count int) error {
	*p.protected += count
	return nil
}

// TestWatchedTracker: an engine finds out what a tracker can do, watched or not.
func TestWatchedTracker(t *testing.T) {
	var on atomic.Bool
	plain := watch(fakeTracker{}, &on)
	_, ok := plain.(dirtylog.Protector)
	require.False(t, ok)
	protected := 0
	p, ok := watch(fakeProtector{protected: &protected}, &on).(dirtylog.Protector)
	require.True(t, ok)
	require.NoError(t, p.Start())
	require.True(t, on.Load())
	require.NoError(t, p.Protect(nil, 0, 5))
	require.Equal(t, 5, protected)
	require.NoError(t, p.Stop())
	require.False(t, on.Load())
}

// TestOrdersRace: whoever wins, a guest that moved away is not running here, and nothing hangs.
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
		wg.Go(func() { _ = b.Stop() })
		wg.Go(func() { b.Info() })
		wg.Wait()
		b.end()
		require.False(t, b.machine.Running())
	}
}
