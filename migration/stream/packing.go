package stream

import (
	"time"

	"taskguide/transport"
)

// packingChoice decides, frame by frame, how a worker packs its pages. It knows how fast page
// content got through with each candidate, including the time to pack, and uses the fastest:
// compression pays only where the link is the bottleneck. Now and then it tries, on a small frame,
// a candidate that takes one step more or less effort. A candidate that loses is tried less and
// less often, so that data that does not compress costs next to nothing. One that wins, and then is
// slower than what it replaced, is given up at once: a few small frames fit a socket's buffer.
type packingChoice struct {
	candidates []transport.Packing        // by effort
	use        int                        // index of the fastest so far
	pace       map[int]float64            // by candidate: ns a byte of content, smoothed
	warm       map[transport.Packing]bool // compressors that have set up their tables
	before     int                        // index of what use must prove to beat, or -1
	proving    int64                      // frames in use until it has
	trial      int                        // index of the candidate on trial, or -1
	less       bool                       // the next trial is of a candidate with less effort
	spent      time.Duration              // on frames so far
	until      int64                      // frames in use until the next trial
	interval   int64                      // frames between trials
	waited     int64                      // interval before the trial that use has won
	seen       int64                      // frames that were learned from
	shareNS    float64                    // ns a byte on the wire, by the limit; 0: none
	frame      int                        // bytes of content that a frame may have
	tries      int                        // frames of the trial that do not count
	still      bool                       // the guest stands still
}

const (
	trialBytes       = 128 << 10
	mostTries        = 4 // frames on trial that do not count, until the trial ends without a result
	provingFrames    = 16
	minTrialInterval = 16  // frames
	maxTrialInterval = 512 // frames
	smoothing        = 0.3 // weight of the newest frame of those in use
	trialWeight      = 0.7 // weight of the newest trial; the one before is old
	clearGain        = 0.9 // of the pace in use: a faster candidate is worth a change

	// noGain is a pace of raw content, in ns per byte (some 7 Gbit/s), that compressors do not
	// beat: staging and packing pages takes as long, even if they compress well (BenchmarkEncode).
	// Buffers also show this pace for the first frames of a slow link, so it only delays trials.
	noGain = 1.2
)

// BeforeTrials is how long a worker sends before its first trial, because a compressor must set up
// tables, and a short migration would only pay for them.
const BeforeTrials = 50 * time.Millisecond

// newPackingChoice returns a choice for frames of at most so many bytes of content.
func newPackingChoice(candidates []transport.Packing, frame int) *packingChoice {
	return &packingChoice{
		frame:      frame,
		candidates: candidates,
		pace:       make(map[int]float64),
		warm:       make(map[transport.Packing]bool),
		before:     -1,
		trial:      -1,
		interval:   minTrialInterval,
	}
}

// shareLimit says that channels share a limit, in bit/s. How long the limiter held a frame is not
// what that frame costs: it serves channels in turn, and lets a frame through at once if the ones
// before took longer to pack than to send. So the frame's part of the limit is computed, not
// measured.
func (c *packingChoice) shareLimit(bitsPerSecond int64, channels int) {
	if bitsPerSecond > 0 {
		c.shareNS = 8e9 * float64(channels) / float64(bitsPerSecond)
	}
}

// standstill says whether the guest stands still. Then it would wait for a trial, and for the
// tables of a compressor. A frame on trial that was not learned from yet is forgotten.
func (c *packingChoice) standstill(is bool) {
	c.still = is
	if is && c.trial >= 0 {
		c.less = !c.less // it is that side's turn again
		c.trial, c.until = -1, 0
	}
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
		c.learnTrial(last)
		return
	}
	if last.Asked != c.candidates[c.use] {
		return
	}
	if c.counts(last) {
		c.note(c.use, last, smoothing)
		c.prove()
	}
	c.spent += last.Pack + last.Send
	if c.until--; c.until < 0 && c.mayTry() {
		c.trial, c.tries = c.nextTurn(), 0
	}
}

