package sim

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/dirtylog/trace"
)

// written is the file of a synthetic trace.
func written(t testing.TB, g Synthetic) []byte {
	t.Helper()
	var b bytes.Buffer
	w := trace.NewWriter(&b)
	require.NoError(t, g.Generate("test", w))
	require.NoError(t, w.Close())
	return b.Bytes()
}

// TestGenerate: the trace is what was asked for, and the same again with the same seed.
func TestGenerate(t *testing.T) {
	g := phased()
	g.Jitter = 0.3
	require.Equal(t, written(t, g), written(t, g))
	other := g
	other.Seed++
	require.NotEqual(t, written(t, g), written(t, other))

	tr := generated(t, phased())
	require.Len(t, tr.intervals, 2600)
	busy, calm, gate := 0, 0, newGuest(tr, All, 0)
	for _, i := range tr.intervals {
		if open := gate.now().open; open {
			calm += len(i.writes) + len(i.hot)
		} else {
			busy += len(i.writes) + len(i.hot)
		}
		gate.run(i.end-i.begin, func(int) {})
		gate.change()
	}
	require.InDelta(t, 5000*2*5, busy, 150, "five busy phases")
	require.InDelta(t, 16*120*5, calm, 150, "all hot pages in each calm interval")
	exits := tr.Exits()
	require.Equal(t, 2600*time.Millisecond, exits[1]-exits[0])

	jittered := generated(t, g).Exits()
	for i := range jittered[1:] {
		cycle := jittered[i+1] - jittered[i]
		require.InDelta(t, 2.6, cycle.Seconds(), 0.3*2.6)
		require.NotEqual(t, 2600*time.Millisecond, cycle)
	}
}

// TestGenerateRefuses what makes no sense.
func TestGenerateRefuses(t *testing.T) {
	for what, change := range map[string]func(*Synthetic){
		"working set": func(g *Synthetic) { g.WorkingSet = g.Pages + 1 },
		"hot pages":   func(g *Synthetic) { g.Hot = g.WorkingSet + 1 },
		"phases":      func(g *Synthetic) { g.Busy, g.Calm = 0, 0 },
		"jitter":      func(g *Synthetic) { g.Jitter = 1.5 },
		"intervals":   func(g *Synthetic) { g.Interval = 0 },
		"packed":      func(g *Synthetic) { g.Packed = 5000 },
	} {
		g := phased()
		change(&g)
		require.ErrorContains(t, g.Generate("test", trace.NewWriter(&bytes.Buffer{})), what)
	}
}
