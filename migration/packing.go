package migration

import (
	"time"

	"taskguide/transport"
)

// packingChoice decides, frame by frame, how a worker packs its pages. It knows
// how fast page content got through with each candidate, the time to pack
// included, and uses the fastest: compression is paid for only where the link is
// what one waits for. Now and then it tries another candidate on a small frame; one
// that loses is tried ever less often, so that data that does not compress costs
// next to nothing.
type packingChoice struct {
	candidates []transport.Packing
	use        int             // index of the fastest so far
	pace       map[int]float64 // by candidate: ns a byte of content, smoothed
	trial      int             // index of the candidate on trial, or -1
	turn       int             // whose turn it is to be tried
	until      int64           // frames in use until the next trial
	interval   int64           // of them
	seen       int64           // frames that were learned from
}

const (
	trialBytes       = 128 << 10
	minTrialInterval = 16  // frames
	maxTrialInterval = 512 // frames
	smoothing        = 0.3 // weight of the newest frame of those in use
	trialWeight      = 0.7 // weight of the newest trial: the one before is long ago
	clearGain        = 0.9 // of the pace in use: what is faster than that is worth a change

	// noGain is a pace of raw content, in ns a byte (some 13 Gbit/s), that no
	// compressor reaches: to stage a page and to find out that it compresses well
	// takes as long. Buffers promise it for the first frames of a slow link, too, so
	// it only puts trials off.
	noGain = 0.6
)

func newPackingChoice(mode Compress) *packingChoice {
	c := &packingChoice{pace: make(map[int]float64), trial: -1, interval: minTrialInterval}
	switch mode {
	case CompressNone:
		c.candidates = []transport.Packing{transport.PackRaw}
	case CompressZstd:
		c.candidates = []transport.Packing{transport.PackFast, transport.PackSmall}
	default:
		c.candidates = []transport.Packing{transport.PackRaw, transport.PackFast, transport.PackSmall}
	}
	return c
}

// next learns from the last frame and returns the packing for the next one; trial
// asks for a small frame.
func (c *packingChoice) next(last transport.FrameStats) (p transport.Packing, trial bool) {
	if len(c.candidates) > 1 && last.Frames != c.seen {
		c.seen = last.Frames
		if last.Plain > 0 {
			c.learn(last)
		}
	}
	if c.trial >= 0 {
		return c.candidates[c.trial], true
	}
	return c.candidates[c.use], false
}

func (c *packingChoice) learn(last transport.FrameStats) {
	if c.trial >= 0 {
		if last.Asked == c.candidates[c.trial] {
			c.note(c.trial, last, trialWeight)
			c.endTrial()
		}
		return
	}
	c.note(c.use, last, smoothing)
	if c.until--; c.until < 0 && !c.unbeatable() {
		c.trial = c.nextTurn()
	}
}

func (c *packingChoice) note(candidate int, last transport.FrameStats, weight float64) {
	pace := float64(last.Pack+last.Send) / float64(time.Nanosecond) / float64(last.Plain)
	if old, known := c.pace[candidate]; known {
		pace = weight*pace + (1-weight)*old
	}
	c.pace[candidate] = pace
}

// unbeatable tells whether content goes raw and so fast that no trial can win.
func (c *packingChoice) unbeatable() bool {
	return c.candidates[c.use] == transport.PackRaw && c.pace[c.use] < noGain
}

func (c *packingChoice) endTrial() {
	if c.pace[c.trial] < clearGain*c.pace[c.use] {
		c.use, c.interval = c.trial, minTrialInterval
	} else if len(c.pace) == len(c.candidates) {
		c.interval = min(2*c.interval, maxTrialInterval)
	}
	c.trial, c.until = -1, c.interval
	if len(c.pace) < len(c.candidates) {
		c.until = 0 // first get to know all of them
	}
}

// nextTurn is the next candidate that is not in use.
func (c *packingChoice) nextTurn() int {
	for {
		c.turn = (c.turn + 1) % len(c.candidates)
		if c.turn != c.use {
			return c.turn
		}
	}
}
