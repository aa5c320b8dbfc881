package control

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// hearer ends a request if its server is silent for too long while somebody waits.
type hearer struct {
	ctx      context.Context //nolint:containedctx // of one request, which outlives its call
	cancel   context.CancelCauseFunc
	patience time.Duration // 0: without limit
	timer    *time.Timer   // nil: without limit

	mu    sync.Mutex // guards what follows
	due   time.Time  // when the timer fires, if it is on time
	looks int        // that are left; 0: nobody waits
}

// looksOfPatience is in how many parts a wait is. One that ends late was not the server's: this
// program itself did not run, for it was stopped, or its host was.
const looksOfPatience = 4

// hearing makes a hearer of a request to come.
func hearing(ctx context.Context, patience time.Duration) *hearer {
	h := &hearer{patience: patience}
	h.ctx, h.cancel = context.WithCancelCause(ctx)
	if patience > 0 {
		h.timer = time.AfterFunc(patience, h.look)
		h.timer.Stop()
	}
	return h
}

// begin starts the wait. A client that is busy elsewhere does not wait, so that only the server's
// silence counts.
func (h *hearer) begin() {
	if h.timer == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.looks = looksOfPatience
	h.arm()
}

// arm begins a part of the wait; mu is held.
func (h *hearer) arm() {
	part := h.patience / looksOfPatience
	h.due = time.Now().Add(part)
	h.timer.Reset(part)
}

// look ends a part of the wait, and with the last one the request.
func (h *hearer) look() {
	h.mu.Lock()
	defer h.mu.Unlock()
	late := time.Since(h.due) > h.patience/looksOfPatience
	switch {
	case h.looks == 0, time.Now().Before(h.due): // of a wait that has ended
	case late:
		h.looks = looksOfPatience
		h.arm()
	case h.looks == 1:
		h.cancel(ErrNotAnswering)
	default:
		h.looks--
		h.arm()
	}
}

// heard ends the wait, and returns err or the reason why the request was ended.
func (h *hearer) heard(err error) error {
	if h.timer != nil {
		h.mu.Lock()
		h.looks = 0
		h.timer.Stop()
		h.mu.Unlock()
	}
	if err != nil && errors.Is(context.Cause(h.ctx), ErrNotAnswering) {
		return ErrNotAnswering
	}
	return err
}

// end frees the request's context.
func (h *hearer) end() { h.cancel(nil) }

// heardBody is the body of an answer. Each Read waits for the server.
type heardBody struct {
	io.ReadCloser
	hearer *hearer
}

func (b *heardBody) Read(p []byte) (int, error) {
	b.hearer.begin()
	n, err := b.ReadCloser.Read(p)
	return n, b.hearer.heard(err)
}

func (b *heardBody) Close() error {
	defer b.hearer.end()
	return b.ReadCloser.Close()
}
