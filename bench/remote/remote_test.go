package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain is also the agent: Connect copies this program and starts it with that word.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "hand" {
		err := Serve(os.Stdin, os.Stdout, os.Args[2], map[string]any{"Test": Service{}})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Service is what the agent of the tests offers.
type Service struct{}

// PID returns the agent's process.
func (Service) PID(_ struct{}, pid *int) error {
	*pid = os.Getpid()
	return nil
}

// Fail fails.
func (Service) Fail(string, *int) error { return errors.New("it cannot be done") }

// fakeSSH stands in for the ssh program: it runs the command at this host. Its words are checked.
const fakeSSH = `#!/bin/sh
[ "$1 $2 $3 $4 $5" = "-T -o BatchMode=yes -o ClearAllForwardings=yes" ] || exit 250
[ "$6 $7 $8 $9" = "-o ConnectTimeout=20 -o ServerAliveInterval=5" ] || exit 250
shift 9
case $1 in
refused) echo "refused: Permission denied (publickey)." >&2; exit 255 ;;
chatty) echo "Welcome!"; printf "it is $(date) " ;;
mute) exit 0 ;;
elsewhere) echo "there is no folder"; exit 0 ;;
home) sh -c "$2"; echo "$HOME"; exit 0 ;;
endless) exec yes ;;
asleep) exec sleep 600 ;;
asleep_later) case $2 in *mktemp*) ;; *) exec sleep 600 ;; esac ;;
endlessly*) case $2 in *mktemp*) ;; *) exec yes ;; esac ;;
lingering) sleep 60 >/dev/null & ;;
esac
exec sh -c "$2"
`

// useFakeSSH returns the folder in which agents have theirs.
func useFakeSSH(t *testing.T) (folders string) {
	t.Helper()
	bin, folders := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bin, sshProgram), []byte(fakeSSH), 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("TMPDIR", folders)
	return folders
}

func TestParseTarget(t *testing.T) {
	for text, want := range map[string]Target{
		"ssh:a":                         {"a", "a"},
		"ssh:me@a.example.org":          {"me@a.example.org", "a.example.org"},
		"ssh:rack1,address=10.0.0.1":    {"rack1", "10.0.0.1"},
		"ssh:me@rack1,address=fd00::1":  {"me@rack1", "fd00::1"},
		"ssh:10.0.0.1":                  {"10.0.0.1", "10.0.0.1"},
		"ssh:me@rack1,address=me.local": {"me@rack1", "me.local"},
	} {
		got, err := ParseTarget(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got)
		require.Equal(t, text, got.String())
	}
	for _, text := range []string{
		"", "a", "ssh:", "ssh:-oProxyCommand=x", "ssh:a b", "ssh:a;id", "ssh:a,", "ssh:a,b=c",
		"ssh:a,address=", "ssh:a,address=b,address=c", "SSH:a", "ssh:me@", "ssh:a,address=me@b",
		"ssh:a\nb", "ssh:$(id)",
	} {
		_, err := ParseTarget(text)
		require.ErrorIs(t, err, errTarget, text)
	}
}

func FuzzParseTarget(f *testing.F) {
	f.Add("ssh:me@a,address=b")
	f.Add("ssh:-o")
	f.Fuzz(func(t *testing.T, text string) {
		target, err := ParseTarget(text)
		if err != nil {
			return
		}
		require.False(t, strings.HasPrefix(target.Host, "-"))
		again, err := ParseTarget(target.String())
		require.NoError(t, err)
		require.Equal(t, target, again)
	})
}

