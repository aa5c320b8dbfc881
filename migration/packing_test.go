package migration

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/transport"
)

// simulate sends frames over a link, in ns a byte, with compression of some cost
// and ratio, and returns the time taken and what was used at the end.
func simulate(mode Compress, frames int, linkNS, packNS, ratio float64) (total time.Duration, last transport.Packing) {
	c := newPackingChoice(mode)
	var stats transport.FrameStats
	for range frames {
		p, trial := c.next(stats)
		n := 1 << 20
		if trial {
			n = trialBytes
		}
		stats = transport.FrameStats{Frames: stats.Frames + 1, Asked: p, Plain: n}
		wire := float64(n)
		switch p {
		case transport.PackFast:
			stats.Pack = time.Duration(packNS * float64(n))
			wire *= ratio
		case transport.PackSmall:
			stats.Pack = time.Duration(3 * packNS * float64(n))
			if ratio < 1 {
				wire *= ratio * 0.8
			}
		}
		stats.Send = time.Duration(linkNS * wire)
		total += (stats.Pack + stats.Send) * time.Duration(1<<20/n) // as for as much content
		last = p
		if !trial {
			continue
		}
		total -= (stats.Pack + stats.Send) * time.Duration(1<<20/n-1) // it was a small frame only
	}
	return total, last
}

func TestPackingChoice(t *testing.T) {
	for _, test := range []struct {
		name                  string
		linkNS, packNS, ratio float64
		want                  transport.Packing
	}{
		{"fast link, compressible", 0.25, 2, 0.3, transport.PackRaw},
		{"fast link, incompressible", 0.25, 1, 1, transport.PackRaw},
		{"slow link, incompressible", 80, 1, 1, transport.PackRaw},
		{"slow link, compressible", 800, 2, 0.3, transport.PackSmall},
		{"medium link, compressible", 8, 2, 0.3, transport.PackFast},
	} {
		t.Run(test.name, func(t *testing.T) {
			auto, used := simulate(CompressAuto, 1000, test.linkNS, test.packNS, test.ratio)
			require.Equal(t, test.want, used)
			raw, _ := simulate(CompressNone, 1000, test.linkNS, test.packNS, test.ratio)
			zstd, _ := simulate(CompressZstd, 1000, test.linkNS, test.packNS, test.ratio)
			best := min(raw, zstd)
			require.Less(t, float64(auto), 1.1*float64(best), "auto %v, best %v", auto, best)
		})
	}
}

// TestPackingChoiceLeavesAFastLinkAlone: no trial while content goes raw at the speed
// of memory, and trials as soon as it does not.
func TestPackingChoiceLeavesAFastLinkAlone(t *testing.T) {
	c := newPackingChoice(CompressAuto)
	var stats transport.FrameStats
	frame := func(ns float64) (transport.Packing, bool) {
		p, trial := c.next(stats)
		stats = transport.FrameStats{Frames: stats.Frames + 1, Asked: p, Plain: 1 << 20, Send: time.Duration(ns * (1 << 20))}
		return p, trial
	}
	for range 100 {
		p, trial := frame(0.25)
		require.Equal(t, transport.PackRaw, p)
		require.False(t, trial)
	}
	trials := 0
	for range 20 {
		if _, trial := frame(8); trial {
			trials++
		}
	}
	require.Positive(t, trials)
}

// TestPackingChoiceFollowsChange: what is sent, or the link, may change.
func TestPackingChoiceFollowsChange(t *testing.T) {
	c := newPackingChoice(CompressAuto)
	var stats transport.FrameStats
	send := func(frames int, rawNS, fastNS float64) transport.Packing {
		var used transport.Packing
		for range frames {
			p, _ := c.next(stats)
			ns := map[transport.Packing]float64{transport.PackRaw: rawNS, transport.PackFast: fastNS, transport.PackSmall: 2 * fastNS}[p]
			stats = transport.FrameStats{Frames: stats.Frames + 1, Asked: p, Plain: 1e6, Send: time.Duration(ns * 1e6)}
			used = c.candidates[c.use]
		}
		return used
	}
	require.Equal(t, transport.PackRaw, send(100, 1, 5))
	require.Equal(t, transport.PackFast, send(2000, 20, 5))
	require.Equal(t, transport.PackRaw, send(3000, 1, 5))
}
