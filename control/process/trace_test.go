package process

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/control"
	"taskguide/dirtylog/trace"
	"taskguide/memory"
	"taskguide/migration"
	"taskguide/vmm"
)

// writtenLog is a dirty log that a test writes.
type writtenLog struct {
	fakeTracker
	mu  sync.Mutex
	log *memory.Bitmap // nil while it is off
}

func (w *writtenLog) write(page int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.log != nil {
		w.log.Set(page)
	}
}

func (w *writtenLog) Start() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = memory.NewBitmap(memory.MinSize / memory.PageSize)
	return nil
}

func (w *writtenLog) Stop() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = nil
	return nil
}

func (w *writtenLog) Harvest(dirty *memory.Bitmap) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return dirty.Take(w.log), nil
}

// linesSink collects a trace's lines.
type linesSink struct {
	header   chan trace.Header
	contents chan trace.Contents
	records  chan trace.Record
}

func newLinesSink() linesSink {
	return linesSink{
		make(chan trace.Header, 1), make(chan trace.Contents, 1), make(chan trace.Record, 10000),
	}
}

func (s linesSink) Begin(h trace.Header) error      { s.header <- h; return nil }
func (s linesSink) Contents(c trace.Contents) error { s.contents <- c; return nil }
func (s linesSink) Record(r trace.Record) error     { s.records <- r; return nil }

// has waits for an interval that has a page.
func (s linesSink) has(t *testing.T, page int) {
	t.Helper()
	for late := time.After(deadline); ; {
		select {
		case r := <-s.records:
			pages := memory.NewBitmap(memory.MinSize / memory.PageSize)
			require.NotNil(t, r.Dirty)
			require.NoError(t, r.Dirty.AddTo(pages))
			if pages.Test(page) {
				return
			}
		case <-late:
			require.FailNow(t, "the trace lacks a page")
		}
	}
}

// end waits for the end, and returns why.
func (s linesSink) end(t *testing.T) string {
	t.Helper()
	for late := time.After(deadline); ; {
		select {
		case r := <-s.records:
			if r.End != nil {
				return r.End.Why
			}
		case <-late:
			require.FailNow(t, "the trace does not end")
		}
	}
}

var often = control.TraceOrder{Interval: time.Millisecond}

// traced begins a trace, and returns what it records.
func (b *rig) traced(ctx context.Context, order control.TraceOrder) (linesSink, chan error) {
	b.t.Helper()
	sink, failed := newLinesSink(), make(chan error, 1)
	go func() { failed <- b.Trace(ctx, order, sink) }()
	select {
	case h := <-sink.header:
		require.Equal(b.t, memory.MinSize/memory.PageSize, h.Pages)
		require.Equal(b.t, order.Interval.Microseconds(), h.IntervalUS)
	case err := <-failed:
		require.NoError(b.t, err)
	}
	return sink, failed
}

// TestTraceAndMigration: a trace and a migration that begins after it both see every write, and
// each goes on after the other's end.
func TestTraceAndMigration(t *testing.T) {
	for _, traceFirst := range []bool{true, false} {
		b := running(t)
		log := &writtenLog{}
		b.machine.tracker = log
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		sink, failed := b.traced(ctx, often)
		<-sink.contents
		<-sink.records // so logging is on
		require.True(t, b.Info().DirtyLogging)
		b.migrate()
		require.Eventually(t, func() bool { return b.engine.started.Load() }, deadline,
			time.Millisecond)
		log.write(7)
		sink.has(t, 7)
		dirty := memory.NewBitmap(memory.MinSize / memory.PageSize)
		_, err := b.engine.m.Tracker().Harvest(dirty)
		require.NoError(t, err)
		require.True(t, dirty.Test(7), "what the trace has harvested, the migration has, too")
		require.ErrorContains(t, b.Trace(ctx, often, nil), "a trace is being recorded")
		if traceFirst {
			cancel()
			require.NoError(t, <-failed)
			dirty.Reset()
			log.write(9)
			_, err = b.engine.m.Tracker().Harvest(dirty)
			require.NoError(t, err)
			require.True(t, dirty.Test(9))
			// Another trace can join the migration, which shares its log.
			again, cancelAgain := context.WithCancel(t.Context())
			sink, failed = b.traced(again, often)
			<-sink.records
			log.write(11)
			sink.has(t, 11)
			cancelAgain()
			require.NoError(t, <-failed)
			b.engine.end <- migration.Report{Status: migration.StatusFailed}
			b.next(string(migration.NoticeDone))
		} else {
			b.engine.end <- migration.Report{Status: migration.StatusFailed}
			b.next(string(migration.NoticeDone))
			log.write(9)
			sink.has(t, 9)
			cancel()
			require.NoError(t, <-failed)
		}
		require.False(t, b.Info().DirtyLogging)
		// A migration without a trace has the log to itself.
		b.migrate()
		require.Eventually(t, func() bool { return b.engine.started.Load() }, deadline,
			time.Millisecond)
		require.ErrorContains(t, b.Trace(t.Context(), often, nil), "begin the trace before it")
		require.NoError(t, b.Stop(control.StopNow))
		b.end()
	}
}

