package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"taskguide/tagging/abi"
	"taskguide/tagging/guest"
)

var le = binary.LittleEndian

// board is a tag device made of plain files, with a daemon. Nobody answers a store to a register,
// so it can be read back.
type board struct {
	t      *testing.T
	folder string
	socket string
	dev    *guest.Device
	end    func() // ends the daemon
}

func newBoard(t *testing.T) *board {
	folder := t.TempDir()
	regs := make([]byte, abi.MMIOBytes)
	le.PutUint32(regs[abi.RegID:], abi.ID)
	le.PutUint32(regs[abi.RegVersion:], abi.Version)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "resource0"), regs, 0o600))
	ram := make([]byte, abi.DeviceBytes)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "resource2"), ram, 0o600))
	dev, err := guest.OpenDevice(folder)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, dev.Close()) })
	b := &board{t: t, folder: folder, socket: filepath.Join(folder, "socket"), dev: dev}
	b.start()
	return b
}

// start starts a daemon, which ends with the test.
func (b *board) start() {
	ctx, cancel := context.WithCancel(context.Background())
	var life sync.WaitGroup
	life.Go(func() {
		args := []string{"daemon", "--socket", b.socket, "--device", b.folder, "--wake", "10ms"}
		_ = run(ctx, args, io.Discard, io.Discard)
	})
	b.end = sync.OnceFunc(func() {
		cancel()
		life.Wait()
	})
	b.t.Cleanup(b.end)
	b.eventually(func() bool {
		c, err := guest.Dial(b.socket)
		return err == nil && c.Close() == nil
	})
}

func (b *board) eventually(what func() bool) {
	b.t.Helper()
	require.Eventually(b.t, what, time.Minute, 5*time.Millisecond)
}

func (b *board) dial() *guest.Client {
	c, err := guest.Dial(b.socket)
	require.NoError(b.t, err)
	b.t.Cleanup(func() { _ = c.Close() })
	return c
}

// found is a used slot of a committed page.
type found struct {
	page, slot int
	id, depth  uint32
	name       string
}

// slots returns the used slots, as a host would find them.
func (b *board) slots() []found { return slotsOf(b.dev.Read(abi.RegPages), b.dev.RAM.Load) }

func slotsOf(committed uint32, load func(at uint32) uint32) (all []found) {
	for page := range abi.DevicePages {
		magic := load(guest.PageAt(page) + guest.PageMagicAt)
		if committed&(1<<page) == 0 || magic != abi.PageMagic {
			continue
		}
		for slot := range abi.PageSlots {
			at := guest.SlotAt(page, slot)
			if load(at+guest.SlotFlagsAt) != abi.SlotUsed {
				continue
			}
			var name []byte
			for i := uint32(0); i < abi.SlotNameBytes; i += 4 {
				name = le.AppendUint32(name, load(at+guest.SlotNameAt+i))
			}
			all = append(all, found{
				page, slot, load(at + guest.SlotTaskAt), load(at + guest.SlotDepthAt),
				string(bytes.TrimRight(name, "\x00")),
			})
		}
	}
	return all
}

func (b *board) one() found {
	b.t.Helper()
	all := b.slots()
	require.Len(b.t, all, 1)
	return all[0]
}

func TestTask(t *testing.T) {
	b := newBoard(t)
	slot, err := b.dial().Open("redis")
	require.NoError(t, err)
	id := b.one().id
	require.Equal(t, found{0, 0, id, 0, "redis"}, b.one())
	require.Equal(t, id, b.dev.Read(abi.RegRegister))
	require.NoError(t, slot.Enter())
	require.EqualValues(t, 1, b.one().depth)
	require.Zero(t, b.dev.Read(abi.RegEnter), "without notify nobody rings")

	b.dev.RAM.Store(guest.PageNotifyAt, 1)
	require.NoError(t, slot.Enter())
	require.Equal(t, id, b.dev.Read(abi.RegEnter))
	require.NoError(t, slot.Exit())
	require.Equal(t, id, b.dev.Read(abi.RegExit), "the answer comes after the device's")
	require.EqualValues(t, 1, b.one().depth)
	require.NoError(t, slot.Close())
	require.Empty(t, b.slots())
	require.Equal(t, id, b.dev.Read(abi.RegUnregister))
	require.Zero(t, b.dev.Read(abi.RegPages))
	require.Zero(t, b.dev.RAM.Load(guest.PageMagicAt))
	require.ErrorIs(t, slot.Enter(), guest.ErrUntagged)
}

