package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"taskguide/memory"
)

// TestPackingChangesMidway changes how pages are packed, and the size of frames, in the middle of
// frames that are full or have the most runs.
func TestPackingChangesMidway(t *testing.T) {
	for _, deltas := range []bool{false, true} {
		rnd := rand.New(rand.NewPCG(17, 18))
		a, b := newRAM(t), newRAM(t)
		src, dst := connect(t)
		r := NewReceivers([]*Conn{dst}, b)[0]
		s := NewSender(src, nil)
		ctx := context.Background()
		cache, err := NewDeltaCache(testRAM, testRAM/memory.PageSize, 0, 1)
		require.NoError(t, err)
		defer cache.Close()
		for round := range 8 {
			done := make(chan error, 1)
			go func() { done <- receive(r) }()
			for p := 0; p < a.Pages(); {
				n := min(1+rnd.IntN(10), a.Pages()-p)
				if rnd.IntN(40) == 0 {
					packing := Packing(rnd.IntN(3))
					require.NoError(t, s.SetPacking(ctx, packing))
				}
				if rnd.IntN(100) == 0 {
					require.NoError(t, s.Flush(ctx))
					s.SetFrame([]int{0, 1, 128 << 10, 3 * memory.PageSize}[rnd.IntN(4)])
				}
				if deltas && round == 2 && p > 2000 && !s.deltas {
					require.NoError(t, s.UseDeltas(ctx))
				}
				switch rnd.IntN(4) {
				case 0: // nothing
				case 1:
					clear(a.Range(p, n))
					for i := range n {
						cache.Forget(p + i)
					}
					require.NoError(t, s.Zeros(ctx, p, n))
				default:
					sendChanged(t, rnd, s, cache, a, p, n)
				}
				p += n
			}
			require.NoError(t, s.Flush(ctx))
			require.NoError(t, src.WriteMessage(TypeFlush, 0, nil))
			require.NoError(t, <-done)
			require.True(t, bytes.Equal(a.Bytes(), b.Bytes()), "RAM differs after round %d", round)
		}
	}
}

// sendChanged changes pages, wholly or by up to half, and sends them.
func sendChanged(
	t *testing.T, rnd *rand.Rand, s *Sender, cache *DeltaCache, ram *memory.RAM, first, n int,
) {
	ctx := context.Background()
	if !s.deltas {
		fill(rnd, ram.Range(first, n))
		for i := range n {
			cache.Forget(first + i)
		}
		require.NoError(t, s.Content(ctx, first, ram.Range(first, n)))
		return
	}
	for p := first; p < first+n; p++ {
		for range rnd.IntN(200) {
			binary.LittleEndian.PutUint64(ram.Page(p)[8*rnd.IntN(512):], rnd.Uint64())
		}
		delta, content := cache.Update(p, ram.Page(p))
		if content == nil {
			require.NoError(t, s.Delta(ctx, p, delta))
		} else {
			require.NoError(t, s.Content(ctx, p, content))
		}
	}
}

// TestLongRuns: RAM of terabytes has runs that are too long for one entry.
func TestLongRuns(t *testing.T) {
	src, dst := connect(t)
	s := NewSender(src, nil)
	ctx := context.Background()
	require.NoError(t, s.Zeros(ctx, 0, maxRun-1))
	require.NoError(t, s.Zeros(ctx, maxRun-1, 2))
	require.NoError(t, s.Zeros(ctx, 1<<30, 2*maxRun+3))
	require.NoError(t, s.Flush(ctx))
	h, err := dst.Next()
	require.NoError(t, err)
	table := make([]byte, h.Length)
	require.NoError(t, dst.readFull(table))
	covered := map[int]int{} // next page by first page of a stretch
	for ; len(table) > 0; table = table[entrySize:] {
		r := unpackRun(binary.LittleEndian.Uint64(table))
		require.Equal(t, kindZero, r.kind)
		require.Positive(t, r.count)
		begin := 0
		if r.first >= 1<<30 {
			begin = 1 << 30
		}
		require.Equal(t, begin+covered[begin], r.first)
		covered[begin] += r.count
	}
	require.Equal(t, map[int]int{0: maxRun + 1, 1 << 30: 2*maxRun + 3}, covered)
}

// TestListenSparesABusySocket: a socket with a full backlog is not replaced, because somebody
// listens.
func TestListenSparesABusySocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	require.NoError(t, unix.Listen(fd, 0))
	for range 100 { // until the backlog is full
		c, err := net.Dial("unix", path)
		if err != nil {
			require.ErrorIs(t, err, unix.EAGAIN)
			break
		}
		defer c.Close()
	}
	_, err = Listen("unix:"+path, Security{})
	require.ErrorIs(t, err, ErrSocketInUse)
	require.FileExists(t, path)
}

