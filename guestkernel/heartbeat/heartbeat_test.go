package heartbeat

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	b, ok := Parse("hb task=1 ms=2000 passes=12 writes=196608 gap_us=84 tsc_ms=2000.125\r")
	require.True(t, ok)
	require.Equal(t, 1, b.Task)
	require.Equal(t, 2*time.Second, b.Elapsed)
	require.EqualValues(t, []uint64{12, 196608}, []uint64{b.Passes, b.Writes})
	require.Equal(t, 84*time.Microsecond, b.Gap)
	tsc, ok := b.Float("tsc_ms")
	require.True(t, ok)
	require.InDelta(t, 2000.125, tsc, 1e-9)
	_, ok = b.Float("kvmclock_ms")
	require.False(t, ok)
}

func TestParseRefusesAnythingElse(t *testing.T) {
	for _, line := range []string{
		"", "boot", "hb", "hb task=0 ms=1000", "hb task=0 ms=x passes=1 writes=1 gap_us=1",
		"hb task=0 ms=1 passes=1 writes=1 gap_us",
		"hb task=0 ms=99999999999999 passes=1 writes=1 gap_us=1",
	} {
		_, ok := Parse(line)
		require.False(t, ok, line)
	}
}

func TestLogCollectsAcrossPieces(t *testing.T) {
	var l Log
	done := make(chan error, 1)
	go func() {
		_, err := l.WaitBeats(t.Context(), 1)
		done <- err
	}()
	for _, piece := range []string{
		"PVH guest\nhb task=0 ms=1000 pas", "ses=1 writes=2 gap_us=3\nhb task=0 ms=2000 ",
		"passes=2 writes=4 gap_us=3\nhb task=0 ms=3",
	} {
		_, err := l.Write([]byte(piece))
		require.NoError(t, err)
	}
	require.NoError(t, <-done)
	require.Len(t, l.Beats(), 2)
	require.NoError(t, l.WaitText(t.Context(), "PVH guest"))
	require.Empty(t, l.Corrupt())
	_, _ = l.Write([]byte("000\nCORRUPT page=3\n"))
	require.Equal(t, "CORRUPT page=3", l.Corrupt())
	_, err := l.WaitBeats(t.Context(), 100)
	require.ErrorIs(t, err, ErrCorrupt, "it does not wait for what will not come")
}

func TestWaitLineWaitsForTheWholeLine(t *testing.T) {
	var l Log
	_, _ = l.Write([]byte("moved task=0 epo"))
	found := make(chan string, 1)
	go func() {
		line, _ := l.WaitLine(t.Context(), "moved ")
		found <- line
	}()
	_, _ = l.Write([]byte("ch=1\r"))
	_, _ = l.Write([]byte("\nmoved task=0 epoch=2\n"))
	require.Equal(t, "moved task=0 epoch=1", <-found)
}

func TestWaitEndsWithItsContext(t *testing.T) {
	var l Log
	_, _ = l.Write([]byte("booting"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := l.WaitBeats(ctx, 0)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "booting")
}

func FuzzParse(f *testing.F) {
	f.Add("hb task=1 ms=2000 passes=12 writes=196608 gap_us=84")
	f.Add("hb task=-1 ms== passes")
	f.Fuzz(func(t *testing.T, line string) {
		b, ok := Parse(line)
		if ok && (b.Task < 0 || b.Elapsed < 0 || b.Gap < 0) {
			t.Fatalf("negative value from %q: %+v", line, b)
		}
	})
}
