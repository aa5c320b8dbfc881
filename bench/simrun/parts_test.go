package simrun

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/bench/shard"
	"taskguide/bench/sim"
	"taskguide/migration/policy"
)

// sweep is an order with two bandwidths.
func sweep(t *testing.T, trace string) Order {
	t.Helper()
	o := order(t, trace)
	fast := o.Subjects[0].Cells[0]
	fast.Setting.BitsPerSecond = 1e9
	o.Subjects[0].Cells = append(o.Subjects[0].Cells, fast)
	o.VMM = "abc"
	return o
}

// part simulates a part and keeps it in a folder.
func part(t *testing.T, o Order, s shard.Shard) string {
	t.Helper()
	o.Shard = s
	c, err := Run(t.Context(), o, func(int, int) {})
	require.NoError(t, err)
	folder := filepath.Join(t.TempDir(), "part")
	require.NoError(t, c.Save(folder))
	return folder
}

// TestPartsMakeTheWhole, and what is missing is said.
func TestPartsMakeTheWhole(t *testing.T) {
	o := sweep(t, made(t))
	whole, err := Run(t.Context(), o, func(int, int) {})
	require.NoError(t, err)
	require.Empty(t, whole.Partial())
	first := part(t, o, shard.Shard{Index: 1, Of: 3})
	second := part(t, o, shard.Shard{Index: 2, Of: 3})
	third := part(t, o, shard.Shard{Index: 3, Of: 3})
	joined, err := Join([]string{third, first, second})
	require.NoError(t, err)
	require.Equal(t, whole.Results, joined.Results)
	require.Empty(t, joined.Partial())
	folder := filepath.Join(t.TempDir(), "whole")
	require.NoError(t, joined.Save(folder))
	again, err := Open(folder)
	require.NoError(t, err)
	require.Equal(t, joined, again)
	svg, err := os.ReadFile(filepath.Join(folder, SweepName))
	require.NoError(t, err)
	for _, word := range []string{"xen, guidance switchover", "1.00 Gbit/s", "4.00 MiB"} {
		require.Contains(t, string(svg), word)
	}

	some, err := Join([]string{third, first})
	require.NoError(t, err)
	require.Equal(t, "PARTIAL: of 3 parts, these are missing: 2", some.Partial())
	var out bytes.Buffer
	require.NoError(t, some.Write(&out))
	require.True(t, strings.HasPrefix(out.String(), "PARTIAL"))
	alone, err := Open(first)
	require.NoError(t, err)
	require.Equal(t, "PARTIAL: of 3 parts, these are missing: 2, 3", alone.Partial())

	o.Shard = shard.Shard{Index: 9, Of: 9}
	_, err = Run(t.Context(), o, func(int, int) {})
	require.ErrorContains(t, err, "part 9/9 has no moment")
}

