// Package redis moves a Debian guest that serves redis between two hosts, and shows that nobody who
// uses it can tell, except by a clock.
//
// # What runs where
//
//	host a                         host b                        both
//	------                         ------                        ----
//	vmm: the guest, or             vmm: waits, or                a bridge with the host's card
//	  waits                          the guest                     and a TAP for vmm
//	the client (folder load)                                     /shared: the guest's disk
//
// The guest has the files of Debian's packages, redis-server and all that it depends on, and
// Debian's kernel. Its root file system, with redis' data, is the disk. Each time the guest moves,
// the disk's ownership and the card's traffic move with it.
//
// # What the client knows
//
// A Client sends one request at a time over one connection, and keeps how long each took. A request
// counts up, by INCR, and writes a key with that number, by SET, so an answer that is not the next
// number shows a request that was lost, carried out twice, or taken back. What a key must hold
// follows from its number. So a second client, which knows only how many requests were answered,
// can check all of them.
//
// # What an answer promises
//
// redis runs with appendfsync always: it answers once the request is in its log and fsync of that
// has returned. vmm ends a guest's flush after fdatasync of the disk's file. So an answer says that
// the request outlives the power of the host. The test ends with the death of the guest's host and
// boots another guest from the disk, which must have every request that was answered.
package redis