// TestConnectionEnds: its tasks end with it, and those of others do not.
func TestConnectionEnds(t *testing.T) {
	b := newBoard(t)
	first, second := b.dial(), b.dial()
	_, err := first.Open("first")
	require.NoError(t, err)
	_, err = second.Open("second")
	require.NoError(t, err)
	require.Len(t, b.slots(), 2)
	require.NoError(t, first.Close())
	b.eventually(func() bool { return len(b.slots()) == 1 })
	require.Equal(t, "second", b.one().name)
	_, err = second.Ask(guest.Request{Op: "ring", ID: b.one().id + 1})
	require.ErrorContains(t, err, "no task of this program")
	_, err = second.Ask(guest.Request{Op: "nonsense"})
	require.ErrorContains(t, err, "unknown request")
}

// TestMain is also a program that opens a task, for TestDeadClient.
func TestMain(m *testing.M) {
	if socket := os.Getenv("VMM_TAG_TEST_CLIENT"); socket != "" {
		dieWithChild(socket)
	}
	os.Exit(m.Run())
}

// dieWithChild opens a task and has a child that holds on to the connection.
func dieWithChild(socket string) {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socket, Net: "unixpacket"})
	if err != nil {
		panic(err)
	}
	if _, err := conn.Write([]byte(`{"op":"open","name":"dies"}`)); err != nil {
		panic(err)
	}
	if _, err := conn.Read(make([]byte, 4096)); err != nil {
		panic(err)
	}
	f, err := conn.File()
	if err != nil {
		panic(err)
	}
	child := exec.Command("sleep", "600")
	child.ExtraFiles = []*os.File{f}
	if err := child.Start(); err != nil {
		panic(err)
	}
	fmt.Println(child.Process.Pid)
	select {}
}

// TestDeadClient: a program that is killed is unregistered at once, though a child of it keeps the
// connection open.
func TestDeadClient(t *testing.T) {
	b := newBoard(t)
	client := exec.Command(os.Args[0])
	client.Env = append(os.Environ(), "VMM_TAG_TEST_CLIENT="+b.socket)
	out, err := client.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, client.Start())
	line := make([]byte, 32)
	n, err := out.Read(line)
	require.NoError(t, err)
	child, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
	require.NoError(t, err)
	defer func() {
		p, err := os.FindProcess(child)
		require.NoError(t, err)
		require.NoError(t, p.Kill())
	}()
	require.Equal(t, "dies", b.one().name)
	require.NoError(t, client.Process.Kill())
	_ = client.Wait()
	b.eventually(func() bool { return len(b.slots()) == 0 })
}

// TestLease: the daemon renews it. When the host has given a page up, its programs are untagged,
// and the page is used again last.
func TestLease(t *testing.T) {
	b := newBoard(t)
	c := b.dial()
	slot, err := c.Open("task")
	require.NoError(t, err)
	require.EqualValues(t, 200, b.dev.RAM.Load(guest.PageTermAt))
	lease := b.dev.RAM.Load(guest.PageLeaseAt)
	b.eventually(func() bool { return b.dev.RAM.Load(guest.PageLeaseAt) != lease })

	b.dev.RAM.Store(guest.PageMagicAt, 0)
	require.ErrorIs(t, slot.Enter(), guest.ErrUntagged)
	b.eventually(func() bool { return b.dev.Read(abi.RegPages) == 0 })
	for i := range abi.DevicePages {
		c := b.dial()
		_, err := c.Open("again")
		require.NoError(t, err)
		require.Equal(t, (i+1)%abi.DevicePages, b.one().page)
		require.NoError(t, c.Close())
		b.eventually(func() bool { return len(b.slots()) == 0 })
	}
}

