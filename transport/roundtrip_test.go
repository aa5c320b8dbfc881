package transport

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestRoundTripOfTheKernel: the kernel answers, however long the program on the other side takes.
func TestRoundTripOfTheKernel(t *testing.T) {
	for name, address := range map[string]string{
		"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "socket"),
	} {
		l, err := net.Listen(name, address)
		require.NoError(t, err)
		defer l.Close()
		nc, err := net.Dial(name, l.Addr().String())
		require.NoError(t, err)
		defer nc.Close()
		other, err := l.Accept()
		require.NoError(t, err)
		defer other.Close()
		begin := time.Now()
		_, err = nc.Write([]byte("question"))
		require.NoError(t, err)
		time.Sleep(50 * time.Millisecond) // the program on the other side takes its time
		_, err = other.Write([]byte("answer"))
		require.NoError(t, err)
		_, err = nc.Read(make([]byte, 16))
		require.NoError(t, err)
		took := time.Since(begin)
		shortest, ok := NewConn(nc).RoundTrip()
		require.Equal(t, name == "tcp", ok, name)
		if ok {
			require.Positive(t, shortest)
			require.Less(t, shortest, took)
		}
	}
}
