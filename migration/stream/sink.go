package stream

import "context"

// Sink takes the pages of one channel. Within a round they come in ascending order, and
// a later round brings newer versions of some of them.
//
// One goroutine at a time calls its methods, except Sent and Queued, which any goroutine may call.
type Sink interface {
	// Begin says that a round begins, and whether the guest waits for its end.
	Begin(guest Guest)
	// Ready makes the sink ready for more pages. It returns how many pages it takes without
	// completing more than one frame, or other unit of writing.
	Ready(ctx context.Context) (pages int, err error)
	// Zeros takes a run of zero pages.
	Zeros(ctx context.Context, first, count int) error
	// Content takes a run of pages, whose bytes are mem: guest RAM, which may change until Flush
	// returns. It returns how many of them it sends as deltas.
	Content(ctx context.Context, first int, mem []byte) (deltas int, err error)
	// Flush writes what the sink still holds.
	Flush(ctx context.Context) error
	// Sent is how many bytes were written, and Queued how many of them still wait on this side for
	// the link.
	Sent() int64
	Queued() int64
	// Close frees what the sink holds, whether or not all of it was written.
	Close() error
}