// TestNewDaemon takes over: what the one before left is forgotten, and its pages come last.
func TestNewDaemon(t *testing.T) {
	b := newBoard(t)
	_, err := b.dial().Open("old")
	require.NoError(t, err)
	ram := make([]uint32, 16)
	for i := range ram {
		ram[i] = b.dev.RAM.Load(uint32(4 * i))
	}
	b.end()
	for i, v := range ram { // as after kill -9
		b.dev.RAM.Store(uint32(4*i), v)
	}
	b.dev.Write(abi.RegPages, 1)
	b.start()
	require.Zero(t, b.dev.RAM.Load(guest.PageMagicAt), "its programs are untagged")
	require.Empty(t, b.slots())
	_, err = b.dial().Open("new")
	require.NoError(t, err)
	require.Equal(t, 1, b.one().page)
}

// TestSilentDaemon: a program that waits for an answer goes on once its page is given up.
func TestSilentDaemon(t *testing.T) {
	b := newBoard(t)
	c := b.dial()
	slot, err := c.Open("task")
	require.NoError(t, err)
	b.dev.RAM.Store(guest.PageNotifyAt, 1)
	fake := filepath.Join(b.folder, "fake")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: fake, Net: "unixpacket"})
	require.NoError(t, err)
	defer l.Close()
	silent, err := guest.Dial(fake)
	require.NoError(t, err)
	defer silent.Close()
	done := make(chan error, 1)
	go func() {
		_, err := silent.AskWhile(guest.Request{Op: "ring"}, slot.Alive)
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatal("it did not wait: ", err)
	case <-time.After(200 * time.Millisecond):
	}
	b.dev.RAM.Store(guest.PageMagicAt, 0)
	require.ErrorIs(t, <-done, guest.ErrUntagged)
}

// TestFull: a program has as many tasks as it may, in several pages, and programs share pages when
// there are more of them than pages. None gets a slot of another.
func TestFull(t *testing.T) {
	b := newBoard(t)
	c := b.dial()
	open := func() error {
		_, err := c.Open("task")
		return err
	}
	for range maxTasks {
		require.NoError(t, open())
	}
	_, err := c.Open(strings.Repeat("x", abi.SlotNameBytes+1))
	require.ErrorContains(t, err, "longer than")
	require.ErrorContains(t, open(), fmt.Sprint(maxTasks))
	require.Len(t, b.slots(), maxTasks)
	status, out, _ := b.run("status")
	require.Zero(t, status)
	require.Equal(t, 2+maxTasks, strings.Count(out, "\n"))
}

// TestPageGivenUpMeanwhile: a program whose newest page has no task any more gets another one, and
// not the page that may be somebody else's by now.
func TestPageGivenUpMeanwhile(t *testing.T) {
	b := newBoard(t)
	c := b.dial()
	for range abi.PageSlots {
		_, err := c.Open("first")
		require.NoError(t, err)
	}
	second, err := c.Open("second")
	require.NoError(t, err)
	require.NoError(t, second.Close())
	_, err = c.Open("third")
	require.NoError(t, err)
	require.Len(t, b.slots(), abi.PageSlots+1)
}

// executed runs vmm-tag exec with a command that copies the device's RAM, and returns the slots in
// the copy.
func (b *board) executed(flags ...string) []found {
	copied := filepath.Join(b.folder, "copy")
	args := append([]string{"exec", "--socket", b.socket}, flags...)
	args = append(args, "--", "cp", filepath.Join(b.folder, "resource2"), copied)
	require.Zero(b.t, run(context.Background(), args, io.Discard, io.Discard))
	ram, err := os.ReadFile(copied)
	require.NoError(b.t, err)
	all := uint32(1<<abi.DevicePages - 1)
	return slotsOf(all, func(at uint32) uint32 { return le.Uint32(ram[at:]) })
}

