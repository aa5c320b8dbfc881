package migration

import (
	"time"

	"taskguide/transport"
)

// encodingChoice decides, frame by frame, how a worker packs its pages. With
// CompressAuto it tries the encoding not in use now and then, compares how fast
// page content got through with each, the time to pack included, and uses the
// faster: so compression is paid for only where the link is what one waits for.
type encodingChoice struct {
	mode   Compress
	use    transport.Encoding
	frames int64      // seen in use since the last trial
	seen   int64      // frames sent so far
	pace   [2]float64 // ns a byte of content by encoding, smoothed; 0 unknown
	trying bool
}

const (
	trialEvery = 32  // frames between trials of the other encoding
	smoothing  = 0.3 // weight of the newest frame
	clearGain  = 0.9 // of the other's pace: below it, changing pays
)

func newEncodingChoice(mode Compress) *encodingChoice {
	c := &encodingChoice{mode: mode}
	if mode == CompressZstd {
		c.use = transport.EncodingZstd
	}
	return c
}

// next learns from the last frame and returns the encoding for the next one.
func (c *encodingChoice) next(last transport.FrameStats) transport.Encoding {
	if c.mode != CompressAuto || last.Frames == c.seen {
		if c.trying {
			return c.other()
		}
		return c.use
	}
	c.seen = last.Frames
	if last.Plain > 0 {
		c.learn(last)
	}
	switch {
	case c.trying:
		c.trying = false
		if c.pace[c.other()] < clearGain*c.pace[c.use] {
			c.use = c.other()
		}
	default:
		if c.frames++; c.frames >= trialEvery || c.pace[c.other()] == 0 {
			c.frames, c.trying = 0, true
			return c.other()
		}
	}
	return c.use
}

func (c *encodingChoice) learn(last transport.FrameStats) {
	pace := float64(last.Pack+last.Send) / float64(time.Nanosecond) / float64(last.Plain)
	if old := c.pace[last.Asked]; old > 0 {
		pace = smoothing*pace + (1-smoothing)*old
	}
	c.pace[last.Asked] = pace
}

func (c *encodingChoice) other() transport.Encoding {
	return transport.EncodingZstd - c.use
}
