package migration

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"taskguide/migration/peer"
	"taskguide/migration/policy"
	"taskguide/migration/program"
	"taskguide/migration/stream"
	"taskguide/tagging"
	"taskguide/transport"
)

var (
	// ErrCancelled is the cause with which a user cancels a migration's context.
	ErrCancelled = errors.New("cancelled")
	// ErrDeferred ends a migration that guidance held back for too long.
	ErrDeferred = policy.ErrDeferred
	// ErrVerify says that what arrived is not what was sent.
	ErrVerify = errors.New("verification failed")
	// ErrUnknownFate says that the destination was told to run the guest and has not answered
	// since.
	ErrUnknownFate = peer.ErrUnknownFate
	// ErrMoved says that the destination runs the guest.
	ErrMoved = peer.ErrMoved
	// ErrTooEarly says that the destination may still run the guest; its text says until when.
	ErrTooEarly = peer.ErrTooEarly
)

// Fate is where the machine is after a migration ended.
type Fate = peer.Fate

// What Fate may be.
const (
	FateStays   = peer.FateStays   // it is here, as it was before
	FateMoved   = peer.FateMoved   // it runs at the destination and must never run here again
	FateUnknown = peer.FateUnknown // the destination may run it, so it is kept here, paused
)

// Source moves one machine away, once. Fields without a named guard are set before Run begins.
//
// It has few fields, and a test counts them. What holds during one phase only is local to that
// phase's function or in a standstill; what can be computed is not stored; and a separate job has a
// package of its own.
type Source struct {
	m       Machine
	p       Params
	observe Observer                // called with emitMu held
	peer    *peer.Peer              // has locks of its own
	doubt   *peer.Doubt             // has a lock of its own
	counsel *program.Counsel        // has a lock of its own, a leaf
	stream  *stream.Stream          // has locks of its own
	wake    chan struct{}           // ends a wait for the gate, to look again
	cancel  context.CancelCauseFunc // ends Run; set when it begins

	// vcpus orders requests to the vCPUs to stand still or to run, and work that needs them to
	// stand still, because a switchover may be taken back at any time. It is held while waiting for
	// vCPUs, so neither an exit nor a holder of mu may take it.
	vcpus  sync.Mutex
	emitMu sync.Mutex // one notice at a time; before mu

	// mu guards everything below. It is never held while waiting.
	mu        sync.Mutex
	begin     time.Time // of Run
	head      *policy.Head
	report    Report
	standing  *standstill // this engine asked the vCPUs to pause
	takenBack *standstill // that the engine's goroutine has not seen to yet
	notBefore time.Time   // no switchover begins before, because storage failed
}

// Prepared is a migration whose parameters are complete, and whose certificates are there.
type Prepared struct {
	p  Params
	to peer.Config
}

// Prepare returns an error if p is not valid. It reads certificates, so it waits for the storage
// that they are on.
func Prepare(p Params) (Prepared, error) {
	p, err := p.WithDefaults()
	if err != nil {
		return Prepared{}, err
	}
	if err := p.CheckWay(); err != nil {
		return Prepared{}, err
	}
	security := transport.Security{Plain: p.plain()}
	if security.TLS, err = transport.LoadTLS(p.TLSDir); err != nil {
		return Prepared{}, err
	}
	to := peer.Config{Offers: transport.Spoken().Features}
	to.Dial = func(ctx context.Context) (net.Conn, error) {
		return transport.Dial(ctx, p.Destination, security)
	}
	return Prepared{p, to}, nil
}

// Source is the migration of m, which it does not move yet. It waits for nothing.
func (r Prepared) Source(m Machine, observe Observer) *Source {
	return newSource(m, r.p, observe, r.to)
}

// NewSource prepares the migration of m as p says, or returns an error if p is not valid.
func NewSource(m Machine, p Params, observe Observer) (*Source, error) {
	ready, err := Prepare(p)
	if err != nil {
		return nil, err
	}
	return ready.Source(m, observe), nil
}

// newSource is NewSource for complete parameters, and a peer whose RAMBytes is still unset.
func newSource(m Machine, p Params, observe Observer, to peer.Config) *Source {
	choice, err := p.choice()
	if err != nil {
		panic(err) // WithDefaults refuses it
	}
	rule, err := p.policy(choice)
	if err != nil {
		panic(err)
	}
	return newLedSource(m, p, observe, to, choice, rule)
}

