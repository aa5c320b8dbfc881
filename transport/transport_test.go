package transport

import (
	"bytes"
	"context"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
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
	ln, err := Listen(addr, Security{})
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
	nc, err := Dial(context.Background(), addr, Security{})
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

// sendSet sends a set of pages as the engine does: zero pages as zeros.
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
				require.True(t, bytes.Equal(a.Bytes(), b.Bytes()),
					"RAM differs after round %d, %d channels", round, channels)
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

// TestZerosGiveMemoryBack: many pages in a row that become zero are holes at the destination, few
// are cleared, and so are all of them where RAM was populated before the guest came.
func TestZerosGiveMemoryBack(t *testing.T) {
	for _, populated := range []bool{false, true} {
		a, b := newRAM(t), newRAM(t)
		if populated {
			require.NoError(t, b.Populate(context.Background(), 1, nil))
		} else {
			require.NoError(t, b.PopulateRange(0, 512)) // ahead of its content
		}
		for p := 200; p < 300; p++ {
			a.Page(p)[7] = 1
		}
		src, dst := connect(t)
		s, r := NewSender(src, nil), NewReceivers([]*Conn{dst}, b)[0]
		set := memory.NewBitmap(a.Pages())
		set.SetRange(100, 200)
		for round := range 2 {
			done := make(chan error, 1)
			go func() { done <- sendSet(s, a, set, 0, 1) }()
			require.NoError(t, receive(r))
			require.NoError(t, <-done)
			if round > 0 {
				break
			}
			for p := 204; p < 300; p++ {
				clear(a.Page(p)) // but not the first 4
			}
			for p := 290; p < 292; p++ {
				a.Page(p)[0] = 2 // behind them are 8 zero pages
			}
		}
		got := memory.NewBitmap(b.Pages())
		require.NoError(t, b.Allocated(got))
		switch {
		case populated:
			require.Equal(t, b.Pages(), got.Count())
		default:
			require.Zero(t, got.CountRange(204, 290-204))
			require.Equal(t, 10, got.CountRange(290, 10))
			require.Equal(t, 212, got.CountRange(300, 212), "not in the set")
			require.Zero(t, got.CountRange(100, 100), "populated, and zero from the beginning")
			set.Reset()
			set.Set(205) // alone, so it is cleared if it has content
			done := make(chan error, 1)
			go func() { done <- sendSet(s, a, set, 0, 1) }()
			require.NoError(t, receive(r))
			require.NoError(t, <-done)
			got.Reset()
			require.NoError(t, b.Allocated(got))
			require.False(t, got.Test(205))
		}
		require.True(t, bytes.Equal(a.Range(100, 200), b.Range(100, 200)))
	}
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
		require.True(t, set.Equal(seen))
	}
}

// olderHello and olderAnswer are those of version 1, which were shorter.
var (
	olderHello = []byte("TASKMIGR\x01\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00" +
		"0123456789abcdef")
	olderAnswer = []byte("TASKMIGR\x01\x00\x00\x00\x01\x00\x02\x00no")
)

