// Package relay makes a loopback as slow to answer as a long link. A Relay forwards TCP
// connections, and each byte leaves it half of a round trip after it came.
//
// # A delay line
//
// Each direction of a connection is a line: a ring of bytes, filled by one goroutine and emptied
// by another. What one read brings gets a mark with the time at which it is due. The emptying side
// waits until then and writes it. So a line delays, and does not limit the bandwidth: the next
// bytes are read while the last ones wait.
//
// A ring holds what a fast link sends in the delay (bandwidth times delay). If it is full, because
// the receiver takes less than the sender sends, nothing more is read, and TCP holds the sender
// back.
//
// # What ends a connection
//
// An end of input comes out of the line behind the bytes before it, and closes only that direction
// (half-close). An error comes out likewise, and resets both sides: what is behind a lost
// connection is lost, as on a link.
//
// # What it does not imitate
//
// TCP itself ends at the relay. So its windows, its congestion control and its own measurement of
// the round trip (TCP_INFO) are those of a loopback. A connection is there at once, where a link
// takes a round trip for it. Only what the programs themselves ask and answer is late.
package relay
