package transport

import (
	"bytes"
	"context"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
)

const testRAM = 16 << 20

func newRAM(t testing.TB) *memory.RAM {
	t.Helper()
	r, err := memory.New(testRAM)
	require.NoError(t, err)
	t.Cleanup(func() { r.Close() })
	return r
}

// connect returns the two ends of a connection over a real socket.
func connect(t testing.TB) (src, dst *Conn) {
	t.Helper()
	addr := "unix:" + filepath.Join(t.TempDir(), "s")
	ln, err := Listen(addr, nil)
	require.NoError(t, err)
	defer ln.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		nc, err := ln.Accept()
		if err == nil {
			accepted <- nc
		}
		close(accepted)
	}()
	nc, err := Dial(context.Background(), addr, nil)
	require.NoError(t, err)
	other := <-accepted
	require.NotNil(t, other)
	src, dst = NewConn(nc), NewConn(other)
	t.Cleanup(func() { src.Close(); dst.Close() })
	return src, dst
}

// receive applies everything that arrives until the connection's Flush.
func receive(r *Receiver) error {
	for {
		h, err := r.conn.Next()
		if err != nil {
			return err
		}
		if h.Type == TypeFlush {
			return nil
		}
		if err := r.Apply(h); err != nil {
			return err
		}
	}
}

// sendSet sends the pages of a set as the engine does: zero pages as zeros.
func sendSet(s *Sender, ram *memory.RAM, set *memory.Bitmap, channel, channels int) error {
	ctx := context.Background()
	for from := 0; ; {
		first, count := OwnRun(set, channel, channels, from, 16)
		if count == 0 {
			break
		}
		for p := first; p < first+count; p++ {
			var err error
			if memory.IsZero(ram.Page(p)) {
				err = s.Zeros(ctx, p, 1)
			} else {
				err = s.Content(ctx, p, ram.Page(p))
			}
			if err != nil {
				return err
			}
		}
		from = first + count
	}
	if err := s.Flush(ctx); err != nil {
		return err
	}
	return s.conn.WriteMessage(TypeFlush, 0, nil)
}

// TestPagesArrive sends several rounds of random sets over 1 to 3 channels in both
// encodings and compares RAM.
func TestPagesArrive(t *testing.T) {
	for _, packing := range []Packing{PackRaw, PackFast, PackSmall} {
		for channels := 1; channels <= 3; channels++ {
			rnd := rand.New(rand.NewPCG(uint64(packing), uint64(channels)))
			a, b := newRAM(t), newRAM(t)
			var senders []*Sender
			var ends []*Conn
			for range channels {
				src, dst := connect(t)
				s := NewSender(src, nil)
				require.NoError(t, s.SetPacking(context.Background(), packing))
				senders, ends = append(senders, s), append(ends, dst)
			}
			receivers := NewReceivers(ends, b)
			for round := range 4 {
				set := memory.NewBitmap(a.Pages())
				for range 300 {
					first := rnd.IntN(a.Pages())
					n := min(1+rnd.IntN(40), a.Pages()-first)
					set.SetRange(first, n)
					fill(rnd, a.Range(first, n))
				}
				errs := make(chan error, 2*channels)
				for i := range channels {
					go func() { errs <- sendSet(senders[i], a, set, i, channels) }()
					go func() { errs <- receive(receivers[i]) }()
				}
				for range 2 * channels {
					require.NoError(t, <-errs)
				}
				require.True(t, bytes.Equal(a.Bytes(), b.Bytes()), "RAM differs after round %d, %d channels", round, channels)
			}
		}
	}
}

// fill writes random pages: zero, compressible, or incompressible.
func fill(rnd *rand.Rand, mem []byte) {
	for p := 0; p < len(mem); p += memory.PageSize {
		page := mem[p : p+memory.PageSize]
		switch rnd.IntN(3) {
		case 0:
			clear(page)
		case 1:
			copy(page, bytes.Repeat([]byte{byte(1 + rnd.IntN(255))}, memory.PageSize))
		case 2:
			for i := range page {
				page[i] = byte(rnd.Uint32())
			}
		}
	}
}

// TestFreshZerosStayHoles: zero pages must not make the destination allocate.
func TestFreshZerosStayHoles(t *testing.T) {
	a, b := newRAM(t), newRAM(t)
	src, dst := connect(t)
	set := memory.NewBitmap(a.Pages())
	set.Fill()
	a.Page(5)[0] = 1
	done := make(chan error, 1)
	go func() { done <- sendSet(NewSender(src, nil), a, set, 0, 1) }()
	require.NoError(t, receive(NewReceivers([]*Conn{dst}, b)[0]))
	require.NoError(t, <-done)
	got := memory.NewBitmap(b.Pages())
	require.NoError(t, b.Allocated(got))
	require.Equal(t, 1, got.Count())
	require.True(t, got.Test(5))
}

