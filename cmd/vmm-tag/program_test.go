package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/tagging/abi"
	"taskguide/tagging/guest"
)

// lines notes what a program says.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) say(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, line)
}

func (l *lines) said() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.all, "\n")
}

// program connects in this process, and returns what it says.
func (b *board) program(socket, devices string) (*guest.Program, *lines) {
	said := &lines{}
	p := guest.Options{Socket: socket, Devices: devices, Say: said.say}.Connect()
	b.t.Cleanup(func() { _ = p.Close() })
	return p, said
}

// TestProgram: tasks by the daemon, which end with it; one line says so.
func TestProgram(t *testing.T) {
	b := newBoard(t)
	p, said := b.program(b.socket, none)
	require.True(t, p.Tagged())
	require.False(t, p.Migrating())
	task := p.Task("worker")
	require.Equal(t, "worker", b.one().name)
	task.Segment(func() { require.EqualValues(t, 1, b.one().depth) })
	require.Zero(t, b.one().depth)
	require.False(t, p.Migrating())
	b.dev.RAM.Store(guest.PageNotifyAt, 1)
	require.True(t, p.Migrating())
	_, ok := p.Deadline()
	require.False(t, ok)
	b.dev.Write(abi.RegDeadlineMS, 12300)
	left, ok := p.Deadline()
	require.True(t, ok)
	require.Equal(t, 12300*time.Millisecond, left)
	task.Close()
	require.Empty(t, b.slots())

	task = p.Task("again")
	require.Empty(t, said.said())
	b.end()
	for page := range abi.DevicePages {
		b.dev.RAM.Store(guest.PageAt(page)+guest.PageMagicAt, 0)
	}
	task.Enter()
	task.Exit()
	require.Equal(t, "untagged: the tag daemon is gone; migrations do not wait for this program",
		said.said())
	p.Task("one more").Enter()
	require.False(t, p.Tagged())
	require.Equal(t, 1, strings.Count(said.said(), "untagged: "), "said once")
}

// TestProgramUntagged: without a daemon and without a device a program runs, one line says that it
// is untagged, and it is never asked.
func TestProgramUntagged(t *testing.T) {
	b := &board{t: t}
	p, said := b.program(none, none)
	require.Equal(t, "untagged: no tag daemon and no tag device; migrations do not wait for this "+
		"program", said.said())
	require.False(t, p.Tagged())
	require.False(t, p.Migrating())
	_, ok := p.Deadline()
	require.False(t, ok)
	ran := false
	task := p.Task("x")
	task.Segment(func() { ran = true })
	task.Close()
	require.True(t, ran)
	p.OnMigration("y", func(*guest.Question) { t.Error("asked") })()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := p.Wait(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, p.Close())
	require.Len(t, said.all, 1)
}

// TestProgramAsked: a program is asked once for each migration that waits, says yes, and goes on
// when the machine has moved or the migration is over. One that says no stays outside.
func TestProgramAsked(t *testing.T) {
	for name, by := range map[string]func(*testing.T) (*board, string, string){
		"daemon": func(t *testing.T) (*board, string, string) {
			b := newBoard(t)
			return b, b.socket, none
		},
		"device": func(t *testing.T) (*board, string, string) {
			b := newBareBoard(t)
			return b, none, filepath.Dir(b.folder)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, socket, devices := by(t)
			p, said := b.program(socket, devices)
			questions, moved := make(chan *guest.Question), make(chan bool)
			yes := make(chan bool)
			stop := p.OnMigration("server", func(q *guest.Question) {
				questions <- q
				if <-yes {
					moved <- q.Yes()
				}
			})
			b.dev.Write(abi.RegDeadlineMS, 600_000)
			b.dev.Write(abi.RegState, uint32(abi.StateWaiting))
			left, ok := within(t, questions).Left()
			require.True(t, ok)
			require.LessOrEqual(t, left, 10*time.Minute)
			require.Greater(t, left, 5*time.Minute)
			yes <- true
			b.eventually(func() bool { return b.dev.Read(abi.RegEnter) != 0 || b.depth() == 1 })
			b.dev.Write(abi.RegEpoch, 1)
			b.dev.Write(abi.RegState, uint32(abi.StateNone))
			require.True(t, within(t, moved))

			b.dev.Write(abi.RegState, uint32(abi.StateSuspended))
			within(t, questions)
			yes <- false
			// Who has said no is asked again after it saw the migration go.
			b.eventually(func() bool {
				b.dev.Write(abi.RegState, uint32(abi.StateNone))
				time.Sleep(300 * time.Millisecond)
				b.dev.Write(abi.RegState, uint32(abi.StateWaiting))
				select {
				case <-questions:
					return true
				case <-time.After(time.Second):
					return false
				}
			})
			yes <- true
			b.dev.Write(abi.RegState, uint32(abi.StateNone))
			require.False(t, within(t, moved), "cancelled")
			stop()
			require.Empty(t, said.said())
			require.NotZero(t, b.dev.Read(abi.RegUnregister))
		})
	}
}

