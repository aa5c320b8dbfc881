package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"taskguide/control"
	"taskguide/control/version"
	"taskguide/dirtylog"
	"taskguide/migration"
	"taskguide/tagging"
	"taskguide/transport"
	"taskguide/vmm"
)

// machine is what VM needs of a *vmm.VM.
type machine interface {
	migration.Machine
	CPUs() int
	Pause() error
	Stop()
	Wait() (vmm.Exit, error)
	Done() <-chan struct{}
	SerialInput(p []byte) int
	HVCInput(p []byte) int
	Debug(context.Context) ([]vmm.VCPUInfo, error)
	Devices() ([]vmm.DeviceInfo, error)
	DirtyLog() dirtylog.Kind
	Console() vmm.ConsoleInfo
	PressPowerButton() (heard bool, err error)
	Close() error
}

// engine is what VM needs of a *migration.Source.
type engine interface {
	ID() transport.ID
	Run(context.Context) migration.Report
	Report() migration.Report
	Fate() migration.Fate
	Settle(context.Context) (migration.Fate, error)
	Force(context.Context) error
	LogTo(*slog.Logger)
}

// errGuestEnded ends a migration whose guest has ended.
var errGuestEnded = errors.New("the guest has ended")

// errStopped cancels a migration because its VM was ordered to stop.
type errStopped struct{}

func (errStopped) Error() string { return "the VM was told to stop" }

func (errStopped) Is(target error) bool { return target == migration.ErrCancelled }

// VM is one virtual machine and what its process does with it.
type VM struct {
	name    string
	begun   time.Time
	publish func(control.Event)
	prepare func(migration.Params) (newEngine, error)

	log      *slog.Logger
	shutdown time.Duration // how long a guest has to shut down after it is asked
	onReset  OnReset
	moved    chan struct{} // closed once the guest runs elsewhere

	beats beats // what the guest prints of its own

	// pauses and resumes let one of each be under way. They are taken before mu.
	pauses, resumes sync.Mutex

	// mu makes every decision one step. No call under it waits for another process or for storage.
	mu        sync.Mutex
	state     control.State
	incoming  string
	vm        machine       // nil until there is a guest
	logging   atomic.Bool   // dirty logging is on
	stop      chan struct{} // closed by the order to stop; replaced if that is withdrawn
	hurry     chan struct{} // closed by an order to end at once; replaced as stop is
	stopping  bool
	turning   string // what waits for the guest's storage, without mu: "paused" or "resumed"
	reading   bool   // an order to migrate reads its certificates, without mu
	signalled bool   // a signal orders it, too
	forced    bool   // the order to stop includes a copy that may be the only one
	order     order  // the first order to stop
	last      *move
	followers map[*follower]struct{} // of the guest's tags, whichever machine it is in
	tracing   *tracing               // the trace being recorded, or nil
	shared    *dirtylog.Shared       // what that trace, and a migration that began after it, follow
}

// order is an order to stop: who gave it, in a word for programs and in one for people, and the
// exit status of the process that obeys it.
type order struct {
	ending control.Ending
	by     string
	status int
}

// byCommand is the order of vmm stop, and of the control socket.
var byCommand = order{ending: control.EndStop, by: "vmm stop"}

// move is one migration away.
type move struct {
	id     int
	dest   string
	log    *slog.Logger // with the id that both ends know the migration by
	engine engine
	cancel context.CancelCauseFunc
	done   chan struct{}    // closed when it has ended and the VM's state is up to date
	report migration.Report // valid once done is closed; guarded by VM.mu

	// These are set if the migration left a doubt. abandon ends its settling. settled is closed
	// then, or once it is known where the guest is and the VM's state is up to date.
	abandon context.CancelFunc
	settled chan struct{}
}

// newEngine makes the engine of a migration that is prepared.
type newEngine func(migration.Machine, migration.Observer) engine

func newVM(name string, publish func(control.Event)) *VM {
	return &VM{
		name: name, begun: time.Now(), publish: publish, state: control.StateStarting,
		log: slog.New(slog.DiscardHandler), moved: make(chan struct{}),
		stop: make(chan struct{}), hurry: make(chan struct{}),
		prepare: func(p migration.Params) (newEngine, error) {
			ready, err := migration.Prepare(p)
			return func(m migration.Machine, o migration.Observer) engine {
				return ready.Source(m, o)
			}, err
		},
	}
}

