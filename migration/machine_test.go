package migration

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/dirtylog"
	"taskguide/memory"
	"taskguide/tagging"
)

const testPages = 16 << 20 / memory.PageSize

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

func (g *guest) enter(task uint32) { g.m.port.Write(tagging.RegEnter, 4, task); g.m.boundary() }
func (g *guest) exit(task uint32)  { g.m.port.Write(tagging.RegExit, 4, task); g.m.boundary() }

// fakeMachine is a machine in memory: one vCPU that runs a script.
type fakeMachine struct {
	ram     *memory.RAM
	port    *tagging.Port
	tracker *fakeTracker
	script  func(*guest)
	writes  uint64
	manual  bool // the tracker leaves protection to its user

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
	wantedAt            time.Time
}

func newFakeMachine(t testing.TB, script func(*guest)) *fakeMachine {
	ram, err := memory.New(16 << 20)
	require.NoError(t, err)
	m := &fakeMachine{ram: ram, script: script, parked: true, wanted: true, tracker: &fakeTracker{}}
	m.cond = sync.NewCond(&m.mu)
	m.tracker.dirty = memory.NewBitmap(ram.Pages())
	m.port = tagging.NewPort(portMemory{m})
	return m
}

// touch gives the first pages content, so that round 1 takes its time.
func (m *fakeMachine) touch(pages int) {
	for p := range pages {
		m.ram.Page(p)[9] = 1
	}
}

type portMemory struct{ m *fakeMachine }

func (p portMemory) Slice(gpa uint64, n int) ([]byte, bool) { return p.m.ram.Slice(gpa, n) }
func (p portMemory) MarkDirty(gpa uint64, n int) {
	for off := 0; off < n; off += memory.PageSize {
		page, _ := p.m.ram.PageOf(gpa + uint64(off))
		p.m.tracker.mark(page)
	}
}

// start runs the vCPU.
func (m *fakeMachine) start() {
	m.mu.Lock()
	m.wanted, m.parked, m.started = false, false, true
	m.mu.Unlock()
	go func() {
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
	if m.manual {
		return fakeProtector{m.tracker}
	}
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
	m.mu.Lock()
	m.wanted = false
	m.mu.Unlock()
	m.cond.Broadcast()
	return nil
}

func (m *fakeMachine) SaveState() ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	state := binary.LittleEndian.AppendUint64(nil, uint64(m.steps))
	state = binary.LittleEndian.AppendUint64(state, m.writes)
	return append(state, m.port.Save()...), m.failSave
}

func (m *fakeMachine) StateDigest() (uint64, error) {
	if m.onDigest != nil {
		m.onDigest()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return uint64(m.steps)<<32 ^ m.writes, nil
}

// fakeTracker is a dirty log in memory.
type fakeTracker struct {
	mu    sync.Mutex
	on    bool
	dirty *memory.Bitmap
}

func (t *fakeTracker) mark(page int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.on {
		t.dirty.Set(page)
	}
}

func (t *fakeTracker) Start() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.on = true
	t.dirty.Reset()
	return nil
}

func (t *fakeTracker) Harvest(dirty *memory.Bitmap) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.on {
		return 0, errors.New("harvest without start")
	}
	n := t.dirty.Count()
	dirty.Or(t.dirty)
	t.dirty.Reset()
	return n, nil
}

func (t *fakeTracker) logging() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.on
}

func (t *fakeTracker) Stop() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.on = false
	return nil
}

// fakeProtector is a fakeTracker that reports a page until it is protected, and
// begins with all of them.
type fakeProtector struct{ *fakeTracker }

func (p fakeProtector) Start() error {
	if err := p.fakeTracker.Start(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dirty.Fill()
	return nil
}

func (p fakeProtector) Harvest(dirty *memory.Bitmap) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.on {
		return 0, errors.New("harvest without start")
	}
	dirty.Or(p.dirty)
	return p.dirty.Count(), nil
}

func (p fakeProtector) Protect(pages *memory.Bitmap, first, count int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for at := first; ; {
		f, n := pages.NextRunBefore(at, first+count)
		if n == 0 {
			return nil
		}
		p.dirty.ClearRange(f, n)
		at = f + n
	}
}

// fakeIncoming is the machine at the destination.
type fakeIncoming struct {
	*fakeMachine
	paused    bool
	ranAt     time.Time
	ran       atomic.Bool
	discarded atomic.Bool
	onRun     func()
	failRun   error
	failLoad  error
	wrong     uint64 // in its state
}

func (in *fakeIncoming) StateDigest() (uint64, error) {
	digest, err := in.fakeMachine.StateDigest()
	return digest ^ in.wrong, err
}

func (in *fakeIncoming) LoadState(b []byte) error {
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

func (in *fakeIncoming) Discard() { in.discarded.Store(true) }

// memListener is a listener of connections in memory.
type memListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newMemListener() *memListener {
	return &memListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *memListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *memListener) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }

