package peer

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/transport"
)

// slowToClose is a connection that waits for its peer to take a goodbye.
type slowToClose struct{ net.Conn }

func (c slowToClose) Close() error {
	time.Sleep(5 * time.Second)
	return c.Conn.Close()
}

// TestInterruptFreesChannel0First: the guest may stand still until a write there has failed, so
// that does not wait for the other channels, however long they take to close.
func TestInterruptFreesChannel0First(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := unreachable()
		defer p.disconnect(nil)
		main, mainsEnd := net.Pipe()
		defer mainsEnd.Close()
		defer main.Close()
		other, othersEnd := net.Pipe()
		defer othersEnd.Close()
		p.Put(0, transport.NewConn(main))
		p.Put(1, transport.NewConn(slowToClose{other}))
		begin := time.Now()
		stuck := make(chan error, 1)
		go func() { stuck <- p.Send(transport.TypeCommit, 0, nil) }()
		synctest.Wait()
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			p.Interrupt()
		}()
		require.ErrorIs(t, <-stuck, transport.ErrInterrupted)
		require.Zero(t, time.Since(begin))
		<-closed
		_, err := othersEnd.Read(make([]byte, 1))
		require.Error(t, err, "it is closed")
	})
}
