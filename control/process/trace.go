package process

import (
	"context"
	"errors"
	"fmt"
	"time"

	"taskguide/control"
	"taskguide/control/version"
	"taskguide/dirtylog"
	"taskguide/dirtylog/trace"
	"taskguide/memory"
)

// tracing is a trace that is being recorded.
type tracing struct {
	begun  time.Time // as its header has it; no other trace of the VM has the same
	cancel context.CancelCauseFunc
	done   chan struct{} // closed once nothing of it touches the machine any more
}

// These end a trace, and are what its end says.
var (
	errTimeUp      = errors.New("the time that was ordered is over")
	errInterrupted = errors.New("interrupted")
)

// tracker is the dirty log for a migration, which a trace may be following. mu must be held, and no
// migration may be under way.
func (h *VM) tracker() dirtylog.Tracker {
	if h.tracing == nil {
		h.shared = nil
		return h.ownTracker()
	}
	return h.shared.Tracker()
}

func (h *VM) ownTracker() dirtylog.Tracker {
	return watchedTracker{h.vm.Tracker(), &h.logging}
}

// beginTrace makes t the VM's trace, and returns the machine and its dirty log.
func (h *VM) beginTrace(t *tracing) (machine, dirtylog.Tracker, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	moving := h.last != nil && h.last.running()
	switch {
	case h.vm == nil || h.stopping,
		h.state != control.StateRunning && h.state != control.StatePaused:
		return nil, nil, fmt.Errorf("%w: the VM is %s", control.ErrConflict, h.state)
	case h.tracing != nil:
		return nil, nil, fmt.Errorf("%w: a trace is being recorded", control.ErrConflict)
	case moving && h.shared == nil:
		// Its dirty log cannot be taken away from it half way.
		return nil, nil, fmt.Errorf("%w: a migration is under way: begin the trace before it",
			control.ErrConflict)
	case !moving:
		h.shared = dirtylog.NewShared(h.ownTracker(), h.vm.RAM().Pages())
	}
	// Here, where no other trace is under way: the last one began and ended before.
	t.begun = time.Now().UTC()
	h.tracing = t
	return h.vm, h.shared.Tracker(), nil
}

// endTrace lets another trace begin. A migration that shares the log goes on with its part.
func (h *VM) endTrace(t *tracing) {
	h.mu.Lock()
	h.tracing = nil
	h.mu.Unlock()
	close(t.done)
}

// stopTrace ends the trace under way, if there is one, because the machine is about to be freed. It
// returns once nothing looks at the machine any more. No other trace begins, because the VM has no
// machine (vm is nil).
func (h *VM) stopTrace() {
	h.mu.Lock()
	t := h.tracing
	h.mu.Unlock()
	if t != nil {
		t.cancel(control.ErrGone)
		<-t.done
	}
}

// FinishTrace has the trace under way end with its last interval. It does not wait for that. Unless
// begun is zero, the trace must be the one that began then.
func (h *VM) FinishTrace(begun time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.tracing == nil:
		return fmt.Errorf("%w: no trace to end", control.ErrConflict)
	case !begun.IsZero() && !begun.Equal(h.tracing.begun):
		return fmt.Errorf("%w: the trace under way is another one", control.ErrConflict)
	}
	h.tracing.cancel(errInterrupted)
	return nil
}

// Trace records which pages the guest writes.
func (h *VM) Trace(ctx context.Context, order control.TraceOrder, to trace.Sink) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t := &tracing{cancel: cancel, done: make(chan struct{})}
	vm, tracker, err := h.beginTrace(t)
	if err != nil {
		return err
	}
	defer h.endTrace(t)
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-vm.Done():
			cancel(control.ErrGone)
		case <-h.moved:
			cancel(control.ErrGone)
		case <-ended:
		}
	}()
	err = record(ctx, h.header(vm, order, t.begun), order.For, vm.RAM(), tracker, to)
	if err != nil {
		h.log.Warn("the trace failed", "error", err)
	}
	return err
}

// header describes the recording.
func (h *VM) header(vm machine, order control.TraceOrder, begun time.Time) trace.Header {
	return trace.Header{
		Trace: trace.Version, Name: h.name, VMM: version.Here(version.Machine{}).Version,
		Begun: begun, Pages: vm.RAM().Pages(), PageBytes: memory.PageSize,
		CPUs: vm.CPUs(), Tracker: string(vm.DirtyLog()), IntervalUS: order.Interval.Microseconds(),
	}
}

// record writes a whole trace, of that length or, with 0, without an end of its own. A trace that
// ctx ends is whole, too, if ctx has a cause of its own. record starts and stops the tracker, which
// must protect at its harvests.
func record(
	ctx context.Context, h trace.Header, length time.Duration, ram *memory.RAM,
	tracker dirtylog.Tracker, to trace.Sink,
) error {
	if err := to.Begin(h); err != nil {
		return err
	}
	// Before the look, which takes a while: a guest may fill its memory meanwhile.
	if err := tracker.Start(); err != nil {
		return err
	}
	end, err := follow(ctx, h, length, ram, tracker, to)
	if err = errors.Join(err, tracker.Stop()); err != nil {
		return err
	}
	return to.Record(end)
}

// follow records what a started tracker finds. It returns the trace's last record.
func follow(
	ctx context.Context, h trace.Header, length time.Duration, ram *memory.RAM,
	tracker dirtylog.Tracker, to trace.Sink,
) (trace.Record, error) {
	contents, err := trace.Look(ctx, ram)
	switch {
	case err == nil:
	case ctx.Err() == nil:
		return trace.Record{}, err
	default:
		return endEarly(ctx, to)
	}
	begun, err := begin(contents, tracker, h.Pages, to)
	if err != nil {
		return trace.Record{}, err
	}
	if length > 0 { // from here on: a look at much memory takes a while, and so may its client
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, length, errTimeUp)
		defer stop()
	}
	interval := time.Duration(h.IntervalUS) * time.Microsecond
	end, err := trace.Follow(ctx, tracker, begun, ram, interval, to.Record)
	if err != nil {
		return trace.Record{}, err
	}
	end.Why = context.Cause(ctx).Error()
	return trace.Record{AtUS: time.Since(begun).Microseconds(), End: &end}, nil
}

// endEarly is the trace that ctx ended before anything was recorded. Its end says why.
func endEarly(ctx context.Context, to trace.Sink) (trace.Record, error) {
	err := to.Contents(trace.Contents{
		Populated: &trace.Set{}, Zero: &trace.Set{}, Samples: []trace.Sample{},
	})
	return trace.Record{End: &trace.End{Why: context.Cause(ctx).Error()}}, err
}

// begin sends what is in the guest's memory, and returns the first moment. What the guest has
// written since the tracker was started belongs to that: no interval will have it.
func begin(
	c trace.Contents, tracker dirtylog.Tracker, pages int, to trace.Sink,
) (time.Time, error) {
	written := memory.NewBitmap(pages)
	if _, err := tracker.Harvest(written); err != nil {
		return time.Time{}, err
	}
	if err := c.Wrote(written); err != nil {
		return time.Time{}, err
	}
	begun := time.Now() // right before the sink takes its time, from which events count
	return begun, to.Contents(c)
}
