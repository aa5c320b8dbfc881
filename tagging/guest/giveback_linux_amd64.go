package guest

import (
	"context"
	"runtime/debug"
	"time"
)

// ReportDelay is how long the guest's kernel may take to report memory that a program has given
// back (free page reporting of the balloon): Linux collects reports for two seconds, and then needs
// a moment for them.
const ReportDelay = 3 * time.Second

// GiveBack collects garbage, gives the heap's free memory back to the kernel, and waits until the
// kernel has had time to report it to the host, or until ctx ends. What was reported is not sent by
// a migration. It needs a VM that was started with --balloon reporting; elsewhere it frees memory
// within the guest alone.
//
// The program pays for it with a collection now, and with a page fault for each page that it uses
// again.
func GiveBack(ctx context.Context) {
	debug.FreeOSMemory()
	late := time.NewTimer(ReportDelay)
	defer late.Stop()
	select {
	case <-late.C:
	case <-ctx.Done():
	}
}

// GiveBack is the function of that name, for a program that is asked. It waits for no longer than
// half of the time that is left to say yes.
func (q *Question) GiveBack() {
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if left, ok := q.Left(); ok {
		ctx, cancel = context.WithTimeout(ctx, left/2)
	}
	defer cancel()
	GiveBack(ctx)
}
