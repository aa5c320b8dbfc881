package simrun

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"taskguide/bench/sim"
	"taskguide/control/text"
	"taskguide/dirtylog/trace"
	"taskguide/migration/policy"
)

// made is the folder of a synthetic trace.
func made(t *testing.T) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "trace")
	_, err := Generate(folder, "test", sim.Synthetic{
		Name: "small", Pages: 1024, WorkingSet: 512, Hot: 16, Busy: time.Second,
		Calm: 300 * time.Millisecond, Rate: 5000, CalmRate: 5000, Packed: 1024,
		Interval: 5 * time.Millisecond, Length: 4 * time.Second, Seed: 1,
	})
	require.NoError(t, err)
	return folder
}

func order(t *testing.T, traces ...string) Order {
	t.Helper()
	entrants, err := sim.Entrants([]string{"xen", "downtime:limit=20ms", sim.Oracle},
		[]policy.Guidance{policy.GuidanceOff, policy.GuidanceSwitchover},
		sim.Order{AtExit: true, Gate: sim.All, MaxDefer: 3 * time.Second, OnTimeout: "force"})
	require.NoError(t, err)
	o := Order{Entrants: entrants, Moments: 4, Seed: 1}
	cell := Cell{Growth: sim.Untouched, Setting: sim.Setting{
		BitsPerSecond: 125e6, RTT: time.Millisecond, Compress: sim.CompressNone,
		Costs: sim.DefaultCosts(),
	}}
	for _, name := range traces {
		o.Subjects = append(o.Subjects, Recorded(name, []Cell{cell}))
	}
	return o
}

// TestRun: every entrant has a row, of all moments; the same order has the same results.
func TestRun(t *testing.T) {
	folder := made(t)
	o := order(t, folder, filepath.Join(folder, "trace.json.gz"))
	last := 0
	c, err := Run(t.Context(), o, func(done, all int) {
		require.Equal(t, 8, all)
		last = done
	})
	require.NoError(t, err)
	require.Equal(t, 7, last)
	results := c.Results
	require.Len(t, results, 2)
	require.Equal(t, results[0].Rows, results[1].Rows)
	r := results[0]
	require.Len(t, r.Rows, 5)
	require.Len(t, r.Moves, 20)
	require.Equal(t, 1, r.Tasks)
	require.Equal(t, sim.AtHarvest, r.Setting.Protection)
	for _, row := range r.Rows {
		require.Equal(t, 4, row.Moved)
		require.NotEmpty(t, row.Extrapolated, "nothing is validated here")
	}
	require.Zero(t, r.Rows[4].RegretDowntimeMS.Max, "the oracle's own")

	var out bytes.Buffer
	require.NoError(t, c.Write(&out))
	for line := range strings.Lines(out.String()) {
		wide := utf8.RuneCountInString(line)
		require.True(t, wide <= text.Columns+1 || strings.Contains(line, folder), "%s", line)
	}
	require.Contains(t, out.String(), "* extrapolated: the simulator was not compared")
	require.Contains(t, out.String(), "slows the guest down")
	require.Contains(t, out.String(), "downtime:limit=20ms")
}

// packing is a trace whose pages took so many us to compress.
type packing struct {
	*trace.Writer
	us int64
}

func (p packing) Contents(c trace.Contents) error {
	c.TookUS = p.us
	return p.Writer.Contents(c)
}

// TestPackTimeOfTheTrace: a host that compresses slowly moves its guest slowly, unless the time is
// given.
func TestPackTimeOfTheTrace(t *testing.T) {
	g := sim.Synthetic{
		Name: "packed", Pages: 1024, WorkingSet: 512, Hot: 16, Busy: time.Second,
		Calm: 300 * time.Millisecond, Rate: 5000, CalmRate: 5000, Packed: 512,
		Interval: 5 * time.Millisecond, Length: 4 * time.Second, Seed: 1,
	}
	took := func(us int64, given time.Duration) (time.Duration, float64) {
		var file bytes.Buffer
		w := trace.NewWriter(&file)
		require.NoError(t, g.Generate("test", packing{w, us}))
		require.NoError(t, w.Close())
		o := order(t)
		o.Moments, o.Entrants = 1, o.Entrants[:1]
		s := sim.Setting{Compress: sim.CompressZstd, Costs: sim.Costs{Pack: given}}
		o.Subjects = []Subject{{
			Load: func() (*sim.Trace, Origin, error) {
				tr, err := sim.Load(bytes.NewReader(file.Bytes()))
				return tr, Origin{}, err
			},
			Cells: []Cell{{Setting: s}},
		}}
		c, err := Run(t.Context(), o, func(int, int) {})
		require.NoError(t, err)
		r := c.Results[0]
		return r.Setting.Costs.Pack, r.Moves[0].Move.TotalMS
	}
	fast, short := took(1, 0)
	require.Equal(t, time.Microsecond, fast)
	slow, long := took(100, 0)
	require.Equal(t, 100*time.Microsecond, slow)
	require.Greater(t, long, short+50, "512 pages and more, 99 us each")
	given, _ := took(100, 7*time.Microsecond)
	require.Equal(t, 7*time.Microsecond, given)
}

