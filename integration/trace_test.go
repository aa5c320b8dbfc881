package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/control"
	"taskguide/dirtylog/trace"
	"taskguide/memory"
	"taskguide/migration"
)

// readTrace reads a whole trace, and returns how many pages all intervals have between them.
func readTrace(t *testing.T, folder string) (trace.Header, []trace.Record, int) {
	data, err := os.ReadFile(filepath.Join(folder, trace.FileName))
	require.NoError(t, err)
	r, err := trace.NewReader(bytes.NewReader(data))
	require.NoError(t, err)
	var records []trace.Record
	written := memory.NewBitmap(r.Header.Pages)
	for {
		record, err := r.Next()
		if errors.Is(err, io.EOF) {
			return r.Header, records, written.Count()
		}
		require.NoError(t, err)
		if record.Dirty != nil {
			require.NoError(t, record.Dirty.AddTo(written))
		}
		records = append(records, record)
	}
}

// hasContents tells whether a trace that is being written says what was in memory, so that records
// follow.
func hasContents(folder string) bool {
	file, err := os.Stat(filepath.Join(folder, trace.FileName))
	return err == nil && file.Size() > 0
}

// TestTraceAcrossMigration: a guest is moved, verified, while its writes are being recorded, with
// each way of tracking that this host has. The trace has the migration's events.
func TestTraceAcrossMigration(t *testing.T) {
	for _, tracker := range []string{"get-dirty-log", "auto"} {
		t.Run(tracker, func(t *testing.T) {
			b := newBox(t)
			g := &guest{}
			b.run(g, "source", append([]string{"--dirty-log", tracker}, busy...)...)
			g.alive(b, 2)
			folder := b.path("source.trace")
			_, recorded := b.background("trace", "source", "--out", folder, "--interval", "5ms",
				"--for", "0", "--json")
			source := g.last
			source.await("being traced", func(control.VM) bool { return hasContents(folder) })
			require.Contains(t, b.refused(1, "trace", "source", "--out", b.path("second")),
				"a trace is being recorded")
			require.NoDirExists(t, b.path("second"))
			_, to := b.incoming(g, "destination", b.unix("in"))
			requireVerified(t, b.migrate("source", to, "--verify"))
			r := recorded()
			require.Zero(t, r.status, r.stderr)
			g.alive(b, 4)

			header, records, written := readTrace(t, folder)
			require.Equal(t, 64<<20/memory.PageSize, header.Pages)
			require.Equal(t, 2, header.CPUs)
			require.NotEmpty(t, header.Contents.Samples)
			require.Positive(t, written, "what the guest writes")
			require.Less(t, written, header.Pages, "what it does not write")
			kinds := map[string]int{}
			for _, record := range records {
				if record.Event != nil {
					var e control.Event
					require.NoError(t, json.Unmarshal(record.Event, &e))
					kinds[e.Kind]++
				}
			}
			require.NotZero(t, kinds[string(migration.NoticeRound)], "%v", kinds)
			end := records[len(records)-1].End
			require.Contains(t, end.Why, "runs elsewhere")
			var printed trace.End
			require.NoError(t, json.Unmarshal([]byte(r.stdout), &printed))
			require.Equal(t, *end, printed)
		})
	}
}

// beatsIn counts the heartbeats that a trace has.
func beatsIn(t *testing.T, records []trace.Record) int {
	t.Helper()
	beats := 0
	for _, r := range records {
		var e control.Event
		if r.Event == nil {
			continue
		}
		require.NoError(t, json.Unmarshal(r.Event, &e))
		if e.Kind == control.EventBeat {
			beats++
			require.Positive(t, e.Beat.ElapsedMS)
		}
	}
	return beats
}

// beatsSoFar counts those in a file that is still being written.
func beatsSoFar(t *testing.T, folder string) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(folder, trace.FileName))
	require.NoError(t, err)
	r, err := trace.NewReader(bytes.NewReader(data))
	require.NoError(t, err)
	var records []trace.Record
	for {
		record, err := r.Next()
		if err != nil { // the end of what was flushed
			return beatsIn(t, records)
		}
		records = append(records, record)
	}
}

// TestTraceInterrupted: what was recorded before Ctrl-C is a whole trace, which has the interval
// under way, and the guest goes on.
func TestTraceInterrupted(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	p := b.run(g, "vm", busy...)
	g.alive(b, 2)
	folder := b.path("vm.trace")
	require.NoError(t, os.Mkdir(folder, 0o700))
	cmd, recorded := b.background("trace", "vm", "--out", folder, "--for", "0", "--interval", "1h")
	p.await("being traced", func(vm control.VM) bool {
		return vm.DirtyLogging && hasContents(folder)
	})
	// A recorder keeps what it recorded, once a second, so that its death loses no more.
	for kept := 0; kept == 0; time.Sleep(10 * time.Millisecond) {
		require.NoError(t, b.ctx.Err(), "the file has no heartbeat")
		kept = beatsSoFar(t, folder)
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	r := recorded()
	require.Zero(t, r.status, r.stderr)
	require.Contains(t, r.stdout, "interrupted")
	_, records, written := readTrace(t, folder)
	require.Positive(t, beatsIn(t, records))
	require.Positive(t, written)
	end := records[len(records)-1].End
	require.Equal(t, "interrupted", end.Why)
	require.Equal(t, 1, end.Intervals)
	p.await("at full speed again", func(vm control.VM) bool { return !vm.DirtyLogging })
	g.alive(b, 2)
	require.Contains(t, b.refused(1, "trace", "vm", "--out", folder), "not empty")
}
