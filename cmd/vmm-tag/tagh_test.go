package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"taskguide/integration/need"
	"taskguide/tagging/abi"
	"taskguide/tagging/guest"
)

// dialects are the languages that tag.h is for, by how a compiler is called.
var dialects = map[string][]string{
	"C11":   {"gcc", "-std=c11", "-O2"},
	"C++17": {"g++", "-x", "c++", "-std=c++17", "-O1"},
}

// compiled builds a program over tag.h, without a warning. What C leaves undefined ends it.
func compiled(t testing.TB, dialect []string, source string) (program string) {
	t.Helper()
	if _, err := exec.LookPath(dialect[0]); err != nil {
		need.Skip(t, err.Error())
	}
	program = filepath.Join(t.TempDir(), "program")
	args := append([]string{"-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-pedantic", "-Werror",
		"-fsanitize=undefined", "-fsanitize-undefined-trap-on-error",
		"-I../../tagging/include", "-o", program}, dialect[1:]...)
	out, err := exec.CommandContext(t.Context(), dialect[0], append(args, source)...).
		CombinedOutput()
	require.NoError(t, err, "%s", out)
	return program
}

const clientSource = "../../tagging/include/test_client.c"

// puppet is a program that does what it is told, a line at a time.
type puppet struct {
	t    testing.TB
	cmd  *exec.Cmd
	to   io.WriteCloser
	from *bufio.Reader
	errs bytes.Buffer

	hangs *time.Timer
}

func newPuppet(t testing.TB, program string, args ...string) *puppet {
	p := &puppet{t: t, cmd: exec.Command(program, args...)}
	var err error
	p.to, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	p.from, p.cmd.Stderr = bufio.NewReader(out), &p.errs
	require.NoError(t, p.cmd.Start())
	// A program that hangs ends with the test that waits for it.
	p.hangs = time.AfterFunc(2*time.Minute, func() { _ = p.cmd.Process.Kill() })
	t.Cleanup(func() {
		p.end()
		p.hangs.Stop()
	})
	return p
}

// end waits for the program, and returns what it said on standard error.
func (p *puppet) end() string {
	_ = p.to.Close()
	_ = p.cmd.Wait()
	return p.errs.String()
}

// tell gives an order and does not wait for its result, which got returns.
func (p *puppet) tell(order string) {
	p.t.Helper()
	_, err := io.WriteString(p.to, order+"\n")
	require.NoError(p.t, err)
}

func (p *puppet) got() int {
	p.t.Helper()
	line, err := p.from.ReadString('\n')
	require.NoError(p.t, err)
	n, err := strconv.Atoi(strings.TrimSpace(line))
	require.NoError(p.t, err)
	return n
}

func (p *puppet) do(order string) int {
	p.t.Helper()
	p.tell(order)
	return p.got()
}

// TestHeader tests programs over tag.h, in each language.
func TestHeader(t *testing.T) {
	for name, dialect := range dialects {
		t.Run(name, func(t *testing.T) {
			program := compiled(t, dialect, clientSource)
			for name, test := range map[string]func(t *testing.T, program string){
				"Task": headerTask, "Fork": headerFork, "Killed": headerKilled,
				"WithoutDaemon": headerWithoutDaemon, "DaemonEnds": headerDaemonEnds,
				"SilentDaemon": headerSilentDaemon, "BadAnswers": headerBadAnswers,
				"Device": headerDevice, "Asked": headerAsked, "Moves": headerMoves,
				"HangingDaemon": headerHangingDaemon, "SlowDaemon": headerSlowDaemon,
			} {
				t.Run(name, func(t *testing.T) { test(t, program) })
			}
		})
	}
}

const none = "/nowhere"

