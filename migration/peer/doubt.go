package peer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"taskguide/transport"
)

// Fate is where the machine is after a migration ended.
type Fate int

const (
	// FateStays says that the machine is here, as it was before.
	FateStays Fate = iota
	// FateMoved says that it runs at the destination and must never run here again.
	FateMoved
	// FateUnknown says that the destination may run it, so it is kept here, paused.
	FateUnknown
)

const (
	// AskAfter is how long a source waits for the message running on its connection before it asks
	// over another one. An answer takes a round trip and the start of some threads.
	AskAfter = 3 * time.Second
	// plainAsks is how many questions go out before the first fence, so that a destination that
	// reads the commit meanwhile can still run the guest.
	plainAsks = 4
	// askTimeout bounds one question. A fence is answered late, see fenceTimeout.
	askTimeout = 15 * time.Second
	// doubtTimeout is how long Run asks. Afterwards Settle asks, less and less often.
	doubtTimeout = 30 * time.Second
	AskInterval  = 250 * time.Millisecond
	maxInterval  = 30 * time.Second
	// maxLifetime is the longest lifetime that a destination may claim: the operator of a
	// source in doubt may have to wait for its end.
	maxLifetime = 10 * time.Minute
)

var (
	// ErrMoved says that the destination runs the guest.
	ErrMoved = errors.New("the guest runs at the destination")
	// ErrTooEarly says that the destination may still run the guest; the wrapping error says until
	// when.
	ErrTooEarly = errors.New("the destination may still run the guest")
	// ErrUnknownFate says that the destination was told to run the guest and has not answered
	// since.
	ErrUnknownFate = errors.New("the destination was told to run the guest and does not answer")
)

// Doubt finds out, for a source, what became of a guest that it told the destination to run. From
// the commit on, the source may not run the guest again on its own judgement.
type Doubt struct {
	peer  *Peer
	known chan struct{} // closed once it is known what became of the guest

	mu         sync.Mutex // guards everything below; a leaf
	told       bool       // to run the guest, or about to be
	fate       Fate
	preparedAt time.Duration // by the clock, when the destination's message was read
	lifetime   time.Duration // how long it keeps the guest from preparedAt on
	running    []byte        // the payload of its message running, nil without one
}

// NewDoubt returns the doubt of a migration that has not reached its commit.
func NewDoubt(p *Peer) *Doubt { return &Doubt{peer: p, known: make(chan struct{})} }

// Fate is where the guest is, as far as is known.
func (d *Doubt) Fate() Fate {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fate
}

// Told tells whether the destination was told to run the guest, or is about to be. It stays true
// whatever follows.
func (d *Doubt) Told() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.told
}

// Begin notes that the destination is about to be told to run the guest.
func (d *Doubt) Begin() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.told, d.fate = true, FateUnknown
}

// Prepared notes that the destination has loaded the guest. arg is how many milliseconds it will
// wait for the commit; a lifetime beyond maxLifetime is an error.
func (d *Doubt) Prepared(arg uint32) error {
	lifetime := time.Duration(arg) * time.Millisecond
	if lifetime <= 0 || lifetime > maxLifetime {
		return fmt.Errorf("%w: a lifetime of %v", transport.ErrFrame, lifetime)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.preparedAt, d.lifetime = d.peer.cfg.Clock(), lifetime
	return nil
}

// MayCommit tells whether a commit would still arrive in time.
func (d *Doubt) MayCommit() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if late := d.peer.cfg.Clock() - d.preparedAt; late >= min(CommitWithin, d.lifetime/3) {
		return fmt.Errorf("%w: the destination was prepared %v ago and waits for %v",
			transport.ErrTimeout, late.Round(time.Millisecond), d.lifetime)
	}
	return nil
}

// Running is the payload of the destination's message running. It is nil if that has none, or has
// not come.
func (d *Doubt) Running() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.running
}

// FindOut waits for the result of the commit. It returns nil once the guest runs at the
// destination, and an error if it does not or if that stays unknown. lost is what is wrong with the
// connection, if anything. Silence proves nothing, however long it lasts.
func (d *Doubt) FindOut(lost error) error {
	if lost == nil {
		lost = d.awaitRunning()
	}
	switch {
	case lost == nil:
		d.conclude(FateMoved)
		return nil
	case errors.Is(lost, transport.ErrRefused):
		d.conclude(FateStays)
		return fmt.Errorf("the destination could not run the guest: %w", lost)
	}
	ctx, cancel := context.WithTimeout(context.Background(), doubtTimeout)
	defer cancel()
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		d.listen(ctx)
	}()
	d.askOn(ctx, AskInterval)
	// All askers must have ended before FindOut returns. A later conclusion could change the fate
	// after the caller has looked, and leave a guest that stays paused.
	cancel()
	<-listening
	switch d.Fate() {
	case FateMoved:
		return nil
	case FateStays:
		return fmt.Errorf("the destination did not run the guest: %w", lost)
	}
	return fmt.Errorf("%w (%w): it is kept here, paused, and the destination is asked on",
		ErrUnknownFate, lost)
}

