// Package sim replays recorded traces of dirty pages through the policies that lead real
// migrations, in virtual time. It answers what a move of the recorded guest would have cost under
// another policy, at another bandwidth, with more RAM.
//
// # What is the engine's, and what is a model
//
// The decisions are the engine's: each simulated move has a [policy.Head] of its own, which is told
// the events that the engine would tell it, and is obeyed. A model stands for the hands: rounds,
// link, guest. It is pure. It reads no clock, starts nothing and has no randomness but a seed, so
// the same trace, order and moment always give the same move.
//
//	trace ► Guest (who writes which page when) ─┐
//	                                            ├► walk ◄─► policy.Head
//	Setting ► link (what a frame takes) ────────┘    │
//	                                                 └► Move
//
// # Rounds
//
// A round is a snapshot of the dirty set, sent in frames in ascending order of pages. Pages written
// meanwhile make the next round. With the trait skip, a page that was seen to be dirty again is
// left to the next round; the log is looked at every 20 ms. A tracker that protects on demand
// reports a page of the round only if it was written after its protection. A zero page costs its
// share of a frame's table; a page of content costs 4096 bytes, or what pages compressed to, in the
// trace's samples, when it was last written. A round lasts until the link has taken all of it, a
// round trip longer.
//
// # The moment within an interval
//
// A trace says in which interval a page was written, and not when. Here each page of an interval is
// written once, at a moment of it that follows from a hash of page and interval. So a round that is
// shorter than the trace's interval sees its share of the pages. A page that was also written in
// the intervals before and after is taken to be written all the time: eight times an interval.
// Intervals of less than half the length ordered, as a trace's last one may be, are passed over.
//
// # What is not modelled
//
// A guest is slowed down by the processors that its pages take, and by nothing else: faults and
// caches are not modelled. The simulated guest writes what it wrote while it was recorded, less the
// writes that it has no processor for ([Costs].Processors). Recording costs a fault for each page
// in each interval, as a migration does, so the trace has a part of it. Disks, devices that take
// time to drain, delta, and links that lose packets are not modelled either.
//
// # Files
//
//	trace.go      a trace in memory, and how it grows to more RAM
//	content.go    what its pages compress to, and when
//	guest.go      the guest of a move: what it writes, and when its gate changes
//	terms.go      what an order was, in words that can be compared
//	setting.go    the conditions of a move, and what its parts cost
//	link.go       how long bytes take
//	processors.go how the guest and both ends share a host's processors
//	move.go       a simulated move, and its outcome
//	walk.go       the hands: rounds, waits, the gate
//	frames.go     the pages of a round
//	standstill.go the stop-and-copy
//	oracle.go     the best moment there was
//	compare.go    policies side by side, at many moments
//	generate.go   traces that nobody recorded
//	validated.go  what was compared with real moves
package sim