func TestParseHeader(t *testing.T) {
	for _, h := range []header{
		{kind: streamCalls},
		{kind: streamPut, name: "tls/key.pem", size: 0},
		{kind: streamPut, name: "a name", size: 1 << 40},
		{kind: streamDial, name: "trial/source.sock"},
	} {
		got, err := parseHeader(strings.TrimSuffix(h.String(), "\n"))
		require.NoError(t, err)
		require.Equal(t, h, got)
	}
	for _, line := range []string{
		"", "call", "calls x", "put", "put 1", "put -1 a", "put x a", "put 01 a", "put 1 ../a",
		"put 1 /etc/passwd", "dial", "dial ../a", "dial /a", "dial a\x00b",
	} {
		_, err := parseHeader(line)
		require.ErrorIs(t, err, errHeader, "%q", line)
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add("put 12 files/kernel")
	f.Add("dial a.sock")
	f.Fuzz(func(t *testing.T, line string) {
		h, err := parseHeader(line)
		if err != nil {
			return
		}
		require.Equal(t, line+"\n", h.String())
		require.True(t, h.kind == streamCalls || filepath.IsLocal(h.name))
	})
}

// TestScripts: a shell takes what we quote as one word, and no other host's name as an option.
func TestScripts(t *testing.T) {
	for _, word := range []string{"a", "it's", `"$(id)"`, "a b", "", "'"} {
		out, err := exec.Command("sh", "-c", "printf %s "+quote(word)).Output()
		require.NoError(t, err)
		require.Equal(t, word, string(out))
	}
	require.Equal(t,
		`'/tmp/x/vmm-bench' 'hand' '/tmp/x'; s=$?; rm -rf '/tmp/x'; exit $s`,
		startScript("/tmp/x", []string{"hand"}))
}

// TestUploadOfHalf: a program that does not arrive whole leaves nothing.
func TestUploadOfHalf(t *testing.T) {
	folders := t.TempDir()
	cmd := exec.Command("sh", "-c", uploadScript(100))
	cmd.Env = append(os.Environ(), "TMPDIR="+folders)
	cmd.Stdin = strings.NewReader("half of it")
	out, err := cmd.Output()
	require.Error(t, err)
	require.Empty(t, out)
	requireEmpty(t, folders)
}

// TestPutOfHalf: a file that does not arrive whole is an error.
func TestPutOfHalf(t *testing.T) {
	half := func() *io.LimitedReader {
		return &io.LimitedReader{R: strings.NewReader("half of it"), N: 20}
	}
	require.ErrorIs(t, put(filepath.Join(t.TempDir(), "file"), half()), io.ErrUnexpectedEOF)
}

func requireEmpty(t *testing.T, folder string) {
	t.Helper()
	left, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Empty(t, left)
}

// link is a network and a host's clock in virtual time.
type link struct {
	now   time.Time
	ahead time.Duration
	there []time.Duration // how long each question takes to get there
	back  []time.Duration
	trip  int
}

func (l *link) ask() (time.Time, error) {
	there, back := l.there[l.trip%len(l.there)], l.back[l.trip%len(l.back)]
	l.trip++
	l.now = l.now.Add(there)
	its := l.now.Add(l.ahead)
	l.now = l.now.Add(back)
	return its, nil
}

// TestEstimate: the difference is within what the estimate says, however unevenly the way there and
// back take; and the shortest trip decides.
func TestEstimate(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		ahead       time.Duration
		there, back []time.Duration
		within      time.Duration
	}{
		{0, []time.Duration{ms}, []time.Duration{ms}, ms},
		{time.Hour, []time.Duration{9 * ms, ms, 5 * ms}, []time.Duration{ms, ms, 7 * ms}, ms},
		{-3 * ms, []time.Duration{20 * ms, 4 * ms}, []time.Duration{0, 0}, 2 * ms},
		{7 * ms, []time.Duration{0}, []time.Duration{10 * ms}, 5 * ms},
		{-time.Hour, []time.Duration{0}, []time.Duration{0}, 0},
	} {
		l := &link{now: time.Unix(1e9, 0), ahead: c.ahead, there: c.there, back: c.back}
		got, err := estimate(clockTrips, func() time.Time { return l.now }, l.ask)
		require.NoError(t, err)
		require.Equal(t, clockTrips, l.trip)
		require.Equal(t, c.within, got.Within)
		require.LessOrEqual(t, (got.Ahead - c.ahead).Abs(), got.Within, "%+v", c)
	}
	failed := errors.New("gone")
	_, err := estimate(1, time.Now, func() (time.Time, error) { return time.Time{}, failed })
	require.ErrorIs(t, err, failed)
}

