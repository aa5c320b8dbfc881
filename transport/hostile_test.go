package transport

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"taskguide/memory"
)

// headerBytes is a header as a peer could send it, with a proper checksum.
func headerBytes(h Header) []byte {
	b := make([]byte, headerSize)
	h.put(b)
	return b
}

func TestHeadersThatAreRefused(t *testing.T) {
	const table = 2 * entrySize
	for name, test := range map[string]struct {
		h    Header
		fine bool
	}{
		"no type":            {h: Header{Type: 0}},
		"unknown type":       {h: Header{Type: lastType + 1}},
		"last type":          {h: Header{Type: lastType, Length: MaxMessage}, fine: true},
		"long message":       {h: Header{Type: TypeState, Length: MaxMessage + 1}},
		"message with runs":  {h: Header{Type: TypeState, Entries: 1}},
		"compressed message": {h: Header{Type: TypeState, Encoding: EncodingZstd}},
		"pages without runs": {h: Header{Type: TypePages, Length: 0}},
		"most runs": {
			h:    Header{Type: TypePages, Entries: MaxEntries, Length: MaxEntries * entrySize},
			fine: true,
		},
		"too many runs": {h: Header{
			Type: TypePages, Entries: MaxEntries + 1, Length: (MaxEntries + 1) * entrySize,
		}},
		"shorter than its table": {h: Header{Type: TypePages, Entries: 2, Length: table - 1}},
		"most data": {
			h:    Header{Type: TypePages, Entries: 2, Length: table + MaxData, Arg: MaxData},
			fine: true,
		},
		"too much data": {h: Header{
			Type: TypePages, Entries: 2, Length: table + MaxData + 1, Arg: MaxData,
		}},
		"too much data once unpacked": {h: Header{
			Type: TypePages, Encoding: EncodingZstd, Entries: 2, Length: table + 9,
			Arg: MaxData + 1,
		}},
		"unknown encoding": {h: Header{
			Type: TypePages, Encoding: EncodingZstd + 1, Entries: 2, Length: table,
		}},
	} {
		got, err := parseHeader(headerBytes(test.h))
		if test.fine {
			require.NoError(t, err, name)
			require.Equal(t, test.h, got, name)
		} else {
			require.ErrorIs(t, err, ErrFrame, name)
		}
	}
	good := headerBytes(Header{Type: TypeFlush})
	for i := range good {
		bad := slices.Clone(good)
		bad[i] ^= 1
		_, err := parseHeader(bad)
		require.ErrorIs(t, err, ErrFrame, "byte %d damaged", i)
	}
	_, err := NewConn(replay{r: bytes.NewReader(append(headerBytes(Header{
		Type: TypeKeepAlive, Length: 1,
	}), 0))}).Next()
	require.ErrorIs(t, err, ErrFrame, "a keep-alive is empty")
	announcement := append(headerBytes(Header{Type: TypeWaiting, Length: 1}), 0)
	_, err = NewConn(replay{r: bytes.NewReader(announcement)}).Next()
	require.ErrorIs(t, err, ErrFrame, "and so is an announcement")
}

// pagesFrame is a frame with these runs, which announces plain bytes of data.
func pagesFrame(e Encoding, runs []run, plain int, data []byte) []byte {
	h := Header{
		Type: TypePages, Encoding: e, Entries: len(runs), Length: len(runs)*entrySize + len(data),
		Arg: uint32(plain),
	}
	b := headerBytes(h)
	for _, r := range runs {
		b = binary.LittleEndian.AppendUint64(b, r.pack())
	}
	return append(b, data...)
}