func TestOwnRunCoversEachPageOnce(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	const pages = 5000
	for channels := 1; channels <= 5; channels++ {
		set, seen := memory.NewBitmap(pages), memory.NewBitmap(pages)
		for range 50 {
			first := rnd.IntN(pages)
			set.SetRange(first, min(rnd.IntN(700), pages-first))
		}
		for c := range channels {
			for from := 0; ; {
				first, n := OwnRun(set, c, channels, from, 100)
				if n == 0 {
					break
				}
				require.LessOrEqual(t, n, 100)
				for p := first; p < first+n; p++ {
					require.Equal(t, c, ChannelOf(p, channels))
					require.True(t, set.Test(p))
					require.False(t, seen.Test(p))
					seen.Set(p)
				}
				from = first + n
			}
		}
		require.Equal(t, set.Words(), seen.Words())
	}
}

func TestHelloVersions(t *testing.T) {
	want := Hello{Purpose: PurposeMigrate, Channel: 2, Channels: 4, ID: ID{1, 2, 3}}
	var b bytes.Buffer
	require.NoError(t, WriteHello(&b, want))
	good := bytes.Clone(b.Bytes())
	got, err := ReadHello(&b)
	require.NoError(t, err)
	require.Equal(t, want, got)

	other := bytes.Clone(good)
	other[8] = 99
	_, err = ReadHello(bytes.NewReader(other))
	require.ErrorIs(t, err, ErrVersion)
	require.ErrorContains(t, err, "there 99")

	_, err = ReadHello(bytes.NewReader([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")))
	require.ErrorIs(t, err, ErrNotOurs)
	_, err = ReadHello(bytes.NewReader(good[:5]))
	require.ErrorIs(t, err, ErrNotOurs)

	b.Reset()
	require.NoError(t, WriteRefusal(&b, "no\x1b[31m room"))
	err = ReadWelcome(&b)
	require.ErrorIs(t, err, ErrRefused)
	require.NotContains(t, err.Error(), "\x1b", "a peer's text must not drive a terminal")
	b.Reset()
	require.NoError(t, WriteWelcome(&b))
	require.NoError(t, ReadWelcome(&b))
}

// TestPrintable: what a peer says ends up in logs and on terminals.
func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"caf\u00e9, no room":       "caf\u00e9, no room",
		"a\x1b[31mb\nc\rd\x7fe":    "a [31mb c d e",
		"\u009b2J and \u202egnol":  " 2J and  gnol", // control sequences and text direction beyond ASCII
		"\xff\xfe broken":          "? broken",
		strings.Repeat("x", 1<<20): strings.Repeat("x", maxAnswerText),
	} {
		require.Equal(t, want, Printable([]byte(in)))
	}
}

func TestAddresses(t *testing.T) {
	for _, bad := range []string{"", "tcp", "tcp:", "tcp:host", "tcp::1", "tcp:host:", "unix:", "udp:h:1", "/a/path"} {
		_, _, err := ParseAddress(bad)
		require.ErrorIs(t, err, ErrAddress, "%q", bad)
	}
	n, a, err := ParseAddress("tcp:[::1]:99")
	require.NoError(t, err)
	require.Equal(t, "tcp [::1]:99", n+" "+a)
}

func TestListenReplacesOnlyStaleSockets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	first, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	_, err = Listen("unix:"+path, nil)
	require.Error(t, err, "somebody listens there")
	first.SetUnlinkOnClose(false)
	first.Close()
	second, err := Listen("unix:"+path, nil)
	require.NoError(t, err)
	second.Close()
}

func TestSilentPeerTimesOut(t *testing.T) {
	_, dst := connect(t)
	dst.IdleTimeout = 10 * time.Millisecond
	_, err := dst.Next()
	require.ErrorIs(t, err, ErrTimeout)
}

func TestMessages(t *testing.T) {
	src, dst := connect(t)
	payload := bytes.Repeat([]byte("state"), 100_000)
	go func() {
		src.WriteMessage(TypeKeepAlive, 0, nil)
		src.WriteMessage(TypeState, 3, payload)
		src.Close()
	}()
	h, err := dst.Next()
	require.NoError(t, err)
	require.Equal(t, Header{Type: TypeState, Length: len(payload), Arg: 3}, h)
	got, err := dst.ReadMessage(h)
	require.NoError(t, err)
	require.Equal(t, payload, got)
	_, err = dst.Next()
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Error(t, src.WriteMessage(TypeState, 0, make([]byte, MaxMessage+1)))
}

func TestLimiter(t *testing.T) {
	var none *Limiter
	require.NoError(t, none.Wait(context.Background(), 1<<30))
	require.Equal(t, MaxData, none.FrameData())
	require.Nil(t, NewLimiter(0))
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	require.Error(t, none.Wait(gone, 1), "a cancelled migration sends no more")

	slow := NewLimiter(8_000) // 1000 byte/s
	require.Error(t, slow.Wait(gone, 1<<20), "a cancelled migration does not wait for the rate")

	fast := NewLimiter(800_000_000) // 100 MB/s
	begin := time.Now()
	require.NoError(t, fast.Wait(context.Background(), 10_000_000))
	require.Greater(t, time.Since(begin), 90*time.Millisecond, "10 MB at 100 MB/s, from an empty bucket")
}

