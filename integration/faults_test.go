package integration

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/control"
	"taskguide/migration"
	"taskguide/transport"
)

// cutter is a TCP proxy to a destination that cuts its first connection after a number of bytes in
// one of its directions. It passes later connections, by which a source asks what became of its
// migration, unless they are forbidden.
type cutter struct {
	ln     net.Listener
	to     string
	budget [2]int64 // bytes to pass: to the destination, and back
	once   bool     // forbids all connections but the first
	// before, if set, makes the proxy cut the connection instead of passing that message of the
	// destination's.
	before transport.Type
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

// pass copies one direction until either side ends, or a byte beyond its budget arrives, and then
// ends both. So the lost bytes were sent: if they are a destination's last message, its guest runs.
func (c *cutter) pass(direction int, to, from net.Conn, budget [2]int64) {
	var n int64
	if c.before != 0 && direction == back {
		n = c.passUntil(to, from)
	} else {
		n, _ = io.CopyN(to, from, budget[direction])
		_, _ = io.ReadFull(from, make([]byte, 1))
	}
	c.passed[direction].Add(n)
	to.Close()
	from.Close()
}

// passUntil copies the destination's messages until one of type before has come, which it does not
// pass.
func (c *cutter) passUntil(to io.Writer, from io.Reader) (n int64) {
	const welcome, header = 24, 16
	n, err := io.CopyN(to, from, welcome)
	for err == nil {
		var h [header]byte
		if _, err = io.ReadFull(from, h[:]); err != nil || transport.Type(h[0]) == c.before {
			break
		}
		message := io.MultiReader(bytes.NewReader(h[:]), from)
		var passed int64
		passed, err = io.CopyN(to, message, header+int64(binary.LittleEndian.Uint32(h[4:])))
		n += passed
	}
	return n
}

// onlyOne requires that exactly one of the two runs the guest, the one that the exit status names.
func onlyOne(b *box, source, destination *process, status int) {
	b.t.Helper()
	if status == 0 {
		require.Equal(b.t, 0, source.wait())
		require.Equal(b.t, control.StateRunning, destination.vm().State)
		return
	}
	source.untouched()
	destination.awaitState(control.StateIncoming)
}

// small is a guest that moves quickly.
var small = []string{"--memory", "16M", "--cmdline", "workload=idle touch=2M fill=random verify=1"}

// TestConnectionCut cuts the connection at many points of a migration, in both directions: the
// handshake, the pages, and every message of the handover. The guest either stays or has moved, and
// the next migration works.
func TestConnectionCut(t *testing.T) {
	type cut struct {
		direction int
		after     int64
	}
	var cuts []cut
	for _, n := range []int64{0, 1, 12, 43, 44, 60, 100, 4000, 8192, 100_000, 1 << 20, 2 << 20} {
		cuts = append(cuts, cut{forth, n})
	}
	// A few short messages come back, and the last of them matters most.
	for n := int64(0); n <= 160; n += 8 {
		cuts = append(cuts, cut{back, n})
	}
	b := newBox(t)
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

// TestLastMessagesCut cuts in the last bytes that the source sends: state and commit.
func TestLastMessagesCut(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	here := b.run(g, "host-0", small...)
	g.alive(b, 1)
	// A paused guest dirties nothing, so the stream has the same length each time.
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

// TestLostInTheLastMoment loses a destination for good just when it says that the guest runs. The
// source cannot know. It keeps its own guest still until a user who knows says that it may run.
func TestLostInTheLastMoment(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	source := b.run(g, "source", small...)
	g.alive(b, 1)
	destination, to := b.incoming(&guest{}, "destination", "tcp:127.0.0.1:0")
	proxy := &cutter{
		to: strings.TrimPrefix(to, "tcp:"), budget: [2]int64{uncut, uncut},
		once: true, before: transport.TypeRunning,
	}
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
	require.Contains(t, b.refused(1, "stop", "source"), "the only copy")
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		require.NoError(t, source.cmd.Process.Signal(s))
	}
	require.Equal(t, control.StateUnknown, source.vm().State)

	require.Equal(t, control.StateRunning, destination.vm().State, "the guest does run there")
	destination.kill()
	destination.wait()
	b.until("once the destination cannot start it any more", func() bool {
		return b.vmm("resume", "source", "--force").status == 0
	})
	source.untouched()
	g.alive(b, 2)
	_, to = b.incoming(g, "next", b.unix("in"))
	requireVerified(t, b.migrate("source", to, "--verify"))
	require.Equal(t, 0, source.wait())
	g.alive(b, 2)
}

// TestDestinationDies kills the destination while it receives pages, several times.
func TestDestinationDies(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	source := b.run(g, "source", busy...)
	g.alive(b, 1)
	for i := range 3 {
		destination, to := b.incoming(&guest{}, fmt.Sprintf("victim-%d", i),
			[]string{"tcp:127.0.0.1:0", b.unix("in")}[i%2])
		_, wait := b.background("migrate", "source", to, "--bandwidth", "20Mbit", "--channels",
			fmt.Sprint(i+1))
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

// TestSourceDies: a destination whose source is gone discards the guest and waits for the next.
func TestSourceDies(t *testing.T) {
	b := newBox(t)
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

// TestGarbagePeers: peers that are not sources are turned away, and a real source is served
// afterwards.
func TestGarbagePeers(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	source := b.run(g, "source", idle...)
	g.alive(b, 1)
	destination, to := b.incoming(g, "destination", "tcp:127.0.0.1:0")
	hello := func() []byte {
		var out strings.Builder
		require.NoError(t, transport.WriteHello(&out, transport.Hello{
			Purpose: transport.PurposeMigrate, Channels: 1,
		}))
		return []byte(out.String())
	}
	version := hello()
	version[8], version[18] = 77, 76
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

// TestWrongDestinations: a source whose peer is not a destination says so and keeps its guest.
func TestWrongDestinations(t *testing.T) {
	b := newBox(t)
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
	terms := transport.Terms{Version: transport.Version}
	require.NoError(t, transport.WriteWelcome(&welcome, terms))
	none := strings.Repeat("\x00", 8) // features
	const refusal = "TASKMIGR\x02\x00\x00\x00\x01\x00\x05\x00"
	for want, to := range map[string]string{
		"refused":                     free,
		"no such file":                b.unix("nothing"),
		"nowhere.invalid":             "tcp:nowhere.invalid:1",
		"does not speak":              answering("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"closed the connection":       answering(""),
		"the migration protocol":      b.unix("other.sock"), // a control socket
		"migration failed: ":          answering(welcome.String() + strings.Repeat("\x5a", 4096)),
		"the guest still runs here":   answering(welcome.String()),
		"protocol version differs":    answering("TASKMIGR\x09\x00\x00\x00\x00\x00\x00\x00" + none),
		"refused by the peer: no\x20": answering(refusal + none + "no\n\x1bx"),
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
	b := newBox(t)
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

// holder is a proxy to a destination. For a while, it holds back what the source sends, from its
// first flush on, while the guest stands still.
type holder struct {
	ln    net.Listener
	conns atomic.Int64
	held  chan struct{} // closed once it does
	goOn  chan struct{} // closed to let it pass
}

func newHolder(t *testing.T, to string) *holder {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	h := &holder{ln: ln, held: make(chan struct{}), goOn: make(chan struct{})}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			h.conns.Add(1)
			out, err := net.Dial("tcp", strings.TrimPrefix(to, "tcp:"))
			if err != nil {
				in.Close()
				continue
			}
			wg.Go(func() { h.pass(out, in); out.Close() })
			wg.Go(func() { _, _ = io.Copy(in, out); in.Close() })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return h
}

// pass copies the greeting, and then frame by frame.
func (h *holder) pass(to io.Writer, from io.Reader) {
	const greeting, header = 44, 16
	if _, err := io.CopyN(to, from, greeting); err != nil {
		return
	}
	for first := true; ; {
		var b [header]byte
		if _, err := io.ReadFull(from, b[:]); err != nil {
			return
		}
		if transport.Type(b[0]) == transport.TypeFlush && first {
			first = false
			close(h.held)
			<-h.goOn
		}
		if _, err := to.Write(b[:]); err != nil {
			return
		}
		if _, err := io.CopyN(to, from, int64(binary.LittleEndian.Uint32(b[4:]))); err != nil {
			return
		}
	}
}

// TestStandstillIsTakenBack: the link stops right after the pause. The guest runs on, with every
// way of tracking its writes, and later moves over the same connection.
func TestStandstillIsTakenBack(t *testing.T) {
	for _, tracker := range []string{"get-dirty-log", "manual-protect", "ring"} {
		t.Run(tracker, func(t *testing.T) {
			b := newBox(t)
			g := &guest{}
			source := b.run(g, "source", "--memory", "32M", "--dirty-log", tracker,
				"--cmdline", "workload=phased ws=1M hot=256K busy=1s cool=0 fill=random verify=1")
			g.alive(b, 1)
			destination, to := b.incoming(g, "destination", "tcp:127.0.0.1:0")
			proxy := newHolder(t, to)
			_, end := b.background("migrate", "source", "tcp:"+proxy.ln.Addr().String(), "--json",
				"--channels", "1", "--verify", "--downtime-limit", "2s", "--standstill-limit", "5s",
				"--standstill-retries", "10")
			select {
			case <-proxy.held:
			case <-b.ctx.Done():
				require.FailNow(t, "no stop-and-copy")
			}
			// The link is dead, and the guest still beats.
			g.alive(b, 3)
			require.Equal(t, control.StateRunning, source.vm().State)
			close(proxy.goOn)
			r := end()
			require.Equal(t, 0, r.status, r.stderr)
			var report migration.Report
			require.NoError(t, json.Unmarshal([]byte(r.stdout), &report))
			requireVerified(t, report)
			require.EqualValues(t, 1, proxy.conns.Load())
			require.GreaterOrEqual(t, len(report.Standstills), 2)
			require.Contains(t, report.Standstills[0].Ended, "taken back after 5s")
			require.Equal(t, 0, source.wait())
			require.Equal(t, control.StateRunning, destination.vm().State)
			g.alive(b, 2)
		})
	}
}