// TestPagesThatAreRefused tries every way in which a source can contradict itself.
func TestPagesThatAreRefused(t *testing.T) {
	enc, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	packed := func(b []byte) []byte { return enc.EncodeAll(b, nil) }
	content := func(n int) []byte { return bytes.Repeat([]byte{7}, n) }
	const page, pages = memory.PageSize, testRAM / memory.PageSize
	// One word of a page, behind the length of the delta.
	delta := append([]byte{12, 0}, 3, 0, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8)
	one, oneDelta := []run{{5, 1, kindContent}}, []run{{5, 1, kindDelta}}
	both := []run{{5, 1, kindDelta}, {6, 1, kindContent}}
	for name, frame := range map[string][]byte{
		"less data than announced": pagesFrame(EncodingRaw, one, page, content(page-1)),
		"more data than announced": pagesFrame(EncodingRaw, one, page, content(page+1)),
		"data for too few pages": pagesFrame(EncodingRaw, []run{{5, 2, kindContent}}, page,
			content(page)),
		"data for too many pages": pagesFrame(EncodingRaw, one, 2*page, content(2*page)),
		"data without pages": pagesFrame(EncodingRaw, []run{{5, 1, kindZero}}, page,
			content(page)),
		"compressed nothing": pagesFrame(EncodingZstd, []run{{5, 1, kindZero}}, 0,
			packed(nil)),
		"compression that grows": pagesFrame(EncodingZstd, one, page, content(page+1)),
		"compressed for too many pages": pagesFrame(EncodingZstd, one, 2*page,
			packed(content(2*page))),
		"unpacks to less": pagesFrame(EncodingZstd, one, page,
			packed(content(page-1))),
		"unpacks to more": pagesFrame(EncodingZstd, one, page,
			packed(content(page+1))),
		"unpacks to very much more": pagesFrame(EncodingZstd, []run{{0, 16, kindContent}},
			16*page, packed(content(64<<20))), // and is shorter than what it announces
		"no zstd": pagesFrame(EncodingZstd, one, page, content(100)),
		"an empty run": pagesFrame(EncodingRaw, []run{{5, 0, kindContent}}, 0,
			nil),
		"beyond RAM": pagesFrame(EncodingRaw, []run{{pages, 1, kindContent}},
			page, content(page)),
		"partly beyond RAM": pagesFrame(EncodingRaw, []run{{pages - 1, 2, kindZero}},
			0, nil),
		"far beyond RAM": pagesFrame(EncodingRaw,
			[]run{{1<<32 - 1, maxRun, kindZero}}, 0, nil),
		"unknown kind": pagesFrame(EncodingRaw, []run{{5, 1, kindDelta + 1}}, 0,
			nil),
		"delta without a length": pagesFrame(EncodingRaw, oneDelta, 1, delta[:1]),
		"no delta at all":        pagesFrame(EncodingRaw, oneDelta, 0, nil),
		"delta cut off": pagesFrame(EncodingRaw, oneDelta, len(delta)-1,
			delta[:len(delta)-1]),
		"something behind a delta": pagesFrame(EncodingRaw, oneDelta, len(delta)+1,
			append(slices.Clone(delta), 0)),
		"delta and less than a page": pagesFrame(EncodingRaw, both, len(delta)+page-1,
			append(slices.Clone(delta), content(page-1)...)),
		"delta and no page":    pagesFrame(EncodingRaw, both, len(delta), delta),
		"a delta that is none": pagesFrame(EncodingRaw, oneDelta, 4, []byte{2, 0, 1, 1}),
		"fewer deltas than announced": pagesFrame(EncodingRaw, []run{{5, 2, kindDelta}},
			len(delta), delta),
		"announces less than its content": pagesFrame(EncodingRaw, both, page-1, content(page-1)),
	} {
		ram := newRAM(t)
		c := NewConn(replay{r: bytes.NewReader(frame)})
		h, err := c.Next()
		require.NoError(t, err, name)
		var before, after runtime.MemStats
		r := NewReceivers([]*Conn{c}, ram)[0]
		runtime.ReadMemStats(&before)
		err = r.Apply(h)
		runtime.ReadMemStats(&after)
		require.ErrorIs(t, err, ErrFrame, name)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(32<<20), name)
	}

	// The same parts, put together properly.
	ram := newRAM(t)
	frame := pagesFrame(EncodingRaw, both, len(delta)+page,
		append(slices.Clone(delta), content(page)...))
	c := NewConn(replay{r: bytes.NewReader(append(frame,
		pagesFrame(EncodingRaw, []run{{5, 2, kindZero}}, 0, nil)...))})
	r := NewReceivers([]*Conn{c}, ram)[0]
	h, err := c.Next()
	require.NoError(t, err)
	require.NoError(t, r.Apply(h))
	require.Equal(t, content(page), ram.Page(6))
	require.Equal(t, delta[6:], ram.Page(5)[24:32])
	require.EqualValues(t, 6, r.Reached())
	h, err = c.Next()
	require.NoError(t, err)
	require.NoError(t, r.Apply(h))
	require.True(t, memory.IsZero(ram.Page(5)) && memory.IsZero(ram.Page(6)), "zeros undo both")
}