// depth is that of the first task.
func (b *board) depth() uint32 {
	all := b.slots()
	if len(all) == 0 {
		return 0
	}
	return all[0].depth
}

// TestProgramAskedAsDaemonEnds: Yes returns when nobody is left to tell that the migration is over.
func TestProgramAskedAsDaemonEnds(t *testing.T) {
	b := newBoard(t)
	p, said := b.program(b.socket, none)
	moved := make(chan bool)
	stop := p.OnMigration("server", func(q *guest.Question) { moved <- q.Yes() })
	b.dev.Write(abi.RegState, uint32(abi.StateWaiting))
	b.eventually(func() bool { return b.depth() == 1 })
	b.end()
	require.False(t, within(t, moved))
	stop()
	require.Contains(t, said.said(), "the tag daemon is gone")
}

// TestProgramAskedAsDaemonHangs: Yes returns, too, when the daemon's connection goes on and its
// pages are no tag pages any more.
func TestProgramAskedAsDaemonHangs(t *testing.T) {
	b := newBoard(t)
	_, err := b.dial().Open("stands for it")
	require.NoError(t, err)
	s := newScripted(t, b)
	defer close(s.answers)
	p, said := b.program(s.socket, none)
	moved, begun := make(chan bool), make(chan func())
	go func() {
		begun <- p.OnMigration("server", func(q *guest.Question) { moved <- q.Yes() })
	}()
	within(t, s.asked)
	s.answers <- fmt.Appendf(nil, `{"id":%d}`, b.one().id)
	stop := within(t, begun)
	require.JSONEq(t, `{"op":"watch"}`, within(t, s.asked))
	s.answers <- []byte(`{"migration":{"state":1,"asked":true}}`)
	b.eventually(func() bool { return b.depth() == 1 })
	b.dev.RAM.Store(guest.PageMagicAt, 0)
	require.False(t, within(t, moved))
	stop()
	require.Contains(t, said.said(), "the tag daemon is gone")
}

// TestLostForGood: a task that a daemon once refused to ring for is untagged from then on, although
// its slot looks as before.
func TestLostForGood(t *testing.T) {
	b := newBoard(t)
	stands, err := b.dial().Open("stands for it")
	require.NoError(t, err)
	s := newScripted(t, b)
	c, err := guest.Dial(s.socket)
	require.NoError(t, err)
	defer c.Close()
	go func() {
		<-s.asked
		s.answers <- fmt.Appendf(nil, `{"id":%d}`, b.one().id)
		<-s.asked
		s.answers <- nil
	}()
	slot, err := c.Open("task")
	require.NoError(t, err)
	require.NoError(t, slot.Enter())
	b.dev.RAM.Store(guest.PageNotifyAt, 1)
	require.ErrorIs(t, slot.Exit(), guest.ErrUntagged)
	b.dev.RAM.Store(guest.PageNotifyAt, 0)
	require.True(t, stands.Alive())
	require.False(t, slot.Alive())
	require.ErrorIs(t, slot.Enter(), guest.ErrUntagged)
	require.Zero(t, b.one().depth, "nothing was stored since")
}

