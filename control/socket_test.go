package control

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRuntimeDir(t *testing.T) {
	t.Setenv("VMM_RUNTIME_DIR", "/a")
	t.Setenv("XDG_RUNTIME_DIR", "/b")
	require.Equal(t, "/a", RuntimeDir())
	t.Setenv("VMM_RUNTIME_DIR", "")
	require.Equal(t, "/b/vmm", RuntimeDir())
	t.Setenv("XDG_RUNTIME_DIR", "")
	require.Equal(t, "/run/vmm", RuntimeDir())
}

func TestSocketPath(t *testing.T) {
	t.Setenv("VMM_RUNTIME_DIR", "/r")
	for in, want := range map[string]string{
		"web1": "/r/web1.sock", "a.b-c_D9": "/r/a.b-c_D9.sock", "./x": "./x",
		"/s/v.sock": "/s/v.sock",
	} {
		got, err := SocketPath(in)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, in := range []string{
		"", ".", "..", ".x", "-x", "a b", "a\n", "ä", strings.Repeat("x", 65),
	} {
		_, err := SocketPath(in)
		require.ErrorContains(t, err, "use 1 to 64 letters", in)
	}
}

func TestListen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "here")
	path := filepath.Join(dir, "vm.sock")
	l, err := Listen(path)
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.ModeSocket|0o600, info.Mode())
	info, err = os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.ModeDir|0o700, info.Mode())

	_, err = Listen(path)
	require.ErrorIs(t, err, ErrNameInUse)

	require.NoError(t, l.Close())
	require.NoFileExists(t, path)
}

func TestListenReplacesStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vm.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as a killed process leaves it
	require.NoError(t, l.Close())
	_, err = os.Lstat(path)
	require.NoError(t, err)

	l, err = Listen(path)
	require.NoError(t, err)
	defer l.Close()
	conn, err := net.Dial("unix", path)
	require.NoError(t, err)
	conn.Close()
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "precious.sock")
	require.NoError(t, os.WriteFile(file, []byte("data"), 0o600))
	_, err := Listen(file)
	require.ErrorContains(t, err, "not a socket")
	require.FileExists(t, file)

	_, err = Listen(filepath.Join(file, "vm.sock"))
	require.ErrorContains(t, err, "set VMM_RUNTIME_DIR")

	long := filepath.Join(dir, strings.Repeat("x", 108))
	_, err = Listen(long)
	require.ErrorContains(t, err, "at most 107 bytes")
	_, err = NewClient(long)
	require.ErrorContains(t, err, "at most 107 bytes")
	t.Setenv("VMM_RUNTIME_DIR", long)
	_, err = NewClient("vm")
	require.ErrorContains(t, err, "VMM_RUNTIME_DIR")
}

// TestRuntimeDirOfOthers: where other users may write, they can replace our sockets with theirs.
func TestRuntimeDirOfOthers(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("VMM_RUNTIME_DIR", dir)
	refused := func(why string) {
		t.Helper()
		_, err := Listen(filepath.Join(dir, "vm.sock"))
		require.ErrorContains(t, err, why)
		require.NoFileExists(t, filepath.Join(dir, "vm.sock"))
		_, err = Names()
		require.ErrorContains(t, err, why)
		_, err = NewClient("vm")
		require.ErrorContains(t, err, why)
	}
	for _, mode := range []os.FileMode{0o720, 0o702, 0o777 | os.ModeSticky} {
		require.NoError(t, os.Chmod(dir, mode))
		refused("may be written by others")
	}
	require.NoError(t, os.Chmod(dir, 0o755))
	if os.Geteuid() == 0 { // only root can give a directory away
		require.NoError(t, os.Chown(dir, 4711, 4711))
		refused("belongs to user 4711")
		require.NoError(t, os.Chown(dir, 0, 0))
	}
	l, err := Listen(filepath.Join(dir, "vm.sock"))
	require.NoError(t, err)
	require.NoError(t, l.Close())

	info, err := os.Stat(dir)
	require.NoError(t, err)
	info.Sys().(*syscall.Stat_t).Uid = uint32(os.Geteuid() + 1)
	require.ErrorContains(t, checkOwner(dir, info), "belongs to user")
}

// TestListenIsTakenOnce: many processes (here: goroutines) want one name that a dead one left
// behind.
func TestListenIsTakenOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vm.sock")
	stale, err := net.Listen("unix", path)
	require.NoError(t, err)
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, stale.Close())

	const racers = 16
	var wg sync.WaitGroup
	listeners, errs := make([]net.Listener, racers), make([]error, racers)
	for i := range racers {
		wg.Go(func() { listeners[i], errs[i] = Listen(path) })
	}
	wg.Wait()
	won := 0
	for i := range racers {
		if errs[i] == nil {
			won++
			defer listeners[i].Close()
		} else {
			require.True(t, errors.Is(errs[i], ErrNameInUse), "%v", errs[i])
		}
	}
	require.Equal(t, 1, won)
}

func TestNames(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vmm")
	t.Setenv("VMM_RUNTIME_DIR", dir)
	names, err := Names()
	require.NoError(t, err)
	require.Empty(t, names)
	for _, name := range []string{"b", "a"} {
		l, err := Listen(filepath.Join(dir, name+".sock"))
		require.NoError(t, err)
		defer l.Close()
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file.sock"), nil, 0o600))
	names, err = Names()
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, names)
}