func TestClockSince(t *testing.T) {
	a, b := Clock{5 * time.Second, time.Millisecond}, Clock{-time.Second, 2 * time.Millisecond}
	require.Equal(t, Clock{6 * time.Second, 3 * time.Millisecond}, a.Since(b))
	at := time.Unix(1000, 0)
	require.Equal(t, at, a.Local(at.Add(5*time.Second)))
}

// TestConnect: an agent does what it is asked for, and leaves nothing when it is closed.
func TestConnect(t *testing.T) {
	folders := useFakeSSH(t)
	c, err := Connect(t.Context(), Target{"chatty", "chatty"}, "hand")
	require.NoError(t, err)
	defer c.Close()

	var pid int
	require.NoError(t, c.Call(t.Context(), "Test.PID", struct{}{}, &pid))
	require.NotEqual(t, os.Getpid(), pid)
	require.ErrorContains(t, c.Call(t.Context(), "Test.Fail", "", &pid), "it cannot be done")
	clock, err := c.Clock(t.Context())
	require.NoError(t, err)
	require.LessOrEqual(t, clock.Ahead.Abs(), clock.Within, "it is the same clock")

	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte(strings.Repeat("content", 1<<20)), 0o600))
	at, err := c.Put("files/one", file)
	require.NoError(t, err)
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	got, err := os.ReadFile(at)
	require.NoError(t, err)
	require.Equal(t, want, got)
	_, err = c.Put("files/one", file)
	require.ErrorContains(t, err, "exists")
	at, err = c.PutFolder("more", filepath.Dir(file))
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(at, "file"))

	c.Close()
	requireEmpty(t, folders)
	require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
	require.Error(t, c.Call(t.Context(), "Test.PID", struct{}{}, &pid))
}

// TestForward: a socket here leads to one in the agent's folder.
func TestForward(t *testing.T) {
	useFakeSSH(t)
	c, err := Connect(t.Context(), Target{"somewhere", "somewhere"}, "hand")
	require.NoError(t, err)
	defer c.Close()
	l, err := net.Listen("unix", filepath.Join(c.Dir, "far.sock"))
	require.NoError(t, err)
	defer l.Close()
	near := filepath.Join(t.TempDir(), "near.sock")
	forward, err := c.Forward(near, "far.sock")
	require.NoError(t, err)
	defer forward.Close()

	conn, err := net.Dial("unix", near)
	require.NoError(t, err)
	defer conn.Close()
	far, err := l.Accept()
	require.NoError(t, err)
	for _, way := range [][2]net.Conn{{conn, far}, {far, conn}} {
		_, err = way[0].Write([]byte("hello"))
		require.NoError(t, err)
		b := make([]byte, 5)
		_, err = way[1].Read(b)
		require.NoError(t, err)
		require.Equal(t, "hello", string(b))
	}
	require.NoError(t, far.Close())
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err, "its end has come here")
	_, err = c.Dial("missing.sock")
	require.ErrorContains(t, err, "no such file")
}

// TestAgentEndsWithItsInput: that is how the end of an ssh looks to it. Its folder goes, too.
func TestAgentEndsWithItsInput(t *testing.T) {
	folders := useFakeSSH(t)
	c, err := Connect(t.Context(), Target{"somewhere", "somewhere"}, "hand")
	require.NoError(t, err)
	defer c.Close()
	var pid int
	require.NoError(t, c.Call(t.Context(), "Test.PID", struct{}{}, &pid))
	require.NoError(t, c.session.Close())
	require.Eventually(t, func() bool {
		left, err := os.ReadDir(folders)
		return err == nil && len(left) == 0 && syscall.Kill(pid, 0) != nil
	}, time.Minute, 10*time.Millisecond)
}

// TestSilentController: an agent gives up a controller that says nothing more, although its
// standard input stays open. That is how a network that is gone looks.
func TestSilentController(t *testing.T) {
	t.Parallel()
	in, w, err := os.Pipe()
	require.NoError(t, err)
	defer w.Close()
	in.Fd() // its reads block then, as those of standard input do
	out, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- serve(in, out, t.TempDir(), nil, configuration(time.Second)) }()
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(5 * patience):
		t.Fatal("it still waits")
	}
}