// headerTask: a program over tag.h has a slot, tags by it, and rings while notify is set.
func headerTask(t *testing.T, program string) {
	b := newBoard(t)
	p := newPuppet(t, program, b.socket, none)
	require.Zero(t, p.do("client"))
	require.Zero(t, p.do(`open re"d\is`))
	id := b.one().id
	require.Equal(t, found{0, 0, id, 0, `re"d\is`}, b.one())
	require.Zero(t, p.do("enter"))
	require.EqualValues(t, 1, b.one().depth)
	require.Zero(t, b.dev.Read(abi.RegEnter), "without notify nobody rings")
	require.Zero(t, p.do("migrating"))
	require.Equal(t, 1, p.do("tagged"))

	b.dev.RAM.Store(guest.PageNotifyAt, 1)
	require.Equal(t, 1, p.do("migrating"))
	require.Zero(t, p.do("enter"))
	require.Equal(t, id, b.dev.Read(abi.RegEnter))
	require.Zero(t, p.do("exit"))
	require.Equal(t, id, b.dev.Read(abi.RegExit), "it returns after the device's answer")
	require.EqualValues(t, 1, b.one().depth)
	require.Zero(t, p.do("exit"))
	b.dev.Write(abi.RegExit, 0)
	require.Zero(t, p.do("exit"), "there is no segment to leave")
	require.Zero(t, b.dev.Read(abi.RegExit))
	require.Equal(t, 1210, p.do("segments"), "they nest, and end by break")
	require.Zero(t, b.one().depth)
	require.Equal(t, id, b.dev.Read(abi.RegExit))

	require.Zero(t, p.do("close"))
	require.Empty(t, b.slots())
	require.Equal(t, id, b.dev.Read(abi.RegUnregister))
	require.Empty(t, p.end())
}

// headerFork: a child's use of its parent's task does nothing, and it may open its own.
func headerFork(t *testing.T, program string) {
	b := newBoard(t)
	p := newPuppet(t, program, b.socket, none)
	require.Zero(t, p.do("client"))
	require.Zero(t, p.do("open parent"))
	require.Zero(t, p.do("enter"))
	b.dev.RAM.Store(guest.PageNotifyAt, 1)
	require.Equal(t, 1|2, p.do("fork"))
	require.EqualValues(t, 1, b.one().depth, "the parent's task is as it was")
	require.Zero(t, p.do("exit"), "and so is its connection")
	require.Zero(t, b.one().depth)
	require.Equal(t, 1, p.do("tagged"))
	require.Empty(t, p.end())
	b.eventually(func() bool { return len(b.slots()) == 0 })
}

// headerKilled: a program that is killed outside of its segment is unregistered.
func headerKilled(t *testing.T, program string) {
	b := newBoard(t)
	p := newPuppet(t, program, b.socket, none)
	require.Zero(t, p.do("client"))
	require.Zero(t, p.do("open dies"))
	require.Equal(t, "dies", b.one().name)
	require.NoError(t, p.cmd.Process.Kill())
	b.eventually(func() bool { return len(b.slots()) == 0 })
}

// headerWithoutDaemon: programs run untagged, and one line says so.
func headerWithoutDaemon(t *testing.T, program string) {
	p := newPuppet(t, program, none, none)
	for _, order := range []string{"client", "open x", "enter", "exit"} {
		require.Equal(t, -1, p.do(order), order)
	}
	require.Equal(t, 1210, p.do("segments"))
	require.Zero(t, p.do("migrating"))
	require.Zero(t, p.do("tagged"))
	require.Equal(t, 1, p.do("fork"), "so does the child")
	require.Zero(t, p.do("close"))
	said := p.end()
	require.Equal(t, 2, strings.Count(said, "\n"), "the child says it, too: %s", said)
	require.Equal(t, 2, strings.Count(said, "untagged: no tag daemon and no tag device"), said)
}

// headerDaemonEnds: the program finds out at its next tag, says so once, and runs on untagged,
// also when another page is in its place.
func headerDaemonEnds(t *testing.T, program string) {
	b := newBoard(t)
	p := newPuppet(t, program, b.socket, none)
	require.Zero(t, p.do("client"))
	require.Zero(t, p.do("open x"))
	id, slot := b.one().id, guest.SlotAt(0, 0)
	b.dev.RAM.Store(guest.PageMagicAt, 0)
	require.Equal(t, -1, p.do("enter"))
	require.Equal(t, -1, p.do("exit"))
	require.Zero(t, p.do("tagged"))

	b.eventually(func() bool { return b.dev.Read(abi.RegPages) == 0 })
	b.end()
	b.dev.RAM.Store(guest.PageMagicAt, abi.PageMagic)
	b.dev.RAM.Store(slot+guest.SlotTaskAt, id)
	b.dev.RAM.Store(slot+guest.SlotFlagsAt, abi.SlotUsed)
	b.dev.RAM.Store(slot+guest.SlotDepthAt, 77)
	require.Equal(t, -1, p.do("enter"), "untagged for good")
	require.EqualValues(t, 77, b.dev.RAM.Load(slot+guest.SlotDepthAt))
	said := p.end()
	require.Equal(t, 1, strings.Count(said, "\n"), said)
	require.Contains(t, said, "untagged: the tag daemon is gone")
}

