package migration

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"taskguide/memory"
)

// allocate makes the host allocate a page without giving it content. Every page looks like this in
// the middle of its first touch: st_blocks counts it, and SEEK_DATA does not show it.
func (m *fakeMachine) allocate(t *testing.T, page int) {
	const keepSize = 0
	err := unix.Fallocate(m.ram.FD(), keepSize, int64(page)*memory.PageSize, memory.PageSize)
	require.NoError(t, err)
	found := memory.NewBitmap(m.ram.Pages())
	require.NoError(t, m.ram.Allocated(found))
	require.False(t, found.Test(page), "it must still look like a hole")
}

// TestFirstTouchWhileTrackingBegins: a page arrives even if it is touched for the first time while
// the engine looks for content, before any log sees the write. The memory behind it is already
// counted when the engine looks, so the count does not change.
func TestFirstTouchWhileTrackingBegins(t *testing.T) {
	const page = 2000
	before := func(m *fakeMachine, write func()) { m.tracker.onStart = write }
	for _, c := range []struct {
		name   string
		manual bool
		touch  func(*fakeMachine, func()) // runs the write at the right moment
	}{
		{"before Start", false, before},
		{"before Start, protection on demand", true, before},
		{"before the holes are protected", true, func(m *fakeMachine, write func()) {
			m.tracker.onProtect = func(first, count int) {
				if first <= page && page < first+count {
					write()
				}
			}
		}},
	} {
		for _, counted := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, counted %v", c.name, counted), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newEnds(t, idle)
					defer b.close()
					b.m.touch(20)
					if counted {
						b.m.allocate(t, page)
					}
					b.m.tracker.onDemand = c.manual
					written := false
					c.touch(b.m, func() {
						if !written {
							written = true
							b.m.ram.Page(page)[5] = 0xa5
							b.m.tracker.mark(page) // lost, as KVM's would be: see fakeTracker
						}
					})
					b.m.start()
					s := b.source(Params{})
					r := s.Run(context.Background())
					require.True(t, written)
					b.checkMoved(s, r)
				})
			})
		}
	}
}

// TestProtectsNothingInTheStandstill: nobody writes then, and each call would cost downtime. The
// pages of a round before it are protected, and by few calls.
func TestProtectsNothingInTheStandstill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 30))
		defer b.close()
		b.m.touch(600)
		b.m.tracker.onDemand = true
		var stopped atomic.Bool
		b.m.onPaused = func() { stopped.Store(true) }
		running, standing := 0, 0
		b.m.tracker.onProtect = func(int, int) {
			if stopped.Load() {
				standing++
			} else {
				running++
			}
		}
		b.m.start()
		p := guided(RuleDowntime, GuidanceOff)
		s := b.source(p)
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Positive(t, r.PagesStopCopy)
		require.Positive(t, running)
		require.Zero(t, standing)
	})
}

// TestPagesAreReadAfterTheirProtection: a write that comes just before a page is protected is
// not in the log any more, so the page must not have been read yet.
func TestPagesAreReadAfterTheirProtection(t *testing.T) {
	for _, compress := range []Compress{CompressNone, CompressZstd} {
		t.Run(string(compress), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEnds(t, idle)
				defer b.close()
				b.m.touch(testPages)
				b.m.tracker.onDemand = true
				writes := byte(0)
				b.m.tracker.onProtect = func(first, count int) {
					if count == testPages {
						return // of holes, before round 1
					}
					for p := first; p < first+count; p += 50 {
						writes++
						b.m.ram.Page(p)[100] += 1 + writes
						b.m.tracker.mark(p)
					}
				}
				b.m.start()
				s := b.source(Params{Compress: compress, BitsPerSecond: 100 * mbit})
				b.checkMoved(s, s.Run(context.Background()))
				require.NotZero(t, writes)
			})
		})
	}
}