// TestLimitedFrames: at any rate a frame is soon through.
func TestLimitedFrames(t *testing.T) {
	for bits, want := range map[int64]int{
		1:             memory.PageSize,
		1_000_000:     memory.PageSize,
		10_000_000:    25_000, // 20 ms
		100_000_000:   64 << 10,
		1_000_000_000: 500_000, // 4 ms
		math.MaxInt64: MaxData,
	} {
		require.Equal(t, want, NewLimiter(bits).FrameData(), "%d bit/s", bits)
	}
}

// replay is a connection that yields fixed bytes.
type replay struct {
	net.Conn
	r io.Reader
}

func (c replay) Read(b []byte) (int, error)         { return c.r.Read(b) }
func (c replay) SetReadDeadline(time.Time) error    { return nil }
func (c replay) SetWriteDeadline(t time.Time) error { return nil }

// FuzzReceiver feeds a Receiver what a hostile source could send.
func FuzzReceiver(f *testing.F) {
	var frames bytes.Buffer
	for _, e := range []Packing{PackRaw, PackFast, PackSmall} {
		a := newRAM(f)
		a.Page(1)[3] = 7
		src, dst := connect(f)
		s := NewSender(src, nil)
		require.NoError(f, s.SetPacking(context.Background(), e))
		require.NoError(f, s.Content(context.Background(), 1, a.Range(1, 2)))
		require.NoError(f, s.Zeros(context.Background(), 9, 100))
		require.NoError(f, s.Flush(context.Background()))
		src.Close()
		io.Copy(&frames, dst.nc)
		f.Add(bytes.Clone(frames.Bytes()), true)
		f.Add(bytes.Clone(frames.Bytes()), false)
	}
	ram := newRAM(f)
	f.Fuzz(func(t *testing.T, stream []byte, sum bool) {
		if sum && len(stream) >= headerSize { // let the fuzzer past the checksum
			var h Header
			h.Type, h.Encoding = Type(stream[0]), Encoding(stream[1])
			h.Entries = int(stream[2])
			h.Length = int(stream[4]) | int(stream[5])<<8
			h.Arg = uint32(stream[8]) | uint32(stream[9])<<8
			h.put(stream)
		}
		c := NewConn(replay{r: bytes.NewReader(stream)})
		r := NewReceivers([]*Conn{c}, ram)[0]
		for {
			h, err := c.Next()
			if err != nil {
				return
			}
			if h.Type != TypePages {
				if _, err := c.ReadMessage(h); err != nil {
					return
				}
				continue
			}
			if r.Apply(h) != nil {
				return
			}
		}
	})
}

func FuzzHello(f *testing.F) {
	var b bytes.Buffer
	require.NoError(f, WriteHello(&b, Hello{Purpose: PurposeQuery}))
	f.Add(bytes.Clone(b.Bytes()))
	b.Reset()
	require.NoError(f, WriteRefusal(&b, "why"))
	f.Add(bytes.Clone(b.Bytes()))
	f.Fuzz(func(t *testing.T, in []byte) {
		if h, err := ReadHello(bytes.NewReader(in)); err == nil {
			var again bytes.Buffer
			require.NoError(t, WriteHello(&again, h))
		}
		_ = ReadWelcome(bytes.NewReader(in))
	})
}

// TestSendAllocatesNothing: in steady state neither a page nor a frame allocates.
func TestSendAllocatesNothing(t *testing.T) {
	ram := newRAM(t)
	fill(rand.New(rand.NewPCG(5, 6)), ram.Bytes())
	src, dst := connect(t)
	go io.Copy(io.Discard, dst.nc)
	s := NewSender(src, nil)
	ctx := context.Background()
	round := func() {
		for p := 0; p+1 < ram.Pages(); p += 3 {
			if err := s.Content(ctx, p, ram.Page(p)); err != nil {
				t.Fatal(err)
			}
			if err := s.Zeros(ctx, p+1, 1); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	round()
	require.Less(t, testing.AllocsPerRun(10, round), 3.0, "a round of %d pages", 2*ram.Pages()/3)
}

func BenchmarkSendReceive(b *testing.B) {
	for _, bench := range []struct {
		name string
		run  int // pages
	}{{"runs of 1", 1}, {"runs of 64", 64}} {
		b.Run(bench.name, func(b *testing.B) {
			x, y := newRAM(b), newRAM(b)
			fill(rand.New(rand.NewPCG(5, 6)), x.Bytes())
			src, dst := connect(b)
			r := NewReceivers([]*Conn{dst}, y)[0]
			go func() {
				for {
					h, err := dst.Next()
					if err != nil || r.Apply(h) != nil {
						return
					}
				}
			}()
			s := NewSender(src, nil)
			ctx := context.Background()
			sent := 0
			for p := 0; p+bench.run <= x.Pages(); p += 2 * bench.run {
				sent += bench.run
			}
			b.SetBytes(int64(sent * memory.PageSize))
			b.ReportAllocs()
			for b.Loop() {
				for p := 0; p+bench.run <= x.Pages(); p += 2 * bench.run {
					if err := s.Content(ctx, p, x.Range(p, bench.run)); err != nil {
						b.Fatal(err)
					}
				}
				if err := s.Flush(ctx); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