// TestConnectFails: what ssh says is in the error, and nothing stays.
func TestConnectFails(t *testing.T) {
	folders := useFakeSSH(t)
	_, err := Connect(t.Context(), Target{"refused", "refused"}, "hand")
	require.ErrorContains(t, err, "ssh:refused: exit status 255: refused: Permission denied")
	_, err = Connect(t.Context(), Target{"somewhere", "somewhere"}, "-test.run=^$", "x", "y")
	require.Error(t, err, "it is no agent")
	requireEmpty(t, folders)
	for _, host := range []string{"mute", "elsewhere"} {
		_, err = Connect(t.Context(), Target{host, host}, "hand")
		require.ErrorIs(t, err, errNoFolder)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Connect(ctx, Target{"somewhere", "somewhere"}, "hand")
	require.ErrorIs(t, err, context.Canceled)
	requireEmpty(t, folders)
}

// TestConnectEndless: a host that prints for ever is given up, in the first ssh and in the second.
func TestConnectEndless(t *testing.T) {
	useFakeSSH(t)
	for _, host := range []string{"endless", "endlessly"} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := Connect(ctx, Target{host, host}, "hand")
		require.ErrorIs(t, err, errEndless, host)
		cancel()
	}
}

// TestHostIsStill: a host that takes the connection and then does nothing is given up, in the first
// ssh and in the second, and not only at a Ctrl-C.
func TestHostIsStill(t *testing.T) {
	useFakeSSH(t)
	for _, host := range []string{"asleep", "asleep_later"} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := connect(ctx, Target{host, host}, []string{"hand"}, 2*time.Second)
		require.ErrorIs(t, err, errStill, host)
		require.NoError(t, ctx.Err())
		cancel()
	}
}

// TestWatch: what is read is a sign of life.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, w := watchFor(t.Context(), time.Minute)
		defer w.stop()
		in := w.reader(strings.NewReader("three"))
		for range 3 {
			time.Sleep(59 * time.Second)
			_, err := in.Read(make([]byte, 1))
			require.NoError(t, err)
		}
		require.NoError(t, ctx.Err())
		time.Sleep(61 * time.Second)
		require.ErrorIs(t, context.Cause(ctx), errStill)
	})
}

// TestSSHLeavesAProgramBehind that has its standard error, as ControlPersist does: nobody waits for
// the end of that program.
func TestSSHLeavesAProgramBehind(t *testing.T) {
	folders := useFakeSSH(t)
	begun := time.Now()
	c, err := Connect(t.Context(), Target{"lingering", "lingering"}, "hand")
	require.NoError(t, err)
	c.Close()
	require.Less(t, time.Since(begun), 50*time.Second)
	requireEmpty(t, folders)
}

// TestAgentHangs: one that never greets is waited for until the context ends.
func TestAgentHangs(t *testing.T) {
	out, silent, err := os.Pipe()
	require.NoError(t, err)
	defer silent.Close()
	unread, in, err := os.Pipe()
	require.NoError(t, err)
	defer unread.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.ErrorContains(t, new(Conn).begin(ctx, out, in), "wait for the agent: ")
}

// TestIsFolder: no path that a host happens to print is taken for a folder that may be removed.
func TestIsFolder(t *testing.T) {
	for _, dir := range []string{"/tmp/vmm-bench.aB3_9x", "/a b/it's//vmm-bench.XXXXXX"} {
		require.True(t, isFolder(dir), dir)
	}
	for _, dir := range []string{
		"", "/", "/home/me", "/etc", "vmm-bench.aB3_9x", "/tmp/vmm-bench.", "/tmp/vmm-bench",
		"/tmp/vmm-bench.aB3_9x/..",
		"/tmp/vmm-bench.aB3\x009x", "/vmm-bench.aB3_9x/home",
	} {
		require.False(t, isFolder(dir), dir)
	}
}

// TestHostPrintsMore behind the folder's path: it is not taken for the folder.
func TestHostPrintsMore(t *testing.T) {
	useFakeSSH(t)
	_, err := Connect(t.Context(), Target{"home", "home"}, "hand")
	require.ErrorIs(t, err, errNoFolder)
}
