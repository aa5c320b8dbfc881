package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"taskguide/tagging/abi"
)

// Options say how [Connect] finds its way. The zero value is right for programs.
type Options struct {
	Socket  string // of the daemon
	Devices string // the folder of PCI devices
	// Say is told once, in a line, that the program is untagged. Without it standard error is.
	Say func(line string)
}

// Program is a program's part in task guidance: by vmm-tag's daemon; without one, and as root, by
// the tag device itself; or else none. Nothing of it fails: a program that is untagged runs on, and
// one line says so. It is safe for concurrent use.
type Program struct {
	socket string
	client *Client // by the daemon
	tags   *Tags   // by the device
	say    func(string)
	once   sync.Once

	mu   sync.Mutex
	next uint32 // id of the next task, by the device
}

// Connect begins a program's part in task guidance.
func Connect() *Program { return Options{}.Connect() }

// Connect does what the function of that name does.
func (o Options) Connect() *Program {
	p := &Program{socket: o.Socket, say: o.Say}
	if p.socket == "" {
		p.socket = Socket
	}
	if p.say == nil {
		p.say = func(line string) { fmt.Fprintln(os.Stderr, line) }
	}
	if o.Devices == "" {
		o.Devices = pciDevices
	}
	client, errDaemon := Dial(p.socket)
	if errDaemon == nil {
		p.client = client
		return p
	}
	tags, errDevice := openRegisters(o.Devices)
	if errDevice == nil {
		// Below the daemon's ids. 64 for each process are enough: beyond, they repeat.
		p.tags, p.next = tags, 0x60000000+uint32(os.Getpid())*64
		return p
	}
	why := "no tag daemon and no tag device"
	if errors.Is(errDaemon, unix.EACCES) || errors.Is(errDaemon, unix.EPERM) {
		why = "no right to connect to the tag daemon"
	}
	p.untagged(why)
	return p
}

// openRegisters maps the registers of the tag device, among PCI devices.
func openRegisters(devices string) (*Tags, error) {
	folder, err := deviceFolder(devices)
	if err != nil {
		return nil, err
	}
	regs, err := openRegs(folder)
	if err != nil {
		return nil, err
	}
	tags, err := newTags(regs)
	if err != nil {
		return nil, errors.Join(err, regs.close())
	}
	return tags, nil
}

// untagged says, the first time, that the program is untagged.
func (p *Program) untagged(why string) {
	p.once.Do(func() {
		p.say("untagged: " + why + "; migrations do not wait for this program")
	})
}

// Tagged tells whether the program takes part, as far as it knows.
func (p *Program) Tagged() bool {
	if p.client != nil {
		p.client.mu.Lock()
		defer p.client.mu.Unlock()
		return !p.client.gone
	}
	return p.tags != nil
}

// Close ends the program's part, with its tasks.
func (p *Program) Close() error {
	switch {
	case p.client != nil:
		return p.client.Close()
	case p.tags != nil:
		return p.tags.Close()
	}
	return nil
}

// Migrating tells whether a migration is under way. A program may bring its next segment forward
// then. By the daemon, and with a task, it costs nanoseconds.
func (p *Program) Migrating() bool {
	switch {
	case p.client != nil:
		return p.client.Migrating()
	case p.tags != nil:
		return p.tags.Migrating()
	}
	return false
}

// Migration returns what a migration is doing.
func (p *Program) Migration() Migration {
	if p.client != nil {
		m, err := p.client.Migration()
		if err != nil {
			p.untagged("the tag daemon is gone")
		}
		return m
	}
	if p.tags == nil {
		return Migration{}
	}
	m := Migration{
		State: p.tags.State(), Epoch: p.tags.Epoch(),
		DeadlineMS: p.tags.regs.read(abi.RegDeadlineMS),
	}
	m.Asked = m.State == abi.StateWaiting || m.State == abi.StateSuspended
	return m
}

// Deadline returns how long it is until the migration under way is forced; ok is false if none is,
// or if it is not forced.
func (p *Program) Deadline() (left time.Duration, ok bool) { return p.Migration().Left() }

// Segments is a task. One goroutine at a time may use it.
type Segments interface {
	// Enter begins a segment: from now on, the program writes little memory. Segments nest.
	Enter()
	// Exit ends it. While a migration is under way, it returns once the host knows: the machine may
	// be moved inside this very call. Outside of a segment it does nothing.
	Exit()
	// Segment runs f inside a segment.
	Segment(f func())
	// Close ends the task's part in guidance.
	Close()
}

// Task begins a task, outside any segment: from now on migrations wait for it. Its name is for
// people, and may have 32 characters of ASCII.
func (p *Program) Task(name string) Segments {
	switch {
	case p.client != nil:
		slot, err := p.client.Open(name)
		switch {
		case errors.Is(err, ErrUntagged):
			p.untagged("the tag daemon is gone")
		case err != nil:
			p.untagged(err.Error())
		default:
			return &member{p, slot}
		}
		return nothing{}
	case p.tags != nil:
		p.mu.Lock()
		defer p.mu.Unlock()
		p.next++
		return p.tags.Task(p.next - 1)
	}
	return nothing{}
}

// nothing is a task of a program that is untagged.
type nothing struct{}

func (nothing) Enter()           {}
func (nothing) Exit()            {}
func (nothing) Segment(f func()) { f() }
func (nothing) Close()           {}

// member is a task by the daemon.
type member struct {
	p    *Program
	slot *Slot
}

func (m *member) note(err error) {
	if err != nil {
		m.p.untagged("the tag daemon is gone")
	}
}

func (m *member) Enter() { m.note(m.slot.Enter()) }
func (m *member) Exit()  { m.note(m.slot.Exit()) }
func (m *member) Close() { m.note(m.slot.Close()) }