// newLedSource is newSource with a policy that may differ from that of the choice.
func newLedSource(m Machine, p Params, observe Observer, to peer.Config, choice policy.Choice,
	rule policy.Policy) *Source {
	if observe == nil {
		observe = func(Notice) {}
	}
	to.RAMBytes = m.RAM().Size()
	var err error
	s := &Source{
		m:       m,
		p:       p,
		observe: observe,
		peer:    peer.New(to),
		head:    p.newHead(choice, rule),
		wake:    make(chan struct{}, 1),
	}
	s.doubt = peer.NewDoubt(s.peer)
	s.stream = stream.New(s.streamConfig(choice.Traits()))
	if s.counsel, err = p.counsel(choice); err != nil {
		panic(err) // WithDefaults refuses it
	}
	s.report = Report{
		Status:      StatusRunning,
		Phase:       PhaseSetup,
		Destination: p.Destination,
		Rule:        Rule(choice.Name()),
		Policy:      choice.String(),
		Guidance:    p.Guidance,
		RAMBytes:    m.RAM().Size(),
		Shadows:     s.counsel.Records(),
		Warnings:    []string{},
		Rounds:      []Round{},
		Standstills: []Standstill{},
		HeldBy:      []Holder{},

		DrainsTakenBack: []Drain{},
		DowntimeFixed:   DowntimeFixed{LimitMS: ms(p.ruleLimit(choice))},
	}
	return s
}

// ID names the migration at both ends.
func (s *Source) ID() transport.ID { return s.peer.ID() }

// Run carries the migration out and returns its final report. Cancelling ctx ends the migration
// until the commit is sent. Afterwards Fate says where the machine is.
func (s *Source) Run(ctx context.Context) Report {
	ctx = s.start(ctx)
	stopProgress := s.startProgress()
	stopPrograms, err := s.startPrograms()
	if err == nil {
		err = s.migrate(ctx)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil && !s.Committed() {
		err = cause // the step failed because of this cause
	}
	s.cancel(nil)
	stopProgress()
	// A vCPU may be held at its EXIT, and a destination that takes nothing holds up the goodbye.
	errLeave := s.leave(err)
	if err != nil && !s.Committed() {
		s.peer.Farewell(err)
	}
	s.peer.Close()
	err = errors.Join(err, errLeave, s.stream.Close())
	took := time.Since(s.begin) // the migration; a program's end is none of it
	stopPrograms()
	return s.finish(took, err)
}

// start begins the migration's time and returns its context.
func (s *Source) start(ctx context.Context) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin = time.Now()
	ctx, s.cancel = context.WithCancelCause(ctx)
	return ctx
}

// Fate tells where the machine is once Run has returned.
func (s *Source) Fate() Fate { return s.doubt.Fate() }

// Committed tells whether it is too late to cancel.
func (s *Source) Committed() bool { return s.doubt.Told() }

// Settle goes on asking the destination after Run has returned with FateUnknown. It returns where
// the guest is once that is known, and FateUnknown if ctx ends before. A guest that stays runs
// again if it ran before the migration.
func (s *Source) Settle(ctx context.Context) (Fate, error) {
	switch fate := s.doubt.Settle(ctx); fate {
	case FateMoved:
		s.movedAfterAll()
		return fate, nil
	case FateStays:
		return fate, s.staysAfterAll()
	default:
		return fate, nil
	}
}

// Force ends the doubt on its caller's word that the guest does not run at the destination. It asks
// once more, and refuses until the guest's lifetime there is certainly over. Settle then returns.
// ErrMoved means that the guest does run there; ErrTooEarly says when to try again.
//
// The wait proves that a guest that did not start within its lifetime never will. It does not prove
// that the guest did not start: only the caller can have seen that.
func (s *Source) Force(ctx context.Context) error { return s.doubt.Force(ctx) }

func (s *Source) migrate(ctx context.Context) error {
	if err := s.setup(ctx); err != nil {
		return err
	}
	begin := s.attach()
	s.mu.Lock()
	s.report.SetupMS = ms(time.Since(s.begin))
	s.mu.Unlock()
	if begin.Verb == policy.Abort {
		return begin.Err
	}
	if begin.Verb == policy.Wait {
		if err := s.wait(ctx, begin); err != nil {
			return err
		}
	}
	if err := s.peer.AnnounceWork(); err != nil {
		return peer.Explain(ctx, err)
	}
	if err := s.stream.StartTracking(); err != nil {
		return err
	}
	defer s.startSyncing(ctx)()
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

// leave undoes everything that the migration changed about a machine that stays. It does not wait
// for the link. The guest may stand still until it is resumed, so all that takes long comes behind.
func (s *Source) leave(why error) error {
	s.mu.Lock()
	s.end()
	spent := s.takenBack
	s.mu.Unlock()
	if spent != nil {
		<-spent.resumed // it was about to resume when the end was noted
	}
	s.m.Tags().Detach()
	s.m.Tags().SetState(tagging.StateNone)
	var errResume error
	if s.Fate() == FateStays {
		errResume = s.resume(endedBy(why))
	}
	return errors.Join(errResume, s.stream.StopTracking())
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