func TestHelloVersions(t *testing.T) {
	want := Hello{PurposeMigrate, 2, 4, ID{1, 2, 3}, 1<<63 | 5, Version}
	var b bytes.Buffer
	require.NoError(t, WriteHello(&b, want))
	good := bytes.Clone(b.Bytes())
	got, err := ReadHello(&b)
	require.NoError(t, err)
	require.Equal(t, want, got)

	for _, test := range []struct {
		highest, lowest byte
		err             error
		says            string
	}{
		{highest: Version, lowest: LowestVersion},
		{highest: 99, lowest: 1},
		{highest: 99, lowest: Version},
		{99, Version + 1, ErrVersion, "there 3 to 99"},
		{99, 99, ErrVersion, "there 99"},
		{LowestVersion - 1, 0, ErrVersion, "there 1"},
		{Version, 99, ErrNotOurs, "versions from 99 to 2"},
	} {
		other := bytes.Clone(good)
		other[8], other[18] = test.highest, test.lowest
		_, err = ReadHello(bytes.NewReader(other))
		require.ErrorIs(t, err, test.err, "%+v", test)
		if test.err != nil {
			require.ErrorContains(t, err, test.says)
		}
	}
	// An older peer is recognized without a wait for bytes that it never sends.
	for _, older := range []struct {
		bytes []byte
		read  func(io.Reader) error
	}{
		{olderHello, func(r io.Reader) error { _, err := ReadHello(r); return err }},
		{olderAnswer, func(r io.Reader) error { _, err := ReadWelcome(r, 0); return err }},
	} {
		near, far := net.Pipe()
		go far.Write(older.bytes)
		err = older.read(near)
		require.ErrorIs(t, err, ErrVersion)
		require.ErrorContains(t, err, "here 2, there 1")
		near.Close()
		far.Close()
	}

	_, err = ReadHello(bytes.NewReader([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")))
	require.ErrorIs(t, err, ErrNotOurs)
	_, err = ReadHello(bytes.NewReader(good[:5]))
	require.ErrorIs(t, err, ErrNotOurs)

	b.Reset()
	require.NoError(t, WriteRefusal(&b, "no\x1b[31m room"))
	_, err = ReadWelcome(&b, 0)
	require.ErrorIs(t, err, ErrRefused)
	require.NotContains(t, err.Error(), "\x1b", "a peer's text must not drive a terminal")
	b.Reset()
	require.NoError(t, WriteWelcome(&b, Terms{Version: Version}))
	b.Bytes()[8]++
	_, err = ReadWelcome(&b, 0)
	require.ErrorContains(t, err, "here 2, there 3", "a version that was not offered")
	// A newer destination's refusal can be read.
	b.Reset()
	require.NoError(t, WriteRefusal(&b, "too old"))
	b.Bytes()[8] = 99
	_, err = ReadWelcome(&b, 0)
	require.ErrorContains(t, err, "too old")
}

// TestPrintable: a peer's text ends up in logs and on terminals.
func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"caf\u00e9, no room":    "caf\u00e9, no room",
		"a\x1b[31mb\nc\rd\x7fe": "a [31mb c d e",
		// control sequences and text direction beyond ASCII
		"\u009b2J and \u202egnol":  " 2J and  gnol",
		"\xff\xfe broken":          "? broken",
		strings.Repeat("x", 1<<20): strings.Repeat("x", maxAnswerText),
	} {
		require.Equal(t, want, Printable([]byte(in)))
	}
}

func TestAddresses(t *testing.T) {
	for _, bad := range []string{
		"", "tcp", "tcp:", "tcp:host", "tcp::1", "tcp:host:", "unix:", "udp:h:1", "/a/path",
	} {
		_, _, err := ParseAddress(bad)
		require.ErrorIs(t, err, ErrAddress, "%q", bad)
	}
	for _, port := range []string{"x", "65536", "-1", "http"} {
		_, _, err := ParseAddress("tcp:h:" + port)
		require.ErrorContains(t, err, "is no number from 0 to 65535")
	}
	n, a, err := ParseAddress("tcp:[::1]:99")
	require.NoError(t, err)
	require.Equal(t, "tcp [::1]:99", n+" "+a)
	_, a, err = ParseAddress("tcp:[fe80::1%eth0]:99")
	require.NoError(t, err)
	require.Equal(t, "[fe80::1%eth0]:99", a)
	_, _, err = ParseAddress("tcp:[fe80::1]:99")
	require.ErrorContains(t, err, "add it, as in tcp:[fe80::1%eth0]:99")

	long := strings.Repeat("x", MaxUnixPath)
	_, _, err = ParseAddress("unix:" + long)
	require.NoError(t, err)
	_, _, err = ParseAddress("unix:" + long + "x")
	require.ErrorContains(t, err, "at most 107 bytes")
	// This must not be a name outside of the file system, to which everybody on the host may
	// connect.
	_, a, err = ParseAddress("unix:@s")
	require.NoError(t, err)
	require.Equal(t, "./@s", a)
}

// TestListenIsPrivate, whatever the umask, which this test shares with others.
func TestListenIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := Listen("unix:"+path, Security{})
	require.NoError(t, err)
	defer ln.Close()
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.ModeSocket|0o600, info.Mode())
	_, err = Listen("unix:"+path, Security{})
	require.ErrorIs(t, err, ErrSocketInUse)
}

