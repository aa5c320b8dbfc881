package sim

import (
	"math"
	"time"

	"taskguide/memory"
)

// How frames are built; package transport has the same, and a test compares.
const (
	headerBytes  = 16
	entryBytes   = 8
	maxEntries   = 1000
	maxData      = 1 << 20
	frameTime    = 4 * time.Millisecond
	leastFrame   = 64 << 10
	maxFrameTime = 20 * time.Millisecond

	// beforeTrials is package stream's BeforeTrials, and the test compares it, too.
	beforeTrials = 50 * time.Millisecond
)

// link is the way of frames: a bucket of tokens, as the engine's limiter is, behind a CPU that
// packs them one by one.
type link struct {
	bytesPerS float64 // infinite without a limit
	frame     int     // bytes of pages that a frame carries
	burst     float64
	tokens    float64
	at        time.Duration // of tokens
	costs     Costs
	packs     bool    // pages are compressed
	share     float64 // of a page that goes over the wire, then
	// plain is for how long pages go as they are before they are compressed: the engine has no
	// trial of a compressor before that, and none while the guest stands still.
	plain time.Duration
	still bool
}

func newLink(s Setting, t *Trace) *link {
	l := &link{bytesPerS: math.Inf(1), frame: maxData, costs: s.Costs, share: 1}
	if s.BitsPerSecond > 0 {
		l.bytesPerS = max(float64(s.BitsPerSecond)/8, 1)
		least := min(leastFrame, l.bytesPerS*maxFrameTime.Seconds())
		l.frame = int(min(max(l.bytesPerS*frameTime.Seconds(), least), maxData))
		l.frame = max(l.frame, memory.PageSize)
		l.burst = float64(l.frame + headerBytes + maxEntries*entryBytes)
	}
	raw := max(s.Costs.Page.Seconds(), memory.PageSize/l.bytesPerS)
	packed := max((s.Costs.Page + s.Costs.Pack).Seconds(), t.packed*memory.PageSize/l.bytesPerS)
	if s.Compress == CompressZstd || s.Compress == CompressAuto && packed < 0.9*raw {
		l.packs, l.share = true, t.packed
	}
	if s.Compress == CompressAuto {
		l.plain = beforeTrials
	}
	return l
}

// load is what a frame has to carry.
type load struct {
	content, zero, runs int
}

// bytes is how long the frame is on the wire.
func (l *link) bytes(f load) float64 {
	share := l.share
	if l.plain > 0 {
		share = 1
	}
	return headerBytes + float64(f.runs*entryBytes) + float64(f.content)*memory.PageSize*share
}

// sent is a frame that is gone.
type sent struct {
	done  time.Duration
	bytes float64
	busy  float64 // the part of its time in which it kept a processor busy
}

// send sends a frame from now on.
func (l *link) send(now time.Duration, f load) sent {
	cpu := time.Duration(f.content)*l.costs.Page + time.Duration(f.zero)*l.costs.Zero
	if l.packs && l.plain == 0 {
		cpu += time.Duration(f.content) * l.costs.Pack
	}
	bytes := l.bytes(f)
	s := sent{done: l.take(now+cpu, bytes), bytes: bytes}
	if s.done > now {
		s.busy = float64(cpu) / float64(s.done-now)
	}
	if f.content > 0 && !l.still {
		l.plain = max(l.plain-(s.done-now), 0)
	}
	return s
}

// take takes tokens from the bucket, and returns when there were enough.
func (l *link) take(ready time.Duration, bytes float64) time.Duration {
	if math.IsInf(l.bytesPerS, 1) {
		return ready
	}
	l.tokens = min(l.burst, l.tokens+(ready-l.at).Seconds()*l.bytesPerS)
	l.at = ready
	if l.tokens < bytes {
		wait := time.Duration((bytes - l.tokens) / l.bytesPerS * float64(time.Second))
		l.at, l.tokens = ready+wait, bytes
	}
	l.tokens -= bytes
	return l.at
}