// setState changes the state. mu must be held.
func (h *VM) setState(s control.State) { h.endAs(s, "") }

// endAs sets the last state, and how the VM ended. mu must be held.
func (h *VM) endAs(s control.State, how control.Ending) {
	if h.state == s {
		return
	}
	h.state = s
	h.publish(control.Event{Kind: control.EventState, State: s, Ending: how})
}

// await says that the guest will come by a migration to addr.
func (h *VM) await(addr string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.incoming = addr
	h.setState(control.StateIncoming)
}

// adopt takes over a machine that has its guest in it, running or not.
func (h *VM) adopt(vm machine) {
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
func (h *VM) start(vm machine) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.vm = vm
	for f := range h.followers { // of the machine before, if the guest boots once more
		f.stop()
		f.stop = vm.Tags().Subscribe(f.tell)
	}
	if err := vm.Resume(); err != nil {
		return fmt.Errorf("start the guest: %w", err)
	}
	h.setState(control.StateRunning)
	return nil
}

// input sends console input to the guest and returns how much of it was taken. Without a guest,
// input is dropped.
func (h *VM) input(p []byte) int {
	vm, err := h.guest()
	if err != nil {
		return len(p)
	}
	return vm.SerialInput(p)
}

// hvcInput is input for the second console.
func (h *VM) hvcInput(p []byte) int {
	vm, err := h.guest()
	if err != nil {
		return len(p)
	}
	return vm.HVCInput(p)
}

// Version describes the build of this process.
func (h *VM) Version() version.Info { return version.Here(version.Machine(vmm.Understood())) }

// Info describes the VM.
func (h *VM) Info() control.VM {
	h.mu.Lock()
	defer h.mu.Unlock()
	vm := control.VM{
		Name: h.name, PID: os.Getpid(), State: h.state, Incoming: h.incoming,
		UptimeMS: float64(time.Since(h.begun)) / float64(time.Millisecond),
	}
	vm.Stopping = h.stopping && h.state != control.StateMoved
	if h.vm != nil {
		vm.MemoryBytes, vm.CPUs = h.vm.RAM().Size(), h.vm.CPUs()
		vm.DirtyLogging = h.logging.Load()
	}
	if h.state == control.StateMoved {
		vm.MovedTo = h.last.dest
	}
	if m := h.last; m != nil {
		r := m.reportSoFar()
		vm.Migration = &control.MigrationSummary{
			ID: m.id, Status: r.Status, Phase: r.Phase, Destination: m.dest, Error: r.Error,
		}
	}
	return vm
}

// name is what both ends call the migration in their logs.
func (m *move) name() string { return m.engine.ID().String() }

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
	// The engine's own end does not end the migration: its meaning for the VM is still to be
	// settled.
	r.Status = migration.StatusRunning
	return r
}

// requireHere refuses unless the VM is here and no migration owns it. mu must be held.
func (h *VM) requireHere() error {
	switch {
	case h.stopping:
		return fmt.Errorf("%w: the VM is being stopped", control.ErrConflict)
	case h.turning != "":
		return fmt.Errorf("%w: the VM is being %s", control.ErrConflict, h.turning)
	case h.last != nil && h.last.running():
		return fmt.Errorf("%w: a migration to %s is under way: wait for it or cancel it",
			control.ErrConflict, h.last.dest)
	}
	switch h.state {
	case control.StateRunning, control.StatePaused:
		return nil
	case control.StateUnknown:
		return fmt.Errorf("%w: %s was told to run the guest and does not answer: "+
			"it is asked on; or see whether the guest runs there, and then stop or resume this VM "+
			"by force",
			control.ErrConflict, h.last.dest)
	default:
		return fmt.Errorf("%w: the VM is %s", control.ErrConflict, h.state)
	}
}

// Pause stops the vCPUs. It has no effect on a paused VM. If the host does not finish what devices
// have asked for, it fails after a while, and the guest runs on.
func (h *VM) Pause() error {
	h.pauses.Lock()
	defer h.pauses.Unlock()
	err := h.turn("paused", machine.Pause, control.StatePaused)
	switch {
	case errors.Is(err, vmm.ErrHostBusy):
		return fmt.Errorf("%w: not paused, the guest runs on: %w", control.ErrConflict, err)
	case errors.Is(err, control.ErrConflict):
		return err
	case err != nil:
		return fmt.Errorf("pause: %w", err)
	}
	return nil
}

