package stream

import (
	"sync"
	"time"

	"taskguide/memory"
)

// rateWorthPages is how many pages of content make a round's rate worth believing.
const rateWorthPages = 256

// Rate is how fast the stream gets through, in bytes a second; 0 while that is not known.
type Rate struct {
	Content float64 // of page content
	Wire    float64 // of the same content, as sent
}

// rateMeter learns the rate from rounds. A round lasts until the peer's kernel has all of it, so
// filling buffers does not raise the rate; bytes still queued when a decision is due are counted
// separately. A round of few pages counts only until a larger one was seen.
type rateMeter struct {
	mu    sync.Mutex // guards everything below
	rate  Rate
	pages int64 // how many pages the rate was learned from
}

// learn takes the rate from a round that the link has taken.
func (m *rateMeter) learn(pages, wire int64, elapsed time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if pages > 0 && pages >= min(rateWorthPages, m.pages) {
		m.pages = pages
		m.rate.Content = PerSecond(float64(pages*memory.PageSize), elapsed)
		m.rate.Wire = PerSecond(float64(wire), elapsed)
	}
}

// doubt takes the rate of content from a round that the link did not take, or took late. The next
// round replaces it, however small that round is.
func (m *rateMeter) doubt(pages int64, elapsed time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if pages > 0 {
		m.rate.Content = PerSecond(float64(pages*memory.PageSize), elapsed)
		m.pages = 0
	}
}

func (m *rateMeter) now() Rate {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rate
}

// PerSecond returns n per second of d. It is finite even if the clock cannot resolve d.
func PerSecond(n float64, d time.Duration) float64 {
	return n / max(d, time.Microsecond).Seconds()
}