// within returns what comes, and fails if nothing does.
func within[T any](t *testing.T, from <-chan T) (got T) {
	t.Helper()
	select {
	case got = <-from:
	case <-time.After(time.Minute):
		t.Fatal("nothing came")
	}
	return got
}

// scripted is a daemon that answers open with what a real one answered, and other requests with
// what the test says.
type scripted struct {
	socket  string
	answers chan []byte // nil bytes: the connection ends
	asked   chan string
}

// newScripted begins to answer; each open is passed on to the board's daemon.
func newScripted(t *testing.T, b *board) *scripted {
	s := &scripted{filepath.Join(t.TempDir(), "socket"), make(chan []byte), make(chan string, 9)}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: s.socket, Net: "unixpacket"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	rights := unix.UnixRights(int(b.dev.File.Fd()))
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go s.serve(rights, conn)
		}
	}()
	return s
}

func (s *scripted) serve(rights []byte, conn *net.UnixConn) {
	defer conn.Close()
	packet := make([]byte, guest.MaxRequest)
	for {
		n, err := conn.Read(packet)
		if err != nil || n == 0 {
			return
		}
		s.asked <- string(packet[:n])
		answer := <-s.answers
		if answer == nil {
			return
		}
		if _, _, err := conn.WriteMsgUnix(answer, rights, nil); err != nil {
			return
		}
	}
}

// headerSilentDaemon: a program that waits for an answer waits for as long as its page is a tag
// page, and goes on untagged then.
func headerSilentDaemon(t *testing.T, program string) {
	b := newBoard(t)
	c := b.dial()
	slot, err := c.Open("stands for it")
	require.NoError(t, err)
	s := newScripted(t, b)
	p := newPuppet(t, program, s.socket, none)
	require.Zero(t, p.do("client"))
	p.tell("open x")
	require.JSONEq(t, `{"op":"open","name":"x"}`, within(t, s.asked))
	s.answers <- []byte(fmt.Sprintf(`{"id":%d}`, b.one().id))
	require.Zero(t, p.got())
	b.dev.RAM.Store(guest.PageNotifyAt, 1)
	p.tell("enter")
	ring := fmt.Sprintf(`{"op":"ring","id":%d,"enter":true}`, b.one().id)
	require.JSONEq(t, ring, within(t, s.asked))
	require.EqualValues(t, 1, b.one().depth, "stored before it asks")
	result := make(chan int, 1)
	go func() { result <- p.got() }()
	select {
	case <-result:
		t.Fatal("it did not wait")
	case <-time.After(300 * time.Millisecond):
	}
	require.True(t, slot.Alive())
	b.dev.RAM.Store(guest.PageMagicAt, 0)
	require.Equal(t, -1, within(t, result))
	close(s.answers)
	require.Equal(t, 1, strings.Count(p.end(), "untagged: the tag daemon is gone"))
}

// headerSlowDaemon: a program that gets many signals has as much patience as others.
func headerSlowDaemon(t *testing.T, program string) {
	b := newBoard(t)
	_, err := b.dial().Open("stands for it")
	require.NoError(t, err)
	s := newScripted(t, b)
	p := newPuppet(t, program, s.socket, none)
	require.Zero(t, p.do("client"))
	require.Zero(t, p.do("alarms"))
	p.tell("open x")
	within(t, s.asked)
	time.Sleep(2 * time.Second)
	s.answers <- fmt.Appendf(nil, `{"id":%d}`, b.one().id)
	require.Zero(t, p.got())
	close(s.answers)
	require.Empty(t, p.end())
}

