package integration

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/control"
	"taskguide/transport"
)

// cutter is a TCP proxy to a destination that cuts its first connection after so many bytes in one of its directions.
// Later connections, by which a source asks what became of its migration, pass unless they are forbidden.
type cutter struct {
	ln     net.Listener
	to     string
	budget [2]int64 // bytes to pass: to the destination, and back
	once   bool     // forbids all connections but the first
	conns  atomic.Int64
	passed [2]atomic.Int64
	wg     sync.WaitGroup
}

const (
	forth = 0
	back  = 1
	// uncut passes everything.
	uncut = int64(1) << 60
)

func newCutter(t *testing.T, to string, direction int, after int64) *cutter {
	c := &cutter{to: strings.TrimPrefix(to, "tcp:"), budget: [2]int64{uncut, uncut}}
	c.budget[direction] = after
	c.listen(t)
	return c
}

func (c *cutter) listen(t *testing.T) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c.ln = ln
	c.wg.Go(c.accept)
	t.Cleanup(func() { ln.Close(); c.wg.Wait() })
}

func (c *cutter) address() string { return "tcp:" + c.ln.Addr().String() }

func (c *cutter) accept() {
	for {
		in, err := c.ln.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", c.to)
		if err != nil {
			in.Close()
			continue
		}
		budget := c.budget
		if c.conns.Add(1) > 1 {
			if c.once {
				in.Close()
				out.Close()
				continue
			}
			budget = [2]int64{uncut, uncut}
		}
		c.wg.Go(func() { c.pass(forth, out, in, budget) })
		c.wg.Go(func() { c.pass(back, in, out, budget) })
	}
}

// pass copies one direction until either side ends, or a byte comes that is beyond its budget, and then ends both. So what
// is lost was sent: when it is a destination's last message, its guest runs.
func (c *cutter) pass(direction int, to, from net.Conn, budget [2]int64) {
	n, _ := io.CopyN(to, from, budget[direction])
	_, _ = io.ReadFull(from, make([]byte, 1))
	c.passed[direction].Add(n)
	to.Close()
	from.Close()
}

// onlyOne says that exactly one of the two runs the guest, the one that the exit status names.
func onlyOne(b *bed, source, destination *process, status int) {
	b.t.Helper()
	if status == 0 {
		require.Equal(b.t, 0, source.wait())
		require.Equal(b.t, control.StateRunning, destination.vm().State)
		return
	}
	source.untouched()
	destination.awaitState(control.StateIncoming)
}

// small is a guest that is quick to move.
var small = []string{"--memory", "16M", "--cmdline", "workload=idle touch=2M fill=random verify=1"}

// TestConnectionCut cuts the connection at many points of a migration, in both directions: the handshake, the pages, and
// every message of the handover. The guest stays or has moved, never both or neither, and what comes next works.
func TestConnectionCut(t *testing.T) {
	type cut struct {
		direction int
		after     int64
	}
	var cuts []cut
	for _, n := range []int64{0, 1, 12, 35, 36, 50, 100, 4000, 8192, 100_000, 1 << 20, 2 << 20} {
		cuts = append(cuts, cut{forth, n})
	}
	// What comes back is a few short messages; the last of them is the one that matters most.
	for n := int64(0); n <= 120; n += 8 {
		cuts = append(cuts, cut{back, n})
	}
	b := newBed(t)
	g := &guest{}
	here := b.run(g, "host-0", small...)
	g.alive(b, 1)
	there, to := b.incoming(g, "host-1", "tcp:127.0.0.1:0")
	hosts, moved := 1, 0
	for _, c := range cuts {
		proxy := newCutter(t, to, c.direction, c.after)
		r := b.vmm("migrate", here.name, proxy.address())
		name := fmt.Sprintf("%+v: %s", c, r.stderr)
		onlyOne(b, here, there, r.status)
		if r.status == 0 {
			moved++
			here = there
			hosts++
			there, to = b.incoming(g, fmt.Sprintf("host-%d", hosts), "tcp:127.0.0.1:0")
			continue
		}
		require.Equal(t, 1, r.status, name)
		require.Equal(t, 1, strings.Count(r.stderr, "\n"), name)
		require.Contains(t, r.stderr, "the guest still runs here", name)
	}
	require.Less(t, moved, len(cuts)/2, "most cuts must hit")
	requireVerified(t, b.migrate(here.name, to, "--verify"))
	require.Equal(t, 0, here.wait())
	g.alive(b, 2)
}