// TestPagesOfOtherChannels: two channels must never touch the same chunk.
func TestPagesOfOtherChannels(t *testing.T) {
	for _, test := range []struct {
		r    run
		fine bool
	}{
		{run{0, chunkPages, kindZero}, false},
		{run{chunkPages, chunkPages, kindZero}, true},
		{run{chunkPages, chunkPages + 1, kindZero}, false},
		{run{chunkPages - 1, 2, kindZero}, false},
		{run{2*chunkPages - 1, 1, kindZero}, true},
		{run{3 * chunkPages, 1, kindZero}, false},
		{run{4 * chunkPages, 1, kindZero}, true},
	} {
		c := NewConn(replay{r: bytes.NewReader(pagesFrame(EncodingRaw, []run{test.r}, 0, nil))})
		h, err := c.Next()
		require.NoError(t, err)
		err = NewReceivers([]*Conn{nil, c, nil}, newRAM(t))[1].Apply(h)
		if test.fine {
			require.NoError(t, err, "%+v", test.r)
		} else {
			require.ErrorIs(t, err, ErrFrame, "%+v", test.r)
		}
	}
}

// TestMessagesAreBelieved only as they arrive: an announced length allocates nothing.
func TestMessagesAreBelieved(t *testing.T) {
	promise := append(headerBytes(Header{Type: TypeState, Length: MaxMessage}), 1, 2, 3)
	c := NewConn(replay{r: bytes.NewReader(promise)})
	h, err := c.Next()
	require.NoError(t, err)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = c.ReadMessage(h)
	runtime.ReadMemStats(&after)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
}

func TestInterruptRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		defer far.Close()
		c := NewConn(near)
		begin := time.Now()
		time.AfterFunc(time.Second, c.InterruptRead)
		_, err := c.Next()
		require.ErrorIs(t, err, ErrInterrupted)
		require.Equal(t, time.Second, time.Since(begin))
		go NewConn(far).WriteMessage(TypeFlush, 0, nil)
		_, err = c.Next()
		require.ErrorIs(t, err, ErrInterrupted, "for good")
	})
}

func TestKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		c, peer := NewConn(near), NewConn(far)
		go c.KeepAlive(t.Context())
		var heard error
		go func() { _, heard = peer.Next() }()
		time.Sleep(10 * IdleTimeout)
		require.NoError(t, heard)
		require.Positive(t, peer.BytesReceived())
		quiet := peer.BytesReceived()
		for range 20 { // a side that sends something needs no keep-alive
			time.Sleep(KeepAliveInterval / 2)
			require.NoError(t, c.WriteMessage(TypeKeepAlive, 0, nil))
		}
		synctest.Wait()
		require.LessOrEqual(t, peer.BytesReceived()-quiet, int64(21*headerSize))
		c.Close()
		synctest.Wait()
		require.ErrorIs(t, heard, io.ErrUnexpectedEOF)
	})
}

// trickle takes and yields a few bytes at a time, with a pause after each.
type trickle struct {
	net.Conn
	pause time.Duration
}

func (c *trickle) Read(b []byte) (int, error) {
	time.Sleep(c.pause)
	return c.Conn.Read(b[:min(len(b), 4<<10)])
}

// TestSlowPeers: deadlines apply to progress, not to whole frames, and expire without progress.
func TestSlowPeers(t *testing.T) {
	for name, test := range map[string]struct {
		pause time.Duration
		tls   bool
	}{
		"plain": {pause: IdleTimeout * 2 / 3},
		"TLS":   {pause: IdleTimeout / 12, tls: true}, // a record of 16 KiB is the unit there
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, z := net.Pipe()
				slow := &trickle{Conn: z}
				near, far := a, net.Conn(slow)
				if test.tls {
					security, err := LoadTLS(newTLSDir(t))
					require.NoError(t, err)
					near = tls.Client(a, security.clientConfig("unix", ""))
					config := security.serverConfig()
					config.SessionTicketsDisabled = true // nobody reads them yet
					server := tls.Server(far, config)
					go server.Handshake()
					require.NoError(t, near.(*tls.Conn).Handshake())
					synctest.Wait()
					far = server
				}
				slow.pause = test.pause
				defer a.Close()
				defer z.Close()
				sent := bytes.Repeat([]byte("slow"), 40<<10)
				wrote := make(chan error, 1)
				c := NewConn(near)
				go func() { wrote <- c.WriteMessage(TypeState, 0, sent) }()
				peer := NewConn(far)
				h, err := peer.Next()
				require.NoError(t, err)
				got, err := peer.ReadMessage(h)
				require.NoError(t, err)
				require.True(t, bytes.Equal(sent, got))
				require.NoError(t, <-wrote)
				require.EqualValues(t, headerSize+len(sent), peer.Progress())

				begin := time.Now()
				require.ErrorIs(t, c.WriteMessage(TypeState, 0, sent), ErrTimeout, "nobody reads")
				require.InDelta(t, IdleTimeout, time.Since(begin), float64(time.Second))
			})
		})
	}
}

