package peer

import (
	"time"

	"taskguide/transport"
)

const (
	// ProgressTimeout is how long a peer whose turn it is may be without progress, beyond what it
	// has announced.
	ProgressTimeout = transport.IdleTimeout
	// AnnouncePace is how often the code that waits announces a wait of unknown length again.
	// AnnounceAhead is how long each announcement holds; it is longer, because some may be late.
	AnnouncePace  = 10 * time.Second
	AnnounceAhead = 60 * time.Second
	// Pace is how often a waiting side looks for progress.
	Pace = time.Second

	// A step that touches all RAM (populate, digest) may take workBase and workPerGiB for each GiB,
	// as it does on a host that swaps.
	workBase   = 2 * time.Minute
	workPerGiB = 4 * time.Second
	// BuildAhead is what a destination announces before it knows how large the machine is. The
	// source knows, and bounds the announcement.
	BuildAhead = 15 * time.Minute
)

// WorkLimit is the longest time that a step may take on a machine with ram bytes of RAM. No
// announcement is trusted beyond it.
func WorkLimit(ram int64) time.Duration {
	return workBase + time.Duration(float64(ram)/(1<<30)*float64(workPerGiB))
}

// patience tells whether a peer whose turn it is still makes progress.
type patience struct {
	limit  time.Duration // without progress or announcement
	atMost time.Duration // bounds announcements

	since time.Time // of the last progress, or when the peer's turn began
	seen  int64
}

// newPatience begins with the peer's turn.
func newPatience(limit, atMost time.Duration, progress int64) *patience {
	return &patience{limit: limit, atMost: atMost, since: time.Now(), seen: progress}
}

// over tells whether the peer's time is up. progress grows whenever the peer makes progress; main
// is the connection that carries its announcements.
func (p *patience) over(progress int64, main *transport.Conn) bool {
	now := time.Now()
	if progress > p.seen {
		p.seen, p.since = progress, now
		return false
	}
	last := p.since
	if at, d := main.Announced(); at.Add(min(d, p.atMost)).After(last) {
		last = at.Add(min(d, p.atMost))
	}
	return now.Sub(last) >= p.limit
}