// awaitRunning waits for the destination's last message. It comes too late for a user's
// cancellation, so only the connection's end stops it.
func (d *Doubt) awaitRunning() error {
	timer := time.NewTimer(AskAfter)
	defer timer.Stop()
	select {
	case r := <-d.peer.replies:
		return d.isRunning(r)
	case <-timer.C:
		return fmt.Errorf("%w for %v", transport.ErrTimeout, AskAfter)
	case <-d.peer.connected.Done():
	}
	// The answer may have arrived just before the end.
	select {
	case r := <-d.peer.replies:
		return d.isRunning(r)
	default:
		return context.Cause(d.peer.connected)
	}
}

// isRunning returns nil for the message running, whose payload it keeps.
func (d *Doubt) isRunning(r Reply) error {
	if r.Header.Type != transport.TypeRunning {
		return wrongType(r.Header, transport.TypeRunning)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running = r.Payload
	return nil
}

// listen reads what may still come over the first connection while others ask.
func (d *Doubt) listen(ctx context.Context) {
	select {
	case r := <-d.peer.replies:
		if d.isRunning(r) == nil {
			d.conclude(FateMoved)
		}
	case <-d.peer.connected.Done():
		if errors.Is(context.Cause(d.peer.connected), transport.ErrRefused) {
			d.conclude(FateStays)
		}
	case <-d.known:
	case <-ctx.Done():
	}
}

// conclude ends the doubt and returns how it ended; the first call decides.
func (d *Doubt) conclude(f Fate) Fate {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fate == FateUnknown {
		d.fate = f
		close(d.known)
	}
	return d.fate
}

// askOn asks until it is known what became of the guest, or ctx ends. It begins with the given
// interval and asks less and less often.
func (d *Doubt) askOn(ctx context.Context, interval time.Duration) {
	// What settles it elsewhere ends a question under way, whose peer may not answer for long.
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-d.known:
			stop()
		case <-ctx.Done():
		}
	}()
	for asked := 0; ; asked++ {
		purpose := transport.PurposeFence
		if asked < plainAsks && interval == AskInterval {
			purpose = transport.PurposeQuery
		}
		_, _ = d.ask(ctx, purpose) // after an error the next question may get through
		select {
		case <-ctx.Done():
			return
		case <-d.known:
			return
		case <-time.After(interval):
		}
		if purpose == transport.PurposeFence {
			interval = min(2*interval, maxInterval)
		}
	}
}

// ask asks once, over a new connection, and concludes what the answer implies. An answer that
// implies nothing is not an error.
func (d *Doubt) ask(ctx context.Context, purpose transport.Purpose) (transport.Outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	hello := transport.Hello{Purpose: purpose, Channels: 1, ID: d.peer.id}
	nc, _, _, err := d.peer.greet(ctx, hello)
	if err != nil {
		return 0, err
	}
	c := transport.NewConn(nc)
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })() // keep-alives must not hold it
	h, err := c.Next()
	if err != nil {
		return 0, err
	}
	if h.Type != transport.TypeOutcome {
		return 0, wrongType(h, transport.TypeOutcome)
	}
	outcome := transport.Outcome(h.Arg)
	switch outcome {
	case transport.OutcomeRunning:
		d.conclude(FateMoved)
	case transport.OutcomeDiscarded:
		d.conclude(FateStays)
	}
	return outcome, nil
}

// Settle goes on asking, less and less often, until it is known where the guest is or ctx ends. It
// returns the fate as known then.
func (d *Doubt) Settle(ctx context.Context) Fate {
	d.askOn(ctx, 2*AskInterval)
	return d.Fate()
}

// Force ends the doubt on its caller's word that the guest does not run at the destination. It asks
// once more, and refuses until the guest's lifetime there is certainly over. ErrTooEarly says when
// that will be; ErrMoved means that the guest does run there.
func (d *Doubt) Force(ctx context.Context) error {
	outcome, err := d.ask(ctx, transport.PurposeFence)
	switch d.Fate() {
	case FateMoved:
		return ErrMoved
	case FateStays:
		return nil
	}
	if err == nil {
		return fmt.Errorf("%w: it is about to decide (%d): try again", ErrTooEarly, outcome)
	}
	d.mu.Lock()
	left := d.preparedAt + d.lifetime + Margin - d.peer.cfg.Clock()
	d.mu.Unlock()
	if left > 0 {
		return fmt.Errorf("%w (%w): wait %v, and see whether it runs there: the wait proves "+
			"that it does not start there any more, not that it did not",
			ErrTooEarly, err, ceilSecond(left))
	}
	if d.conclude(FateStays) == FateMoved {
		return ErrMoved
	}
	return nil
}

func ceilSecond(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}