// TestLastMessagesCut cuts the last bytes that the source sends: state and commit.
func TestLastMessagesCut(t *testing.T) {
	b := newBed(t)
	g := &guest{}
	here := b.run(g, "host-0", small...)
	g.alive(b, 1)
	// A paused guest dirties nothing: the stream is as long each time.
	b.ok("pause", "host-0")
	there, to := b.incoming(g, "host-1", "tcp:127.0.0.1:0")
	whole := newCutter(t, to, forth, uncut)
	b.migrate("host-0", whole.address(), "--compress", "none", "--channels", "1")
	require.Equal(t, 0, here.wait())
	total := whole.passed[forth].Load()
	require.Positive(t, total)

	here = there
	for i, less := range []int64{1, 8, 15, 16, 17, 24, 32, 33, 64, 1000, 4000} {
		there, to = b.incoming(g, fmt.Sprintf("host-%d", i+2), "tcp:127.0.0.1:0")
		proxy := newCutter(t, to, forth, total-less)
		r := b.vmm("migrate", here.name, proxy.address(), "--compress", "none", "--channels", "1")
		if r.status == 0 {
			require.Equal(t, 0, here.wait(), "%d", less)
			require.Equal(t, control.StatePaused, there.vm().State)
			here = there
			continue
		}
		require.Equal(t, control.StatePaused, here.vm().State, "%d: %s", less, r.stderr)
		require.False(t, here.vm().DirtyLogging)
		there.awaitState(control.StateIncoming)
		b.ok("stop", there.name)
	}
	b.ok("resume", here.name)
	_, to = b.incoming(g, "last", "tcp:127.0.0.1:0")
	requireVerified(t, b.migrate(here.name, to, "--verify"))
	require.Equal(t, 0, here.wait())
	g.alive(b, 2)
}

// TestLostInTheLastMoment loses a destination for good just when it says that the guest runs. The source cannot know: it
// keeps its own guest still until somebody who does says that it may run.
func TestLostInTheLastMoment(t *testing.T) {
	b := newBed(t)
	g := &guest{}
	source := b.run(g, "source", small...)
	g.alive(b, 1)
	destination, to := b.incoming(&guest{}, "destination", "tcp:127.0.0.1:0")
	// Three short messages come back before the last: welcome, accept, prepared.
	proxy := &cutter{to: strings.TrimPrefix(to, "tcp:"), budget: [2]int64{uncut, 3 * 16}, once: true}
	proxy.listen(t)
	r := b.vmm("migrate", "source", proxy.address(), "--channels", "1")
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "vmm resume --force")
	vm := source.vm()
	require.Equal(t, control.StateUnknown, vm.State)
	require.False(t, vm.DirtyLogging)
	for _, order := range []string{"pause", "resume"} {
		require.Contains(t, b.refused(1, order, "source"), "told to run the guest")
	}
	require.Contains(t, b.refused(1, "migrate", "source", to), "told to run the guest")
	require.Equal(t, control.StateUnknown, source.vm().State)

	require.Equal(t, control.StateRunning, destination.vm().State, "the guest does run there")
	destination.kill()
	destination.wait()
	b.ok("resume", "source", "--force")
	source.untouched()
	g.alive(b, 2)
	_, to = b.incoming(g, "next", b.unix("in"))
	requireVerified(t, b.migrate("source", to, "--verify"))
	require.Equal(t, 0, source.wait())
	g.alive(b, 2)
}

// TestDestinationDies kills the destination in the middle of the pages, several times.
func TestDestinationDies(t *testing.T) {
	b := newBed(t)
	g := &guest{}
	source := b.run(g, "source", busy...)
	g.alive(b, 1)
	for i := range 3 {
		destination, to := b.incoming(&guest{}, fmt.Sprintf("victim-%d", i), []string{"tcp:127.0.0.1:0", b.unix("in")}[i%2])
		_, wait := b.background("migrate", "source", to, "--bandwidth", "20Mbit", "--channels", fmt.Sprint(i+1))
		source.migrating()
		destination.kill()
		r := wait()
		require.Equal(t, 1, r.status)
		require.Contains(t, r.stderr, "the guest still runs here")
		source.untouched()
		g.alive(b, 2)
	}
	_, to := b.incoming(g, "destination", b.unix("in"))
	requireVerified(t, b.migrate("source", to, "--verify"))
	require.Equal(t, 0, source.wait())
	g.alive(b, 4)
}

// TestSourceDies: a destination whose source is gone discards what it has and waits for the next.
func TestSourceDies(t *testing.T) {
	b := newBed(t)
	destination, to := b.incoming(&guest{}, "destination", "tcp:127.0.0.1:0")
	for i := range 2 {
		g := &guest{}
		source := b.run(g, fmt.Sprintf("victim-%d", i), busy...)
		g.alive(b, 1)
		_, wait := b.background("migrate", source.name, to, "--bandwidth", "20Mbit")
		source.migrating()
		source.kill()
		r := wait()
		require.Equal(t, 1, r.status)
		require.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)
		require.Equal(t, control.StateIncoming, destination.vm().State)
	}
	g := &guest{}
	source := b.run(g, "source", busy...)
	g.last = destination // was started before its guest was
	g.alive(b, 1)
	requireVerified(t, b.migrate("source", to, "--verify"))
	require.Equal(t, 0, source.wait())
	destination.awaitState(control.StateRunning)
}

