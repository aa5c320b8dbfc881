package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"taskguide/control"
	"taskguide/dirtylog"
	"taskguide/memory"
	"taskguide/migration"
	"taskguide/tagging"
	"taskguide/vmm"
)

// machine is what a Host needs of a *vmm.VM.
type machine interface {
	migration.Machine
	CPUs() int
	Stop()
	Wait() (vmm.Exit, error)
	Done() <-chan struct{}
	SerialInput(p []byte) int
	Close() error
}

// engine is what a Host needs of a *migration.Source.
type engine interface {
	Run(context.Context) migration.Report
	Report() migration.Report
	Fate() migration.Fate
}

// errGuestEnded ends a migration whose guest did.
var errGuestEnded = errors.New("the guest has ended")

// Host is one VM and what its process does with it.
type Host struct {
	name      string
	begun     time.Time
	publish   func(control.Event)
	newEngine func(migration.Machine, migration.Params, migration.Observer) (engine, error)

	stop  chan struct{} // closed by the first order to stop
	moved chan struct{} // closed once the guest runs elsewhere

	// mu makes every decision one step: none of the calls made under it waits for another process.
	mu       sync.Mutex
	state    control.State
	incoming string
	vm       machine     // nil until there is a guest
	logging  atomic.Bool // dirty logging is on
	stopping bool
	status   int // exit status that the order to stop asked for
	last     *move
}

// move is one migration away.
type move struct {
	id     int
	dest   string
	engine engine
	cancel context.CancelCauseFunc
	done   chan struct{}    // closed when it has ended and the Host's state says so
	report migration.Report // valid once done is closed
}

func newHost(name string, publish func(control.Event)) *Host {
	return &Host{
		name: name, begun: time.Now(), publish: publish, state: control.StateStarting,
		stop: make(chan struct{}), moved: make(chan struct{}),
		newEngine: func(m migration.Machine, p migration.Params, o migration.Observer) (engine, error) {
			return migration.NewSource(m, p, o)
		},
	}
}

// setState needs mu.
func (h *Host) setState(s control.State) {
	if h.state == s {
		return
	}
	h.state = s
	h.publish(control.Event{Kind: control.EventState, State: s})
}

// await says that the guest will come by a migration to addr.
func (h *Host) await(addr string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.incoming = addr
	h.setState(control.StateIncoming)
}

// adopt takes over a machine that has its guest in it, running or not.
func (h *Host) adopt(vm machine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.vm, h.incoming = vm, ""
	if vm.Running() {
		h.setState(control.StateRunning)
	} else {
		h.setState(control.StatePaused)
	}
}

// start takes over a machine that was just booted, and runs it.
func (h *Host) start(vm machine) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.vm = vm
	if err := vm.Resume(); err != nil {
		return fmt.Errorf("start the guest: %w", err)
	}
	h.setState(control.StateRunning)
	return nil
}

// input sends console input to the guest and returns how much of it was taken; without a guest it is dropped.
func (h *Host) input(p []byte) int {
	h.mu.Lock()
	vm := h.vm
	h.mu.Unlock()
	if vm == nil {
		return len(p)
	}
	return vm.SerialInput(p)
}

// Info describes the VM.
func (h *Host) Info() control.VM {
	h.mu.Lock()
	defer h.mu.Unlock()
	vm := control.VM{
		Name: h.name, PID: os.Getpid(), State: h.state, Incoming: h.incoming,
		UptimeMS: float64(time.Since(h.begun)) / float64(time.Millisecond),
	}
	if h.vm != nil {
		vm.MemoryBytes, vm.CPUs = h.vm.RAM().Size(), h.vm.CPUs()
		vm.DirtyLogging = h.logging.Load()
	}
	if h.state == control.StateMoved {
		vm.MovedTo = h.last.dest
	}
	if m := h.last; m != nil {
		r := m.reportSoFar()
		vm.Migration = &control.MigrationSummary{ID: m.id, Status: r.Status, Phase: r.Phase, Destination: m.dest, Error: r.Error}
	}
	return vm
}

func (m *move) running() bool {
	select {
	case <-m.done:
		return false
	default:
		return true
	}
}