// TestExec: a command's run is the segment, or all but its runs.
func TestExec(t *testing.T) {
	b := newBoard(t)
	during := b.executed()
	require.Len(t, during, 1)
	require.Equal(t, "cp", during[0].name)
	require.EqualValues(t, 1, during[0].depth)
	require.Empty(t, b.slots())

	during = b.executed("--between")
	require.Len(t, during, 1)
	require.Zero(t, during[0].depth)
	require.EqualValues(t, 1, b.one().depth, "the task goes on, between its runs")
	id := b.one().id
	require.Equal(t, id, b.executed("--between")[0].id)
}

func (b *board) run(args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	args = append([]string{args[0], "--socket", b.socket}, args[1:]...)
	status = run(context.Background(), args, &out, &errs)
	return status, out.String(), errs.String()
}

// TestScript: enter and exit are of the script that ran them.
func TestScript(t *testing.T) {
	b := newBoard(t)
	status, _, stderr := b.run("exit", "backup")
	require.Equal(t, 1, status)
	require.Contains(t, stderr, `has no task "backup"`)
	require.Empty(t, b.slots())
	for _, op := range []string{"enter", "enter", "exit"} {
		status, _, stderr = b.run(op, "backup")
		require.Zero(t, status, stderr)
	}
	require.EqualValues(t, 1, b.one().depth)
	b.dev.Write(abi.RegState, uint32(abi.StateWaiting))
	b.dev.Write(abi.RegDeadlineMS, 12345)
	status, stdout, _ := b.run("status")
	require.Zero(t, status)
	require.Regexp(t, `\Amigration requested, 12.3 s left to say yes; epoch 0\n`+
		`TASK +SEGMENT +DEPTH +PID +NAME\n\d+ +inside +1 +\d+ +backup\n\z`, stdout)
}

// watched begins to watch, and returns what gives the next output.
func (b *board) watched(task string) (next func() string) {
	t := b.t
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	var life sync.WaitGroup
	life.Go(func() { _ = watch(ctx, b.socket, display{to: w, task: task}) })
	t.Cleanup(func() {
		cancel()
		require.NoError(t, r.CloseWithError(errors.New("read no more")))
		life.Wait()
	})
	return func() string {
		line := make([]byte, 256)
		n, err := r.Read(line)
		require.NoError(t, err)
		return string(line[:n])
	}
}

func TestWatch(t *testing.T) {
	b := newBoard(t)
	next := b.watched("")
	require.Equal(t, "no migration\n", next())
	b.dev.Write(abi.RegDeadlineMS, 12300)
	b.dev.Write(abi.RegState, uint32(abi.StateWaiting))
	for next() != "migration requested, 12.3 s left to say yes\n" {
	}
	_, err := b.dial().Open("of no interest")
	require.NoError(t, err)
	b.dev.Write(abi.RegEpoch, 1)
	require.Equal(t, "moved; epoch 1\n", next())
}

// TestWatchTask: of one task, watch tells its segments, too.
func TestWatchTask(t *testing.T) {
	b := newBoard(t)
	next := b.watched("backup")
	require.Equal(t, "no migration\nbackup: not there\n", next())
	slot, err := b.dial().Open("backup")
	require.NoError(t, err)
	require.Equal(t, "backup: outside\n", next())
	require.NoError(t, slot.Enter())
	require.Equal(t, "backup: inside\n", next())
	b.dev.Write(abi.RegDeadlineMS, 12300)
	b.dev.Write(abi.RegState, uint32(abi.StateWaiting))
	for next() != "migration requested, 12.3 s left to say yes\n" {
	}
}

// TestStatusForScripts: of one task, and as JSON.
func TestStatusForScripts(t *testing.T) {
	b := newBoard(t)
	c := b.dial()
	for _, name := range []string{"a", "b"} {
		_, err := c.Open(name)
		require.NoError(t, err)
	}
	_, stdout, _ := b.run("status", "b")
	require.Equal(t, 3, strings.Count(stdout, "\n"), stdout)
	require.Regexp(t, `(?m)^\d+ +outside +0 +\d+ +b$`, stdout)
	status, _, stderr := b.run("status", "c")
	require.Equal(t, 1, status)
	require.Equal(t, "vmm-tag: no task has the name or id \"c\"\n", stderr)
	b.dev.Write(abi.RegState, uint32(abi.StateWaiting))
	b.dev.Write(abi.RegDeadlineMS, 12300)
	status, stdout, stderr = b.run("status", "--json", "a")
	require.Zero(t, status, stderr)
	id := b.slots()[0].id
	require.JSONEq(t, fmt.Sprintf(`{"text":"migration requested, 12.3 s left to say yes","state":1,
		"deadline_ms":12300,"epoch":0,"tasks":[{"id":%d,"name":"a","pid":%d,"depth":0}]}`,
		id, os.Getpid()), stdout)
	require.Equal(t, 1, strings.Count(stdout, "\n"))
	_, stdout, _ = b.run("status", fmt.Sprint(id))
	require.Contains(t, stdout, " a\n", "by its id")
}

