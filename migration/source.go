package migration

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"taskguide/dirtylog"
	"taskguide/memory"
	"taskguide/tagging"
	"taskguide/transport"
)

var (
	// ErrCancelled is the cause with which a migration's context is cancelled by its
	// user.
	ErrCancelled = errors.New("cancelled")
	// ErrDeferred ends a migration that guidance held back for too long.
	ErrDeferred = errors.New("held back by the gate for too long")
	// ErrVerify: what arrived is not what was sent.
	ErrVerify = errors.New("verification failed")
	// ErrUnknownFate: the destination was told to run, and then was heard of no more.
	ErrUnknownFate = errors.New("the destination was told to run the guest and does not answer")
)

// Fate is where the machine is after a migration ended.
type Fate int

const (
	// FateStays: it is here, as it was before.
	FateStays Fate = iota
	// FateMoved: it runs at the destination and must never run here again.
	FateMoved
	// FateUnknown: the destination may run it, so it is kept here, paused.
	FateUnknown
)

// Times that bound the handover; a Source can have others for tests.
const (
	handoverTimeout = 120 * time.Second // for prepared, and for running
	queryTimeout    = 30 * time.Second  // for an answer once the connection is lost
	queryInterval   = 250 * time.Millisecond
)

// Source moves one machine away, once.
type Source struct {
	m       Machine
	p       Params
	observe Observer
	dial    func(context.Context) (net.Conn, error)
	id      transport.ID
	limiter *transport.Limiter
	rule    rule
	begin   time.Time

	conns   []*transport.Conn
	replies chan reply
	workers []*worker
	cancel  context.CancelCauseFunc
	lost    context.Context // ends with the connection to the destination
	lose    context.CancelCauseFunc

	// trackMu guards the tracker and next. A vCPU that is held at an EXIT takes it,
	// so nobody may wait for vCPUs while holding it.
	trackMu  sync.Mutex
	tracker  dirtylog.Tracker
	tracking bool
	// protector is the tracker if it protects on demand, else nil.
	protector dirtylog.Protector
	next      *memory.Bitmap  // dirtied since the round began
	again     []atomic.Uint64 // the same, for workers to look at
	pending   *memory.Bitmap  // to send; during a round each worker owns its pages' words
	guard     guard           // protects pages before they are read
	backed    int             // pages that had memory at the last look for content

	// mu guards everything below. It is never held while waiting.
	mu       sync.Mutex
	report   Report
	phase    Phase
	gateOpen bool
	guided   bool
	forced   bool
	pausing  bool
	// atExit: a vCPU is held at the EXIT that would close the gate, or was when the
	// vCPUs were asked to pause; the gate counts as open for this switchover.
	atExit     string
	asked      bool // this engine asked the vCPUs to pause
	askedAt    time.Time
	committed  bool
	ended      bool // nothing may be asked of the vCPUs any more
	fate       Fate
	drain      drain
	polishing  bool // rounds go on though the rule is satisfied
	gambled    bool // and once it was not any more after them
	opened     int  // transitions to open, so that a round can tell whether it was open throughout
	wake       chan struct{}
	stopRound  atomic.Bool
	round      roundState
	bandwidth  float64 // bytes of page content a second
	ratePages  int64   // which so many pages have shown
	heldSince  time.Time
	held       *time.Duration // where the time since heldSince belongs
	waited     time.Duration
	suspended  time.Duration
	emitMu     sync.Mutex
	lastSample progressSample
}

// reply is a message of the destination's.
type reply struct {
	header  transport.Header
	payload []byte
}

// NewSource prepares the migration of m as p says. It does not touch m yet.
func NewSource(m Machine, p Params, observe Observer) (*Source, error) {
	p, err := p.WithDefaults()
	if err != nil {
		return nil, err
	}
	security, err := transport.LoadTLS(p.TLSDir)
	if err != nil {
		return nil, err
	}
	if _, _, err := transport.ParseAddress(p.Destination); err != nil {
		return nil, err
	}
	return newSource(m, p, observe, func(ctx context.Context) (net.Conn, error) {
		return transport.Dial(ctx, p.Destination, security)
	}), nil
}