func (m *move) reportSoFar() migration.Report {
	if !m.running() {
		return m.report
	}
	r := m.engine.Report()
	// The engine's own end is not the end: what it means for the VM is yet to be settled.
	r.Status = migration.StatusRunning
	return r
}

// mine refuses what only a VM that is here, and that no migration owns, can do. It needs mu.
func (h *Host) mine() error {
	switch {
	case h.stopping:
		return fmt.Errorf("%w: the VM is being stopped", control.ErrConflict)
	case h.last != nil && h.last.running():
		return fmt.Errorf("%w: a migration to %s is under way: wait for it or cancel it", control.ErrConflict, h.last.dest)
	}
	switch h.state {
	case control.StateRunning, control.StatePaused:
		return nil
	case control.StateUnknown:
		return fmt.Errorf("%w: %s was told to run the guest and does not answer: "+
			"see whether the guest runs there, then stop this VM, or resume it by force", control.ErrConflict, h.last.dest)
	default:
		return fmt.Errorf("%w: the VM is %s", control.ErrConflict, h.state)
	}
}

// Pause stops the vCPUs; a paused VM stays so.
func (h *Host) Pause() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.mine(); err != nil {
		return err
	}
	if err := h.vm.Pause(); err != nil {
		return fmt.Errorf("pause: %w", err)
	}
	h.setState(control.StatePaused)
	return nil
}

// Resume lets the vCPUs run; a running VM goes on. See [control.StateUnknown] for the forced mode.
func (h *Host) Resume(mode control.ResumeMode) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	forced := mode == control.ResumeForced && h.state == control.StateUnknown && !h.stopping
	if err := h.mine(); err != nil && !forced {
		return err
	}
	if err := h.vm.Resume(); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	h.setState(control.StateRunning)
	return nil
}

// Stop orders the end of the VM. A migration under way is cancelled first; should it be past its commit, it completes and the
// guest lives on at the destination.
func (h *Host) Stop() error {
	h.stopWith(0)
	return nil
}

// stopWith is Stop with an exit status for the process. The first order counts.
func (h *Host) stopWith(status int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopping {
		return
	}
	h.stopping, h.status = true, status
	close(h.stop)
}

// Tags is the state of the tag port.
func (h *Host) Tags() (tagging.Info, error) {
	port, err := h.port()
	if err != nil {
		return tagging.Info{}, err
	}
	return port.Snapshot(), nil
}

// FollowTags calls f for each transition until unsubscribed.
func (h *Host) FollowTags(f func(tagging.Transition)) (func(), error) {
	port, err := h.port()
	if err != nil {
		return nil, err
	}
	return port.Subscribe(f), nil
}

func (h *Host) port() (*tagging.Port, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.vm == nil {
		return nil, fmt.Errorf("%w: the VM is %s and has no guest yet", control.ErrConflict, h.state)
	}
	return h.vm.Tags(), nil
}

