package control

import (
	"context"
	"errors"
	"io"
	"time"
)

// hearer ends a request if its server is silent for too long while somebody waits.
type hearer struct {
	ctx      context.Context //nolint:containedctx // of one request, which outlives its call
	cancel   context.CancelCauseFunc
	patience time.Duration // 0: without limit
	timer    *time.Timer   // nil: without limit
}

// hearing makes a hearer of a request to come.
func hearing(ctx context.Context, patience time.Duration) *hearer {
	h := &hearer{patience: patience}
	h.ctx, h.cancel = context.WithCancelCause(ctx)
	if patience > 0 {
		h.timer = time.AfterFunc(patience, func() { h.cancel(ErrNotAnswering) })
		h.timer.Stop()
	}
	return h
}

// begin starts the wait. A client that is busy elsewhere does not wait, so that only the server's
// silence counts.
func (h *hearer) begin() {
	if h.timer != nil {
		h.timer.Reset(h.patience)
	}
}

// heard ends the wait, and returns err or the reason why the request was ended.
func (h *hearer) heard(err error) error {
	if h.timer != nil {
		h.timer.Stop()
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
