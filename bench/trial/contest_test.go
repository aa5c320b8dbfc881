package trial

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/bench/sim"
	"taskguide/dirtylog/trace"
	"taskguide/migration"
)

// recordedGuest is a trace of a guest that nobody recorded, cut to whole cycles.
func recordedGuest(t testing.TB) *sim.Trace {
	t.Helper()
	cut, err := wholeCycles(recordingWith(t))
	require.NoError(t, err)
	return cut
}

// recordingWith is the file of that guest, with more events at its end.
func recordingWith(t testing.TB, events ...string) []byte {
	t.Helper()
	var file bytes.Buffer
	w := trace.NewWriter(&file)
	require.NoError(t, sim.Synthetic{
		Name: "small", Pages: 24576, WorkingSet: 16384, Hot: 256, Busy: 4 * time.Second,
		Calm: time.Second, Rate: 60000, CalmRate: 20000, Packed: 4096,
		Interval: 10 * time.Millisecond, Length: 15 * time.Second, Seed: 1,
	}.Generate("test", eventful{w, events}))
	require.NoError(t, w.Close())
	return file.Bytes()
}

// eventful writes events before the end of a trace.
type eventful struct {
	*trace.Writer
	events []string
}

func (w eventful) Record(r trace.Record) error {
	for _, e := range w.events {
		if r.End == nil {
			break
		}
		if err := w.Writer.Record(trace.Record{AtUS: r.AtUS, Event: []byte(e)}); err != nil {
			return err
		}
	}
	return w.Writer.Record(r)
}

// TestMomentIn finds the same phase, as far in it, whether or not the phases are as long.
func TestMomentIn(t *testing.T) {
	traced := recordedGuest(t)
	enters := traced.Enters()
	require.NotEmpty(t, enters)
	last := enters[len(enters)-1]
	for _, c := range []struct {
		open  bool
		since time.Duration
		want  time.Duration
	}{
		{false, 0, 10 * time.Second},
		{false, 1500 * time.Millisecond, 11500 * time.Millisecond},
		{true, 300 * time.Millisecond, last + 300*time.Millisecond},
		{false, time.Hour, enters[0] - 1},
		{true, time.Hour, 5*time.Second - 1},
	} {
		r := Request{
			Anchor: "tags", Offset: 0.9, GateOpen: c.open,
			PhaseMS: float64(c.since) / float64(time.Millisecond),
		}
		require.InDelta(t, c.want, r.momentIn(traced, 5*time.Second), 1, "%+v", c)
	}
	require.Equal(t, time.Second, Request{Offset: 0.2}.momentIn(traced, 5*time.Second),
		"without tags, a point of the cycle is all that is known")
}

// TestRecordingWithLostEvents simulates nothing: where an EXIT is missing, two cycles look like
// one.
func TestRecordingWithLostEvents(t *testing.T) {
	_, err := wholeCycles(recordingWith(t, `{"kind":"lagged","dropped":2}`))
	require.ErrorContains(t, err, "the trace lost 2 events")
}

// cellsOf are two policies, guided and not, over the loopback and over 20 ms.
func cellsOf() []Cell {
	var all []Cell
	for _, trip := range []time.Duration{0, 20 * time.Millisecond} {
		for _, rule := range []migration.Rule{migration.RuleXen, migration.RuleDowntime} {
			for _, g := range []migration.Guidance{
				migration.GuidanceOff, migration.GuidanceSwitchover,
			} {
				all = append(all, Cell{
					Factors: map[string]string{"policy": string(rule), "guidance": string(g)},
					Params: migration.Params{
						Rule: rule, Guidance: g, BitsPerSecond: 1e9,
						DowntimeLimit: 300 * time.Millisecond, MaxDefer: 20 * time.Second,
					},
					RTT: trip,
				})
			}
		}
	}
	return all
}

// TestContest: every cell is moved from the same moments, and is nowhere better than an oracle by
// more than the millisecond that the oracle gives away. A longer round trip costs downtime.
func TestContest(t *testing.T) {
	c := Contest{Cells: cellsOf(), Moments: 3}
	traced := recordedGuest(t)
	all, err := c.hold(t.Context(), traced, 7, 2, "")
	require.NoError(t, err)
	require.Len(t, all, len(c.Cells))
	for i, s := range all {
		require.Equal(t, c.Cells[i].Factors, s.Factors)
		require.Len(t, s.Moves, 3)
		require.NotEmpty(t, s.Extrapolated, "nothing is validated yet")
		for k, m := range s.Moves {
			require.Empty(t, m.Error)
			require.Positive(t, m.DowntimeMS)
			require.Greater(t, m.DowntimeMS-m.OracleDowntimeMS, -1.01)
			if near := i - len(all)/2; near >= 0 {
				require.Greater(t, m.OracleDowntimeMS, all[near].Moves[k].OracleDowntimeMS+40)
			}
		}
	}
	again, err := c.hold(t.Context(), traced, 7, 2, "")
	require.NoError(t, err)
	require.Equal(t, all, again)
	// Whatever covers the cells, nothing covers a site that was not compared.
	for what, site := range map[string]Site{
		"hosts": {Hosts: &Hosts{}}, "link": {Link: &Link{}},
	} {
		require.NotEmpty(t, site.unlike(), what)
		there := &stage{site: &site, spec: Spec{Contest: &c}, result: &Result{}}
		require.NoError(t, there.compete(t.Context(), traced))
		for _, s := range there.result.Contest {
			require.Equal(t, site.unlike(), s.Extrapolated, what)
		}
	}
	require.Empty(t, (&Site{}).unlike())
}

// TestWhatASimulationCounts: a move that its policy did not lead to the end is none of that
// policy's, and one without the oracle's beside it is not judged.
func TestWhatASimulationCounts(t *testing.T) {
	p := sim.Paired{
		Move:   sim.Move{DowntimeMS: 5, TotalMS: 900, PolicyError: "it died"},
		Oracle: sim.Move{DowntimeMS: 4, TotalMS: 950},
	}
	require.Equal(t, "it died", simulationOf(p).Error)
	require.False(t, simulationOf(p).Judged())
	p.Move.Error = "never converges"
	require.Equal(t, "never converges", simulationOf(p).Error)
	p.Move.Error, p.Move.PolicyError = "", ""
	require.Empty(t, simulationOf(p).Error)
	require.True(t, simulationOf(p).Judged())
	p.Oracle = sim.Move{Error: "never converges", TotalMS: 1e6}
	require.False(t, simulationOf(p).Judged())

	var stored Simulation
	require.NoError(t, json.Unmarshal([]byte(`{"downtime_ms": 5, "total_ms": 900, `+
		`"oracle_downtime_ms": 4, "oracle_total_ms": 950}`), &stored))
	require.True(t, stored.Judged(), "of an older version")
}

// TestContestNeedsARecording says so before anything is started, and leaves no folder.
func TestContestNeedsARecording(t *testing.T) {
	folder := t.TempDir()
	t.Setenv("TMPDIR", folder)
	var site Site
	r := site.Run(t.Context(), Spec{Contest: &Contest{}})
	require.Contains(t, r.Error, "a contest takes a recording")
	left, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Empty(t, left)
}

// BenchmarkContest is how long one moment of one cell takes.
func BenchmarkContest(b *testing.B) {
	traced := recordedGuest(b)
	c := Contest{Cells: cellsOf()[:1], Moments: 1}
	for b.Loop() {
		if _, err := c.hold(b.Context(), traced, 1, 2, ""); err != nil {
			b.Fatal(err)
		}
	}
}