func (l *memListener) dial(ctx context.Context) (net.Conn, error) {
	a, b := net.Pipe()
	select {
	case l.conns <- b:
		return a, nil
	case <-l.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// cutConn breaks, for both ends, after some bytes in one direction.
type cutConn struct {
	net.Conn
	left *atomic.Int64
}

func (c cutConn) Write(b []byte) (int, error) {
	n := int64(len(b))
	if left := c.left.Add(-n); left < 0 {
		part := max(left+n, 0)
		if part > 0 {
			c.Conn.Write(b[:part])
		}
		c.Conn.Close()
		return int(part), io.ErrClosedPipe
	}
	return c.Conn.Write(b)
}

// bed is a source and a destination. Use it inside a synctest bubble.
type bed struct {
	t        *testing.T
	m        *fakeMachine
	in       *fakeIncoming
	ln       *memListener
	served   chan Incoming
	stop     context.CancelFunc
	dial     func(context.Context) (net.Conn, error)
	onArrive func() // before the source is told
	onBuild  func() // before the destination's machine is there
	paused   bool   // the guest's user has paused it
	log      bytes.Buffer
	eventsMu sync.Mutex
	events   []Event
}

type buildFunc func([]byte) (Incoming, error)

func (f buildFunc) Build(config []byte) (Incoming, error) { return f(config) }

func newBed(t *testing.T, script func(*guest)) *bed {
	b := &bed{t: t, m: newFakeMachine(t, script), ln: newMemListener(), served: make(chan Incoming, 1)}
	b.dial = b.ln.dial
	b.in = &fakeIncoming{fakeMachine: newFakeMachine(t, script)}
	d := Destination{Builder: buildFunc(func(config []byte) (Incoming, error) {
		require.Equal(t, "a machine", string(config))
		if b.onBuild != nil {
			b.onBuild()
		}
		if b.in.discarded.Load() {
			old := b.in
			b.in = &fakeIncoming{fakeMachine: newFakeMachine(t, script), failRun: old.failRun, failLoad: old.failLoad}
			old.ram.Close()
		}
		return b.in, nil
	}), Arrived: func(Incoming) {
		if b.onArrive != nil {
			b.onArrive()
		}
	}, Log: slog.New(slog.NewTextHandler(&b.log, nil))}
	ctx, cancel := context.WithCancel(context.Background())
	b.stop = cancel
	go func() {
		in, err := d.Serve(ctx, b.ln)
		if err == nil {
			b.served <- in
		}
		close(b.served)
	}()
	return b
}

// close ends everything in the bubble.
func (b *bed) close() {
	b.m.end()
	b.stop()
	b.ln.Close()
	for range b.served {
	}
	time.Sleep(2 * answerFor) // virtual: whoever still answers or sleeps ends
	synctest.Wait()
	b.m.ram.Close()
	b.in.ram.Close()
}

func (b *bed) source(p Params) *Source {
	p.Destination = "tcp:test:1"
	if p.Channels == 0 {
		p.Channels = 1 // whatever the number of CPUs here
	}
	p, err := p.WithDefaults()
	require.NoError(b.t, err)
	return newSource(b.m, p, func(e Event) {
		b.eventsMu.Lock()
		defer b.eventsMu.Unlock()
		b.events = append(b.events, e)
	}, b.dial)
}

// checkMoved: the guest is at the destination, all of it, and only there.
func (b *bed) checkMoved(s *Source, r Report) {
	b.t.Helper()
	require.Equal(b.t, StatusCompleted, r.Status, r.Error)
	require.Equal(b.t, FateMoved, s.Fate())
	in, ok := <-b.served
	require.True(b.t, ok)
	require.Same(b.t, b.in, in)
	require.True(b.t, b.in.ran.Load())
	require.False(b.t, b.in.discarded.Load())
	require.False(b.t, b.m.isRunning(), "the source must not run")
	here, err := b.m.ram.Digest()
	require.NoError(b.t, err)
	there, err := b.in.ram.Digest()
	require.NoError(b.t, err)
	require.Equal(b.t, here, there, "RAM differs")
	require.Equal(b.t, b.m.steps, b.in.steps)
	require.Equal(b.t, b.paused, b.in.paused)
	if !b.in.paused {
		require.GreaterOrEqual(b.t, r.DowntimeMS, ms(b.in.ranAt.Sub(b.m.wantedAt)), "the guest stood still for longer")
	}
	require.Equal(b.t, uint32(1), b.in.port.Read(tagging.RegEpoch, 4))
	require.False(b.t, b.m.tracker.logging())
}

// checkStays: the guest runs at the source as if nothing had been, and there only.
func (b *bed) checkStays(s *Source, r Report) {
	b.t.Helper()
	require.NotEqual(b.t, StatusCompleted, r.Status)
	require.NotEmpty(b.t, r.Error)
	require.Equal(b.t, FateStays, s.Fate())
	require.True(b.t, b.m.isRunning(), "the source must run on")
	require.False(b.t, b.in.ran.Load(), "the destination must not run")
	require.False(b.t, b.m.tracker.logging(), "dirty logging must be off")
	require.Equal(b.t, uint32(tagging.StateNone), b.m.port.Read(tagging.RegState, 4))
	before := b.m.stepCount()
	time.Sleep(5 * time.Millisecond)
	require.Greater(b.t, b.m.stepCount(), before)
}

func (m *fakeMachine) stepCount() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.steps
}