// turn has the machine do f, after which the VM has a state. It does not hold mu meanwhile, so that
// the VM can be asked about, and ended, if its storage hangs. It returns ErrConflict, and leaves
// the machine alone, unless the VM is here.
func (h *VM) turn(what string, f func(machine) error, after control.State) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.requireHere(); err != nil {
		return err
	}
	vm := h.vm
	h.turning = what
	h.mu.Unlock()
	err := f(vm)
	h.mu.Lock()
	h.turning = ""
	here := h.state == control.StateRunning || h.state == control.StatePaused
	if err == nil && h.vm == vm && here {
		h.setState(after)
	}
	return err
}

// Resume lets the vCPUs run. It has no effect on a running VM. See [control.StateUnknown] for the
// forced mode.
func (h *VM) Resume(mode control.ResumeMode) error {
	if mode == control.ResumeForced {
		if err := h.forceSettled(); err != nil {
			return err
		}
	}
	h.resumes.Lock()
	defer h.resumes.Unlock()
	err := h.turn("resumed", machine.Resume, control.StateRunning)
	if err != nil && !errors.Is(err, control.ErrConflict) {
		return fmt.Errorf("resume: %w", err)
	}
	return err
}

// forceWithin is how long a destination has to answer before a forced resume. It is less than
// control.AnswerTimeout, after which the client gives up.
const forceWithin = control.AnswerTimeout * 3 / 4

// forceSettled ends the doubt about where the guest is, if there is one, on the caller's word. It
// asks the destination, so it takes a while.
func (h *VM) forceSettled() error {
	h.mu.Lock()
	m, doubt := h.last, h.state == control.StateUnknown && !h.stopping
	h.mu.Unlock()
	if !doubt {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), forceWithin)
	defer cancel()
	if err := m.engine.Force(ctx); err != nil {
		return fmt.Errorf("%w: %w", control.ErrConflict, err)
	}
	<-m.settled
	return nil
}

// Stop orders the end of the VM. It first cancels a migration under way. If the migration is past
// its commit, it completes, and the guest lives on at the destination. Only StopForced ends what
// may be the guest's only copy.
func (h *VM) Stop(mode control.StopMode) error {
	return h.obey(byCommand, mode)
}

// obey is Stop by the order o. The first order counts, but a later one can be more urgent: one that
// does not ask the guest, or a second signal.
func (h *VM) obey(o order, mode control.StopMode) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if mode != control.StopForced && h.state == control.StateUnknown {
		return fmt.Errorf("%w: this may be the only copy of the guest, for %s was told to run it "+
			"and does not answer: use vmm stop --force to end it all the same",
			control.ErrConflict, h.last.dest)
	}
	h.forced = h.forced || mode == control.StopForced
	signal := o.ending == control.EndSignal
	if mode != control.StopSafe || signal && h.signalled {
		h.setHurry()
	}
	h.signalled = h.signalled || signal
	if !h.stopping {
		h.stopping, h.order = true, o
		close(h.stop)
	}
	return nil
}

// stopped is closed by the order to stop.
func (h *VM) stopped() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stop
}

// reprieve withdraws an order to stop that came before the doubt did.
func (h *VM) reprieve() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state != control.StateUnknown || h.forced {
		return false
	}
	h.stopping, h.signalled, h.order = false, false, order{}
	h.stop, h.hurry = make(chan struct{}), make(chan struct{})
	h.log.Warn("not stopped: this may be the only copy of the guest; " +
		"vmm stop --force ends it all the same")
	return true
}

// Tags returns the state of the tag port.
func (h *VM) Tags() (tagging.Info, error) {
	port, err := h.port()
	if err != nil {
		return tagging.Info{}, err
	}
	return port.Snapshot(), nil
}

// follower is told of the guest's tags. tell neither waits for anything nor calls the VM, because
// stop waits for it.
type follower struct {
	tell func(tagging.Transition)
	stop func() // ends its subscription, see [tagging.Port.Subscribe]; the VM's mu guards it
}

// FollowTags calls f for each transition until the caller unsubscribes, also once the guest has
// booted anew. Once unsubscribe returns, f has had all transitions from before, but those that it
// was too slow for.
func (h *VM) FollowTags(f func(tagging.Transition)) (func(), error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.vm == nil {
		return nil, h.noGuest()
	}
	own := &follower{tell: f, stop: h.vm.Tags().Subscribe(f)}
	if h.followers == nil {
		h.followers = make(map[*follower]struct{})
	}
	h.followers[own] = struct{}{}
	return func() {
		h.mu.Lock()
		delete(h.followers, own)
		stop := own.stop
		h.mu.Unlock()
		stop() // it is the last one, because start knows own no more
	}, nil
}

