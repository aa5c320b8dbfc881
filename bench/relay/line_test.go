package relay

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// sleeping waits by a clock that a test may replace.
func sleeping(due time.Time) { time.Sleep(time.Until(due)) }

// end is a writer that notes what comes and when.
type end struct {
	mu    sync.Mutex
	begun time.Time
	at    []time.Duration
	got   bytes.Buffer
	took  time.Duration // for each write
	fail  error
	half  bool
	shut  bool
}

func (e *end) Write(p []byte) (int, error) {
	time.Sleep(e.took)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fail != nil {
		return 0, e.fail
	}
	e.at = append(e.at, time.Since(e.begun))
	return e.got.Write(p)
}

func (e *end) CloseWrite() error { e.half = true; return nil }
func (e *end) Close() error      { e.shut = true; return nil }

// TestLineDelaysAndDoesNotLimit: many bytes within the delay all come out a delay later, each at
// its own time, in virtual time.
func TestLineDelaysAndDoesNotLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(10*time.Millisecond, 1<<20, sleeping)
		in, out := io.Pipe()
		to := &end{begun: time.Now()}
		go l.fill(in)
		go func() {
			for i := range 5 {
				_, _ = out.Write(bytes.Repeat([]byte{byte(i)}, 100_000))
				time.Sleep(time.Millisecond)
			}
			out.Close()
		}()
		require.NoError(t, l.drain(to))
		var want []time.Duration
		for i := range 5 {
			want = append(want, time.Duration(10+i)*time.Millisecond)
		}
		require.Equal(t, want, to.at)
		require.Equal(t, 500_000, to.got.Len())
		require.True(t, to.half, "the end of input closes that direction")
		require.False(t, to.shut, "and only that")
		require.Equal(t, 15*time.Millisecond, time.Since(to.begun))
	})
}

// TestLineKeepsBytes: a ring that is much smaller than what goes through loses nothing, and changes
// no order.
func TestLineKeepsBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(time.Millisecond, 1000, sleeping)
		in, out := io.Pipe()
		to := &end{begun: time.Now()}
		var want []byte
		for i := range 10_000 {
			want = append(want, byte(i*i>>3))
		}
		go l.fill(in)
		go func() {
			for rest, n := want, 1; len(rest) > 0; n = n*7%311 + 1 {
				n = min(n, len(rest))
				_, _ = out.Write(rest[:n])
				rest = rest[n:]
			}
			out.Close()
		}()
		require.NoError(t, l.drain(to))
		require.Equal(t, want, to.got.Bytes())
		require.Zero(t, l.used)
	})
}

// TestLineHoldsBack: a receiver that takes less than comes fills the ring, and then the sender
// waits.
func TestLineHoldsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(time.Second, 1000, sleeping)
		in, out := io.Pipe()
		sent := make(chan time.Duration, 20)
		begun := time.Now()
		go l.fill(in)
		go func() {
			defer out.Close()
			for range 20 {
				_, _ = out.Write(make([]byte, 100))
				sent <- time.Since(begun)
			}
		}()
		to := &end{begun: begun, took: time.Second}
		require.NoError(t, l.drain(to))
		var at []time.Duration
		for range 20 {
			at = append(at, <-sent)
		}
		require.Zero(t, at[9], "the ring takes ten at once")
		require.Equal(t, 2*time.Second, at[10], "and one more when the first was written")
		require.Equal(t, 3*time.Second, at[11])
		require.Equal(t, 2000, to.got.Len())
	})
}

// TestLineEndsByError: an error comes out behind the bytes before it, after its delay.
func TestLineEndsByError(t *testing.T) {
	lost := errors.New("lost")
	synctest.Test(t, func(t *testing.T) {
		l := newLine(time.Second, 1000, sleeping)
		in, out := io.Pipe()
		to := &end{begun: time.Now()}
		go l.fill(in)
		go func() {
			_, _ = out.Write([]byte("last words"))
			out.CloseWithError(lost)
		}()
		require.ErrorIs(t, l.drain(to), lost)
		require.Equal(t, "last words", to.got.String())
		require.Equal(t, time.Second, time.Since(to.begun))
		require.False(t, to.half, "no orderly end")
	})
}

// TestLineCannotWrite: a receiver that has gone is closed, and the sender is read on, so that
// nobody waits for ever.
func TestLineCannotWrite(t *testing.T) {
	gone := errors.New("gone")
	synctest.Test(t, func(t *testing.T) {
		l := newLine(time.Second, 1000, sleeping)
		in, out := io.Pipe()
		to := &end{fail: gone}
		go l.fill(in)
		go func() {
			_, _ = out.Write(make([]byte, 5000))
			out.Close()
		}()
		require.ErrorIs(t, l.drain(to), gone)
		require.True(t, to.shut)
	})
}

// TestLineReadsLittleAtOnce, so that the first byte of a read does not wait for its last one.
func TestLineReadsLittleAtOnce(t *testing.T) {
	require.Len(t, newLine(time.Second, 4*mostOfRead, sleeping).free(), mostOfRead)
}
