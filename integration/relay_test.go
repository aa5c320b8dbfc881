package integration

import (
	"hash/crc32"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/transport"
)

// relay is a proxy to a destination that passes a migration of one channel frame by frame. It can
// hold one of them back, and everything behind it.
type relay struct {
	ln     net.Listener
	to     string
	hold   frameOf
	change rewrite // nil: nothing is changed

	held chan struct{} // closed once that frame is held back
	goOn chan struct{} // closed to pass it

	mu   sync.Mutex // guards what follows
	seen []transport.Type
	out  net.Conn // the first connection to the destination
	gone bool     // what is held back never arrives
}

// rewrite gets the payload of each message from the source and may replace it.
type rewrite func(transport.Type, []byte) []byte

// frameOf names a frame by its type and its direction.
type frameOf struct {
	direction int
	kind      transport.Type
}

func newRelay(t *testing.T, to string, hold frameOf, change rewrite) *relay {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &relay{
		ln: ln, to: strings.TrimPrefix(to, "tcp:"), hold: hold, change: change,
		held: make(chan struct{}), goOn: make(chan struct{}),
	}
	var wg sync.WaitGroup
	wg.Go(func() { r.accept(&wg) })
	t.Cleanup(func() { ln.Close(); r.pass(); wg.Wait() })
	return r
}

func (r *relay) address() string { return "tcp:" + r.ln.Addr().String() }

// pass lets go of the frame that is held back.
func (r *relay) pass() {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.goOn:
	default:
		close(r.goOn)
	}
}

// cut ends the migration's connection, and what is held back is lost.
func (r *relay) cut() {
	r.mu.Lock()
	r.gone = true
	r.out.Close()
	r.mu.Unlock()
	r.pass()
}

// sent tells whether the source sent a frame of that type.
func (r *relay) sent(kind transport.Type) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range r.seen {
		if k == kind {
			return true
		}
	}
	return false
}

// holding tells whether a frame is held back now.
func (r *relay) holding() bool {
	select {
	case <-r.goOn:
		return false
	default:
	}
	select {
	case <-r.held:
		return true
	default:
		return false
	}
}

// accept serves connections until the listener is closed. The first is the migration's; by later
// ones a source asks what became of it, which it learns only once no frame is held back: a host may
// take any time until the test goes on.
func (r *relay) accept(wg *sync.WaitGroup) {
	for first := true; ; first = false {
		in, err := r.ln.Accept()
		if err != nil {
			return
		}
		if !first && r.holding() {
			in.Close()
			continue
		}
		out, err := net.Dial("tcp", r.to)
		if err != nil {
			in.Close()
			continue
		}
		there := func() { _, _ = io.Copy(out, in) }
		andBack := func() { _, _ = io.Copy(in, out) }
		if first {
			r.mu.Lock()
			r.out = out
			r.mu.Unlock()
			const hello, welcome = 44, 24
			there = func() { r.frames(forth, out, in, hello) }
			andBack = func() { r.frames(back, in, out, welcome) }
		}
		wg.Go(func() { there(); out.Close(); in.Close() })
		wg.Go(func() { andBack(); out.Close(); in.Close() })
	}
}

// frames passes a greeting, and then frame by frame.
func (r *relay) frames(direction int, to io.Writer, from io.Reader, greeting int64) {
	if _, err := io.CopyN(to, from, greeting); err != nil {
		return
	}
	for done := false; ; {
		var h [16]byte
		if _, err := io.ReadFull(from, h[:]); err != nil {
			return
		}
		kind := transport.Type(h[0])
		payload := make([]byte, le.Uint32(h[4:]))
		if _, err := io.ReadFull(from, payload); err != nil {
			return
		}
		if direction == forth {
			r.mu.Lock()
			r.seen = append(r.seen, kind)
			r.mu.Unlock()
			if r.change != nil && kind != transport.TypePages {
				payload = r.change(kind, payload)
				le.PutUint32(h[4:], uint32(len(payload)))
				sum := crc32.Checksum(h[:12], crc32.MakeTable(crc32.Castagnoli))
				le.PutUint32(h[12:], sum)
			}
		}
		if !done && r.hold == (frameOf{direction, kind}) {
			done = true
			close(r.held)
			<-r.goOn
			r.mu.Lock()
			gone := r.gone
			r.mu.Unlock()
			if gone {
				return
			}
		}
		if _, err := to.Write(append(h[:], payload...)); err != nil {
			return
		}
	}
}