// TestMarks: what was compared with real moves has no mark, and says how the comparison went.
func TestMarks(t *testing.T) {
	o := order(t, made(t))
	cell, costs := o.Subjects[0].Cells[0], sim.DefaultCosts()
	costs.Pack = 0
	o.Validations = []sim.Validation{{
		Revision: "abc", Date: "2026-01-02", Pairs: 7, BitsPerSecond: [2]int64{0, 1e9},
		RTTMS: [2]float64{0, 5}, AckMS: 1, Pages: [2]int{0, 1e6}, IntervalMS: [2]float64{0, 100},
		Compress:   []sim.Compress{cell.Setting.Compress},
		Protection: []sim.Protection{sim.AtHarvest, sim.OnDemand}, Costs: costs,
		Orders:    []sim.Terms{o.Entrants[0].Terms(), o.Entrants[1].Terms()},
		LimitedBy: []sim.Limit{sim.LimitLink},
	}}
	c, err := Run(t.Context(), o, func(int, int) {})
	require.NoError(t, err)
	rows := c.Results[0].Rows
	require.Empty(t, rows[0].Extrapolated)
	require.NotEmpty(t, rows[2].Extrapolated)
	var out bytes.Buffer
	require.NoError(t, c.Write(&out))
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, "xen ") {
			require.Equal(t, 2, strings.Count(line, "*"), "regret alone: %s", line)
		}
		if strings.HasPrefix(line, "downtime:") && !strings.Contains(line, "outlasted") {
			require.Contains(t, line, "*")
		}
	}
	require.Contains(t, out.String(), "7 pairs, revision abc")

	o.Subjects[0].Cells[0].MemoryBytes, o.Subjects[0].Cells[0].Growth = 16<<20, sim.Repeated
	o.Moments, o.Entrants = 1, o.Entrants[:1]
	c, err = Run(t.Context(), o, func(int, int) {})
	require.NoError(t, err)
	require.Contains(t, c.Results[0].Rows[0].Extrapolated, "grown")
	out.Reset()
	require.NoError(t, c.Write(&out))
	require.NotContains(t, out.String(), "7 pairs", "it says nothing of these")
	require.Contains(t, strings.Join(strings.Fields(out.String()), " "),
		"16.0 MiB (recorded: 4.00 MiB; the rest repeated)")
}

// TestSave writes a row for each move, and refuses a folder that has something.
func TestSave(t *testing.T) {
	c, err := Run(t.Context(), order(t, made(t)), func(int, int) {})
	require.NoError(t, err)
	folder := filepath.Join(t.TempDir(), "out")
	require.NoError(t, c.Save(folder))
	require.ErrorContains(t, c.Save(folder), "not empty")
	moves, err := os.Open(filepath.Join(folder, MovesName))
	require.NoError(t, err)
	defer moves.Close()
	rows, err := csv.NewReader(moves).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 1+20)
	require.Equal(t, slices.Concat(cellColumns, moveColumns), rows[0])
	require.Len(t, rows[1], len(rows[0]))
	summary, err := os.ReadFile(filepath.Join(folder, SummaryName))
	require.NoError(t, err)
	var back []Result
	require.NoError(t, json.Unmarshal(summary, &back))
	require.Equal(t, c.Results[0].Rows, back[0].Rows)
	again, err := Open(folder)
	require.NoError(t, err)
	require.Equal(t, c, again)
	table, err := os.ReadFile(filepath.Join(folder, RowsName))
	require.NoError(t, err)
	require.Equal(t, 1+5, strings.Count(string(table), "\n"))
}

// TestRefused: what is no trace, and what cannot shrink.
func TestRefused(t *testing.T) {
	folder := made(t)
	_, err := Generate(folder, "test", sim.Synthetic{})
	require.ErrorContains(t, err, "not empty")
	bad := filepath.Join(t.TempDir(), "bad")
	_, err = Generate(bad, "test", sim.Synthetic{})
	require.Error(t, err)
	require.NoDirExists(t, bad)
	_, err = Run(t.Context(), order(t, "/nonsense"), func(int, int) {})
	require.ErrorContains(t, err, "no such trace")
	o := order(t, folder)
	o.Subjects[0].Cells[0].MemoryBytes = 1 << 20
	_, err = Run(t.Context(), o, func(int, int) {})
	require.ErrorIs(t, err, sim.ErrTrace)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Run(ctx, order(t, folder), func(int, int) {})
	require.ErrorIs(t, err, context.Canceled)
}

