package migration

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/dirtylog"
	"taskguide/memory"
	"taskguide/tagging"
)

const (
	testPages = 16 << 20 / memory.PageSize
	// protectPages is how many pages are protected by one call, before they are read.
	protectPages = 1024
)

// guest is what a script may do. Time is virtual: a step takes a millisecond.
type guest struct {
	m    *fakeMachine
	step int
}

// write dirties a page with a value it never had.
func (g *guest) write(page int) {
	g.m.writes++
	binary.LittleEndian.PutUint64(g.m.ram.Page(page)[8*(g.m.writes%512):], g.m.writes)
	g.m.tracker.mark(page)
}

func (g *guest) writeRange(first, count int) {
	for p := first; p < first+count; p++ {
		g.write(p)
	}
}

// release gives the memory of pages back to the host.
func (g *guest) release(first, count int) {
	if err := g.m.ram.Release(first, count); err != nil {
		panic(err)
	}
	for p := first; p < first+count; p++ {
		g.m.tracker.mark(p)
	}
}

func (g *guest) enter(task uint32) { g.m.port.Write(tagging.RegEnter, 4, task); g.m.boundary() }
func (g *guest) exit(task uint32)  { g.m.port.Write(tagging.RegExit, 4, task); g.m.boundary() }

// fakeMachine is a machine in memory: one vCPU that runs a script.
type fakeMachine struct {
	ram     *memory.RAM
	port    *tagging.Port
	tracker *fakeTracker
	script  func(*guest)
	writes  uint64

	mu      sync.Mutex
	cond    *sync.Cond
	wanted  bool // to stand still
	parked  bool
	started bool
	ended   bool
	steps   int

	failSave, failPause error
	onPaused            func() // once the vCPU stands still for Pause
	onPausing           func() // before it does
	onRequested         func() // once it has been asked to
	onDigest            func() // while its state is being summed up
	onSave              func() // before it is saved
	onResumed           func() // just before the vCPU runs again
	storage             fakeStorage
	resumedAt           time.Time
	wantedAt            time.Time
}

func newFakeMachine(t testing.TB, script func(*guest)) *fakeMachine {
	ram, err := memory.New(16 << 20)
	require.NoError(t, err)
	m := &fakeMachine{ram: ram, script: script, parked: true, wanted: true, tracker: &fakeTracker{}}
	m.cond = sync.NewCond(&m.mu)
	m.tracker.dirty = memory.NewBitmap(ram.Pages())
	m.port = tagging.NewPort(portMemory{memory.NewGuest(ram), m})
	return m
}

// touch gives the first pages content, so that round 1 takes its time.
func (m *fakeMachine) touch(pages int) {
	for p := range pages {
		m.ram.Page(p)[9] = 1
	}
}

type portMemory struct {
	*memory.Guest
	m *fakeMachine
}

func (p portMemory) StoreUint32(gpa uint64, v uint32) bool {
	if !p.Guest.StoreUint32(gpa, v) {
		return false
	}
	page, _ := p.m.ram.PageOf(gpa)
	p.m.tracker.mark(page)
	return true
}

// start runs the vCPU. A guest that begins has taken its first step when start returns: a migration
// that begins at the same moment must find the tasks that this step registers.
func (m *fakeMachine) start() {
	m.mu.Lock()
	m.wanted, m.parked, m.started = false, false, true
	begins := m.steps == 0
	m.mu.Unlock()
	stepped := make(chan struct{})
	if begins {
		defer func() { <-stepped }()
	}
	go func() {
		tell := sync.OnceFunc(func() { close(stepped) })
		defer tell()
		g := &guest{m: m}
		for {
			if m.boundary() {
				return
			}
			g.step = m.steps
			m.script(g)
			m.mu.Lock()
			m.steps++
			m.mu.Unlock()
			tell()
			time.Sleep(time.Millisecond)
		}
	}()
}

// boundary parks the vCPU while it is to stand still; true: it never runs again.
func (m *fakeMachine) boundary() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.wanted && !m.ended {
		m.parked = true
		m.cond.Broadcast()
		m.cond.Wait()
	}
	m.parked = false
	return m.ended
}

func (m *fakeMachine) end() {
	m.mu.Lock()
	m.ended = true
	m.mu.Unlock()
	m.cond.Broadcast()
}

func (m *fakeMachine) isRunning() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.started && !m.wanted && !m.ended
}

func (m *fakeMachine) Config() ([]byte, error) { return []byte("a machine"), nil }
func (m *fakeMachine) RAM() *memory.RAM        { return m.ram }
func (m *fakeMachine) Tracker() dirtylog.Tracker {
	return m.tracker
}
func (m *fakeMachine) Tags() *tagging.Port { return m.port }
func (m *fakeMachine) Running() bool       { m.mu.Lock(); defer m.mu.Unlock(); return !m.wanted }

func (m *fakeMachine) RequestPause() {
	m.mu.Lock()
	if !m.wanted {
		m.wanted, m.wantedAt = true, time.Now()
	}
	m.mu.Unlock()
	m.cond.Broadcast()
}

