package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"taskguide/cmd/cli"
	"taskguide/control"
	"taskguide/control/process"
	"taskguide/control/text"
	"taskguide/dirtylog/trace"
	"taskguide/memory"
)

// newTrace records which pages a guest writes.
func newTrace(std cli.Streams) *cobra.Command {
	var f traceFlags
	cmd := onVM("trace", "record which pages the guest writes, interval by interval",
		func(ctx context.Context, c *control.Client) error { return f.run(ctx, c, std) })
	cmd.Long = `Record which pages the guest writes, interval by interval, with tags, heartbeats
and the events of a migration, until Ctrl-C, the end of the VM, or --for is
over. The guest pays a fault for each page that it writes in an interval, so
short intervals cost more.`
	fs := cmd.Flags()
	fs.StringVar(&f.out, "out", "", "folder for the trace, which must be new or empty")
	cli.DurationVar(fs, &f.order.Interval, "interval", control.DefaultInterval,
		"length of an interval")
	cli.DurationVar(fs, &f.order.For, "for", time.Minute, "how long to record; 0: until Ctrl-C")
	cli.CompleteFlag(cmd, "out", cli.Folders)
	fs.BoolVar(&f.asJSON, "json", false, "print what was recorded as JSON")
	return cmd
}

type traceFlags struct {
	out    string
	order  control.TraceOrder
	asJSON bool
}

func (f *traceFlags) run(ctx context.Context, c *control.Client, std cli.Streams) error {
	switch ms := f.order.Interval; {
	case f.out == "":
		return cli.Usagef("no folder given: vmm trace wants --out DIR")
	case ms < trace.MinInterval || ms%time.Millisecond != 0:
		return cli.Usagef("--interval %v: whole milliseconds, at least %v", ms, trace.MinInterval)
	case f.order.For%time.Millisecond != 0:
		return cli.Usagef("--for %v: whole milliseconds", f.order.For)
	}
	ctx, stop := cli.UntilSignal(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	file, err := trace.Create(f.out)
	if err != nil {
		return err
	}
	t := &traceFile{file: file, screen: std.Err}
	// A second Ctrl-C ends the program, should the VM be slow to end the trace.
	defer context.AfterFunc(ctx, stop)()
	err = c.Trace(ctx, f.order, t)
	interrupted := ctx.Err() != nil
	if interrupted {
		cli.EndLine(nil, std.Err)
	}
	if err = t.finish(err, interrupted); err != nil {
		return err
	}
	if f.asJSON {
		return writeJSON(std.Out, t.end)
	}
	fmt.Fprintln(std.Out, t.summary(file.Name()))
	return nil
}

// traceFile is a trace on its way to a file, with its progress.
type traceFile struct {
	screen *os.File // shows progress if it is a terminal
	shown  time.Time

	tally *trace.Tally
	pages int
	at    int64 // of the last record, in us
	begun bool  // the file says what was in memory
	noted bool  // there is an event, so the file is worth keeping without an interval
	end   trace.End

	mu      sync.Mutex // guards the rest, which a timer uses, too
	file    *trace.File
	kept    *time.Timer // flushes what came since the last time; nil if nothing has
	notKept error       // of a flush
}

// Begin implements [trace.Sink].
func (t *traceFile) Begin(h trace.Header) error {
	t.pages = h.Pages
	t.tally = trace.NewTally(time.Duration(h.IntervalUS) * time.Microsecond)
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.file.Begin(h)
}

// Contents implements [trace.Sink].
func (t *traceFile) Contents(c trace.Contents) error {
	t.begun = true
	t.mu.Lock()
	defer t.mu.Unlock()
	// The file shows from here on that recording has begun.
	return errors.Join(t.file.Contents(c), t.file.Flush())
}

// Record implements [trace.Sink].
func (t *traceFile) Record(r trace.Record) error {
	t.at = r.AtUS
	t.noted = t.noted || r.Event != nil
	if r.Dirty != nil {
		pages := memory.NewBitmap(t.pages)
		if err := r.Dirty.AddTo(pages); err != nil {
			return err
		}
		t.tally.Add(r, pages.Count())
		t.show(pages.Count())
	}
	if r.End != nil {
		t.end = *r.End
	}
	return t.keep(r)
}

// keep writes a record, and flushes the file within a second: a recorder that is killed leaves what
// it recorded before.
func (t *traceFile) keep(r trace.Record) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kept == nil {
		t.kept = time.AfterFunc(time.Second, t.flush)
	}
	return errors.Join(t.file.Record(r), t.notKept)
}

func (t *traceFile) flush() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kept != nil { // else the file is closed
		t.kept, t.notKept = nil, t.file.Flush()
	}
}

// close ends the file.
func (t *traceFile) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kept != nil {
		t.kept.Stop()
		t.kept = nil
	}
	return errors.Join(t.notKept, t.file.Close())
}

// show keeps a line of progress up to date.
func (t *traceFile) show(pages int) {
	if !process.IsTerminal(t.screen) || time.Since(t.shown) < time.Second/4 {
		return
	}
	t.shown = time.Now()
	fmt.Fprintf(t.screen, "\r\x1b[K%.1f s, %s, %s in the last; Ctrl-C ends",
		float64(t.at)/1e6, text.Plural(t.tally.Intervals, "interval"), text.Plural(pages, "page"))
}

// finish ends the file. A trace whose VM was lost, or whose VM did not end it when the user
// interrupted, is whole up to there, and its end says so.
func (t *traceFile) finish(failed error, interrupted bool) error {
	cli.EraseEcho(t.screen)
	if !t.begun || interrupted && t.tally.Intervals == 0 && !t.noted {
		_ = t.close() // so that no timer flushes it any more
		t.file.Remove()
		if interrupted {
			return errors.New("interrupted before the first interval")
		}
		return failed
	}
	var err error
	if failed != nil {
		t.end = t.tally.End
		t.end.Why = failed.Error()
		if interrupted && errors.Is(failed, context.Canceled) {
			t.end.Why, failed = "interrupted", nil
		}
		err = t.keep(trace.Record{AtUS: t.at, End: &t.end})
	}
	if err = errors.Join(err, t.close()); err != nil {
		return fmt.Errorf("%s: %w", t.file.Name(), err)
	}
	return failed
}

// summary says what was recorded, and what the guest paid for it.
func (t *traceFile) summary(name string) string {
	seconds := max(float64(t.at)/1e6, 1e-6)
	line := fmt.Sprintf("%s: %s in %.1f s; the guest paid %.0f faults/s, the host %.1f %% of a "+
		"processor", name, text.Plural(t.end.Intervals, "interval"), seconds,
		float64(t.end.Faults)/seconds, float64(t.end.HarvestUS)/seconds/1e4)
	if t.end.Late > 0 {
		line += fmt.Sprintf("; %s took longer than ordered", text.Plural(t.end.Late, "interval"))
	}
	return line + ": " + t.end.Why
}