// TestProgramWaits: Wait returns when a task is outside of its segment and a migration waits.
func TestProgramWaits(t *testing.T) {
	b := newBoard(t)
	p, _ := b.program(b.socket, none)
	task := p.Task("x")
	task.Enter()
	b.dev.Write(abi.RegState, uint32(abi.StateWaiting))
	asked := make(chan guest.Migration)
	go func() {
		m, _ := p.Wait(t.Context())
		asked <- m
	}()
	select {
	case <-asked:
		t.Fatal("it is inside, nobody asks it")
	case <-time.After(200 * time.Millisecond):
	}
	task.Exit()
	m := within(t, asked)
	require.Equal(t, guest.Migration{State: abi.StateWaiting, Asked: true}, m)
}

// TestWatcherDoesNotRead: who does not read what it asked to be told holds nothing up, and reads
// the last of it later.
func TestWatcherDoesNotRead(t *testing.T) {
	r, dev := newTestRegistry(t)
	ends := connection(t)
	s := &session{conn: ends[0], pid: 1}
	_, err := r.act(s, guest.Request{Op: "watch"})
	require.NoError(t, err)
	now, last := time.Now(), uint32(5000)
	for epoch := range last + 1 {
		dev.Write(abi.RegEpoch, epoch)
		r.tell(now)
	}
	require.Less(t, r.watchers[s].migration.Epoch, last, "its buffer is full")
	packet := make([]byte, guest.MaxRequest)
	read := func() (epoch uint32) {
		n, err := ends[1].Read(packet)
		require.NoError(t, err)
		var a guest.Answer
		require.NoError(t, json.Unmarshal(packet[:n], &a))
		return a.Migration.Epoch
	}
	for want := range r.watchers[s].migration.Epoch + 1 {
		require.Equal(t, want, read())
	}
	r.tell(now)
	require.Equal(t, last, read())
	r.endSession(s)
	require.Empty(t, r.watchers)
}

// TestToldOfDeadline: who watches is told of a deadline that moves, and not of one that nears.
func TestToldOfDeadline(t *testing.T) {
	now := time.Now()
	m := guest.Migration{State: abi.StateWaiting, DeadlineMS: 60_000}
	know := &told{}
	require.True(t, know.changed(m, now), "it knows nothing yet")
	know = &told{m, now.Add(time.Minute), true}
	require.False(t, know.changed(m, now))
	m.DeadlineMS = 50_000
	require.False(t, know.changed(m, now.Add(10*time.Second)))
	require.True(t, know.changed(m, now.Add(12*time.Second)), "it stood still")
	m.DeadlineMS = 0
	require.True(t, know.changed(m, now))
	for _, other := range []guest.Migration{
		{State: abi.StateSuspended, DeadlineMS: 60_000},
		{State: abi.StateWaiting, DeadlineMS: 60_000, Epoch: 1},
		{State: abi.StateWaiting, DeadlineMS: 60_000, Asked: true},
	} {
		require.True(t, know.changed(other, now), "%+v", other)
	}
}

// TestServerExample: the server of examples/gomodule stops accepting, says yes, and goes on.
func TestServerExample(t *testing.T) {
	b := newBoard(t)
	program := filepath.Join(t.TempDir(), "server")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./server")
	build.Dir = "../../examples/gomodule"
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly -buildvcs=false")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	server := exec.CommandContext(t.Context(), program, "--listen", "127.0.0.1:0",
		"--socket", b.socket)
	stdout, err := server.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	from := bufio.NewReader(stdout)
	line := func(want string) string {
		line, err := from.ReadString('\n')
		require.NoError(t, err)
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), want)
		require.True(t, ok, line)
		return rest
	}
	get := func(address string) {
		answer, err := http.Get("http://" + address)
		require.NoError(t, err)
		text, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		require.Equal(t, "hello\n", string(text))
		http.DefaultClient.CloseIdleConnections()
	}
	address := line("accepting at ")
	get(address)
	b.eventually(func() bool { return len(b.slots()) == 1 })
	b.dev.Write(abi.RegState, uint32(abi.StateWaiting))
	line("drained")
	b.eventually(func() bool { return b.depth() == 1 })
	_, err = http.Get("http://" + address)
	require.Error(t, err, "it does not accept")
	b.dev.Write(abi.RegEpoch, 1)
	b.dev.Write(abi.RegState, uint32(abi.StateNone))
	line("moved: true")
	require.Equal(t, address, line("accepting at "))
	b.eventually(func() bool { return b.depth() == 0 })
	get(address)
}