// TestGarbagePeers: what is no source is turned away, and a real one is served afterwards.
func TestGarbagePeers(t *testing.T) {
	b := newBed(t)
	g := &guest{}
	source := b.run(g, "source", idle...)
	g.alive(b, 1)
	destination, to := b.incoming(g, "destination", "tcp:127.0.0.1:0")
	hello := func() []byte {
		var out strings.Builder
		require.NoError(t, transport.WriteHello(&out, transport.Hello{Purpose: transport.PurposeMigrate, Channels: 1}))
		return []byte(out.String())
	}
	version := hello()
	version[8]++
	for name, bytes := range map[string][]byte{
		"nothing":             {},
		"HTTP":                []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"noise":               []byte(strings.Repeat("\xff\x00\x17", 100_000)),
		"another version":     version,
		"half a hello":        hello()[:20],
		"a hello, then noise": append(hello(), strings.Repeat("\xa5", 50_000)...),
		"a hello, then HTTP":  append(hello(), "GET / HTTP/1.1\r\n\r\n"...),
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(to, "tcp:"))
		require.NoError(t, err)
		_, _ = conn.Write(bytes) // it may be turned away before the last byte
		_ = conn.(*net.TCPConn).CloseWrite()
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
		_, err = io.Copy(io.Discard, conn)
		if err != nil {
			require.NotErrorIs(t, err, io.ErrNoProgress)
			require.NotContains(t, err.Error(), "timeout", name)
		}
		conn.Close()
		require.Equal(t, control.StateIncoming, destination.vm().State, name)
	}
	requireVerified(t, b.migrate("source", to, "--verify"))
	require.Equal(t, 0, source.wait())
	g.alive(b, 2)
}

// TestWrongDestinations: a source that is sent to what is no destination says so and keeps its guest.
func TestWrongDestinations(t *testing.T) {
	b := newBed(t)
	g := &guest{}
	source := b.run(g, "source", idle...)
	g.alive(b, 1)
	answering := func(answer string) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		t.Cleanup(func() { ln.Close() })
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(conn, answer)
				_ = conn.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, conn)
				conn.Close()
			}
		}()
		return "tcp:" + ln.Addr().String()
	}
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	free := "tcp:" + nobody.Addr().String()
	require.NoError(t, nobody.Close())
	other := b.run(&guest{}, "other", idle...)
	other.awaitState(control.StateRunning)
	var welcome strings.Builder
	require.NoError(t, transport.WriteWelcome(&welcome))
	for want, to := range map[string]string{
		"refused":                     free,
		"no such file":                b.unix("nothing"),
		"nowhere.invalid":             "tcp:nowhere.invalid:1",
		"does not speak":              answering("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"closed the connection":       answering(""),
		"the migration protocol":      b.unix("other.sock"), // a control socket
		"migration failed: ":          answering(welcome.String() + strings.Repeat("\x5a", 4096)),
		"the guest still runs here":   answering(welcome.String()),
		"protocol version differs":    answering("TASKMIGR\x09\x00\x00\x00\x00\x00\x00\x00"),
		"refused by the peer: no\x20": answering("TASKMIGR\x01\x00\x00\x00\x01\x00\x05\x00no\n\x1bx"),
	} {
		stderr := b.refused(1, "migrate", "source", to)
		require.Contains(t, stderr, want, to)
		require.Contains(t, stderr, "the guest still runs here")
		require.NotContains(t, stderr, "\x1b", "a peer's text must not reach the terminal as it is")
		source.untouched()
	}
	_, to := b.incoming(g, "destination", b.unix("in"))
	requireVerified(t, b.migrate("source", to, "--verify"))
	g.alive(b, 2)
}

// TestBusyDestination: a destination takes one guest, and one migration at a time.
func TestBusyDestination(t *testing.T) {
	b := newBed(t)
	g := &guest{}
	first, second := b.run(g, "first", busy...), b.run(&guest{}, "second", small...)
	g.alive(b, 1)
	second.awaitState(control.StateRunning)
	_, to := b.incoming(&guest{}, "destination", b.unix("in"))
	_, wait := b.background("migrate", "first", to, "--bandwidth", slow)
	first.migrating()
	require.Contains(t, b.refused(1, "migrate", "second", to), "busy")
	second.untouched()
	b.ok("cancel", "first")
	require.Equal(t, 1, wait().status)
	b.migrate("first", to)
	require.Contains(t, b.refused(1, "migrate", "second", to), "a guest runs here already")
	second.untouched()
}