func (h *VM) port() (*tagging.Port, error) {
	vm, err := h.guest()
	if err != nil {
		return nil, err
	}
	return vm.Tags(), nil
}

// guest returns the machine, or ErrConflict if there is none yet.
func (h *VM) guest() (machine, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.vm == nil {
		return nil, h.noGuest()
	}
	return h.vm, nil
}

// noGuest is the error of what takes a guest; mu must be held.
func (h *VM) noGuest() error {
	return fmt.Errorf("%w: the VM is %s and has no guest yet", control.ErrConflict, h.state)
}

// debugDevices says in the words of the control socket what devices are doing.
func debugDevices(infos []vmm.DeviceInfo) []control.DeviceDebug {
	devices := make([]control.DeviceDebug, len(infos))
	for i, info := range infos {
		d := control.DeviceDebug{Name: info.Name, State: info.State, Broken: info.Broken}
		for _, q := range info.Queues {
			d.Queues = append(d.Queues, control.QueueDebug{
				Size: q.Size, Ready: q.Ready, Available: int(q.Available), Used: int(q.Used),
				InFlight: q.InFlight,
			})
		}
		devices[i] = d
	}
	return devices
}

// Debug looks at the vCPUs and the devices.
func (h *VM) Debug(ctx context.Context) (control.Debug, error) {
	vm, err := h.guest()
	if err != nil {
		return control.Debug{}, err
	}
	// Not under mu, because a vCPU may be held in an access.
	infos, err := vm.Debug(ctx)
	if err != nil {
		return control.Debug{}, fmt.Errorf("%w: look at the vCPUs: %w", control.ErrConflict, err)
	}
	d := control.Debug{VCPUs: make([]control.VCPUDebug, len(infos))}
	for i, info := range infos {
		d.VCPUs[i] = control.VCPUDebug{
			ID: info.ID, MPState: info.MPState, RIP: control.Register(info.RIP),
			LVTT: control.Register(info.LVTT), TSCDeadline: control.Register(info.TSCDeadline),
			TSC: control.Register(info.TSC), IRR: info.IRR, ISR: info.ISR,
			Exits: info.Exits,
		}
		if info.Err != nil {
			d.VCPUs[i] = control.VCPUDebug{ID: info.ID, Error: info.Err.Error()}
		}
	}
	devices, err := vm.Devices()
	if err != nil {
		return control.Debug{}, fmt.Errorf("%w: look at the devices: %w", control.ErrConflict, err)
	}
	d.Devices = debugDevices(devices)
	d.Console = control.ConsoleDebug(vm.Console())
	return d, nil
}

// StartMigration starts moving the guest away, unless ctx, which is the order's, has ended by then.
func (h *VM) StartMigration(
	ctx context.Context, p migration.Params,
) (control.Started, error) {
	started, err := h.startMigration(ctx, p)
	if err != nil {
		h.log.Warn("migration refused", "destination", p.Destination,
			"error", control.Message(err))
	}
	return started, err
}

// startMigration does not hold mu while certificates are read, so that the VM can be asked about,
// and ended, if their storage hangs. A client that has gone meanwhile expects no migration.
func (h *VM) startMigration(ctx context.Context, p migration.Params) (control.Started, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.requireHere(); err != nil {
		return control.Started{}, err
	}
	reads := p.TLSDir != ""
	if reads && h.reading { // or orders that are given again and again would pile up
		return control.Started{}, fmt.Errorf("%w: another order to migrate still reads its "+
			"certificates", control.ErrConflict)
	}
	h.reading = h.reading || reads
	h.mu.Unlock()
	create, err := h.prepare(p)
	h.mu.Lock()
	h.reading = h.reading && !reads
	if err != nil {
		return control.Started{}, fmt.Errorf("%w: %w", control.ErrInvalid, err)
	}
	if err := h.requireHere(); err != nil {
		return control.Started{}, err
	}
	if ctx.Err() != nil {
		return control.Started{}, fmt.Errorf("%w: its client has gone", control.ErrConflict)
	}
	m := &move{id: 1, dest: p.Destination, done: make(chan struct{})}
	if h.last != nil {
		m.id = h.last.id + 1
	}
	e := create(trackedMachine{h.vm, h.tracker()}, m.observer(h.publish))
	moving, cancel := context.WithCancelCause(context.Background())
	m.engine, m.cancel, h.last = e, cancel, m
	m.log = h.log.With("migration", m.name())
	e.LogTo(m.log)
	m.log.Info("migration begins", "number", m.id, "destination", m.dest)
	report := m.reportSoFar()
	go h.migrate(moving, m, h.vm.Done())
	return control.Started{ID: m.id, Report: report}, nil
}