func newSource(m Machine, p Params, observe Observer, dial func(context.Context) (net.Conn, error)) *Source {
	if observe == nil {
		observe = func(Event) {}
	}
	s := &Source{
		m:       m,
		p:       p,
		observe: observe,
		dial:    dial,
		limiter: transport.NewLimiter(p.BitsPerSecond),
		rule:    newRule(p),
		replies: make(chan reply, 4),
		tracker: m.Tracker(),
		next:    memory.NewBitmap(m.RAM().Pages()),
		pending: memory.NewBitmap(m.RAM().Pages()),
		wake:    make(chan struct{}, 1),
		phase:   PhaseSetup,
		drain:   drain{floor: -1},
	}
	s.protector, _ = s.tracker.(dirtylog.Protector)
	s.lost, s.lose = context.WithCancelCause(context.Background())
	s.again = make([]atomic.Uint64, len(s.next.Words()))
	rand.Read(s.id[:])
	s.report = Report{
		Status:      StatusRunning,
		Phase:       PhaseSetup,
		Destination: p.Destination,
		Rule:        p.Rule,
		Guidance:    p.Guidance,
		RAMBytes:    m.RAM().Size(),
		Warnings:    []string{},
		Rounds:      []Round{},
	}
	return s
}

// Run carries the migration out and returns its final report. Cancelling ctx ends
// it while that is still possible, that is until the commit is sent. Afterwards
// Fate says where the machine is.
func (s *Source) Run(ctx context.Context) Report {
	s.mu.Lock()
	s.begin = time.Now()
	s.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	s.cancel = cancel
	stopProgress := s.startProgress(ctx)
	err := s.migrate(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil && !s.Committed() {
		err = cause // what failed then failed because of it
	}
	cancel(nil)
	stopProgress()
	if s.Fate() != FateMoved {
		s.tellWhy(err)
	}
	for _, c := range s.conns {
		c.Close()
	}
	for _, w := range s.workers {
		w.close()
	}
	s.lose(nil)
	err = errors.Join(err, s.leave())
	return s.finish(err)
}

// Fate tells where the machine is once Run has returned.
func (s *Source) Fate() Fate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fate
}

// Committed tells whether it is too late to cancel.
func (s *Source) Committed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.committed
}

func (s *Source) migrate(ctx context.Context) error {
	if err := s.setup(ctx); err != nil {
		return err
	}
	s.attach()
	s.mu.Lock()
	s.report.SetupMS = ms(time.Since(s.begin))
	s.mu.Unlock()
	if err := s.waitToStart(ctx); err != nil {
		return err
	}
	if err := s.startTracking(); err != nil {
		return err
	}
	for {
		if err := s.precopy(ctx); err != nil {
			return err
		}
		switched, err := s.switchover(ctx)
		if switched || err != nil {
			return err
		}
	}
}

// leave undoes everything that the migration changed about a machine that stays.
func (s *Source) leave() error {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.m.Tags().Detach()
	s.trackMu.Lock()
	var errTrack error
	if s.tracking {
		errTrack, s.tracking = s.tracker.Stop(), false
	}
	s.trackMu.Unlock()
	s.m.Tags().SetState(tagging.StateNone)
	var errResume error
	if s.Fate() == FateStays {
		errResume = s.resume()
	}
	return errors.Join(errTrack, errResume)
}

// resume lets the vCPUs run again if this engine asked them to pause.
func (s *Source) resume() error {
	s.mu.Lock()
	asked := s.asked
	s.asked, s.pausing, s.atExit = false, false, ""
	s.mu.Unlock()
	if !asked {
		return nil
	}
	// A request that no Pause has completed yet must be complete before it is undone.
	if err := s.m.Pause(); err != nil {
		return fmt.Errorf("settle the pause before resuming: %w", err)
	}
	if err := s.m.Resume(); err != nil {
		return fmt.Errorf("resume the guest at the source: %w", err)
	}
	return nil
}

