package peer

import (
	"sync"

	"taskguide/transport"
)

// Links are the connections of one migration, by channel. The zero value has none.
type Links struct {
	mu    sync.Mutex        // guards conns; a leaf
	conns []*transport.Conn // replaced as a whole; nil: the channel has not come yet
}

// Put adds a channel's connection.
func (l *Links) Put(channel int, c *transport.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	conns := make([]*transport.Conn, max(len(l.conns), channel+1))
	copy(conns, l.conns)
	conns[channel] = c
	l.conns = conns
}

// All are the connections so far, by channel. Nobody changes the slice any more.
func (l *Links) All() []*transport.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conns
}

// Main is channel 0's connection, which also carries messages.
func (l *Links) Main() *transport.Conn { return l.All()[0] }

// Queued is how many of the bytes sent are still on this side, over all connections.
func (l *Links) Queued() int64 { return l.sum((*transport.Conn).Queued) }

// Sent is how many bytes were sent over all connections.
func (l *Links) Sent() int64 { return l.sum((*transport.Conn).BytesSent) }

// Progress is the other end's progress on all connections together, because a channel may have
// nothing to carry while another one is busy.
func (l *Links) Progress() int64 { return l.sum((*transport.Conn).Progress) }

func (l *Links) sum(of func(*transport.Conn) int64) int64 {
	sum := int64(0)
	for _, c := range l.All() {
		if c != nil {
			sum += of(c)
		}
	}
	return sum
}

// Close closes all connections.
func (l *Links) Close() {
	for _, c := range l.All() {
		if c != nil {
			c.Close()
		}
	}
}