// StartMigration starts moving the guest away.
func (h *Host) StartMigration(p migration.Params) (control.Started, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.mine(); err != nil {
		return control.Started{}, err
	}
	m := &move{id: 1, dest: p.Destination, done: make(chan struct{})}
	if h.last != nil {
		m.id = h.last.id + 1
	}
	e, err := h.newEngine(trackedMachine{h.vm, watch(h.vm.Tracker(), &h.logging)}, p, m.observer(h.publish))
	if err != nil {
		return control.Started{}, fmt.Errorf("%w: %w", control.ErrInvalid, err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	m.engine, m.cancel, h.last = e, cancel, m
	report := m.reportSoFar()
	go h.migrate(ctx, m, h.vm.Done())
	return control.Started{ID: m.id, Report: report}, nil
}

// observer passes the engine's events on, but for its last: a client that is told of the end must find the VM in the
// state that the end left it in.
func (m *move) observer(publish func(control.Event)) migration.Observer {
	return func(e migration.Event) {
		if e.Kind != migration.EventDone {
			publish(control.FromMigration(m.id, e))
		}
	}
}

func (h *Host) migrate(ctx context.Context, m *move, ended <-chan struct{}) {
	defer m.cancel(nil)
	// A guest that ends by itself ends its migration, too.
	go func() {
		select {
		case <-ended:
			m.cancel(errGuestEnded)
		case <-m.done:
		}
	}()
	report := m.engine.Run(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	m.report = report
	switch m.engine.Fate() {
	case migration.FateMoved:
		h.setState(control.StateMoved)
		close(h.moved)
	case migration.FateUnknown:
		h.setState(control.StateUnknown)
	case migration.FateStays:
	}
	close(m.done)
	h.publish(control.FromMigration(m.id, migration.Event{
		Time: time.Now(), Kind: migration.EventDone, Phase: report.Phase, GateOpen: true, Report: &report,
	}))
}

// MigrationReport is that of the last migration, so far or final.
func (h *Host) MigrationReport() (migration.Report, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last == nil {
		return migration.Report{}, fmt.Errorf("%w: no migration was started yet", control.ErrNotFound)
	}
	return h.last.reportSoFar(), nil
}

// CancelMigration cancels the migration under way and waits for its end.
func (h *Host) CancelMigration(ctx context.Context) (migration.Report, error) {
	h.mu.Lock()
	m := h.last
	h.mu.Unlock()
	if m == nil || !m.running() {
		return migration.Report{}, fmt.Errorf("%w: no migration is under way", control.ErrConflict)
	}
	m.cancel(migration.ErrCancelled)
	select {
	case <-m.done:
		return m.report, nil
	case <-ctx.Done():
		return migration.Report{}, fmt.Errorf("wait for the end of the migration: %w", ctx.Err())
	}
}

// settle ends the migration under way, if there is one, for that reason, and waits until it has ended.
func (h *Host) settle(why error) {
	h.mu.Lock()
	m := h.last
	h.mu.Unlock()
	if m != nil {
		m.cancel(why)
		<-m.done
	}
}

// ending is how the VM's life here ended.
type ending struct {
	movedTo *migration.Report // set if the guest runs elsewhere
	exit    vmm.Exit
	err     error
	status  int // what an order to stop asked for
}

// live waits for the end of the VM's life here and sees to it that nothing of it runs any more.
func (h *Host) live(vm machine) ending {
	select {
	case <-h.moved:
	case <-h.stop:
		h.settle(migration.ErrCancelled)
	case <-vm.Done():
		h.close()
		h.settle(errGuestEnded)
	}
	vm.Stop() // whatever the reason: no vCPU runs here any more
	var e ending
	e.exit, e.err = vm.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	e.status = h.status
	if h.state == control.StateMoved {
		return ending{movedTo: &h.last.report}
	}
	h.setState(control.StateStopped)
	return e
}

// close lets no migration start from here on: the machine is about to be freed.
func (h *Host) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopping = true
}

// stopOrdered tells whether the VM was ordered to stop, and with what exit status.
func (h *Host) stopOrdered() (status int, ordered bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.status, h.stopping
}

// retire lets go of the machine, so that it can be closed.
func (h *Host) retire() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.vm = nil
}

// trackedMachine lends the engine the machine with a tracker that is watched.
type trackedMachine struct {
	machine
	tracker dirtylog.Tracker
}

func (m trackedMachine) Tracker() dirtylog.Tracker { return m.tracker }

// watchedTracker knows whether dirty logging is on.
type watchedTracker struct {
	dirtylog.Tracker
	on *atomic.Bool
}

// watchedProtector is watchedTracker for those that have their pages protected by hand, which the engine asks about.
type watchedProtector struct {
	watchedTracker
	protector dirtylog.Protector
}

func (t watchedProtector) Protect(pages *memory.Bitmap, first, count int) error {
	return t.protector.Protect(pages, first, count)
}

func watch(t dirtylog.Tracker, on *atomic.Bool) dirtylog.Tracker {
	watched := watchedTracker{t, on}
	if p, ok := t.(dirtylog.Protector); ok {
		return watchedProtector{watched, p}
	}
	return watched
}

func (t watchedTracker) Start() error {
	// Before the call: one that failed half way may have turned it on.
	t.on.Store(true)
	return t.Tracker.Start()
}

func (t watchedTracker) Stop() error {
	err := t.Tracker.Stop()
	if err == nil {
		t.on.Store(false)
	}
	return err
}
