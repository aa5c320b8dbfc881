package stream

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/transport"
)

// What there is to choose from.
var (
	raw        = []transport.Packing{transport.PackRaw}
	compressed = []transport.Packing{transport.PackFast, transport.PackSmall}
	all        = []transport.Packing{transport.PackRaw, transport.PackFast, transport.PackSmall}
)

// simulate sends frames over a link, in ns a byte, with compression of some cost
// and ratio, and returns the time taken and what was used at the end.
func simulate(candidates []transport.Packing, frames int, linkNS, packNS, ratio float64) (
	total time.Duration, last transport.Packing,
) {
	c := newPackingChoice(candidates, 1<<20)
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
			auto, used := simulate(all, 1000, test.linkNS, test.packNS, test.ratio)
			require.Equal(t, test.want, used)
			asItIs, _ := simulate(raw, 1000, test.linkNS, test.packNS, test.ratio)
			zstd, _ := simulate(compressed, 1000, test.linkNS, test.packNS, test.ratio)
			best := min(asItIs, zstd)
			require.Less(t, float64(auto), 1.1*float64(best), "auto %v, best %v", auto, best)
		})
	}
}

// TestPackingChoiceLeavesAFastLinkAlone: no trial while content goes raw at the speed
// of memory, and trials as soon as it does not.
func TestPackingChoiceLeavesAFastLinkAlone(t *testing.T) {
	c := newPackingChoice(all, 1<<20)
	var stats transport.FrameStats
	frame := func(ns float64) (transport.Packing, bool) {
		p, trial := c.next(stats)
		stats = transport.FrameStats{
			Frames: stats.Frames + 1, Asked: p, Plain: 1 << 20, Send: time.Duration(ns * (1 << 20)),
		}
		return p, trial
	}
	for range 1000 {
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

// TestPackingChoiceFollowsChange: the content or the link may change.
func TestPackingChoiceFollowsChange(t *testing.T) {
	c := newPackingChoice(all, 1<<20)
	var stats transport.FrameStats
	send := func(frames int, rawNS, fastNS float64) transport.Packing {
		var used transport.Packing
		for range frames {
			p, _ := c.next(stats)
			ns := map[transport.Packing]float64{
				transport.PackRaw: rawNS, transport.PackFast: fastNS,
				transport.PackSmall: 2 * fastNS,
			}[p]
			stats = transport.FrameStats{
				Frames: stats.Frames + 1, Asked: p, Plain: 1e6, Send: time.Duration(ns * 1e6),
			}
			used = c.candidates[c.use]
		}
		return used
	}
	require.Equal(t, transport.PackRaw, send(100, 1, 5))
	require.Equal(t, transport.PackFast, send(2000, 20, 5))
	require.Equal(t, transport.PackRaw, send(3000, 1, 5))
}

// simulateShared has channels send through one limiter of 1 Gbit/s, each in its turn, and
// returns what each uses in the end. Time is simulated, in ns.
func simulateShared(channels int) []transport.Packing {
	const (
		bits    = 1e9
		limitNS = 8e9 / bits // a byte
		writeNS = 0.25       // a byte
		frame   = 500_000    // bytes: what suits that limit
	)
	type sending struct {
		choice *packingChoice
		frame  transport.FrameStats
		asks   float64 // when the frame comes to the limiter
	}
	pack := func(s *sending, now float64) {
		p, trial := s.choice.next(s.frame)
		n := frame
		if trial {
			n = trialBytes
		}
		packNS, ratio := 0.0, 1.0
		switch p {
		case transport.PackFast:
			packNS, ratio = 2, 0.3
		case transport.PackSmall:
			packNS, ratio = 6, 0.24
		}
		took := packNS * float64(n)
		s.frame = transport.FrameStats{
			Frames: s.frame.Frames + 1, Asked: p, Plain: n, Wire: int(ratio * float64(n)),
			Pack: time.Duration(took),
		}
		s.asks = now + took
	}
	channel := make([]sending, channels)
	for i := range channel {
		channel[i].choice = newPackingChoice(all, 1<<20)
		channel[i].choice.shareLimit(bits, channels)
		pack(&channel[i], 0)
	}
	due := 0.0 // when the limiter, a bucket that begins empty, has let through all it was asked for
	for range 300 * channels {
		s := &channel[0]
		for i := range channel {
			if channel[i].asks < s.asks {
				s = &channel[i]
			}
		}
		wire := float64(s.frame.Wire)
		due = max(due, s.asks-frame*limitNS) + wire*limitNS
		held := max(due-s.asks, 0)
		send := held + writeNS*wire
		s.frame.Held, s.frame.Send = time.Duration(held), time.Duration(send)
		pack(s, s.asks+send)
	}
	var used []transport.Packing
	for i := range channel {
		used = append(used, channel[i].choice.candidates[channel[i].choice.use])
	}
	return used
}

// TestPackingChoiceSharesALimit: compression does not look slow when a trial waits for the other
// channels' turns, and the more channels pack, the more effort pays.
func TestPackingChoiceSharesALimit(t *testing.T) {
	for channels, want := range map[int]transport.Packing{
		1:  transport.PackFast,
		2:  transport.PackFast,
		4:  transport.PackSmall,
		16: transport.PackSmall,
	} {
		for i, used := range simulateShared(channels) {
			require.Equal(t, want, used, "channel %d of %d", i, channels)
		}
	}
}

// TestWiresKnowTheirShare: a wire knows its share of a limit if there are a limit and other
// channels.
func TestWiresKnowTheirShare(t *testing.T) {
	for _, test := range []struct {
		bits     int64
		channels int
		want     float64
	}{{1e9, 1, 8}, {1e9, 2, 16}, {0, 2, 0}} {
		w, err := NewWire(t.Context(), nil, 0, WireConfig{
			Channels:      test.channels,
			Packings:      all,
			Limiter:       transport.NewLimiter(test.bits),
			BitsPerSecond: test.bits,
		})
		require.NoError(t, err)
		require.InDelta(t, test.want, w.choice.shareNS, 0)
	}
}

// frameOf is a frame of content that takes so long to pack and to send, in ns a byte.
func frameOf(n int64, p transport.Packing, plain int, pack, send float64) transport.FrameStats {
	return transport.FrameStats{
		Frames: n, Asked: p, Plain: plain, Wire: plain,
		Pack: time.Duration(pack * float64(plain)), Send: time.Duration(send * float64(plain)),
	}
}

// TestFirstFrameOfACompressor: its first frame takes many times what others take, because it sets
// up tables, and so does not count. A frame at a round's end that is small says nothing either.
func TestFirstFrameOfACompressor(t *testing.T) {
	c := newPackingChoice(all, 1<<20)
	stats, cold, frames := transport.FrameStats{}, true, 0
	for {
		p, trial := c.next(stats)
		if c.use != 0 {
			break
		}
		require.Less(t, frames, 20, "chosen late")
		frames++
		plain, pack, send := 1<<20, 0.0, 8.0
		switch {
		case p == transport.PackRaw:
		case stats.Asked == transport.PackRaw: // the end of a round
			plain, pack, send = 16<<10, 20, 1
		default:
			plain, pack, send = trialBytes, 4, 1
			if cold {
				cold, pack = false, 60
			}
		}
		require.Equal(t, p != transport.PackRaw, trial)
		stats = frameOf(stats.Frames+1, p, plain, pack, send)
	}
	require.Equal(t, transport.PackFast, c.candidates[c.use])
}

// TestNoTrialInTheDowntime: a guest that stands still does not wait for a trial, and not for one
// that had begun before.
func TestNoTrialInTheDowntime(t *testing.T) {
	c := newPackingChoice(all, 1<<20)
	stats := transport.FrameStats{}
	send := func() (trial bool) {
		var p transport.Packing
		p, trial = c.next(stats)
		stats = frameOf(stats.Frames+1, p, 1<<20, 0, 8)
		return trial
	}
	for !send() {
	}
	c.standstill(true)
	for range 2000 {
		require.False(t, send())
	}
	c.standstill(false) // it was taken back
	for range 3 {
		if send() {
			return
		}
	}
	require.Fail(t, "no trial any more")
}

// TestBufferedTrial: a small frame fits the socket's buffer, so raw content looks free while
// compression is slower than the link. The mistake costs a few frames, and fewer as it is repeated.
func TestBufferedTrial(t *testing.T) {
	const frames = 2000
	c := newPackingChoice(all, 1<<20)
	stats, used := transport.FrameStats{}, map[transport.Packing]int{}
	for range frames {
		p, trial := c.next(stats)
		plain, pack, wire := 1<<20, 2.0, 0.3*8
		switch {
		case p == transport.PackRaw && trial:
			plain, pack, wire = trialBytes, 0, 0.3
		case p == transport.PackRaw:
			pack, wire = 0, 8
		case p == transport.PackSmall:
			pack = 8
		}
		used[p]++
		stats = frameOf(stats.Frames+1, p, plain, pack, wire)
	}
	require.Less(t, used[transport.PackRaw], frames/20)
	require.Greater(t, used[transport.PackFast], frames*9/10)
}

// TestLimitedTrial: with a limit, a raw frame costs its bytes, though the limiter lets it through
// at once after frames that took longer to pack than to send.
func TestLimitedTrial(t *testing.T) {
	c := newPackingChoice(all, 1<<20)
	c.shareLimit(1e9, 1)
	free := frameOf(1, transport.PackRaw, trialBytes, 0, 0.3)
	require.InDelta(t, 8*trialBytes, float64(c.took(free)), 1)
	free.Pack, free.Wire = 100*time.Microsecond, 100
	free.Held, free.Send = time.Second, time.Second+time.Microsecond
	require.Equal(t, 101*time.Microsecond, c.took(free))
}

// play sends frames whose times the caller knows, and returns how much content went with each
// packing.
func play(c *packingChoice, frames int, frame func(i int, p transport.Packing, trial bool) (
	plain int, pack, send float64),
) map[transport.Packing]int {
	stats, sent := transport.FrameStats{}, map[transport.Packing]int{}
	for i := range frames {
		p, trial := c.next(stats)
		plain, pack, send := frame(i, p, trial)
		sent[p] += plain
		stats = frameOf(stats.Frames+1, p, plain, pack, send)
		if p != transport.PackRaw {
			stats.Wire = plain / 4
		}
		if c.shareNS > 0 {
			stats.Held = max(time.Duration(c.shareNS*float64(stats.Wire))-stats.Pack, 0)
			stats.Send += stats.Held
		}
	}
	return sent
}

// gigabitFrame is how long a frame is under a limit of 1 Gbit/s, and what packing it takes, in ns a
// byte: compression pays, and more effort does not.
func gigabitFrame(p transport.Packing, trial bool) (plain int, pack float64) {
	plain = 500_000
	if trial {
		plain = trialBytes
	}
	return plain, map[transport.Packing]float64{
		transport.PackFast: 4, transport.PackSmall: 12,
	}[p]
}

// TestDisturbedFrame: one frame that had to wait for a CPU changes nothing, in use or on trial.
func TestDisturbedFrame(t *testing.T) {
	for _, disturbed := range []int{8, 9, 20, 100, 300} {
		c := newPackingChoice(all, 500_000)
		c.shareLimit(1e9, 1)
		sent := play(c, 1000, func(i int, p transport.Packing, trial bool) (int, float64, float64) {
			plain, pack := gigabitFrame(p, trial)
			if i == disturbed {
				pack += 8e6 / float64(plain) // 8 ms
			}
			return plain, pack, 0.3
		})
		require.Greater(t, sent[transport.PackFast], 9*sent[transport.PackRaw], "%d", disturbed)
	}
}

// TestSlowLimitHasSmallFrames, which count all the same.
func TestSlowLimitHasSmallFrames(t *testing.T) {
	const frame, limit = 50_000, 20e6
	c := newPackingChoice(all, frame)
	c.shareLimit(limit, 1)
	sent := play(c, 500, func(_ int, p transport.Packing, _ bool) (int, float64, float64) {
		ns := map[transport.Packing]float64{
			transport.PackRaw: 400, transport.PackFast: 120, transport.PackSmall: 80,
		}[p]
		return frame, 0, ns
	})
	require.NotZero(t, c.use, "it compresses")
	require.Less(t, sent[transport.PackRaw], 100*frame)
}

// TestTinyRounds: frames of a page say nothing of a packing, and a trial among them ends.
func TestTinyRounds(t *testing.T) {
	c := newPackingChoice(all, 500_000)
	c.shareLimit(1e9, 1)
	frame := func(plain int) func(int, transport.Packing, bool) (int, float64, float64) {
		return func(_ int, p transport.Packing, trial bool) (int, float64, float64) {
			_, pack := gigabitFrame(p, false)
			if plain < 10_000 {
				return plain, pack + 15, 10
			}
			return plain, pack, 0.3
		}
	}
	play(c, 100, frame(400_000))
	require.Equal(t, transport.PackFast, c.candidates[c.use])
	play(c, 400, frame(4096))
	require.Equal(t, transport.PackFast, c.candidates[c.use])
	trials := 0
	play(c, 400, func(i int, p transport.Packing, trial bool) (int, float64, float64) {
		if trial {
			trials++
		}
		return frame(4096)(i, p, trial)
	})
	require.Less(t, trials, 50)
}

// TestUselessCompression: data that does not compress is sent as it is, though a compressor's
// frames find a socket's buffer that has emptied while it packed, and so seem fast at first.
func TestUselessCompression(t *testing.T) {
	c := newPackingChoice(all, 1<<20)
	sent := play(c, 1000, func(_ int, p transport.Packing, trial bool) (int, float64, float64) {
		switch {
		case p == transport.PackRaw:
			return 1 << 20, 0, 8
		case trial:
			return trialBytes, 1.5, 0.3
		}
		return 1 << 20, 1.5, 6.6 // the link takes 8 in all
	})
	require.Greater(t, sent[transport.PackRaw], 4*sent[transport.PackFast])
}

// TestOneProofAtATime: no trial begins before the last winner has proved itself, however many of
// its frames are too small to count. What wins it would be compared with the winner alone, and not
// with what both are slower than.
func TestOneProofAtATime(t *testing.T) {
	c := newPackingChoice(all, 1<<20)
	sent := play(c, 1000, func(i int, p transport.Packing, trial bool) (int, float64, float64) {
		switch {
		case i%2 == 1: // the end of a round
			return 4096, 0, 8
		case p == transport.PackRaw:
			return 1 << 20, 0, 8
		case trial:
			return trialBytes, 1.5, 0.3
		}
		return 1 << 20, 1.5, 6.6
	})
	packed := sent[transport.PackFast] + sent[transport.PackSmall]
	require.Greater(t, sent[transport.PackRaw], 3*packed)
}

// TestDisturbedTrial: a trial that had to wait for a CPU does not count against the next one.
func TestDisturbedTrial(t *testing.T) {
	c, trials := newPackingChoice(all, 500_000), 0
	c.shareLimit(1e9, 1)
	sent := play(c, 1000, func(_ int, p transport.Packing, trial bool) (int, float64, float64) {
		plain, pack := gigabitFrame(p, trial)
		if trial {
			if trials++; trials == 2 { // the first that counts
				pack += 60
			}
		}
		return plain, pack, 0.3
	})
	require.Greater(t, sent[transport.PackFast], 9*sent[transport.PackRaw])
}

// TestShortMigrationHasNoTrial: it would only pay for a compressor's tables.
func TestShortMigrationHasNoTrial(t *testing.T) {
	c := newPackingChoice(all, 1<<20)
	stats, spent, trials := transport.FrameStats{}, time.Duration(0), 0
	for spent < 2*BeforeTrials {
		p, trial := c.next(stats)
		if trial {
			require.GreaterOrEqual(t, spent, BeforeTrials)
			trials++
		}
		stats = frameOf(stats.Frames+1, p, 1<<20, 0, 8)
		spent += stats.Pack + stats.Send
	}
	require.Positive(t, trials)
}

// TestFrameOfAnotherPacking: a frame that was filled before a trial says nothing about what is on
// trial, and one of a trial that the downtime ended says nothing about what is in use.
func TestFrameOfAnotherPacking(t *testing.T) {
	c := newPackingChoice(all, 1<<20)
	stats := transport.FrameStats{}
	send := func(asked transport.Packing, ns float64) (trial bool) {
		stats = frameOf(stats.Frames+1, asked, 1<<20, 0, ns)
		_, trial = c.next(stats)
		return trial
	}
	for !send(transport.PackRaw, 8) {
	}
	require.True(t, send(transport.PackRaw, 1), "the trial goes on")
	require.True(t, send(transport.PackFast, 1), "its tables are set up")
	c.standstill(true)
	require.False(t, send(transport.PackFast, 1))
	require.Len(t, c.pace, 1)
	require.InDelta(t, 8, c.pace[0], 1e-9)
}

// TestWireTellsItsChoice how much a frame holds, and when the guest stands still.
func TestWireTellsItsChoice(t *testing.T) {
	w, err := NewWire(t.Context(), nil, 0, WireConfig{
		Channels:      1,
		Packings:      all,
		Limiter:       transport.NewLimiter(20e6),
		BitsPerSecond: 20e6,
	})
	require.NoError(t, err)
	require.Equal(t, w.sender.FrameData(), w.choice.frame)
	require.Less(t, w.choice.frame, trialBytes, "at that rate")
	w.Begin(Still)
	require.True(t, w.choice.still)
	w.Begin(Running)
	require.False(t, w.choice.still)
}
