package migration

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
)

// mbit is a link speed at which a page takes 0.33 ms.
const mbit = 1_000_000

func on() *bool  { v := true; return &v }
func off() *bool { v := false; return &v }

// idle writes nothing.
func idle(*guest) {}

// busy rewrites count pages each step.
func busy(first, count int) func(*guest) {
	return func(g *guest) { g.writeRange(first, count) }
}

func TestIdleGuestMoves(t *testing.T) {
	for _, channels := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, idle)
			defer b.close()
			for p := 0; p < 3000; p += 7 {
				b.m.ram.Page(p)[p%4096] = byte(p) | 1
			}
			b.m.start()
			s := b.source(Params{Verify: true, Channels: channels, BitsPerSecond: 1000 * mbit})
			r := s.Run(context.Background())
			b.checkMoved(s, r)
			require.NotNil(t, r.Verified)
			require.True(t, *r.Verified)
			require.EqualValues(t, 429, r.PagesSent)
			require.EqualValues(t, testPages, r.PagesSent+r.PagesZero)
			require.EqualValues(t, 16<<20, r.BytesPages)
			require.Equal(t, "no dirty page left", r.SwitchoverReason)
			require.Zero(t, r.PagesStopCopy)
			require.Equal(t, GuidanceNone, r.Guidance)
			require.Len(t, r.Warnings, 1)
		})
	}
}

func TestNotVerifiedIsNull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.m.start()
		s := b.source(Params{})
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.Nil(t, r.Verified)
	})
}

// TestPausedGuestStaysPaused: what its user paused is paused at the destination.
func TestPausedGuestStaysPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, busy(0, 10))
		defer b.close()
		b.m.start()
		time.Sleep(5 * time.Millisecond)
		require.NoError(t, b.m.Pause())
		b.paused = true
		s := b.source(Params{Verify: true})
		r := s.Run(context.Background())
		b.checkMoved(s, r)
		require.True(t, b.in.paused)

		b = newEnds(t, busy(0, 10))
		defer b.close()
		b.m.start()
		require.NoError(t, b.m.Pause())
		b.in.failRun = errors.New("no room")
		s = b.source(Params{})
		s.Run(context.Background())
		require.Equal(t, FateStays, s.Fate())
		require.False(t, b.m.Running(), "a failed migration must not resume what its user paused")
	})
}

func TestParams(t *testing.T) {
	p, err := Params{Destination: "tcp:h:1"}.WithDefaults()
	require.NoError(t, err)
	require.True(t, *p.SwitchAtExit)
	require.Equal(t, RuleDowntime, p.Rule)
	require.Zero(t, p.MaxRounds)
	p, err = Params{Destination: "x", Rule: RuleXen, Guidance: GuidanceSuspend}.WithDefaults()
	require.NoError(t, err)
	require.False(t, *p.SwitchAtExit)
	require.Equal(t, 29, p.MaxRounds)
	for what, bad := range map[string]Params{
		"no destination": {},
		"rule":           {Destination: "x", Rule: "fast"},
		"guidance":       {Destination: "x", Guidance: "none"},
		"gate":           {Destination: "x", Gate: "some"},
		"on-timeout":     {Destination: "x", OnTimeout: "panic"},
		"compress":       {Destination: "x", Compress: "lz4"},
		"channels":       {Destination: "x", Channels: 17},
		"max rounds":     {Destination: "x", MaxRounds: -1},
		"bandwidth":      {Destination: "x", BitsPerSecond: -1},
		"max defer":      {Destination: "x", MaxDefer: -2},
		"downtime limit": {Destination: "x", DowntimeLimit: -2},
	} {
		_, err := bad.WithDefaults()
		require.ErrorContains(t, err, what)
		require.False(t, strings.Contains(err.Error(), "\n"))
	}
}

func TestDefaultChannels(t *testing.T) {
	unlimited := min(2, memory.Workers())
	require.Equal(t, unlimited, defaultChannels(Params{}))
	slow := Params{BitsPerSecond: 100e6}
	require.Equal(t, 1, defaultChannels(slow), "the link is what it waits for")
	require.Equal(t, unlimited, defaultChannels(Params{BitsPerSecond: 40e9}))
}
