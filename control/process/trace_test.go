package process

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/control"
	"taskguide/dirtylog"
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
	n, _ := dirty.Take(w.log)
	return n, nil
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
		sink.header <- h // for a test that looks at more of it
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

// TestFinishedTrace has its last interval, and says that it was interrupted.
func TestFinishedTrace(t *testing.T) {
	b := running(t)
	require.ErrorIs(t, b.FinishTrace(time.Time{}), control.ErrConflict)
	log := &writtenLog{}
	b.machine.tracker = log
	sink, failed := b.traced(t.Context(), control.TraceOrder{Interval: time.Hour})
	<-sink.contents // the writes of before are in there
	log.write(7)
	require.NoError(t, b.FinishTrace(time.Time{}))
	sink.has(t, 7)
	require.Equal(t, errInterrupted.Error(), sink.end(t))
	require.NoError(t, <-failed)
	require.ErrorIs(t, b.FinishTrace(time.Time{}), control.ErrConflict)
	require.NoError(t, b.Stop(control.StopNow))
	b.end()
}

// TestFinishOneTrace: an order that says when its trace began, as a client knows it, ends that one
// and no other.
func TestFinishOneTrace(t *testing.T) {
	b := running(t)
	order := control.TraceOrder{Interval: time.Hour}
	sink, failed := b.traced(t.Context(), order)
	text, err := json.Marshal((<-sink.header).Begun)
	require.NoError(t, err)
	var begun time.Time
	require.NoError(t, json.Unmarshal(text, &begun))
	require.NoError(t, b.FinishTrace(begun))
	require.Equal(t, errInterrupted.Error(), sink.end(t))
	require.NoError(t, <-failed)
	require.ErrorContains(t, b.FinishTrace(begun), "no trace to end")

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sink, failed = b.traced(ctx, order)
	err = b.FinishTrace(begun)
	require.ErrorIs(t, err, control.ErrConflict)
	require.ErrorContains(t, err, "another one")
	cancel()
	require.Equal(t, context.Canceled.Error(), sink.end(t), "the order ended it")
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

// startedLog has something done as soon as logging is on, which is before the look at the memory.
type startedLog struct {
	dirtylog.Tracker
	onStart func()
}

func (s startedLog) Start() error {
	err := s.Tracker.Start()
	s.onStart()
	return err
}

// TestTraceIsAsLongAsOrdered, however long the look at the memory takes, or the client. Its times
// count from when the sink has the contents: events count from there, too.
func TestTraceIsAsLongAsOrdered(t *testing.T) {
	const length = 20*time.Millisecond + time.Microsecond
	for _, tt := range []struct {
		name         string
		look, client time.Duration
		intervals    int
		first        time.Duration
	}{
		{"slow look", time.Hour, 0, 20 + 1, time.Millisecond},
		{"slow client", 0, time.Second, 1 + 20 + 1, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ram, err := memory.New(memory.MinSize)
				require.NoError(t, err)
				defer ram.Close()
				log := startedLog{&writtenLog{}, func() { time.Sleep(tt.look) }}
				var begun time.Time
				sink := hookedSink{newLinesSink(), func() {}, func() {
					begun = time.Now()
					time.Sleep(tt.client)
				}}
				require.NoError(t, record(t.Context(), headerOf(ram), length, ram, log, sink))
				require.Equal(t, tt.client+length, time.Since(begun))
				require.Len(t, sink.records, tt.intervals+1)
				require.Equal(t, tt.first.Microseconds(), (<-sink.records).AtUS)
				require.Equal(t, errTimeUp.Error(), sink.end(t))
			})
		})
	}
}

// demandLog is a dirty log that begins with all pages, and keeps each until it is protected.
type demandLog struct{ writtenLog }

func (d *demandLog) Start() error {
	err := d.writtenLog.Start()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log.Fill()
	return err
}

func (d *demandLog) OnDemand() bool { return true }

func (d *demandLog) Harvest(dirty *memory.Bitmap) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dirty.Or(d.log)
	return d.log.Count(), nil
}

// Protect is about all of RAM, as Shared asks for it.
func (d *demandLog) Protect(pages *memory.Bitmap, _, _ int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log.AndNot(pages)
	return nil
}

// TestWritesDuringTheLook are written before the first moment: they are in memory then, are not
// zero, and are in no interval. All other pages are as they were.
func TestWritesDuringTheLook(t *testing.T) {
	const cleared, still, fresh, untouched = 100, 101, 2000, 4000
	onDemand, atHarvest := &demandLog{}, &writtenLog{}
	for name, log := range map[string]struct {
		dirtylog.Tracker
		write func(page int)
	}{
		"on demand": {onDemand, onDemand.write}, "at harvest": {atHarvest, atHarvest.write},
	} {
		t.Run(name, func(t *testing.T) {
			ram, err := memory.New(memory.MinSize)
			require.NoError(t, err)
			defer ram.Close()
			for _, page := range []int{cleared, still} {
				ram.Page(page)[0] = 1
				ram.Page(page)[0] = 0
			}
			shared := dirtylog.NewShared(log, ram.Pages()).Tracker()
			tracker := startedLog{shared, func() {
				log.write(cleared)
				log.write(fresh)
			}}
			sink := newLinesSink()
			const length = 5 * time.Millisecond
			require.NoError(t, record(t.Context(), headerOf(ram), length, ram, tracker, sink))

			contents := <-sink.contents
			populated, zero := memory.NewBitmap(ram.Pages()), memory.NewBitmap(ram.Pages())
			require.NoError(t, contents.Populated.AddTo(populated))
			require.NoError(t, contents.Zero.AddTo(zero))
			require.True(t, populated.Test(cleared))
			require.True(t, populated.Test(fresh))
			require.False(t, populated.Test(untouched), "what the log begins with is not written")
			require.False(t, zero.Test(cleared))
			require.True(t, zero.Test(still))
			close(sink.records)
			intervals := 0
			for r := range sink.records {
				if r.Dirty != nil {
					intervals++
					require.Equal(t, &trace.Set{}, r.Dirty)
				}
			}
			require.NotZero(t, intervals)
			require.Nil(t, atHarvest.log, "logging is off again")
			require.Nil(t, onDemand.log)
		})
	}
}

// TestTraceFails: logging is off again after an error of who takes the lines.
func TestTraceFails(t *testing.T) {
	ram, err := memory.New(memory.MinSize)
	require.NoError(t, err)
	defer ram.Close()
	broken := errors.New("broken")
	for _, sink := range []trace.Sink{
		brokenSink{newLinesSink(), broken, nil}, brokenSink{newLinesSink(), nil, broken},
	} {
		log := &writtenLog{}
		started := false
		tracker := startedLog{log, func() { started = true }}
		require.ErrorIs(t, record(t.Context(), headerOf(ram), 0, ram, tracker, sink), broken)
		require.True(t, started)
		require.Nil(t, log.log)
	}
}

// brokenSink is a sink that does not take the contents, or no record.
type brokenSink struct {
	linesSink
	contents, record error
}

func (s brokenSink) Contents(trace.Contents) error { return s.contents }
func (s brokenSink) Record(trace.Record) error     { return s.record }

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