// TestExecSignals: the command can be ended by the signals that this program outlasts, and gets the
// SIGTERM that this program gets.
func TestExecSignals(t *testing.T) {
	mine := make(chan os.Signal, 9)
	// They count, even if whoever started the test has them ignored.
	signal.Notify(mine, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(mine)
	b := &board{t: t, socket: none}
	for script, want := range map[string]int{
		"kill -INT $$; exit 7":                128 + int(unix.SIGINT),
		"kill -QUIT $$; exit 7":               128 + int(unix.SIGQUIT),
		"kill -INT $PPID; exit 7":             7,
		"kill -HUP $PPID; exec sleep 100000":  128 + int(unix.SIGHUP),
		"kill -TERM $PPID; exec sleep 100000": 128 + int(unix.SIGTERM),
	} {
		status, _, _ := b.run("exec", "--", "sh", "-c", "ulimit -c 0; "+script)
		require.Equal(t, want, status, script)
	}
}

// TestNoDaemon: programs run untagged, and one line says so.
func TestNoDaemon(t *testing.T) {
	b := &board{socket: filepath.Join(t.TempDir(), "none")}
	status, _, stderr := b.run("exec", "--", "sh", "-c", "exit 3")
	require.Equal(t, 3, status)
	require.Equal(t, 1, strings.Count(stderr, "\n"))
	require.Contains(t, stderr, "untagged: no tag daemon")
	status, _, _ = b.run("exec", "--", "sh", "-c", "kill -9 $$")
	require.Equal(t, 128+9, status)
	status, _, stderr = b.run("enter", "x")
	require.Zero(t, status)
	require.Contains(t, stderr, "untagged")
	status, _, _ = b.run("status")
	require.Equal(t, 1, status)
	for _, args := range [][]string{
		{"nonsense"}, {"exec"}, {"enter"}, {"status", "x", "y"}, {"enter", "--json"},
		{"exec", "--between", "--while", "true"},
	} {
		status, _, stderr = b.run(args...)
		require.Equal(t, 2, status, "%q", args)
		require.Contains(t, stderr, "usage: vmm-tag")
	}
	for _, args := range [][]string{
		{"--lease", "9"}, {"--wake", "0s"}, {"--wake", "-1s"}, {"--wake", "99us"},
		{"--wake", "30s", "--lease", "21"},
		{"--wake", "2562047h", "--lease", "9223372036854775807"},
	} {
		status, _, stderr = b.run(append([]string{"daemon"}, args...)...)
		require.Equal(t, 2, status, "%q", args)
		require.Contains(t, stderr, args[0])
		require.Equal(t, 1, strings.Count(stderr, "\n"))
	}
	status, _, stderr = b.run("daemon", "--device", t.TempDir())
	require.Equal(t, 1, status)
	require.Contains(t, stderr, "open the tag device")
}

// newTestRegistry returns a registry on a device made of files, which watches no process.
func newTestRegistry(t testing.TB) (*registry, *guest.Device) {
	folder := t.TempDir()
	regs := make([]byte, abi.MMIOBytes)
	le.PutUint32(regs, abi.ID)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "resource0"), regs, 0o600))
	ram := make([]byte, abi.DeviceBytes)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "resource2"), ram, 0o600))
	dev, err := guest.OpenDevice(folder)
	require.NoError(t, err)
	t.Cleanup(func() { _ = dev.Close() })
	r := newRegistry(newPages(dev, 1000))
	r.watch = func(int, func()) error { return nil }
	return r, dev
}