// headerHangingDaemon: a program that has said yes to a daemon which then hangs goes on once its
// page is no tag page any more.
func headerHangingDaemon(t *testing.T, program string) {
	b := newBoard(t)
	_, err := b.dial().Open("stands for it")
	require.NoError(t, err)
	s := newScripted(t, b)
	p := newPuppet(t, program, s.socket, none)
	require.Zero(t, p.do("client"))
	p.tell("open x")
	within(t, s.asked)
	s.answers <- fmt.Appendf(nil, `{"id":%d}`, b.one().id)
	require.Zero(t, p.got())
	p.tell("asked")
	require.JSONEq(t, `{"op":"watch"}`, within(t, s.asked))
	s.answers <- []byte(`{"migration":{"state":1,"asked":true}}`)
	require.Zero(t, p.got())
	p.tell("yes")
	b.eventually(func() bool { return b.one().depth == 1 })
	b.dev.RAM.Store(guest.PageMagicAt, 0)
	result := make(chan int, 1)
	go func() { result <- p.got() }()
	require.Equal(t, -1, within(t, result))
	require.Equal(t, 1, strings.Count(p.end(), "untagged: the tag daemon is gone"))
	close(s.answers)
}

// headerBadAnswers: whatever a daemon answers, the program runs, and touches no memory but a
// slot's.
func headerBadAnswers(t *testing.T, program string) {
	b := newBoard(t)
	for _, answer := range []string{
		`{"id":1,"page":16}`, `{"id":1,"slot":63}`, `{"id":1,"page":4294967295}`, `{`, `x`, ` `,
		`{"error":"no"}`, `{"id":-1}`, `{"id":4294967296}`, strings.Repeat(" ", 600), "",
	} {
		s := newScripted(t, b)
		p := newPuppet(t, program, s.socket, none)
		require.Zero(t, p.do("client"))
		p.tell("open x")
		within(t, s.asked)
		if answer == "" {
			s.answers <- nil
		} else {
			s.answers <- []byte(answer)
		}
		require.Equal(t, -1, p.got(), answer)
		require.Equal(t, -1, p.do("enter"))
		close(s.answers)
		require.Equal(t, 1, strings.Count(p.end(), "untagged: "), answer)
	}
	require.Empty(t, b.slots())
}

// headerAsked: a program outside of its segment is asked, says yes, and goes on once the machine
// has moved.
func headerAsked(t *testing.T, program string) {
	b := newBoard(t)
	p := newPuppet(t, program, b.socket, none)
	require.Zero(t, p.do("client"))
	require.Zero(t, p.do("open server"))
	require.Zero(t, p.do("deadline"))
	b.dev.RAM.Store(guest.PageNotifyAt, 1)
	b.dev.Write(abi.RegDeadlineMS, 12300)
	require.Equal(t, 12300, p.do("deadline"))
	p.tell("asked")
	b.dev.Write(abi.RegState, uint32(abi.StateWaiting))
	require.Equal(t, 12300, p.got())
	require.Zero(t, b.one().depth)

	p.tell("yes")
	b.eventually(func() bool { return b.dev.Read(abi.RegEnter) == b.one().id })
	require.EqualValues(t, 1, b.one().depth)
	b.dev.Write(abi.RegEpoch, 1)
	b.dev.Write(abi.RegState, uint32(abi.StateNone))
	require.Equal(t, 1, p.got(), "it has moved")
	require.Zero(t, b.one().depth)

	p.tell("asked")
	b.dev.Write(abi.RegState, uint32(abi.StateSuspended))
	require.Equal(t, 12300, p.got())
	p.tell("yes")
	b.eventually(func() bool { return b.one().depth == 1 })
	b.dev.Write(abi.RegState, uint32(abi.StateNone))
	require.Zero(t, p.got(), "cancelled")

	p.tell("asked")
	b.end()
	require.Equal(t, -1, p.got())
	require.Equal(t, 1, strings.Count(p.end(), "\n"))
}

// headerMoves: as headerAsked, without a daemon.
func headerMoves(t *testing.T, program string) {
	b := newBareBoard(t)
	p := newPuppet(t, program, none, filepath.Dir(b.folder))
	require.Zero(t, p.do("client"))
	require.Zero(t, p.do("open x"))
	b.dev.Write(abi.RegDeadlineMS, 77)
	require.Equal(t, 77, p.do("deadline"))
	p.tell("asked")
	b.dev.Write(abi.RegState, uint32(abi.StateWaiting))
	require.Equal(t, 77, p.got())
	p.tell("yes")
	b.eventually(func() bool { return b.dev.Read(abi.RegEnter) != 0 })
	b.dev.Write(abi.RegEpoch, 1)
	require.Equal(t, 1, p.got())
	require.NotZero(t, b.dev.Read(abi.RegExit))
	require.Empty(t, p.end())
}

