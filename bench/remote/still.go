package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// stillness is how long a host may do nothing while it is connected to: it takes no more of the
// program, or its agent does not answer. ssh itself sees only that the host is there.
const stillness = time.Minute

// errStill is of a host that was still for too long.
var errStill = errors.New("it does nothing")

// watch ends a context if nothing is read for a while.
type watch struct {
	still  time.Duration
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

// watchFor makes a context that ends with errStill as its cause after so long, unless a reader of
// the watch reads meanwhile.
func watchFor(ctx context.Context, still time.Duration) (context.Context, *watch) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(still, func() {
		cancel(fmt.Errorf("%w, %v long", errStill, still))
	})
	return ctx, &watch{still, timer, cancel}
}

// stop ends the context without a cause.
func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// reader is a sign of life whenever it is read.
func (w *watch) reader(r io.Reader) io.Reader { return watchedReader{r, w} }

type watchedReader struct {
	io.Reader
	watch *watch
}

func (r watchedReader) Read(p []byte) (int, error) {
	r.watch.timer.Reset(r.watch.still)
	return r.Reader.Read(p)
}
