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

	// clearGain is what packingChoice of package stream asks of a faster encoding.
	clearGain = 0.9

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
	compress  Compress
	vcpus     int
	// packAtFirst is what packing a page took at the trace's first moment, and costs.Pack here.
	packAtFirst time.Duration
	// plain is for how long pages go as they are before they are compressed: the engine has no
	// trial of a compressor before that, and none while the guest stands still.
	plain time.Duration
	still bool
}

func newLink(s Setting, t *Trace) *link {
	l := &link{
		bytesPerS: math.Inf(1), frame: maxData, costs: s.Costs, compress: s.Compress,
		vcpus: t.cpus, packAtFirst: t.first().pack,
	}
	if s.BitsPerSecond > 0 {
		l.bytesPerS = max(float64(s.BitsPerSecond)/8, 1)
		least := min(leastFrame, l.bytesPerS*maxFrameTime.Seconds())
		l.frame = int(min(max(l.bytesPerS*frameTime.Seconds(), least), maxData))
		l.frame = max(l.frame, memory.PageSize)
		l.burst = float64(l.frame + headerBytes + maxEntries*entryBytes)
	}
	if s.Compress == CompressAuto {
		l.plain = beforeTrials
	}
	return l
}

// load is what a frame has to carry.
type load struct {
	content, zero, runs int
	packed              float64       // bytes of its content once they are compressed
	pack                time.Duration // to compress them
}

// add adds so many pages with that content.
func (f *load) add(pages int, is content, l *link) {
	f.content += pages
	f.packed += float64(pages) * is.share * memory.PageSize
	f.pack += time.Duration(pages) * l.packTime(is)
}

// packTime is what compressing a page with that content takes on the setting's host.
func (l *link) packTime(is content) time.Duration {
	if l.packAtFirst == 0 || is.pack == 0 {
		return l.costs.Pack
	}
	took := float64(is.pack) * float64(l.costs.Pack) / float64(l.packAtFirst)
	return time.Duration(min(took, float64(mostOfPage)))
}

// parcel is a frame in one encoding: what it takes of a processor at each end, and on the wire.
type parcel struct {
	send, receive time.Duration
	bytes         float64
}

func (l *link) raw(f load) parcel {
	return parcel{
		send:    time.Duration(f.content)*l.costs.Page + time.Duration(f.zero)*l.costs.Zero,
		receive: time.Duration(f.content) * l.costs.Receive,
		bytes:   f.overhead() + float64(f.content)*memory.PageSize,
	}
}

func (l *link) packed(f load) parcel {
	return parcel{
		send: time.Duration(f.content)*l.costs.Stage + f.pack +
			time.Duration(f.zero)*l.costs.Zero,
		receive: time.Duration(f.content)*l.costs.Receive + f.pack/packToUnpack,
		bytes:   f.overhead() + f.packed,
	}
}

// overhead is how many bytes of a frame are no content.
func (f load) overhead() float64 { return headerBytes + float64(f.runs*entryBytes) }

// seconds is the longer of what a parcel takes of the processor and of the link.
func (l *link) seconds(p parcel) float64 { return max(p.send.Seconds(), p.bytes/l.bytesPerS) }

// alone is how long a parcel takes where nobody takes a processor from it.
func (l *link) alone(p parcel) time.Duration {
	return time.Duration(l.seconds(p) * float64(time.Second))
}

// encode encodes a frame as the engine would. With auto it compresses what is faster so.
func (l *link) encode(f load) parcel {
	raw := l.raw(f)
	if f.content == 0 || l.plain > 0 {
		return raw
	}
	packed := l.packed(f)
	switch l.compress {
	case CompressZstd:
		return packed
	case CompressAuto:
		if l.seconds(packed) < clearGain*l.seconds(raw) {
			return packed
		}
	}
	return raw
}

// sent is a frame that is gone.
type sent struct {
	done     time.Duration
	bytes    float64
	slowdown float64 // the part of its speed that the guest lacked meanwhile
}

// send sends a frame from now on.
func (l *link) send(now time.Duration, f load) sent {
	p := l.encode(f)
	vcpus := l.vcpus
	if l.still {
		vcpus = 0
	}
	s := sent{bytes: p.bytes}
	s.done, l.tokens = l.when(now+p.send, p.bytes)
	guest, takes := l.costs.shares(vcpus, s.done-now, p)
	if late := now + takes - s.done; late > 0 { // tokens come in meanwhile
		s.done += late
		l.tokens = min(l.burst, l.tokens+late.Seconds()*l.bytesPerS)
	}
	s.slowdown, l.at = 1-guest, s.done
	if f.content > 0 && !l.still {
		l.plain = max(l.plain-(s.done-now), 0)
	}
	return s
}

// when returns when the bucket has tokens for a frame that is ready at some time, and how many are
// left then.
func (l *link) when(ready time.Duration, bytes float64) (done time.Duration, left float64) {
	if math.IsInf(l.bytesPerS, 1) {
		return ready, l.tokens
	}
	tokens := min(l.burst, l.tokens+(ready-l.at).Seconds()*l.bytesPerS)
	if tokens < bytes {
		return ready + time.Duration((bytes-tokens)/l.bytesPerS*float64(time.Second)), 0
	}
	return ready, tokens - bytes
}