// setup connects, and has the destination build its machine.
func (s *Source) setup(ctx context.Context) error {
	config, err := s.m.Config()
	if err != nil {
		return fmt.Errorf("describe the machine: %w", err)
	}
	channels := s.p.Channels
	if channels == 0 {
		channels = defaultChannels(s.p)
	}
	if err := s.open(ctx, 0, channels); err != nil {
		return err
	}
	context.AfterFunc(ctx, s.interrupt)
	go s.readReplies(s.conns[0])
	if err := s.conns[0].WriteMessage(transport.TypeConfig, 0, config); err != nil {
		return fmt.Errorf("send the machine's configuration: %w", err)
	}
	// While the destination builds its machine.
	if err := s.findContent(); err != nil {
		return err
	}
	if _, err := s.await(ctx, transport.TypeAccept, handoverTimeout); err != nil {
		return fmt.Errorf("have the destination build the machine: %w", err)
	}
	if err := s.conns[0].WriteMessage(transport.TypeExtents, 0, packExtents(s.pending)); err != nil {
		return fmt.Errorf("announce the content of RAM: %w", err)
	}
	for i := 1; i < channels; i++ {
		if err := s.open(ctx, i, channels); err != nil {
			return err
		}
	}
	for i, c := range s.conns {
		go c.KeepAlive(ctx)
		w := newWorker(s, i, c)
		s.workers = append(s.workers, w)
		if err := w.useDeltas(ctx); err != nil {
			return err
		}
	}
	return nil
}

// interrupt ends writes that are stuck, unless it is too late to cancel.
func (s *Source) interrupt() {
	s.mu.Lock()
	committed, conns := s.committed, slices.Clone(s.conns)
	s.mu.Unlock()
	if committed {
		return
	}
	// With mu free: TLS says goodbye when it is closed, which may take seconds, and
	// vCPUs that tag want mu.
	for _, c := range conns[1:] {
		c.Close()
	}
	conns[0].Interrupt()
}

// findContent adds to pending every page that may not be zero, before round 1, and
// first to tell the destination which pages to back with memory before they arrive. To
// look at all of RAM takes tens of milliseconds for some GiB, and nobody takes
// memory away from a guest: if as many pages are backed as before the last look,
// it still holds.
func (s *Source) findContent() error {
	backed, err := s.m.RAM().Backed()
	if err != nil {
		return err
	}
	if backed == s.backed {
		return nil
	}
	s.backed = backed
	if backed >= s.pending.Len() {
		s.pending.Fill() // what the look would find
		return nil
	}
	return s.m.RAM().Allocated(s.pending)
}

// oneChannelKeepsUp is the greatest limit, in bit/s, at which a single connection
// cannot be what a migration waits for.
const oneChannelKeepsUp = 5e9

// defaultChannels is how many connections a migration uses if nobody says: two where
// CPU time may be scarcer than the link, for then it counts that two CPUs look for
// zero pages and copy. More than that take CPUs away from the guest.
func defaultChannels(p Params) int {
	if p.BitsPerSecond > 0 && p.BitsPerSecond <= oneChannelKeepsUp {
		return 1
	}
	return min(2, runtime.NumCPU())
}