// newBareBoard is a device without a daemon, among PCI devices.
func newBareBoard(t *testing.T) *board {
	b := newBoard(t)
	b.end()
	for file, text := range map[string]string{"vendor": "0xf055\n", "device": "0x7461\n"} {
		require.NoError(t, os.WriteFile(filepath.Join(b.folder, file), []byte(text), 0o600))
	}
	return b
}

// headerDevice: without a daemon, who may open the device tags by its registers.
func headerDevice(t *testing.T, program string) {
	b := newBareBoard(t)
	p := newPuppet(t, program, none, filepath.Dir(b.folder))
	require.Zero(t, p.do("client"))
	require.Zero(t, p.do("open x"))
	id := b.dev.Read(abi.RegRegister)
	require.Equal(t, 0x60000000+uint32(p.cmd.Process.Pid)*64, id)
	require.Zero(t, p.do("enter"))
	require.Equal(t, id, b.dev.Read(abi.RegEnter))
	require.Zero(t, p.do("migrating"))
	b.dev.Write(abi.RegState, uint32(abi.StateWaiting))
	require.Equal(t, 1, p.do("migrating"))
	require.Equal(t, 1|2, p.do("fork"))
	require.Zero(t, b.dev.Read(abi.RegExit))
	require.Zero(t, p.do("exit"))
	require.Equal(t, id, b.dev.Read(abi.RegExit))
	require.Zero(t, p.do("close"))
	require.Equal(t, id, b.dev.Read(abi.RegUnregister))
	require.Empty(t, p.end())
}

// FuzzHeaderAnswer: tag.h reads no answer that is no JSON, nothing beyond its end, and what the
// daemon can say as Go does.
func FuzzHeaderAnswer(f *testing.F) {
	for _, text := range []string{
		`{"id":1946157056,"page":3,"slot":62}`, `{}`, `{"error":"a \"quoted\" \u00e9 name\n"}`,
		` { "new" : true , "id" : 1 } `, `{"id":01}`, `{"id":1,}`, `{"id":1.0}`, `[]`, `{"a":"\x"}`,
		`{"migration":{"state":1,"deadline_ms":12300,"epoch":2,"asked":true}}`,
		`{"migration":{"asked":true},"migration":{}}`, `{"migration":{"migration":{}}}`,
		`{"migration":{"id":1},"asked":true}`, `{"id":null}`,
		`{"a":"\u12"}`, `{"a`, `{"a":"\`, `{"status":{}}`,
	} {
		f.Add([]byte(text))
	}
	p := newPuppet(f, compiled(f, dialects["C11"], clientSource), "answers")
	p.hangs.Stop() // a fuzzer may take its time
	f.Fuzz(func(t *testing.T, packet []byte) {
		got := p.answer(t, packet)
		if got != "none" {
			require.True(t, json.Valid(packet), "%q is read as %s", packet, got)
		}
		var a guest.Answer
		if json.Unmarshal(packet, &a) == nil {
			a.Status = nil // clients in C do not ask for it
			a.Error = strings.Map(asciiOnly, a.Error)
			text, err := encode(a)
			require.NoError(t, err)
			require.Equal(t, read(a), p.answer(t, text), "%s", text)
		}
	})
}

// read is what tag.h reads in an answer.
func read(a guest.Answer) string {
	if a.Page < 0 || a.Slot < 0 || a.Page>>32 > 0 || a.Slot>>32 > 0 {
		return "none"
	}
	var m guest.Migration
	has, asked := 0, 0
	if a.Migration != nil {
		m, has = *a.Migration, 1
	}
	if m.Asked {
		asked = 1
	}
	return fmt.Sprintf("%d %d %d %d %d %d %d %d %s", a.ID, a.Page, a.Slot, has, m.State,
		m.DeadlineMS, m.Epoch, asked, a.Error[:min(len(a.Error), 95)])
}

// asciiOnly keeps the letters that are the same in every way to write them.
func asciiOnly(c rune) rune {
	if c < ' ' || c >= 0x7f {
		return -1
	}
	return c
}

// answer returns what tag.h reads in a packet.
func (p *puppet) answer(t *testing.T, packet []byte) string {
	_, err := p.to.Write(append(le.AppendUint32(nil, uint32(len(packet))), packet...))
	require.NoError(t, err)
	line, err := p.from.ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSuffix(line, "\n")
}
