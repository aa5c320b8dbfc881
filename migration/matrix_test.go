package migration

import (
	"context"
	"fmt"
	"net"
	"os"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/tagging"
)

// options is one point of the matrix: options that are right alone can be wrong together.
type options struct {
	delta    bool
	compress Compress
	channels int
	onDemand bool // the tracker leaves protection to its user
	rule     Rule
}

func (o options) String() string {
	return fmt.Sprintf("delta=%v,compress=%s,channels=%d,on-demand=%v,rule=%s",
		o.delta, o.compress, o.channels, o.onDemand, o.rule)
}

// wholeMatrix has every combination.
func wholeMatrix() []options {
	var all []options
	for _, delta := range []bool{false, true} {
		for _, compress := range []Compress{CompressNone, CompressAuto, CompressZstd} {
			for _, channels := range []int{1, 2, 3} {
				for _, onDemand := range []bool{false, true} {
					for _, rule := range Rules() {
						all = append(all, options{delta, compress, channels, onDemand, rule})
					}
				}
			}
		}
	}
	return all
}

// pair is two settings of two options.
type pair [2]string

func (o options) pairs() []pair {
	settings := []string{
		fmt.Sprint("delta ", o.delta),
		fmt.Sprint("compress ", o.compress),
		fmt.Sprint("channels ", o.channels),
		fmt.Sprint("on demand ", o.onDemand),
		fmt.Sprint("rule ", o.rule),
	}
	var all []pair
	for i, a := range settings {
		for _, b := range settings[i+1:] {
			all = append(all, pair{a, b})
		}
	}
	return all
}

// pairwise picks few of all combinations, in which every two settings meet: the next one is
// always one that adds the most pairs.
func pairwise(all []options) []options {
	missing := make(map[pair]bool)
	for _, o := range all {
		for _, p := range o.pairs() {
			missing[p] = true
		}
	}
	var picked []options
	for len(missing) > 0 {
		best, most := options{}, 0
		for _, o := range all {
			n := 0
			for _, p := range o.pairs() {
				if missing[p] {
					n++
				}
			}
			if n > most {
				best, most = o, n
			}
		}
		picked = append(picked, best)
		for _, p := range best.pairs() {
			delete(missing, p)
		}
	}
	return picked
}

// TestOptionMatrix moves a guest with options in combination: pairwise, or all combinations with
// TASKGUIDE_LONG=1 (make test-matrix). Each option must do its part, whatever the others are.
func TestOptionMatrix(t *testing.T) {
	t.Parallel()
	matrix := wholeMatrix()
	if os.Getenv("TASKGUIDE_LONG") == "" {
		matrix = pairwise(matrix)
	}
	for _, o := range matrix {
		t.Run(o.String(), func(t *testing.T) { synctest.Test(t, o.test) })
	}
}

func (o options) test(t *testing.T) {
	b := newEnds(t, func(g *guest) {
		switch {
		case g.step < 1500: // before its gate opens, a round every 100 ms
			for i := range 30 {
				g.write((g.step%4*30 + i) * 34) // pages of every channel
			}
		case g.step == 1500:
			g.enter(1)
		}
	})
	defer b.close()
	b.m.port.Write(tagging.RegRegister, 4, 1)
	for p := 0; p < testPages; p += 2 {
		b.m.ram.Page(p)[9] = 1
	}
	b.m.tracker.onDemand = o.onDemand
	b.m.start()
	p := guided(o.rule.with(""), GuidanceSwitchover)
	p.Verify, p.Delta, p.Compress, p.Channels = true, o.delta, o.compress, o.channels
	var channels []*tee
	b.dial = func(ctx context.Context) (net.Conn, error) {
		nc, err := b.ln.dial(ctx)
		channels = append(channels, &tee{Conn: nc})
		return channels[len(channels)-1], err
	}
	s := b.source(p)
	r := s.Run(context.Background())
	b.checkMoved(s, r)
	require.NotNil(t, r.Verified)
	require.True(t, *r.Verified)
	require.Greater(t, len(r.Rounds), 3)
	first := r.Rounds[0]
	later, deltas, skipped := int64(0), int64(0), first.SkippedPages
	for _, round := range r.Rounds[1:] {
		later += round.SentPages
		deltas += round.DeltaPages
		skipped += round.SkippedPages
		require.Equal(t, round.DirtyPages, round.SentPages+round.ZeroPages+round.SkippedPages)
	}
	if choice, err := p.choice(); err == nil && !choice.Traits().Skip {
		require.Zero(t, skipped)
	}
	later -= first.SkippedPages // the destination has no version of these yet
	require.Greater(t, later, int64(500))
	if o.delta {
		require.GreaterOrEqual(t, 100*deltas, 99*later, "few words of a page changed")
	} else {
		require.Zero(t, deltas)
	}
	raw := (r.PagesSent - deltas) * memory.PageSize
	switch o.compress {
	case CompressNone:
		require.Greater(t, r.BytesWire, raw)
	case CompressZstd:
		require.Less(t, r.BytesWire, raw/4)
	default:
		require.Less(t, r.BytesWire, raw+raw/10)
	}
	require.Len(t, channels, o.channels)
	for i, c := range channels {
		require.Greater(t, int64(c.sent.Len()), r.BytesWire/int64(2*o.channels), "channel %d", i)
	}
}

// TestPairwise: every two settings meet in a small number of combinations.
func TestPairwise(t *testing.T) {
	all := wholeMatrix()
	few := pairwise(all)
	require.LessOrEqual(t, len(few), len(all)/4)
	met := make(map[pair]bool)
	for _, o := range few {
		for _, p := range o.pairs() {
			met[p] = true
		}
	}
	for _, o := range all {
		for _, p := range o.pairs() {
			require.True(t, met[p], "%v", p)
		}
	}
}
