package main

import (
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
	for _, intervals := range []int{0, 1} {
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
		last := trace.End{Why: "so", Intervals: intervals, Faults: int64(2 * intervals)}
		require.NoError(t, f.Record(trace.Record{AtUS: 3000, End: &last}))
		err = f.finish(nil, true)
		if intervals == 0 {
			require.ErrorContains(t, err, "interrupted before the first interval")
			require.NoDirExists(t, folder)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, last, f.end)
		require.FileExists(t, filepath.Join(folder, trace.FileName))
	}
}
