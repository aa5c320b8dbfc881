package migration

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/tagging"
	"taskguide/transport"
)

// record writes the streams anew. The streams of a protocol version must not change while that
// version is spoken.
var record = flag.Bool("record", false, "write testdata/protocol2 anew")

// recorded is what a source of protocol 2 once sent, and what a destination must make of it.
type recorded struct {
	Channels int
	Kinds    map[transport.Type]int // frames of each type
	RAM      uint64                 // digest
	Steps    int                    // of the guest
}

const protocol2 = "testdata/protocol2"

// greetingBytes is what each channel begins with.
const greetingBytes = 44

func streamFile(name string, channel int) string {
	return filepath.Join(protocol2, fmt.Sprintf("%s.channel%d", name, channel))
}

// TestProtocol2IsRead: today's destination takes the streams that a source of protocol 2 sent when
// that was new. Later versions of the protocol must not change this.
func TestProtocol2IsRead(t *testing.T) {
	for _, name := range []string{"taken-back", "held"} {
		t.Run(name, func(t *testing.T) { readStream(t, name, func([]byte) {}) })
	}
}

// TestANewerSourceIsRead: a source that speaks later versions too, and offers features that nobody
// here knows, can move its guest with what both know.
func TestANewerSourceIsRead(t *testing.T) {
	readStream(t, "held", func(greeting []byte) {
		const highest, features = 8, 36
		binary.LittleEndian.PutUint32(greeting[highest:], transport.Version+7)
		binary.LittleEndian.PutUint64(greeting[features:], 1<<31|5)
	})
}

// readStream makes a destination read a recorded stream, after editing each channel's greeting.
func readStream(t *testing.T, name string, edit func(greeting []byte)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if *record {
			recordStream(t, name)
		}
		text, err := os.ReadFile(filepath.Join(protocol2, name+".json"))
		require.NoError(t, err)
		var want recorded
		require.NoError(t, json.Unmarshal(text, &want))
		b := newEnds(t, idle)
		defer b.close()
		var playing sync.WaitGroup
		defer playing.Wait()
		kinds := map[transport.Type]int{}
		for channel := range want.Channels {
			stream, err := os.ReadFile(streamFile(name, channel))
			require.NoError(t, err)
			countFrames(t, stream, kinds)
			edit(stream[:greetingBytes])
			nc, err := b.ln.dial(context.Background())
			require.NoError(t, err)
			playing.Go(func() { io.Copy(io.Discard, nc) })
			playing.Go(func() { nc.Write(stream) })
			time.Sleep(time.Second) // virtual: the next one joins what is there
		}
		require.Equal(t, want.Kinds, kinds)
		select {
		case in := <-b.served:
			require.Same(t, b.in, in)
		case <-time.After(time.Hour): // virtual
			require.Fail(t, "it does not arrive", b.log.String())
		}
		require.True(t, b.in.ran.Load())
		digest, err := b.in.ram.Digest()
		require.NoError(t, err)
		require.Equal(t, want.RAM, digest)
		require.Equal(t, want.Steps, b.in.steps)
	})
}

// countFrames counts the frames of a stream by type.
func countFrames(t *testing.T, stream []byte, kinds map[transport.Type]int) {
	t.Helper()
	const header = 16
	for stream = stream[greetingBytes:]; len(stream) > 0; {
		kinds[transport.Type(stream[0])]++
		stream = stream[header+binary.LittleEndian.Uint32(stream[4:]):]
	}
}

// tee remembers what is written.
type tee struct {
	net.Conn
	mu   sync.Mutex
	sent bytes.Buffer
}

func (c *tee) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent.Write(b[:n])
	return n, err
}

// recordStream moves a guest so that the source sends all that it can.
func recordStream(t *testing.T, name string) {
	var back, calm atomic.Bool
	b := newEnds(t, func(g *guest) {
		switch {
		case back.Load():
			back.Store(false)
			calm.Store(true)
			clear(g.m.ram.Page(3))
			g.m.tracker.mark(3)
			g.write(4000)
		case !calm.Load():
			g.writeRange(0, 5)
			g.writeRange(512, 5) // another channel's
		}
	})
	defer b.close()
	b.m.touch(8)
	k := braked(b, 7*time.Second)
	var tees []*tee
	dial := b.dial
	b.dial = func(ctx context.Context) (net.Conn, error) {
		nc, err := dial(ctx)
		tees = append(tees, &tee{Conn: nc})
		return tees[len(tees)-1], err
	}
	p := Params{BitsPerSecond: 100 * mbit, Verify: true, Compress: CompressNone, Channels: 2}
	if name == "taken-back" {
		p.DowntimeLimit = 40 * time.Millisecond
		b.m.onPaused = func() { k.on.Store(!calm.Load()) }
		b.m.onResumed = func() {
			back.Store(true)
			time.AfterFunc(3*time.Second, func() { k.on.Store(false) })
		}
	} else {
		p.Compress, p.Delta, p.Channels, p.MaxDefer = CompressZstd, true, 3, time.Second
		b.m.port.Write(tagging.RegRegister, 4, 1) // and never inside a segment
	}
	b.m.start()
	s := b.source(p)
	r := s.Run(context.Background())
	b.checkMoved(s, r)
	deltas := int64(0)
	for _, round := range r.Rounds {
		deltas += round.DeltaPages
	}
	require.Equal(t, p.Delta, deltas > 0)
	want := recorded{Channels: p.Channels, Kinds: map[transport.Type]int{}, Steps: b.in.steps}
	var err error
	want.RAM, err = b.in.ram.Digest()
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(protocol2, 0o755))
	for i, c := range tees {
		countFrames(t, c.sent.Bytes(), want.Kinds)
		require.NoError(t, os.WriteFile(streamFile(name, i), c.sent.Bytes(), 0o644))
	}
	text, err := json.MarshalIndent(want, "", "  ")
	require.NoError(t, err)
	text = append(text, '\n')
	require.NoError(t, os.WriteFile(filepath.Join(protocol2, name+".json"), text, 0o644))
}
