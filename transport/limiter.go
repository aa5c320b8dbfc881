package transport

import (
	"context"
	"time"

	"golang.org/x/time/rate"

	"taskguide/memory"
)

const (
	// A frame lasts about frameTime, so that the stream is smooth and stops promptly,
	frameTime = 4 * time.Millisecond
	// but has minFrame bytes or more, so that the frames themselves cost nothing,
	minFrame = 64 << 10
	// unless it lasted longer than maxFrameTime: what is begun must be sent.
	maxFrameTime = 20 * time.Millisecond
)

// Limiter keeps the sum of all channels of a migration below a rate. A nil Limiter sets no limit.
type Limiter struct {
	bucket *rate.Limiter
	frame  int
}

// NewLimiter returns a limiter for a rate in bit/s; 0 means none.
func NewLimiter(bitsPerSecond int64) *Limiter {
	if bitsPerSecond <= 0 {
		return nil
	}
	bytesPerSecond := max(float64(bitsPerSecond)/8, 1)
	least := min(minFrame, bytesPerSecond*maxFrameTime.Seconds())
	frame := int(max(min(max(bytesPerSecond*frameTime.Seconds(), least), MaxData), memory.PageSize))
	burst := frame + headerSize + MaxEntries*entrySize
	l := &Limiter{bucket: rate.NewLimiter(rate.Limit(bytesPerSecond), burst), frame: frame}
	// Begin with an empty bucket: a short migration must not exceed the rate either.
	l.bucket.AllowN(time.Now(), burst)
	return l
}

// FrameData is the most data, in bytes, that a frame should carry at this rate. It is at least a
// page.
func (l *Limiter) FrameData() int {
	if l == nil {
		return MaxData
	}
	return l.frame
}

// FrameTime is how long the largest frame takes at this rate, or 0 without a limit.
func (l *Limiter) FrameTime() time.Duration {
	if l == nil {
		return 0
	}
	seconds := float64(l.bucket.Burst()) / float64(l.bucket.Limit())
	return time.Duration(seconds * float64(time.Second))
}

// Wait blocks until n bytes may be sent.
func (l *Limiter) Wait(ctx context.Context, n int) error {
	if l == nil {
		return ctx.Err()
	}
	for n > 0 {
		part := min(n, l.bucket.Burst())
		if err := l.bucket.WaitN(ctx, part); err != nil {
			return err
		}
		n -= part
	}
	return nil
}