// TestTraceEnds with its time, with the guest, and before the machine is freed.
func TestTraceEnds(t *testing.T) {
	b := running(t)
	sink, failed := b.traced(t.Context(), control.TraceOrder{
		Interval: time.Millisecond, For: 20 * time.Millisecond,
	})
	require.Equal(t, errTimeUp.Error(), sink.end(t))
	require.NoError(t, <-failed)

	sink, failed = b.traced(t.Context(), often)
	require.NoError(t, b.Stop(control.StopNow))
	b.end()
	require.Equal(t, control.ErrGone.Error(), sink.end(t))
	require.NoError(t, <-failed)
	require.ErrorContains(t, b.Trace(t.Context(), often, nil), "the VM is stopped")

	b = running(t)
	_, failed = b.traced(t.Context(), often)
	b.retire()
	require.Empty(t, b.tracing, "nothing looks at the machine once retire has returned")
	require.NoError(t, <-failed)
	require.NoError(t, b.Stop(control.StopNow))
	b.end()
}

// hookedSink is a sink that has something done before it takes the first lines.
type hookedSink struct {
	linesSink
	onBegin, onContents func()
}

func (s hookedSink) Begin(h trace.Header) error {
	s.onBegin()
	return s.linesSink.Begin(h)
}

func (s hookedSink) Contents(c trace.Contents) error {
	s.onContents()
	return s.linesSink.Contents(c)
}

// TestTraceEndsWhileItLooks: a guest that goes before anything is recorded leaves a whole trace,
// which says why it ended.
func TestTraceEndsWhileItLooks(t *testing.T) {
	ram, err := memory.New(memory.MinSize)
	require.NoError(t, err)
	defer ram.Close()
	ram.Page(0)[0] = 1 // the look ends at the first page that is there
	ctx, cancel := context.WithCancelCause(t.Context())
	sink := hookedSink{newLinesSink(), func() { cancel(control.ErrGone) }, func() {}}
	require.NoError(t, record(ctx, headerOf(ram), 0, ram, &writtenLog{}, sink))
	contents := <-sink.contents
	require.NotNil(t, contents.Populated)
	require.NotNil(t, contents.Zero)
	require.Equal(t, control.ErrGone.Error(), sink.end(t))
}

// TestTraceIsAsLongAsOrdered, however long the look at the memory took.
func TestTraceIsAsLongAsOrdered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ram, err := memory.New(memory.MinSize)
		require.NoError(t, err)
		defer ram.Close()
		sink := hookedSink{newLinesSink(), func() {}, func() { time.Sleep(time.Hour) }}
		const length = 20*time.Millisecond + time.Microsecond
		require.NoError(t, record(t.Context(), headerOf(ram), length, ram, &writtenLog{}, sink))
		require.Len(t, sink.records, 20+1)
		require.Equal(t, errTimeUp.Error(), sink.end(t))
	})
}

func headerOf(ram *memory.RAM) trace.Header {
	return trace.Header{Pages: ram.Pages(), IntervalUS: time.Millisecond.Microseconds()}
}

// stalledSink is a sink whose client does not read for a while.
type stalledSink struct {
	linesSink
	stalls chan struct{} // gets one at each interval
	reads  chan struct{} // closed once the client reads
}

func (s stalledSink) Record(r trace.Record) error {
	select {
	case s.stalls <- struct{}{}:
	default:
	}
	<-s.reads
	return s.linesSink.Record(r)
}

// TestTraceEndsBeforeAReset makes another machine: a trace that went on would look at memory that
// is gone, and a migration of the new machine would follow the old one's writes.
func TestTraceEndsBeforeAReset(t *testing.T) {
	b := newRig(t)
	b.onReset = ResetReboots
	b.machine.tracker = &writtenLog{}
	require.NoError(t, b.start(b.machine))
	sink := stalledSink{newLinesSink(), make(chan struct{}, 1), make(chan struct{})}
	failed := make(chan error, 1)
	go func() { failed <- b.Trace(t.Context(), often, sink) }()
	<-sink.stalls
	b.machine.end(vmm.Exit{Reason: vmm.ExitReset})
	time.AfterFunc(50*time.Millisecond, func() { close(sink.reads) })
	require.Equal(t, ending{again: true}, b.live(b.machine))

	// The old machine may be closed now.
	next, log := newFakeMachine(t), &writtenLog{}
	next.tracker = log
	require.NoError(t, b.start(next))
	b.migrate()
	require.Eventually(t, func() bool { return b.engine.started.Load() }, deadline,
		time.Millisecond)
	log.write(7)
	dirty := memory.NewBitmap(memory.MinSize / memory.PageSize)
	_, err := b.engine.m.Tracker().Harvest(dirty)
	require.NoError(t, err)
	require.True(t, dirty.Test(7), "the migration follows the machine that it moves")
	require.NoError(t, <-failed)
	require.Equal(t, control.ErrGone.Error(), sink.end(t))
	require.NoError(t, b.Stop(control.StopNow))
	b.live(next)
}