// observer passes on the engine's events except the last. A client that is told of the end must
// find the VM in its final state, so the VM publishes that event itself.
func (m *move) observer(publish func(control.Event)) migration.Observer {
	return func(e migration.Notice) {
		if e.Kind != migration.NoticeDone {
			publish(control.FromMigration(m.id, e))
		}
	}
}

func (h *VM) migrate(ctx context.Context, m *move, ended <-chan struct{}) {
	defer m.cancel(nil)
	// If the guest ends by itself, its migration ends, too.
	go func() {
		select {
		case <-ended:
			m.cancel(errGuestEnded)
		case <-m.done:
		}
	}()
	report := m.engine.Run(ctx)
	fate := m.engine.Fate()
	var noDisks error
	if fate == migration.FateStays {
		noDisks = h.takeDisks()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	m.report = report
	switch fate {
	case migration.FateMoved:
		m.log.Info("migration completed", "total_ms", report.TotalMS,
			"downtime_ms", report.DowntimeMS, "reason", report.SwitchoverReason)
		h.endAs(control.StateMoved, control.EndMoved)
		close(h.moved)
	case migration.FateUnknown:
		m.log.Error("migration failed: nobody knows where the guest is, it is kept here, paused",
			"error", report.Error)
		doubt, abandon := context.WithCancel(context.Background())
		m.abandon, m.settled = abandon, make(chan struct{})
		h.setState(control.StateUnknown)
		go h.settleDoubt(doubt, m)
	case migration.FateStays:
		m.log.Warn(fmt.Sprintf("migration %s: the guest stays here", report.Status),
			"error", report.Error)
		h.stays(noDisks)
	}
	close(m.done)
	h.publish(control.FromMigration(m.id, migration.Notice{
		Time: time.Now(), Kind: migration.NoticeDone, Phase: report.Phase, GateOpen: true,
		Report: &report,
	}))
}

// takeDisks takes the disks of a guest that stays. A resume takes them, too, but a guest that its
// user had paused is not resumed. The migration still counts as under way, so nobody resumes the
// guest or moves it meanwhile. mu is not held, because the host may hang.
func (h *VM) takeDisks() error {
	h.mu.Lock()
	vm := h.vm
	h.mu.Unlock()
	if vm == nil {
		return nil // its guest asked for a reset meanwhile, and a new machine will open them
	}
	return vm.TakeDisks(context.Background())
}

// stays sets the state of a VM whose guest stays, given why takeDisks failed. If another process
// has its disks by now, the guest stands still. mu must be held.
func (h *VM) stays(noDisks error) {
	switch {
	case h.vm == nil, errors.Is(noDisks, vmm.ErrEnded):
	case noDisks != nil:
		h.log.Warn("the guest stays paused without its disks: resume it once they are free",
			"error", noDisks)
		h.setState(control.StatePaused)
	case !h.vm.Running():
		// Its user had paused it, or another process had its disks when it was to go on.
		h.setState(control.StatePaused)
	}
}

// settleDoubt keeps asking where the guest is, until the answer is known or the doubt is abandoned.
func (h *VM) settleDoubt(ctx context.Context, m *move) {
	defer m.abandon()
	fate, err := m.engine.Settle(ctx)
	var noDisks error
	if fate == migration.FateStays {
		noDisks = h.takeDisks()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	defer close(m.settled)
	if err != nil {
		m.log.Error("settle where the guest is", "error", err)
	}
	m.report = m.engine.Report()
	switch fate {
	case migration.FateMoved:
		m.log.Info("the guest runs at " + m.dest + " after all")
		h.endAs(control.StateMoved, control.EndMoved)
		close(h.moved)
	case migration.FateStays:
		m.log.Info("the guest does not run at " + m.dest + ": it goes on here")
		h.stays(noDisks)
		switch {
		case h.vm == nil: // it has asked for a reset meanwhile, and begins again
		case h.vm.Running():
			h.setState(control.StateRunning)
		default:
			h.setState(control.StatePaused)
		}
	case migration.FateUnknown:
	}
}

// MigrationReport returns the report of the present or last migration, or ErrNotFound.
func (h *VM) MigrationReport() (migration.Report, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last == nil {
		return migration.Report{},
			fmt.Errorf("%w: no migration was started yet", control.ErrNotFound)
	}
	return h.last.reportSoFar(), nil
}

// CancelMigration cancels the migration under way and waits for its end.
func (h *VM) CancelMigration(ctx context.Context) (migration.Report, error) {
	h.mu.Lock()
	m := h.last
	h.mu.Unlock()
	if m == nil || !m.running() {
		return migration.Report{}, fmt.Errorf("%w: no migration is under way", control.ErrConflict)
	}
	m.cancel(migration.ErrCancelled)
	select {
	case <-m.done:
		h.mu.Lock()
		defer h.mu.Unlock()
		return m.report, nil
	case <-ctx.Done():
		return migration.Report{}, fmt.Errorf("wait for the end of the migration: %w", ctx.Err())
	}
}

// settle ends the migration under way, if there is one, for the given reason, and waits until it
// has ended.
func (h *VM) settle(why error) {
	h.mu.Lock()
	m := h.last
	h.mu.Unlock()
	if m != nil {
		m.cancel(why)
		<-m.done
	}
}

// abandonDoubt stops asking where the guest is, and returns once nothing asks any more.
func (h *VM) abandonDoubt() {
	h.mu.Lock()
	m := h.last
	doubt := m != nil && m.settled != nil
	h.mu.Unlock()
	if doubt {
		m.abandon()
		<-m.settled
	}
}

// ending is how the VM's life here ended.
type ending struct {
	how control.Ending
	// movedTo is set if the guest runs elsewhere. migration then names how it got there.
	movedTo   *migration.Report
	migration string
	exit      vmm.Exit
	err       error
	order     order // to stop, if there was one
	again     bool  // it did not end, but begins again
}

// judge works out how a machine ended that did not move.
func (e *ending) judge() {
	switch {
	case e.err != nil:
		e.how = control.EndFailed
	case e.exit.Reason == vmm.ExitGuest:
		e.how = control.EndExit
	case e.order != order{}: // the guest obeyed it or was ended
		e.how = e.order.ending
	case e.exit.Reason == vmm.ExitPowerOff:
		e.how = control.EndPowerOff
	case e.exit.Reason == vmm.ExitReset:
		e.how = control.EndReset
	}
}

// live waits for the end of the VM's life here and makes sure that none of it runs any more.
func (h *VM) live(vm machine) ending {
	for again := true; again; {
		again = false
		select {
		case <-h.moved:
		case <-h.stopped():
			h.settle(errStopped{})
			if again = h.reprieve(); !again {
				h.askGuest(vm)
			}
		case <-vm.Done():
			if h.beginsAgain(vm) {
				return ending{again: true}
			}
			h.close()
			h.settle(errGuestEnded)
		}
	}
	h.abandonDoubt()
	vm.Stop() // in any case: no vCPU runs here any more
	var e ending
	e.exit, e.err = vm.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state == control.StateMoved {
		return ending{how: control.EndMoved, movedTo: &h.last.report, migration: h.last.name()}
	}
	e.order = h.order
	e.judge()
	h.endAs(control.StateStopped, e.how)
	return e
}

// close prevents new migrations, because the machine is about to be freed.
func (h *VM) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopping = true
}

// endUnborn ends a VM that never had a guest, if it was ordered to stop.
func (h *VM) endUnborn() (e ending, ordered bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.stopping {
		h.endAs(control.StateStopped, control.EndFailed)
		return ending{}, false
	}
	h.endAs(control.StateStopped, h.order.ending)
	return ending{how: h.order.ending, order: h.order}, true
}

// retire drops the machine, so that it can be closed.
func (h *VM) retire() {
	h.mu.Lock()
	h.vm = nil
	h.mu.Unlock()
	h.stopTrace()
}

// trackedMachine gives the engine the machine with a tracker that is watched.
type trackedMachine struct {
	machine
	tracker dirtylog.Tracker
}

func (m trackedMachine) Tracker() dirtylog.Tracker { return m.tracker }

// watchedTracker records whether dirty logging is on.
type watchedTracker struct {
	dirtylog.Tracker
	on *atomic.Bool
}

func (t watchedTracker) Start() error {
	// Set it before the call, because a call that fails half way may have turned logging on.
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
