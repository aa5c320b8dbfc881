// Package transport moves a machine's pages and messages between two hosts: how
// bytes look on the wire, and how they get there without being copied. It has no
// policy: the migration engine says what is sent, when, and in which encoding.
//
// # Connections
//
// A migration uses one or more connections (channels). Each begins with a Hello and its answer,
// which carry a magic number, the protocol version, the migration's random id and the channel's
// number. A peer that does not speak the protocol, or no common version of it, is told so and
// refused. After the greeting, everything is a frame.
//
// # Who is at the other end
//
// [Security] says how connections are protected. Without TLS, they stay within the host. The check
// is on the address that is connected to or bound, after names are resolved. With TLS, both sides
// have a certificate of a common CA, and a destination can say which names may send. [Peer] is who
// connects, as far as the connection tells.
//
// # Frames
//
// A frame is a 16-byte header and a payload. The header carries its own CRC-32C, so that a receiver
// notices at the first header when a stream is out of step, and never takes its bytes for pages.
//
//	 0        1          2         4            8       12
//	+--------+----------+---------+------------+-------+---------+----------...
//	| type   | encoding | entries | length     | arg   | CRC-32C | payload
//	+--------+----------+---------+------------+-------+---------+----------...
//	  uint8    uint8      uint16    uint32       uint32  uint32    length bytes
//
// A pages frame carries a table of runs, then the content of the runs that have
// any, back to back:
//
//	table[entries]: uint64 = page (bits 0-31) | count (32-55) | kind (56-63)
//	data:           count*4096 bytes for each run of kind content, none for zero,
//	                count deltas, each behind its length, for kind delta
//
// A page is in a frame at most once: a receiver may apply the runs of a frame in
// any order.
//
// # Zero copy
//
// The sender gathers header, table and slices of guest RAM into one writev; the
// receiver scatters the data with readv straight into guest RAM. The kernel makes
// the only copies there are. A compressed frame (encoding zstd) is staged first,
// because a live page changes while a compressor looks at it. Its arg is the length of
// the data before compression.
//
// # Order
//
// Two connections can deliver two versions of a page in the wrong order. ChannelOf
// binds every page to one channel for the whole migration, so that versions of a
// page never overtake each other, and no barrier between rounds is needed.
package transport