// mayTry tells whether a trial would help: not while the one before is still to be proved.
func (c *packingChoice) mayTry() bool {
	return c.before < 0 && c.spent >= BeforeTrials && !c.unbeatable() && !c.still
}

// learnTrial learns from a frame on trial. Rounds whose frames are too small have no trials.
func (c *packingChoice) learnTrial(last transport.FrameStats) {
	if last.Asked == c.candidates[c.trial] && c.counts(last) {
		c.note(c.trial, last, trialWeight)
		c.endTrial()
		return
	}
	if c.tries++; c.tries == mostTries {
		c.trial, c.until = -1, c.interval
	}
}

// counts tells whether a frame says how fast its packing is. A small one, at a round's end, says
// little. A compressor sets up its tables in its first frame, for many times what packing takes.
func (c *packingChoice) counts(last transport.FrameStats) bool {
	if last.Plain < min(trialBytes, c.frame)/2 {
		return false
	}
	if last.Asked != transport.PackRaw && !c.warm[last.Asked] {
		c.warm[last.Asked] = true
		return false
	}
	return true
}

// prove goes back to the packing before the one in use if that was faster, or if the one in use
// takes more effort and turns out to gain nothing by it. It judges the first frames only: later,
// the link or the content may have changed, and a trial is what tells.
func (c *packingChoice) prove() {
	if c.before < 0 {
		return
	}
	c.proving--
	slower := c.pace[c.before] < clearGain*c.pace[c.use]
	useless := c.before < c.use && c.pace[c.use] > clearGain*c.pace[c.before]
	if slower || c.proving <= 0 && useless {
		c.use = c.before
		c.interval = min(2*c.waited, maxTrialInterval)
		c.until, c.proving = c.interval, 0
	}
	if c.proving <= 0 {
		c.before = -1
	}
}

// note enters a frame into the pace of a candidate. A trial that is faster than the one before
// counts by itself, because what disturbs a frame only makes it slower.
func (c *packingChoice) note(candidate int, last transport.FrameStats, weight float64) {
	pace := float64(c.took(last)) / float64(time.Nanosecond) / float64(last.Plain)
	old, known := c.pace[candidate]
	if known && !(c.trial >= 0 && pace < old) {
		pace = weight*pace + (1-weight)*old
	}
	c.pace[candidate] = pace
}

// took is how long a frame occupies its channel: without a limit what was measured, and with one
// the longer of two times: its own work, and its share of the limit if all channels packed like
// this.
func (c *packingChoice) took(last transport.FrameStats) time.Duration {
	if c.shareNS == 0 {
		return last.Pack + last.Send
	}
	own := last.Pack + last.Send - last.Held
	return max(own, time.Duration(c.shareNS*float64(last.Wire)))
}

// unbeatable tells whether raw content gets through so fast that no trial can win.
func (c *packingChoice) unbeatable() bool {
	return c.candidates[c.use] == transport.PackRaw && c.pace[c.use] < noGain
}

func (c *packingChoice) endTrial() {
	won := c.pace[c.trial] < clearGain*c.pace[c.use]
	if won {
		c.less = c.trial < c.use // further in that direction
		c.before, c.proving, c.waited = c.use, provingFrames, c.interval
		c.use, c.interval = c.trial, minTrialInterval
	} else {
		c.interval = min(2*c.interval, maxTrialInterval)
	}
	c.trial, c.until = -1, c.interval
}

// nextTurn returns the candidate to try next.
func (c *packingChoice) nextTurn() int {
	n := c.neighbour()
	c.less = !c.less
	return n
}

// neighbour returns a candidate next to the one in use, on the side whose turn it is if there is
// one.
func (c *packingChoice) neighbour() int {
	if c.use > 0 && (c.less || c.use == len(c.candidates)-1) {
		return c.use - 1
	}
	return c.use + 1
}
