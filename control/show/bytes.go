package show

import (
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// Bytes shows how much of an amount is done, on a terminal only.
type Bytes struct {
	bars *mpb.Progress
	bar  *mpb.Bar

	mu   sync.Mutex
	done int64
}

// NewBytes shows the way to total bytes on w, if w is a terminal.
func NewBytes(w io.Writer, terminal bool, what string, total int64) *Bytes {
	if !terminal {
		return &Bytes{}
	}
	bars := mpb.New(mpb.WithOutput(w))
	bar := bars.New(total, mpb.BarStyle().Lbound("|").Rbound("|"),
		mpb.BarRemoveOnComplete(),
		mpb.BarWidth(32),
		mpb.PrependDecorators(decor.Name(what+" ")),
		mpb.AppendDecorators(decor.CountersKibiByte(" %.0f of %.0f"),
			decor.AverageETA(decor.ET_STYLE_GO, decor.WCSyncSpace)))
	return &Bytes{bars: bars, bar: bar}
}

// Set says how many bytes are done. Any goroutine may call it, and calls may come out of order.
func (b *Bytes) Set(done int64) {
	if b.bar == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if done > b.done {
		b.done = done
		b.bar.SetCurrent(done)
	}
}

// Close erases the bar.
func (b *Bytes) Close() {
	if b.bar == nil {
		return
	}
	b.bar.Abort(true)
	finish(b.bars)
}

// barFlush is how long a bar's last line may take: a terminal that was stopped with Ctrl-S takes
// nothing.
const barFlush = time.Second

// finish waits until bars have drawn their last line.
func finish(bars *mpb.Progress) {
	done := make(chan struct{})
	go func() {
		bars.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(barFlush):
	}
}