func (m *fakeMachine) Pause() error {
	if m.onPausing != nil {
		m.onPausing()
	}
	m.RequestPause()
	if m.onRequested != nil {
		m.onRequested()
	}
	m.mu.Lock()
	for m.started && !m.parked {
		m.cond.Wait()
	}
	hook := m.onPaused
	m.mu.Unlock()
	if hook != nil {
		hook()
	}
	return m.failPause
}

func (m *fakeMachine) Resume() error {
	if m.onResumed != nil {
		m.onResumed()
	}
	m.storage.setDrained(false)
	m.mu.Lock()
	m.wanted, m.resumedAt = false, time.Now()
	m.mu.Unlock()
	m.cond.Broadcast()
	return nil
}

func (m *fakeMachine) SaveState() ([]byte, error) {
	if m.onSave != nil {
		m.onSave()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	state := binary.LittleEndian.AppendUint64(nil, uint64(m.steps))
	state = binary.LittleEndian.AppendUint64(state, m.writes)
	return append(state, m.port.Save()...), m.failSave
}

// Park asks the vCPUs to pause, as that of a real machine does.
func (m *fakeMachine) Park() error { return m.Pause() }

// fakeStorage is what a fakeMachine's devices ask of the host.
type fakeStorage struct {
	// Each of these is called, if it is not nil, where the machine waits for the host.
	onDrain, onQuiesce, onSync, onRelease, onTake func(context.Context) error
	mu                                            sync.Mutex
	drained                                       bool
	busy                                          string
}

func (f *fakeStorage) ask(ctx context.Context, how func(context.Context) error) error {
	if how == nil {
		return nil
	}
	return how(ctx)
}

func (f *fakeStorage) setDrained(to bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drained = to
}

func (f *fakeStorage) isDrained() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.drained
}

func (f *fakeStorage) setBusy(with string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.busy = with
}

func (m *fakeMachine) Drain(ctx context.Context) error {
	m.storage.setDrained(true)
	return m.storage.ask(ctx, m.storage.onDrain)
}

func (m *fakeMachine) Undrain() { m.storage.setDrained(false) }

func (m *fakeMachine) Quiesce(ctx context.Context) error {
	return m.storage.ask(ctx, m.storage.onQuiesce)
}

func (m *fakeMachine) SyncDisks(ctx context.Context) error {
	return m.storage.ask(ctx, m.storage.onSync)
}

func (m *fakeMachine) TakeDisks(ctx context.Context) error {
	return m.storage.ask(ctx, m.storage.onTake)
}

func (m *fakeMachine) ReleaseDisks(ctx context.Context) error {
	return m.storage.ask(ctx, m.storage.onRelease)
}

func (m *fakeMachine) Busy() string {
	m.storage.mu.Lock()
	defer m.storage.mu.Unlock()
	return m.storage.busy
}

func (m *fakeMachine) StateDigest() (uint64, error) {
	if m.onDigest != nil {
		m.onDigest()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return uint64(m.steps)<<32 ^ m.writes, nil
}

func (m *fakeMachine) Fingerprint() ([]byte, error) {
	digest, err := m.StateDigest()
	return binary.LittleEndian.AppendUint64(nil, digest), err
}

func (m *fakeMachine) CompareStates(source, destination []byte) error {
	if !bytes.Equal(source, destination) {
		return fmt.Errorf("%x at the source, %x at the destination", source, destination)
	}
	return nil
}

// fakeIncoming is the machine at the destination.
type fakeIncoming struct {
	*fakeMachine
	paused       bool
	ranAt        time.Time
	ran          atomic.Bool
	discarded    atomic.Bool
	onRun        func()
	onLoad       func()
	failRun      error
	failLoad     error
	wrong        uint64        // in its state
	discardTakes time.Duration // to free RAM takes a while
}

func (in *fakeIncoming) StateDigest() (uint64, error) {
	digest, err := in.fakeMachine.StateDigest()
	return digest ^ in.wrong, err
}

func (in *fakeIncoming) Fingerprint() ([]byte, error) {
	digest, err := in.StateDigest()
	return binary.LittleEndian.AppendUint64(nil, digest), err
}

func (in *fakeIncoming) LoadState(b []byte) error {
	if in.onLoad != nil {
		in.onLoad()
	}
	if in.failLoad != nil {
		return in.failLoad
	}
	if len(b) < 16 {
		return errors.New("short state")
	}
	in.mu.Lock()
	in.steps = int(binary.LittleEndian.Uint64(b))
	in.writes = binary.LittleEndian.Uint64(b[8:])
	in.mu.Unlock()
	return in.port.Load(b[16:])
}

func (in *fakeIncoming) Run(paused bool) error {
	if in.onRun != nil {
		in.onRun()
	}
	if in.failRun != nil {
		return in.failRun
	}
	in.port.Moved()
	in.paused, in.ranAt = paused, time.Now()
	in.ran.Store(true)
	return nil
}

func (in *fakeIncoming) Discard() {
	time.Sleep(in.discardTakes)
	in.discarded.Store(true)
}

func (m *fakeMachine) stepCount() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.steps
}
