package stream_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/migration/stream"
)

// protected is how many pages are protected by one call.
const protected = 1024

// stopAt ends the round once the sink has got the given number of pages, a multiple of its frame.
// It calls then before that.
func stopAt(s *stream.Stream, sink *copySink, given int64, then func()) {
	sink.onWrite = func(int64) {
		if s.Progress().Done == given {
			then()
			s.Stop()
		}
	}
}

// TestRemaining: what a switchover would have to send, in the middle of a round of 96 pages that
// ends after 64, and between it and the next one. It does not depend on how far ahead pages are
// protected: those not protected yet are also in the dirty log, and those protected are neither in
// a log nor at the destination.
func TestRemaining(t *testing.T) {
	for _, test := range []struct {
		name     string
		onDemand bool
		first    int // of the round's pages in the first stretch that is protected
	}{
		{"protected at the harvest", false, 96},
		{"none protected ahead", true, 64},
		{"some protected ahead", true, 80},
		{"all protected ahead", true, 96},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := newGuest(t, test.onDemand)
			g.write(0, test.first)
			g.write(protected, 96-test.first)
			s, sink := begun(t, g, stream.Config{})
			require.Zero(t, s.AtLeast())
			stopAt(s, sink, 64, func() {
				g.write(2*protected, 5)
				require.True(t, s.InRound())
				require.Equal(t, 32, s.AtLeast())
				require.Equal(t, 32+5, remaining(t, s))
			})
			require.EqualValues(t, 64, send(t, s, stream.Running).Content)
			left, dirtied, err := s.TakeDirty()
			require.NoError(t, err)
			require.Equal(t, 32+5, left)
			require.Equal(t, 5, dirtied, "not what the round has left")
			require.False(t, s.InRound())
			require.Equal(t, 32+5, s.AtLeast())
			g.write(3*protected, 7)
			require.Equal(t, 32+5+7, remaining(t, s))
			s.Begin()
			require.Equal(t, 32+5+7, remaining(t, s), "and in the next round")
		})
	}
}

// TestDirtiedOfARoundThatIsCut: pages that were protected at once and not sent are dirtied if the
// guest writes them, as those that it had not written before.
func TestDirtiedOfARoundThatIsCut(t *testing.T) {
	g := newGuest(t, true)
	g.write(0, 96)
	s, sink := begun(t, g, stream.Config{Protect: stream.AtOnce})
	stopAt(s, sink, 64, func() {
		g.write(80, 10)
		g.write(2*protected, 5)
	})
	require.EqualValues(t, 64, send(t, s, stream.Running).Content)
	left, dirtied, err := s.TakeDirty()
	require.NoError(t, err)
	require.Equal(t, 32+5, left)
	require.Equal(t, 10+5, dirtied)
}

// TestLeftoversAreCountedOnce: rounds that are cut short, one after the other, each leave
// pages behind that the next one protects again. They must not add up: a migration that is
// suspended again and again would never switch over.
func TestLeftoversAreCountedOnce(t *testing.T) {
	g := newGuest(t, true)
	g.write(0, ramPages)
	s, sink := begun(t, g, stream.Config{})
	round := func(given int) {
		t.Helper()
		stopAt(s, sink, int64(given), func() {})
		send(t, s, stream.Running)
		require.Equal(t, ramPages-given, remaining(t, s), "all else")
	}
	for range 20 {
		round(2992) // of 3072 that are protected
		g.write(0, 2992)
		require.Equal(t, ramPages, take(t, s))
	}
	// A round that does not get as far leaves the pages above it as they were.
	round(992)
	g.write(0, 992)
	require.Equal(t, ramPages, take(t, s))
	// One that gets through leaves nothing.
	round(ramPages)
	require.Zero(t, take(t, s))
	require.Zero(t, remaining(t, s))
}

// TestLooksSendNothingTwice: a look in the middle of a round finds in the log what is not protected
// yet. The round protects and sends that later, so the next one has only what was written since.
func TestLooksSendNothingTwice(t *testing.T) {
	for _, protect := range []stream.Protection{stream.AsRead, stream.AtOnce} {
		g := newGuest(t, true)
		g.write(0, ramPages)
		s, sink := begun(t, g, stream.Config{Protect: protect})
		looks := 0
		sink.onWrite = func(int64) {
			switch s.Progress().Done {
			case 64:
				g.write(10, 5)           // sent before
				g.write(3*protected, 20) // not sent yet
				looks++
				remaining(t, s)
			case 2 * protected:
				looks++
				require.LessOrEqual(t, s.AtLeast(), remaining(t, s))
				require.LessOrEqual(t, s.AtLeast(), ramPages-2*protected+5+20)
			}
		}
		require.EqualValues(t, ramPages, send(t, s, stream.Running).Content)
		require.Equal(t, 2, looks)
		again := 5
		if protect == stream.AtOnce {
			again += 20 // written after their protection
		}
		require.Equal(t, again, take(t, s))
		send(t, s, stream.Still)
		require.Zero(t, sink.differ())
	}
}

// TestSkippedPagesAreNotForgotten: a look before a round makes the round skip a page. Only next has
// it then, whatever the round protects.
func TestSkippedPagesAreNotForgotten(t *testing.T) {
	g := newGuest(t, true)
	g.write(0, 200)
	s, sink := begun(t, g, stream.Config{Skip: stream.SkipDirty})
	send(t, s, stream.Running)
	g.write(0, 100)
	require.Equal(t, 100, take(t, s))
	remaining(t, s) // the log still reports them, because nothing has protected them yet
	require.EqualValues(t, 100, send(t, s, stream.Running).Skipped)
	require.Equal(t, 100, take(t, s))
	send(t, s, stream.Still)
	require.Zero(t, sink.differ())
}

// TestLateLookTakesNothing: a look that comes after the end of a stream leaves the dirty log to the
// next one.
func TestLateLookTakesNothing(t *testing.T) {
	for _, onDemand := range []bool{false, true} {
		g := newGuest(t, onDemand)
		g.write(0, 100)
		first, _ := begun(t, g, stream.Config{})
		require.NoError(t, first.StopTracking())
		s, sink := begun(t, g, stream.Config{})
		send(t, s, stream.Running)
		g.write(50, 1)
		_, err := first.Remaining()
		require.Equal(t, 1, take(t, s))
		send(t, s, stream.Still)
		require.Zero(t, sink.differ())
		require.Error(t, err)
		require.NoError(t, s.StopTracking())
	}
}
