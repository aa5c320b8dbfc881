package migration

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration/peer"
	"taskguide/transport"
)

// impostor dials something that greets like a destination and then does as it
// pleases.
func impostor(b *ends, f func(nc net.Conn, c *transport.Conn)) {
	b.dial = func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			if _, err := transport.ReadHello(far); err != nil {
				return
			}
			f(far, transport.NewConn(far))
		}()
		return near, nil
	}
}

// TestImpostors: whatever a destination does or leaves undone, the migration ends
// in time and the guest stays.
func TestImpostors(t *testing.T) {
	read := func(c *transport.Conn) (h transport.Header) {
		h, err := c.Next()
		if err == nil {
			_, err = c.ReadMessage(h)
		}
		if err != nil {
			return transport.Header{}
		}
		return h
	}
	for name, test := range map[string]struct {
		do    func(nc net.Conn, c *transport.Conn)
		error string
		took  time.Duration
	}{
		"does not welcome": {
			func(nc net.Conn, _ *transport.Conn) { io.Copy(io.Discard, nc) },
			"greet the destination", transport.DialTimeout,
		},
		"never accepts": {func(nc net.Conn, c *transport.Conn) {
			transport.WriteWelcome(nc, transport.Terms{Version: transport.Version})
			read(c)
			c.KeepAlive(context.Background())
		}, "does not answer within 30s", peer.ProgressTimeout},
		"falls silent": {func(nc net.Conn, c *transport.Conn) {
			transport.WriteWelcome(nc, transport.Terms{Version: transport.Version})
			io.Copy(io.Discard, nc)
		}, "does not answer ", transport.IdleTimeout},
		"says something else": {func(nc net.Conn, c *transport.Conn) {
			transport.WriteWelcome(nc, transport.Terms{Version: transport.Version})
			read(c)
			c.WriteMessage(transport.TypePrepared, 0, nil)
			c.KeepAlive(context.Background())
		}, "message of type 6 where 2 was due", 0},
		"says too much": {func(nc net.Conn, c *transport.Conn) {
			transport.WriteWelcome(nc, transport.Terms{Version: transport.Version})
			read(c)
			for c.WriteMessage(transport.TypeAccept, 0, nil) == nil {
			}
		}, "more messages than anybody asked for", 0},
		"sends pages": {func(nc net.Conn, c *transport.Conn) {
			transport.WriteWelcome(nc, transport.Terms{Version: transport.Version})
			read(c)
			raw := transport.NewSender(c, nil)
			raw.Zeros(context.Background(), 0, 1)
			raw.Flush(context.Background())
			c.KeepAlive(context.Background())
		}, "pages where a message was due", 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEnds(t, idle)
				defer b.close()
				b.m.start()
				impostor(b, test.do)
				s := b.source(Params{})
				r := s.Run(context.Background())
				b.checkStays(s, r)
				require.Equal(t, StatusFailed, r.Status)
				require.Contains(t, r.Error, test.error)
				require.InDelta(t, ms(test.took), r.TotalMS, 3000)
			})
		})
	}
}

// TestCancelEndsWaitsForThePeer: a cancellation does not wait for a peer that is
// silent or takes nothing.
func TestCancelEndsWaitsForThePeer(t *testing.T) {
	for name, do := range map[string]func(net.Conn, *transport.Conn){
		"greeting": func(nc net.Conn, _ *transport.Conn) { io.Copy(io.Discard, nc) },
		"writing": func(nc net.Conn, c *transport.Conn) {
			transport.WriteWelcome(nc, transport.Terms{Version: transport.Version})
			for {
				h, err := c.Next()
				if err != nil {
					return
				}
				if h.Type == transport.TypePages {
					time.Sleep(10 * time.Second)
				}
				c.ReadMessage(h)
				if h.Type == transport.TypeConfig {
					c.WriteMessage(transport.TypeAccept, 0, nil)
				}
			}
		},
	} {
		for channels := 1; channels <= 2; channels++ {
			synctest.Test(t, func(t *testing.T) {
				b := newEnds(t, idle)
				defer b.close()
				b.m.touch(4000)
				b.m.start()
				impostor(b, do)
				s := b.source(Params{Compress: CompressNone, Channels: channels})
				ctx, cancel := context.WithCancelCause(context.Background())
				time.AfterFunc(time.Second, func() { cancel(ErrCancelled) })
				r := s.Run(ctx)
				b.checkStays(s, r)
				require.Equal(t, StatusCancelled, r.Status)
				require.InDelta(t, 1000, r.TotalMS, 1, "%s on %d channels", name, channels)
			})
		}
	}
}