// TestManyRuns sends more runs than a frame's table can hold.
func TestManyRuns(t *testing.T) {
	a, b := newRAM(t), newRAM(t)
	src, dst := connect(t)
	done := make(chan error, 1)
	go func() { done <- receive(NewReceivers([]*Conn{dst}, b)[0]) }()
	s := NewSender(src, nil)
	ctx := context.Background()
	for p := 0; p < a.Pages(); p += 2 {
		if p%100 == 0 {
			a.Page(p)[1] = 1
			require.NoError(t, s.Content(ctx, p, a.Page(p)))
		} else {
			require.NoError(t, s.Zeros(ctx, p, 1))
		}
	}
	require.NoError(t, s.Flush(ctx))
	require.GreaterOrEqual(t, s.Last().Frames, int64(2))
	require.NoError(t, src.WriteMessage(TypeFlush, 0, nil))
	require.NoError(t, <-done)
	require.True(t, bytes.Equal(a.Bytes(), b.Bytes()))
}

// TestSmallFramesStaySmall, the table of their runs included.
func TestSmallFramesStaySmall(t *testing.T) {
	ram := newRAM(t)
	src, dst := connect(t)
	go io.Copy(io.Discard, dst.nc)
	s := NewSender(src, nil)
	ctx := context.Background()
	for _, pages := range []int{1, 3} {
		frame := pages * memory.PageSize
		s.SetFrame(frame)
		before := s.Last().Frames
		for p := 0; p < ram.Pages(); p += 2 {
			if p%500 == 0 {
				require.NoError(t, s.Content(ctx, p, ram.Page(p)))
			} else {
				require.NoError(t, s.Zeros(ctx, p, 1))
			}
			require.LessOrEqual(t, s.Last().Wire, headerSize+frame+memory.PageSize+entrySize)
		}
		require.NoError(t, s.Flush(ctx))
		require.Greater(t, s.Last().Frames, before+1)
	}
}

// TestKeepAlivesBetweenFrames, never within one.
func TestKeepAlivesBetweenFrames(t *testing.T) {
	a, b := newRAM(t), newRAM(t)
	fill(rand.New(rand.NewPCG(7, 8)), a.Bytes())
	near, far := net.Pipe() // which takes a frame piece by piece, as TLS does
	defer near.Close()
	defer far.Close()
	src, dst := NewConn(near), NewConn(far)
	done := make(chan error, 1)
	go func() { done <- receive(NewReceivers([]*Conn{dst}, b)[0]) }()
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				src.WriteMessage(TypeKeepAlive, 0, nil)
			}
		}
	}()
	s := NewSender(src, nil)
	ctx := context.Background()
	for p := 0; p < a.Pages(); p += 32 {
		require.NoError(t, s.Content(ctx, p, a.Range(p, 32)))
		require.NoError(t, s.Flush(ctx))
	}
	close(stop)
	<-stopped
	require.NoError(t, src.WriteMessage(TypeFlush, 0, nil))
	require.NoError(t, <-done)
	require.True(t, bytes.Equal(a.Bytes(), b.Bytes()))
}

// TestDeltaCacheKeepsWhatWasSent, even if the guest writes to a page while it is being sent.
func TestDeltaCacheKeepsWhatWasSent(t *testing.T) {
	cache, err := NewDeltaCache(memory.PageSize, testRAM/memory.PageSize, 0, 1)
	require.NoError(t, err)
	defer cache.Close()
	live, there := make([]byte, memory.PageSize), make([]byte, memory.PageSize)
	live[0] = 1
	_, content := cache.Update(3, live)
	live[0] = 2
	require.Equal(t, byte(1), content[0])
	copy(there, content)
	delta, _ := cache.Update(3, live)
	live[0] = 3
	require.NoError(t, applyDelta(there, delta))
	require.Equal(t, byte(2), there[0])
	delta, _ = cache.Update(3, live)
	require.NoError(t, applyDelta(there, delta))
	require.Equal(t, live, there)
	cache.Forget(4)
	delta, _ = cache.Update(3, live)
	require.NotNil(t, delta, "another page was forgotten")
	cache.Forget(3)
	_, content = cache.Update(3, live)
	require.NotNil(t, content)
}

// TestFramesTellHowLongTheyWereHeld by the limiter.
func TestFramesTellHowLongTheyWereHeld(t *testing.T) {
	ram := newRAM(t)
	src, dst := connect(t)
	go io.Copy(io.Discard, dst.nc)
	s := NewSender(src, NewLimiter(25_000)) // a frame is a page, and takes 1.3 s
	require.NoError(t, s.Content(context.Background(), 0, ram.Page(0)))
	last := s.Last()
	require.Equal(t, int64(1), last.Frames)
	require.Greater(t, last.Held, 50*time.Millisecond)
	require.LessOrEqual(t, last.Held, last.Send)
}