// TestWhatDoesNotJoin is refused.
func TestWhatDoesNotJoin(t *testing.T) {
	trace := made(t)
	o := sweep(t, trace)
	first := part(t, o, shard.Shard{Index: 1, Of: 2})
	half := shard.Shard{Index: 2, Of: 2}
	for name, c := range map[string]struct {
		change func(*Order)
		shard  shard.Shard
		want   error
	}{
		"twice": {func(*Order) {}, shard.Shard{Index: 1, Of: 2}, errSamePart},
		"whole": {func(*Order) {}, shard.Shard{}, errNoPart},
		"parts": {func(*Order) {}, shard.Shard{Index: 2, Of: 3}, errOther},
		"seed":  {func(o *Order) { o.Seed = 7 }, half, errOther},
		"vmm":   {func(o *Order) { o.VMM = "def" }, half, errOtherVMM},
		"limit": {func(o *Order) { o.Entrants[0].MaxDefer++ }, half, errOther},
		"rtt":   {func(o *Order) { o.Subjects[0].Cells[1].Setting.RTT++ }, half, errOther},
		"trace": {func(o *Order) { o.Subjects[0] = other(t, o.Subjects[0]) }, half, errOther},
	} {
		changed := sweep(t, trace)
		c.change(&changed)
		_, err := Join([]string{first, part(t, changed, c.shard)})
		require.ErrorIs(t, err, c.want, name)
	}
	_, err := Join(nil)
	require.ErrorIs(t, err, errNoFolders)
	path := filepath.Join(t.TempDir(), "policy.sh")
	with := func(comment string, s shard.Shard) string {
		require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n# "+comment+"\n"), 0o755))
		o := led(t, path)
		o.Subjects[0] = Recorded(trace, o.Subjects[0].Cells)
		return part(t, o, s)
	}
	first = with("as it was", shard.Shard{Index: 1, Of: 2})
	_, err = Join([]string{first, with("as it was", half)})
	require.NoError(t, err)
	_, err = Join([]string{first, with("edited", half)})
	require.ErrorIs(t, err, errOther)
	t.Setenv("PATH", filepath.Dir(path)+":"+os.Getenv("PATH"))
	byPath, err := programsOf(led(t, path).Entrants)
	require.NoError(t, err)
	byName, err := programsOf(led(t, filepath.Base(path)).Entrants)
	require.NoError(t, err)
	require.Equal(t, byPath[path], byName[filepath.Base(path)], "as it is started")
	_, err = Join([]string{t.TempDir()})
	require.ErrorContains(t, err, "holds no simulation")
}

// other is a subject with the cells of another, and another trace of the same name.
func other(t *testing.T, s Subject) Subject {
	t.Helper()
	g := sim.Synthetic{
		Name: "small", Pages: 1024, WorkingSet: 512, Hot: 16, Busy: time.Second,
		Calm: 300 * time.Millisecond, Rate: 5001, CalmRate: 5000, Packed: 1024,
		Interval: 5 * time.Millisecond, Length: 4 * time.Second, Seed: 1,
	}
	return Generated(g, s.Cells)
}

// TestDecodeRefuses what encode does not write.
func TestDecodeRefuses(t *testing.T) {
	for _, text := range []string{
		"", "nonsense", "{}", `{"simulation":2,"moments":1}`, `{"simulation":1,"moments":0}`,
		`{"simulation":1,"moments":1,"unknown":1}`, `{"simulation":1,"moments":1}{}`,
		`{"simulation":1,"moments":1,"shard":{"index":3,"of":2}}`,
		`{"simulation":1,"moments":1,"results":[{"moves":[{"row":0}]}]}`,
		`{"simulation":1,"moments":1,"map":{"guided_row":0},"results":[{}]}`,
		`{"simulation":1,"moments":1,"orders":[],"map":{"guided_row":0},"results":[]}`,
	} {
		var b bytes.Buffer
		zip := gzip.NewWriter(&b)
		_, err := zip.Write([]byte(text))
		require.NoError(t, err)
		require.NoError(t, zip.Close())
		_, err = decode(&b)
		require.ErrorIs(t, err, errFile, text)
	}
	_, err := decode(strings.NewReader("no gzip"))
	require.ErrorIs(t, err, errFile)
}