// fill opens as many tasks as there is room for, by a program for each page.
func fill(t *testing.T, r *registry, name string) (programs []*session) {
	for pid := range abi.DevicePages {
		s := &session{pid: 1000 + pid}
		programs = append(programs, s)
		for range abi.PageSlots {
			_, err := r.act(s, guest.Request{Op: "open", Name: name})
			require.NoError(t, err)
		}
	}
	return programs
}

// TestRoomAgain: a program that found the device full gets a page of its own once there is one, and
// not the one that another has given up.
func TestRoomAgain(t *testing.T) {
	r, dev := newTestRegistry(t)
	programs := fill(t, r, "x")
	late := &session{pid: 1}
	_, err := r.act(late, guest.Request{Op: "open"})
	require.ErrorIs(t, err, errFull)
	r.endSession(programs[0])
	require.NotContains(t, r.pages.free, 1)
	a, err := r.act(late, guest.Request{Op: "open", Name: "late"})
	require.NoError(t, err)
	all := slotsOf(dev.Read(abi.RegPages), dev.RAM.Load)
	require.Contains(t, all, found{a.Page, a.Slot, a.ID, 0, "late"}, "the host sees it")
	require.Empty(t, r.pages.free)
}

// TestIDsBeginAgain: after the last id come the first ones, but for those that tasks still have.
func TestIDsBeginAgain(t *testing.T) {
	r, _ := newTestRegistry(t)
	s := &session{pid: 1}
	for _, want := range []uint32{firstID, firstID + 1, 1<<32 - 1, firstID + 2} {
		if want == 1<<32-1 {
			r.next = want
		}
		a, err := r.act(s, guest.Request{Op: "open"})
		require.NoError(t, err)
		require.Equal(t, want, a.ID)
	}
}

// TestLongestStatus: the status fits an answer, whatever names programs choose, and shows nothing
// that a terminal would act on.
func TestLongestStatus(t *testing.T) {
	for _, letter := range []string{"<", "\x01", "\"", "\\", "\u2028"} {
		r, dev := newTestRegistry(t)
		fill(t, r, strings.Repeat(letter, abi.SlotNameBytes/len(letter)))
		for page := range abi.DevicePages {
			for slot := range abi.PageSlots {
				dev.RAM.Store(guest.SlotAt(page, slot)+guest.SlotDepthAt, 1<<32-1)
			}
		}
		for _, task := range r.tasks {
			task.owner.pid = 1 << 22 // the most that Linux gives
			require.Equal(t, printable(task.name), task.name)
		}
		text, err := encode(guest.Answer{Status: r.status()})
		require.NoError(t, err)
		require.LessOrEqual(t, len(text), guest.MaxAnswer)
		var a guest.Answer
		require.NoError(t, json.Unmarshal(text, &a))
		require.Len(t, a.Status.Tasks, abi.DevicePages*abi.PageSlots)
	}
}

// TestOrphan: a script's task belongs to init only if root says so.
func TestOrphan(t *testing.T) {
	r, _ := newTestRegistry(t)
	r.parent = func(int) (int, error) { return 1, nil }
	enter := guest.Request{Op: "enter", Name: "x"}
	_, err := r.act(&session{pid: 7, uid: 1000}, enter)
	require.ErrorIs(t, err, errOrphan)
	require.Empty(t, r.tasks)
	_, err = r.act(&session{pid: 7}, enter)
	require.NoError(t, err)
}

// flaky is a socket that fails, then has a program, and then is closed.
type flaky struct {
	fails int
	conn  *net.UnixConn
}

func (f *flaky) AcceptUnix() (*net.UnixConn, error) {
	conn := f.conn
	switch {
	case f.fails > 0:
		f.fails--
		return nil, unix.EMFILE
	case conn == nil:
		return nil, net.ErrClosed
	}
	f.conn = nil
	return conn, nil
}

