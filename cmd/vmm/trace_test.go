package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/dirtylog/trace"
	"taskguide/memory"
)

// TestInterruptedTraceFile is kept once it has an interval. The end is then the VM's, if it sent
// one.
func TestInterruptedTraceFile(t *testing.T) {
	screen, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer screen.Close()
	for name, c := range map[string]struct {
		intervals int
		event     string
		failed    error
	}{
		"nothing":  {},
		"interval": {intervals: 1},
		"event":    {event: `{"kind":"beat"}`},
		"old VM":   {event: `{"kind":"beat"}`, failed: context.Canceled},
		"lost VM":  {intervals: 1, failed: io.ErrUnexpectedEOF},
	} {
		intervals := c.intervals
		folder := filepath.Join(t.TempDir(), "trace")
		file, err := trace.Create(folder)
		require.NoError(t, err)
		f := &traceFile{file: file, screen: screen}
		require.NoError(t, f.Begin(trace.Header{
			Trace: trace.Version, Pages: 64, PageBytes: memory.PageSize, IntervalUS: 5000,
		}))
		require.NoError(t, f.Contents(trace.Contents{
			Populated: &trace.Set{}, Zero: &trace.Set{}, Samples: []trace.Sample{},
		}))
		for range intervals {
			require.NoError(t, f.Record(trace.Record{
				AtUS: 3000, Dirty: &trace.Set{Runs: []int{1, 2}},
			}))
		}
		if c.event != "" {
			require.NoError(t, f.Record(trace.Record{AtUS: 3000, Event: []byte(c.event)}))
		}
		last := trace.End{Why: "so", Intervals: intervals, Faults: int64(2 * intervals)}
		if c.failed == nil {
			require.NoError(t, f.Record(trace.Record{AtUS: 3000, End: &last}))
		} else {
			last = trace.End{Why: "interrupted", Intervals: intervals}
		}
		err = f.finish(c.failed, true)
		if name == "nothing" {
			require.ErrorContains(t, err, "interrupted before the first interval")
			require.NoDirExists(t, folder)
			continue
		}
		if name == "lost VM" {
			require.ErrorIs(t, err, io.ErrUnexpectedEOF, "that is no end by the user")
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, last.Why, f.end.Why, name)
		require.Equal(t, intervals, f.end.Intervals, name)
		require.FileExists(t, filepath.Join(folder, trace.FileName))
	}
}