func TestListenReplacesOnlyStaleSockets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	first, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	_, err = Listen("unix:"+path, Security{})
	require.Error(t, err, "somebody listens there")
	first.SetUnlinkOnClose(false)
	first.Close()
	second, err := Listen("unix:"+path, Security{})
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
	require.Greater(t, time.Since(begin), 90*time.Millisecond,
		"10 MB at 100 MB/s, from an empty bucket")
}

// TestLimitedFrames: at any rate, a frame takes little time.
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
	// The messages around them, as a source sends them.
	messages := headerBytes(Header{Type: TypeWaiting, Arg: 60_000})
	messages = append(messages, headerBytes(Header{Type: TypeKeepAlive})...)
	messages = append(messages, headerBytes(Header{Type: TypeRewind, Arg: 1})...)
	messages = append(messages, headerBytes(Header{Type: TypeDigests, Length: 16})...)
	messages = append(messages, make([]byte, 16)...)
	f.Add(bytes.Clone(messages), true)
	f.Add(headerBytes(Header{Type: TypeWaiting, Length: 1}), true)
	ram := newRAM(f)
	f.Fuzz(func(t *testing.T, stream []byte, sum bool) {
		if sum && len(stream) >= headerSize { // lets the fuzzer past the checksum
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
			if h.Type == TypeKeepAlive || h.Type == TypeWaiting {
				require.Fail(t, "not for whoever waits for a message")
			}
			if at, d := c.Announced(); !at.IsZero() || d != 0 {
				require.Fail(t, "a frame that says something ends a wait")
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
	require.NoError(f, WriteHello(&b, Hello{Purpose: PurposeQuery, Features: 1<<40 | 5}))
	f.Add(bytes.Clone(b.Bytes()), uint64(5))
	b.Reset()
	require.NoError(f, WriteRefusal(&b, "why"))
	f.Add(bytes.Clone(b.Bytes()), uint64(0))
	f.Add(olderHello, uint64(0))
	f.Add(olderAnswer, uint64(0))
	b.Reset()
	require.NoError(f, WriteWelcome(&b, Terms{Version: Version, Features: 1<<40 | 1}))
	f.Add(bytes.Clone(b.Bytes()), uint64(1<<40|5))
	f.Fuzz(func(t *testing.T, in []byte, bits uint64) {
		known := Features(bits)
		if h, err := ReadHello(bytes.NewReader(in)); err == nil {
			requireSaysTheSame(t, h)
			requireAgreement(t, h, known)
		}
		terms, err := ReadWelcome(bytes.NewReader(in), known)
		if err == nil {
			require.Zero(t, terms.Features&^known, "not offered")
			require.Equal(t, known&required, terms.Features&required)
			require.EqualValues(t, Version, terms.Version)
		}
	})
}

// requireSaysTheSame reads what was read from a peer again, from what this side writes of it.
func requireSaysTheSame(t *testing.T, h Hello) {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, WriteHello(&b, h))
	again, err := ReadHello(&b)
	require.NoError(t, err)
	require.Equal(t, h, again)
}

// requireAgreement: both halves of the agreement come to the same terms, or both to none.
func requireAgreement(t *testing.T, h Hello, known Features) {
	t.Helper()
	terms, err := h.Agree(known)
	if err != nil {
		require.ErrorIs(t, err, ErrFeature)
		require.NotZero(t, h.Features&required&^known)
		return
	}
	var b bytes.Buffer
	require.NoError(t, WriteWelcome(&b, terms))
	read, err := ReadWelcome(&b, h.Features)
	require.NoError(t, err)
	require.Equal(t, terms, read)
	require.Equal(t, h.Features&known, read.Features)
}

// TestSendAllocatesNothing: in steady state, neither a page nor a frame allocates.
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
