// Package peer is the other end of a migration, as this end knows it: the connections to it, how
// long it may be silent, and what became of a guest that was handed to it.
//
// # Both ends
//
// [Links] are a migration's connections, one per channel. The source opens them, and the
// destination adds them as they come. Channel 0 also carries messages.
//
// # A source's
//
// [Peer] dials and greets, sends messages, and waits for those of the destination. The greeting
// settles the [transport.Terms] of the whole migration, which must be the same for each connection.
//
// [Doubt] begins with the commit. From there on only the destination can tell whether the guest
// runs, and the connection on which it would say so may break. So Doubt asks over new ones, by
// query and by fence, for as long as it does not know. docs/protocol.md, "Handover", has the rule
// that both ends follow, and clock.go the times in it.
//
// # A destination's
//
// [Watch] ends an attempt whose source makes no progress while it is its turn.
//
// # Liveness
//
// Liveness is progress of the protocol: bytes that carry content from the side whose turn it is.
// Keep-alives only show that a connection exists. So a side that waits on purpose, or works for
// long, announces how long that may take, and is trusted for that time only.
//
// # Files
//
//	links.go      the connections, of either end
//	peer.go       what a source tells its destination, and how it waits for it
//	patience.go   how long the other end may make no progress
//	watch.go      the same for a destination, which waits in many places
//	doubt.go      what became of the guest after the commit
//	clock.go      the times by which both ends give a handover up
//
// # Locks
//
// All locks but Watch.mu are leaves: nothing waits, and nothing outside is called, while one of
// them is held.
//
//	Links.mu
//	Peer.mu
//	Doubt.mu
//	Watch.mu    calls the attempt's cancel function, which does not wait
//	└── Links.mu
package peer
