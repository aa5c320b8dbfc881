package peer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"taskguide/transport"
)

// Watch ends an attempt whose source makes no progress while it is its turn.
type Watch struct {
	links *Links
	end   context.CancelCauseFunc

	mu       sync.Mutex // guards everything below
	patience *patience  // nil while it is not the source's turn
	atMost   time.Duration
}

// NewWatch watches links until ctx ends, and passes to end what is wrong.
func NewWatch(ctx context.Context, links *Links, end context.CancelCauseFunc) *Watch {
	w := &Watch{links: links, end: end, atMost: workBase}
	go func() {
		look := time.NewTicker(Pace)
		defer look.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-look.C:
				w.look()
			}
		}
	}()
	return w
}

func (w *Watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.patience != nil && w.patience.over(w.links.Progress(), w.links.Main()) {
		w.end(fmt.Errorf("%w: no progress of the source's for %v",
			transport.ErrTimeout, ProgressTimeout))
	}
}

// Knows tells the size of the machine's RAM in bytes, which bounds what the source may announce.
func (w *Watch) Knows(ram int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.atMost = WorkLimit(ram)
}

// Theirs begins the source's turn, Ours ends it.
func (w *Watch) Theirs() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.patience = newPatience(ProgressTimeout, w.atMost, w.links.Progress())
}

// Ours begins this side's turn.
func (w *Watch) Ours() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.patience = nil
}