// open makes one of the migration's connections.
func (s *Source) open(ctx context.Context, channel, channels int) error {
	nc, err := s.connect(ctx, transport.Hello{
		Purpose:  transport.PurposeMigrate,
		Channel:  uint16(channel),
		Channels: uint16(channels),
		ID:       s.id,
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, transport.NewConn(nc))
	return nil
}

func (s *Source) connect(ctx context.Context, h transport.Hello) (net.Conn, error) {
	nc, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	if err := nc.SetDeadline(time.Now().Add(transport.DialTimeout)); err != nil {
		nc.Close()
		return nil, err
	}
	err = transport.WriteHello(nc, h)
	if err == nil {
		err = transport.ReadWelcome(nc)
	}
	if err == nil {
		err = nc.SetDeadline(time.Time{})
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("greet the destination: %w", err)
	}
	return nc, nil
}

// readReplies hands the destination's messages to await; an error ends the
// migration.
func (s *Source) readReplies(c *transport.Conn) {
	for {
		h, err := c.Next()
		var payload []byte
		if err == nil {
			payload, err = c.ReadMessage(h)
		}
		if err == nil && h.Type == transport.TypeError {
			err = fmt.Errorf("%w: %s", transport.ErrRefused, transport.Printable(payload))
		}
		if err != nil {
			err = fmt.Errorf("destination: %w", err)
			s.lose(err)
			s.cancel(err)
			return
		}
		select {
		case s.replies <- reply{h, payload}:
		default:
			s.cancel(fmt.Errorf("destination: %w: more messages than anybody asked for", transport.ErrFrame))
			return
		}
	}
}

// await waits for a message of one type.
func (s *Source) await(ctx context.Context, want transport.Type, timeout time.Duration) ([]byte, error) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case r := <-s.replies:
		if r.header.Type != want {
			return nil, fmt.Errorf("%w: message of type %d where %d was due", transport.ErrFrame, r.header.Type, want)
		}
		return r.payload, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-timer.C:
		return nil, fmt.Errorf("%w within %v", transport.ErrTimeout, timeout)
	}
}

// tellWhy lets the destination know that nothing more comes, as a courtesy: it
// would notice by itself.
func (s *Source) tellWhy(err error) {
	if err == nil || len(s.conns) == 0 || s.Committed() {
		return
	}
	c := s.conns[0]
	_ = c.WriteLast(transport.TypeError, []byte(err.Error()))
}

func (s *Source) startTracking() error {
	s.trackMu.Lock()
	defer s.trackMu.Unlock()
	if err := s.tracker.Start(); err != nil {
		return fmt.Errorf("turn dirty logging on: %w", err)
	}
	s.tracking = true
	// Only now: what is written after this look is in the dirty log.
	if err := s.findContent(); err != nil {
		return err
	}
	return s.protectHoles()
}

// protectHoles has a tracker that protects on demand report writes to pages that
// were never touched, which no round would protect.
func (s *Source) protectHoles() error {
	if s.protector == nil {
		return nil
	}
	holes := memory.NewBitmap(s.pending.Len())
	holes.Fill()
	holes.AndNot(s.pending)
	if err := s.protector.Protect(holes, 0, holes.Len()); err != nil {
		return fmt.Errorf("protect untouched pages: %w", err)
	}
	// What was written before it was protected is no hole any more.
	return s.findContent()
}

// harvest adds what was dirtied to next and returns how many pages that now has.
func (s *Source) harvest() (int, error) {
	s.trackMu.Lock()
	defer s.trackMu.Unlock()
	if _, err := s.tracker.Harvest(s.next); err != nil {
		return 0, fmt.Errorf("read the dirty log: %w", err)
	}
	for i, w := range s.next.Words() {
		if w != 0 {
			s.again[i].Store(w)
		}
	}
	return s.next.Count(), nil
}

// takeDirty moves what was dirtied into pending and returns how many pages that
// now has, and how many were dirtied.
func (s *Source) takeDirty() (remaining, dirtied int, err error) {
	if dirtied, err = s.harvest(); err != nil {
		return 0, 0, err
	}
	s.trackMu.Lock()
	defer s.trackMu.Unlock()
	s.pending.Or(s.next)
	s.next.Reset()
	for i := range s.again {
		s.again[i].Store(0)
	}
	remaining = s.pending.Count()
	s.round.end(remaining)
	return remaining, dirtied, nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