func TestLimitsOfMessages(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	c, peer := NewConn(near), NewConn(far)
	require.ErrorContains(t, c.WriteMessage(TypeState, 0, make([]byte, MaxMessage+1)),
		"more than the protocol's")
	go c.WriteLast(TypeError, make([]byte, maxAnswerText+1))
	h, err := peer.Next()
	require.NoError(t, err)
	require.Equal(t, maxAnswerText, h.Length)

	hello := func(at int, v uint16) error {
		var b bytes.Buffer
		require.NoError(t, WriteHello(&b, Hello{Purpose: PurposeQuery}))
		binary.LittleEndian.PutUint16(b.Bytes()[at:], v)
		_, err := ReadHello(&b)
		return err
	}
	require.NoError(t, hello(12, uint16(PurposeMigrate)))
	require.ErrorIs(t, hello(12, 0), ErrNotOurs)
	require.NoError(t, hello(12, uint16(PurposeFence)))
	require.ErrorIs(t, hello(12, uint16(PurposeFence)+1), ErrNotOurs)
	var b bytes.Buffer
	require.NoError(t, WriteRefusal(&b, "no"))
	binary.LittleEndian.PutUint16(b.Bytes()[14:], maxAnswerText+1)
	long := io.MultiReader(&b, bytes.NewReader(make([]byte, maxAnswerText)))
	_, err = ReadWelcome(long, 0)
	require.ErrorIs(t, err, ErrNotOurs)
}

// TestDeltasThatAreRefused: no delta changes anything outside its page.
func TestDeltasThatAreRefused(t *testing.T) {
	stretch := func(first, count uint16, words int) []byte {
		b := binary.LittleEndian.AppendUint16(nil, first)
		b = binary.LittleEndian.AppendUint16(b, count)
		return append(b, bytes.Repeat([]byte{9}, 8*words)...)
	}
	join := func(a, b []byte) []byte { return append(slices.Clone(a), b...) }
	for name, delta := range map[string][]byte{
		"cut off in its header": {1, 0, 1},
		"cut off in its words":  stretch(0, 2, 1),
		"empty stretch":         stretch(0, 0, 0),
		"behind the page":       stretch(512, 1, 1),
		"far behind it":         stretch(0xffff, 1, 1),
		"across its end":        stretch(511, 2, 2),
		"much too long":         stretch(1, 0xffff, 3),
		"backwards":             join(stretch(7, 1, 1), stretch(6, 1, 1)),
		"overlapping":           join(stretch(7, 2, 2), stretch(8, 1, 1)),
	} {
		mem := make([]byte, 3*memory.PageSize)
		require.ErrorIs(t, applyDelta(mem[memory.PageSize:2*memory.PageSize], delta), ErrFrame,
			name)
		require.True(t,
			memory.IsZero(mem[:memory.PageSize]) && memory.IsZero(mem[2*memory.PageSize:]), name)
	}
	page := make([]byte, memory.PageSize)
	require.NoError(t, applyDelta(page, join(stretch(0, 1, 1), stretch(511, 1, 1))))
	require.Equal(t, []byte{9, 0, 9}, []byte{page[7], page[8], page[4095]})
}

// TestPeerGoesWithinPages: a receiver stops waiting when the peer has gone.
func TestPeerGoesWithinPages(t *testing.T) {
	for _, e := range []Encoding{EncodingRaw, EncodingZstd} {
		src, dst := connect(t)
		frame := pagesFrame(e, []run{{5, 2, kindContent}}, 2*memory.PageSize,
			make([]byte, 2*memory.PageSize))
		_, err := src.nc.Write(frame[:len(frame)-100])
		require.NoError(t, err)
		src.Close()
		h, err := dst.Next()
		require.NoError(t, err)
		require.ErrorIs(t, NewReceivers([]*Conn{dst}, newRAM(t))[0].Apply(h), io.ErrUnexpectedEOF)
	}
}
