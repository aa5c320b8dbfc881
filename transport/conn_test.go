package transport

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestFarewell: the last message arrives whichever side interrupts, and a stuck write does not
// delay it.
func TestFarewell(t *testing.T) {
	t.Run("interrupted before and meanwhile", func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		defer far.Close()
		c, peer := NewConn(near), NewConn(far)
		c.Interrupt()
		require.ErrorIs(t, c.WriteMessage(TypeKeepAlive, 0, nil), ErrInterrupted)
		sent := make(chan error, 1)
		go func() { sent <- c.WriteLast(TypeError, []byte("so long")) }()
		h, err := peer.Next() // a pipe hands over header and payload one after the other
		require.NoError(t, err)
		c.Interrupt()
		text, err := peer.ReadMessage(h)
		require.NoError(t, err)
		require.Equal(t, "so long", string(text))
		require.NoError(t, <-sent)
	})
	t.Run("behind a stuck write", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			defer near.Close()
			defer far.Close()
			c := NewConn(near)
			stuck := make(chan error, 1)
			go func() { stuck <- c.WriteMessage(TypeState, 0, make([]byte, 100)) }()
			_, err := io.ReadFull(far, make([]byte, 20)) // within a frame
			require.NoError(t, err)
			begin := time.Now()
			require.ErrorIs(t, c.WriteLast(TypeError, nil), ErrInterrupted,
				"nobody would understand it")
			require.ErrorIs(t, <-stuck, ErrInterrupted)
			require.Zero(t, time.Since(begin))
		})
	})
	t.Run("nobody reads", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			defer near.Close()
			defer far.Close()
			begin := time.Now()
			require.Error(t, NewConn(near).WriteLast(TypeError, nil))
			require.Equal(t, farewellTimeout, time.Since(begin))
		})
	})
}