// FuzzDecode: whatever is in a file, decode returns an error or a comparison that can be written.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"simulation":1,"moments":1,"results":[{"rows":[{"policy":"xen"}],` +
		`"moves":[{"row":0,"moment":0,"move":{"downtime_ms":1}}]}]}`))
	f.Add([]byte(`{"simulation":1,"moments":1,"map":{"busy_ms":[1],"rate_over_bandwidth":[1],` +
		`"limits_ms":[1],"guided_row":0},"orders":["a"],"results":[{"rows":[{}],"point":{}}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var b bytes.Buffer
		zip := gzip.NewWriter(&b)
		if _, err := zip.Write(text); err != nil || zip.Close() != nil {
			t.Fatal(err)
		}
		c, err := decode(&b)
		if err != nil {
			return
		}
		var out bytes.Buffer
		for _, write := range []func() error{
			func() error { return c.Write(&out) }, func() error { return c.writeSummary(&out) },
			func() error { return c.writeMoves(&out) },
		} {
			if err := write(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// mapOrder is a small map.
func mapOrder(t *testing.T) (Order, Map) {
	t.Helper()
	choice, err := policy.Parse("downtime")
	require.NoError(t, err)
	guided := sim.DefaultOrder(choice, policy.GuidanceSwitchover)
	guided.MaxDefer = 5 * time.Second
	m := MapOrder{
		Busy:   []time.Duration{500 * time.Millisecond, 3 * time.Second},
		Ratios: []float64{0.5, 1, 4}, Limits: []time.Duration{50 * time.Millisecond},
		Guest: sim.Synthetic{
			Pages: 4096, WorkingSet: 2048, Hot: 32, Calm: time.Second, CalmRate: 1000,
			Jitter: 0.2, Packed: 4096, Interval: 10 * time.Millisecond, Seed: 1,
		},
		Guided: guided, Moments: 4, Seed: 1, VMM: "abc",
		Setting: sim.Setting{
			BitsPerSecond: 250e6, Compress: sim.CompressNone, Protection: sim.AtHarvest,
			Costs: sim.DefaultCosts(),
		},
	}
	o, made, err := m.Order()
	require.NoError(t, err)
	return o, made
}

// TestMap: every cell has a best policy, and the same order makes the same map, also in parts.
func TestMap(t *testing.T) {
	o, m := mapOrder(t)
	c, err := Run(t.Context(), o, func(int, int) {})
	require.NoError(t, err)
	c.Map = &m
	s := c.MapSummary()
	require.Len(t, s.Cells, 6)
	for _, cell := range s.Cells {
		require.Equal(t, 4, cell.Moved)
		require.Contains(t, withoutTags, cell.Best)
		require.InDelta(t, cell.BestP50MS/cell.GuidedP50MS, cell.GainP50, 1e-9)
		require.NotEmpty(t, cell.Extrapolated)
		require.Equal(t, cell, s.at(cell.BusyMS, cell.Ratio, 50))
	}
	folder := filepath.Join(t.TempDir(), "map")
	require.NoError(t, c.Save(folder))
	for _, name := range []string{MapName, "map-median.svg", "map-p99.png", "map-total.svg"} {
		require.FileExists(t, filepath.Join(folder, name))
	}
	svg, err := os.ReadFile(filepath.Join(folder, "map-median.svg"))
	require.NoError(t, err)
	require.Contains(t, string(svg), "downtime limit 50 ms")
	var out bytes.Buffer
	require.NoError(t, c.Write(&out))
	require.Contains(t, out.String(), "extrapolated")

	var folders []string
	for i := range 2 {
		o.Shard = shard.Shard{Index: i + 1, Of: 2}
		half, err := Run(t.Context(), o, func(int, int) {})
		require.NoError(t, err)
		half.Map = &m
		dir := filepath.Join(t.TempDir(), "half")
		require.NoError(t, half.Save(dir))
		folders = append(folders, dir)
	}
	joined, err := Join(folders)
	require.NoError(t, err)
	require.Equal(t, s, joined.MapSummary())
}

// TestBestOf: of those within 1 ms of the least, the one with the least total time; those that did
// not always move lose.
func TestBestOf(t *testing.T) {
	row := func(name string, moved int, down, total float64) sim.Row {
		return sim.Row{
			Policy: name, Moves: 4, Moved: moved, DowntimeMS: sim.Quantiles{P50: down},
			TotalMS: sim.Quantiles{P50: total},
		}
	}
	median := func(r sim.Row) float64 { return r.DowntimeMS.P50 }
	best, err := bestOf([]sim.Row{
		row("a", 4, 5, 900), row("b", 4, 5.9, 100), row("c", 4, 6.1, 1), row("d", 3, 1, 1),
	}, median)
	require.NoError(t, err)
	require.Equal(t, "b", best.Policy)
	_, err = bestOf([]sim.Row{row("a", 0, 0, 0)}, median)
	require.ErrorIs(t, err, errNobodyMoved)
}