// led is an order of moves that the program at path leads.
func led(t *testing.T, path string) Order {
	t.Helper()
	o := order(t, made(t))
	var err error
	o.Entrants, err = sim.Entrants([]string{"exec:" + path}, []policy.Guidance{policy.GuidanceOff},
		sim.Order{Gate: sim.All, MaxDefer: 3 * time.Second, OnTimeout: "force"})
	require.NoError(t, err)
	return o
}

// TestProgram: a program in any language decides about simulated moves.
func TestProgram(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.sh")
	require.NoError(t, os.WriteFile(path, []byte(`#!/bin/sh
while read -r line; do
	case "$line" in
	*'"question"'*'"event":"start"'* | *'"event":"start"'*) echo '{"action":"continue"}' ;;
	*'"question"'*) echo '{"action":"switchover","reason":"it says so","gave_up":true}' ;;
	esac
done
`), 0o755))
	o := led(t, path)
	c, err := Run(t.Context(), o, func(int, int) {})
	require.NoError(t, err)
	for _, m := range c.Results[0].Moves {
		require.Contains(t, m.Move.Reason, "it says so")
		require.Empty(t, m.Move.PolicyError)
		require.Equal(t, 2, m.Move.Rounds, "after round 1, the last pages")
	}
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\nexit 1\n"), 0o755))
	c, err = Run(t.Context(), o, func(int, int) {})
	require.NoError(t, err)
	for _, m := range c.Results[0].Moves {
		require.NotEmpty(t, m.Move.PolicyError)
		require.True(t, m.Move.Moved())
	}
}

// TestProgramIsToldItsLimit: that of the cell, as the policies in it have it.
func TestProgramIsToldItsLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.sh")
	require.NoError(t, os.WriteFile(path, []byte(`#!/bin/sh
while read -r line; do
	case "$line" in
	*'"event":"start"'*) printf '%s\n' "$line" >>"$0.told"; echo '{"action":"continue"}' ;;
	*'"question"'*) echo '{"action":"switchover","gave_up":true}' ;;
	esac
done
`), 0o755))
	o := led(t, path)
	o.Moments, o.WithoutOracle = 1, true
	cell := o.Subjects[0].Cells[0]
	o.Subjects[0].Cells = nil
	for _, limit := range []time.Duration{30, 100, 0} {
		cell.Limit = limit * time.Millisecond
		o.Subjects[0].Cells = append(o.Subjects[0].Cells, cell)
	}
	_, err := Run(t.Context(), o, func(int, int) {})
	require.NoError(t, err)
	told, err := os.ReadFile(path + ".told")
	require.NoError(t, err)
	var limits []float64
	for line := range strings.Lines(string(told)) {
		var start struct {
			Limit float64 `json:"downtime_limit_ms"`
		}
		require.NoError(t, json.Unmarshal([]byte(line), &start))
		limits = append(limits, start.Limit)
	}
	require.Equal(t, []float64{30, 100, 300}, limits)
}

// TestTraceThatWasCutOff is simulated, and the table says that some of it is missing.
func TestTraceThatWasCutOff(t *testing.T) {
	var whole, cut strings.Builder
	require.NoError(t, Result{}.table().write(&whole))
	require.NotContains(t, whole.String(), "cut off")
	require.NoError(t, Result{Cut: true}.table().write(&cut))
	require.Contains(t, cut.String(), "The trace was cut off")
}

// TestTraceWithLostEvents is simulated, and the table says it.
func TestTraceWithLostEvents(t *testing.T) {
	var lost strings.Builder
	require.NoError(t, Result{Lost: 7}.table().write(&lost))
	require.Contains(t, lost.String(), "The trace lost 7 events")
}

// TestColumnsAreDocumented: the dictionary has every column of each table, in a section of its own,
// and no others.
func TestColumnsAreDocumented(t *testing.T) {
	manual, err := os.ReadFile("../../docs/simulator-columns.md")
	require.NoError(t, err)
	documented := map[string][]string{}
	row := regexp.MustCompile("(?m)^\\| (`[^|]*`) \\|")
	column := regexp.MustCompile("`([a-z0-9_]+)`")
	for _, section := range strings.Split(string(manual), "\n## ")[1:] {
		title, body, _ := strings.Cut(section, "\n")
		for _, m := range row.FindAllStringSubmatch(body, -1) {
			for _, name := range column.FindAllStringSubmatch(m[1], -1) {
				documented[title] = append(documented[title], name[1])
			}
		}
	}
	for title, columns := range map[string][]string{
		"The cell": cellColumns, RowsName: rowColumns, MovesName: moveColumns, MapName: mapColumns,
	} {
		require.ElementsMatch(t, columns, documented[title], title)
	}
	require.Len(t, documented, 4)
}