// outlive returns once the task is untagged, or ctx ends. A daemon that hangs tells a watcher
// nothing, and does not end its connection; but the lease of its pages ends.
func (m *member) outlive(ctx context.Context) {
	tick := time.NewTicker(pollPace)
	defer tick.Stop()
	for m.slot.Alive() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
	m.note(ErrUntagged)
}

func (m *member) Segment(f func()) {
	m.Enter()
	defer m.Exit()
	f()
}

// pollPace is how often a program looks at the device, where no daemon tells it.
const pollPace = 200 * time.Millisecond

// watch calls told with what a migration is doing, now and whenever that changes, until ctx ends
// or nobody is left to tell.
func (p *Program) watch(ctx context.Context, told func(Migration)) {
	if p.client != nil {
		if err := Watch(ctx, p.socket, told); err != nil && ctx.Err() == nil {
			p.untagged("the tag daemon is gone")
		}
		return
	}
	if p.tags == nil {
		return
	}
	tick := time.NewTicker(pollPace)
	defer tick.Stop()
	for {
		told(p.Migration())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Wait returns once a migration waits for this program, with what it is doing then. It returns the
// error of ctx when that ends. A program that is untagged is never asked.
func (p *Program) Wait(ctx context.Context) (Migration, error) {
	watch, stop := context.WithCancel(ctx)
	defer stop()
	asked := make(chan Migration, 1)
	go p.watch(watch, func(m Migration) {
		if m.Asked {
			select {
			case asked <- m:
			default:
			}
		}
	})
	select {
	case m := <-asked:
		return m, nil
	case <-ctx.Done():
		return Migration{}, ctx.Err()
	}
}

// OnMigration begins a task that is outside of its segment but when the program says yes. Whenever
// a migration waits for it, prepare is called, on a goroutine of its own, and one call at a time.
// It makes the program easy to move, and says yes:
//
//	stop := tags.OnMigration("server", func(q *guest.Question) {
//		server.Drain(q.Left())
//		q.GiveBack()
//		q.Yes() // returns at the other side, or if the migration is over otherwise
//		server.Accept()
//	})
//
// A prepare that returns without Yes says no. Stop ends the task, and waits for a call of prepare,
// which must not call it. Yes returns then, too, and so it does once the daemon is gone or hangs.
func (p *Program) OnMigration(name string, prepare func(*Question)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	o := &onMigration{task: p.Task(name), changed: make(chan struct{})}
	var life sync.WaitGroup
	life.Go(func() {
		p.watch(ctx, o.told)
		o.end()
	})
	life.Go(func() { o.answer(prepare) })
	if m, ok := o.task.(*member); ok {
		life.Go(func() {
			m.outlive(ctx)
			o.end()
		})
	}
	return sync.OnceFunc(func() {
		cancel()
		o.end()
		life.Wait()
		o.task.Close()
	})
}

// onMigration is a task of OnMigration. Only answer uses the task.
type onMigration struct {
	task Segments

	mu      sync.Mutex
	last    Migration
	at      time.Time // when it was told
	ended   bool
	changed chan struct{} // closed, and made anew, when any of these changes
}

// change changes what mu guards.
func (o *onMigration) change(by func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	by()
	close(o.changed)
	o.changed = make(chan struct{})
}

func (o *onMigration) told(m Migration) {
	o.change(func() { o.last, o.at = m, time.Now() })
}

func (o *onMigration) end() { o.change(func() { o.ended = true }) }

// until waits for a state that what accepts, or for the end, which it tells.
func (o *onMigration) until(what func(Migration) bool) (m Migration, ended bool) {
	for {
		o.mu.Lock()
		m, ended, changed := o.last, o.ended, o.changed
		o.mu.Unlock()
		if ended || what(m) {
			return m, ended
		}
		<-changed
	}
}

// answer calls prepare whenever a migration asks.
func (o *onMigration) answer(prepare func(*Question)) {
	for {
		m, ended := o.until(func(m Migration) bool { return m.Asked })
		if ended {
			return
		}
		q := &Question{o: o, epoch: m.Epoch}
		prepare(q)
		if !q.said {
			o.until(func(m Migration) bool { return !m.Asked })
		}
	}
}

// Question is a migration that waits for the program. Only the call of prepare may use it.
type Question struct {
	o     *onMigration
	epoch uint32
	said  bool
}

// Left returns how long it is until the migration is forced; ok is false if it is not.
func (q *Question) Left() (left time.Duration, ok bool) {
	q.o.mu.Lock()
	defer q.o.mu.Unlock()
	left, ok = q.o.last.Left()
	return max(left-time.Since(q.o.at), 0), ok
}

// Yes says that the program is easy to move now. It returns when the machine has moved, which it
// tells, or the migration is over otherwise. Until then, the program should write little memory.
func (q *Question) Yes() (moved bool) {
	q.said = true
	q.o.task.Enter()
	defer q.o.task.Exit()
	m, _ := q.o.until(func(m Migration) bool { return m.Over(q.epoch) })
	return m.Epoch != q.epoch
}

// pciDevices is where Linux has them.
const pciDevices = "/sys/bus/pci/devices"

// deviceFolder finds the tag device in a folder of PCI devices.
func deviceFolder(devices string) (string, error) {
	folders, err := filepath.Glob(filepath.Join(devices, "*"))
	if err != nil {
		return "", err
	}
	for _, folder := range folders {
		if reads(folder, "vendor", abi.PCIVendor) && reads(folder, "device", abi.PCIDevice) {
			return folder, nil
		}
	}
	return "", fmt.Errorf("%w: no PCI device %04x:%04x", ErrNoPort, abi.PCIVendor, abi.PCIDevice)
}
