// Package stream sends a running guest's memory in rounds.
//
// A round sends the pages that were dirty when it began, while the guest goes on
// writing. What it writes meanwhile makes the next round. Two sets of pages carry that:
//
//	pending   what is to be sent; a round takes pages out of it as it sends them
//	next      what the dirty log reported since the round began, less what the round
//	          protects and sends after that
//
//	StartTracking   pending = all pages with content
//	Begin, Send     pending shrinks; what a Stop leaves in it stays there
//	TakeDirty       pending += next + what the dirty log has; next is empty
//	Begin, Send     ...
//
// # Channels
//
// Each channel has a worker and a [Sink], and each page belongs to one channel for as long as the
// stream lives (transport.ChannelOf), so that versions of a page cannot overtake each other.
// Channels own whole words of the bitmaps: during a round each worker changes its own words of
// pending, and nothing else touches it. Between rounds pending belongs to the engine's goroutine.
//
// # Packing
//
// A sink decides how pages look on the wire. That of a connection ([Wire]) tries compressors on
// small frames, and goes by how fast content got through. [Sink].Begin tells it whether the guest
// waits for the round: then it tries nothing, because the guest would wait for that, too.
//
// # Declared pages
//
// The guest may declare pages to be not worth moving ([Config].Declared). They are put aside, out
// of both sets, at each look at the dirty log, and come back into pending when they are not
// declared any more. See aside.
//
// # Protection
//
// The order is harvest, protect, read. Then a write that comes between harvest and read is in the
// log again. Most trackers protect at the harvest. With one that leaves protection to its user
// ([dirtylog.Tracker].OnDemand), each stretch of pages is protected just before its worker reads
// it, so that a page that was written in between is sent once. Its log reports a page until then:
// pages of the round that are not protected yet are in both the round and the log, and those
// protected and not yet sent are in neither. Remaining counts each once.
//
// When the guest stands still nothing is protected, because nobody writes and it would cost
// downtime.
//
// # Files
//
//	stream.go     Stream: channels, and a round from its begin to its end
//	tracking.go   the dirty log: what it reports, and what remains to be sent
//	aside.go      pages that the guest declares to be not worth moving
//	worker.go     one channel's pages of a round
//	protect.go    protection of pages just before they are read
//	progress.go   how far a round has come
//	rate.go       how fast it got through
//	sink.go       where pages go
//	wire.go       the sink that is a connection
//	packing.go    whether to compress, learned frame by frame
//
// # Locks
//
//	guard.mu                one protection at a time
//	└── Stream.track        the dirty log, next, and what was put aside
//	    ├── progress.mu     what does not change during a round
//	    └── Config.Declared takes locks of the caller's
//	rateMeter.mu
//
// # Cost
//
// Nothing here allocates per page. The cost of TakeDirty and of a round in the downtime grows with
// the dirty pages, not with RAM.
package stream
