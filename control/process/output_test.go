package process

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func open(t *testing.T, path string) (*console, error) {
	t.Helper()
	return openConsole("file:"+path, os.Stdout, slog.New(slog.DiscardHandler))
}

func TestOpenConsole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	require.NoError(t, os.WriteFile(path, []byte("old"), 0o644))
	c, err := open(t, path)
	require.NoError(t, err)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "old", string(b), "to open it begins nothing")
	_, err = open(t, path)
	require.ErrorContains(t, err, "is the console of another VM")
	require.NoError(t, c.begin())
	_, err = c.Write([]byte("new"))
	require.NoError(t, err)
	require.NoError(t, c.Close())
	b, err = os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "new", string(b))

	for _, bad := range []string{"", "file:", "tty", "stdio,x"} {
		_, err := openConsole(bad, os.Stdout, nil)
		require.ErrorContains(t, err, "use stdio, file:PATH or off", bad)
	}
	_, err = open(t, path+"/x")
	require.ErrorContains(t, err, "console")
}

// TestConsoleFileIsPrivate: only its user may read what a guest prints.
func TestConsoleFileIsPrivate(t *testing.T) {
	modes := map[string]os.FileMode{"new": 0, "open to all": 0o666, "private": 0o600}
	for name, mode := range modes {
		path := filepath.Join(t.TempDir(), "log")
		if mode != 0 {
			require.NoError(t, os.WriteFile(path, nil, mode))
			require.NoError(t, os.Chmod(path, mode))
		}
		c, err := open(t, path)
		require.NoError(t, err, name)
		defer c.Close()
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode(), name)
	}
}

// TestConsoleFileOfAnotherKind: a guest's output goes only to files, pipes and terminals. Others
// are refused and left unchanged.
func TestConsoleFileOfAnotherKind(t *testing.T) {
	dir := t.TempDir()
	precious := filepath.Join(dir, "precious")
	require.NoError(t, os.WriteFile(precious, []byte("data"), 0o644))
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(precious, link))
	dangling := filepath.Join(dir, "dangling")
	require.NoError(t, os.Symlink(filepath.Join(dir, "made"), dangling))
	socket := filepath.Join(dir, "socket")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	defer l.Close()
	for path, why := range map[string]string{
		link: "symbolic link", dangling: "symbolic link",
		dir: "neither a file", socket: "neither a file",
	} {
		_, err := open(t, path)
		require.ErrorContains(t, err, why)
	}
	require.NoFileExists(t, filepath.Join(dir, "made"))
	info, err := os.Stat(precious)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o644), info.Mode())

	// A pipe's reader may come and go: nobody waits for it, and nothing breaks when it goes.
	pipe := filepath.Join(dir, "pipe")
	require.NoError(t, unix.Mkfifo(pipe, 0o600))
	c, err := open(t, pipe)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.begin())
	for _, text := range []string{"one", "two"} {
		reader, err := os.OpenFile(pipe, os.O_RDONLY, 0)
		require.NoError(t, err)
		_, err = c.Write([]byte(text))
		require.NoError(t, err)
		got := make([]byte, 3)
		_, err = io.ReadFull(reader, got)
		require.NoError(t, err)
		require.Equal(t, text, string(got))
		require.NoError(t, reader.Close())
	}
	c, err = open(t, "/dev/null")
	require.NoError(t, err)
	require.NoError(t, c.begin())
	require.NoError(t, c.Close())
}

// TestConsoleLoss: output that cannot be written is logged twice, when that begins and when it
// ends.
func TestConsoleLoss(t *testing.T) {
	var said bytes.Buffer
	log := slog.New(LogConfig{}.handler(&said))
	c, err := openConsole("file:/dev/full", os.Stdout, log)
	require.NoError(t, err)
	for range 3 {
		_, err = c.Write([]byte("12345"))
		require.ErrorIs(t, err, syscall.ENOSPC)
	}
	require.Equal(t, 1, strings.Count(said.String(), "\n"), said.String())
	require.Contains(t, said.String(), "no space left on device")
	full := c.file
	defer full.Close()
	c.file, err = os.Create(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	for range 3 {
		_, err = c.Write([]byte("12345"))
		require.NoError(t, err)
	}
	require.Equal(t, 2, strings.Count(said.String(), "\n"), said.String())
	require.Contains(t, said.String(), "15 bytes of the guest's output were lost")
	require.NoError(t, c.Close())

	// The end of the VM ends the loss, too.
	c, err = openConsole("file:/dev/full", os.Stdout, log)
	require.NoError(t, err)
	_, err = c.Write([]byte("1234567"))
	require.Error(t, err)
	require.NoError(t, c.Close())
	require.Contains(t, said.String(), "7 bytes of the guest's output were lost")
}