// connection returns both ends of one.
func connection(t *testing.T) (ends [2]*net.UnixConn) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "")
		c, err := net.FileConn(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		t.Cleanup(func() { c.Close() })
		ends[i] = c.(*net.UnixConn)
	}
	return ends
}

// TestAcceptFails: a daemon that has no descriptors left for a while goes on, and says so once.
func TestAcceptFails(t *testing.T) {
	r, _ := newTestRegistry(t)
	ends := connection(t)
	var log strings.Builder
	err := r.acceptAll(t.Context(), &flaky{fails: 3, conn: ends[0]},
		slog.New(slog.NewTextHandler(&log, nil)))
	require.ErrorIs(t, err, net.ErrClosed)
	require.Equal(t, 1, strings.Count(log.String(), "\n"), log.String())
	_, err = ends[1].Write([]byte(`{"op":"status"}`))
	require.NoError(t, err)
	n, err := ends[1].Read(make([]byte, guest.MaxAnswer))
	require.NoError(t, err)
	require.NotZero(t, n)
}

// TestManyConnections: a user with too many gets no more, and others do.
func TestManyConnections(t *testing.T) {
	r, _ := newTestRegistry(t)
	for range maxSessions {
		require.True(t, r.admit(1000))
	}
	require.False(t, r.admit(1000))
	require.True(t, r.admit(1001))
	r.leave(1000)
	require.True(t, r.admit(1000))
	r.leave(1001)
	require.Len(t, r.sessions, 1)

	r.sessions[uint32(os.Getuid())] = maxSessions
	ends := connection(t)
	r.welcome(ends[0], slog.New(slog.DiscardHandler))
	_, err := ends[1].Write([]byte(`{"op":"status"}`))
	require.Error(t, err, "it is closed")
}

// FuzzRequest: whatever a program sends, the daemon answers and keeps its tables.
func FuzzRequest(f *testing.F) {
	for _, q := range []string{
		`{"op":"open","name":"x"}`, `{"op":"ring","id":1946157056,"enter":true}`,
		`{"op":"close","id":1946157056}`, `{"op":"status"}`, `{`, `[]`,
	} {
		f.Add([]byte(q))
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		r, dev := newTestRegistry(t)
		s := &session{pid: os.Getpid()}
		var q guest.Request
		if json.Unmarshal(packet, &q) == nil {
			_, _ = r.act(s, q)
			_, _ = r.act(s, q)
		}
		r.endAll()
		require.Empty(t, r.tasks)
		require.Zero(t, dev.Read(abi.RegPages))
	})
}

// TestSocketsOfOthers: a daemon takes the place of a dead one, and of nothing else.
func TestSocketsOfOthers(t *testing.T) {
	dir := t.TempDir()
	file, stream, dead := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c")
	require.NoError(t, os.WriteFile(file, []byte("mine"), 0o600))
	_, err := listen(config{socket: file})
	require.ErrorContains(t, err, "is no socket")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "mine", string(text))

	other, err := net.Listen("unix", stream)
	require.NoError(t, err)
	defer other.Close()
	_, err = listen(config{socket: stream})
	require.ErrorContains(t, err, "may be in use")
	c, err := net.Dial("unix", stream)
	require.NoError(t, err)
	require.NoError(t, c.Close())

	for range 2 { // the second one finds what the first has left
		l, err := listen(config{socket: dead})
		require.NoError(t, err)
		info, err := os.Stat(dead)
		require.NoError(t, err)
		require.Equal(t, os.ModeSocket|0o600, info.Mode())
		l.SetUnlinkOnClose(false)
		require.NoError(t, l.Close())
	}
}

// TestWatchEndsBesideASilentDaemon: Ctrl-C ends it, whether or not the daemon answers.
func TestWatchEndsBesideASilentDaemon(t *testing.T) {
	silent := filepath.Join(t.TempDir(), "silent")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: silent, Net: "unixpacket"})
	require.NoError(t, err)
	defer l.Close()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	begin := time.Now()
	require.Zero(t, run(ctx, []string{"watch", "--socket", silent}, io.Discard, io.Discard))
	require.Less(t, time.Since(begin), 20*time.Second, "not when the daemon counts as gone")
}
