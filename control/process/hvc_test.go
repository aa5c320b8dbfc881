package process

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestCheckHVC: only what the second console can be, and only one console has standard input.
func TestCheckHVC(t *testing.T) {
	for _, good := range []string{"off", "stdio", "file:a", "unix:a"} {
		require.NoError(t, CheckHVC(good, "off"), good)
	}
	for _, bad := range []string{"", "unix:", "file:", "tty", "tcp:a:1"} {
		require.ErrorContains(t, CheckHVC(bad, "off"),
			"use off, stdio, file:PATH or unix:PATH", bad)
	}
	require.ErrorContains(t, CheckHVC("stdio", "stdio"), "use --console off or file:PATH")
	require.NoError(t, CheckHVC("off", "stdio"))
}

// TestHVCNowhere: output that goes nowhere is said once.
func TestHVCNowhere(t *testing.T) {
	var said bytes.Buffer
	h, err := openHVC("off", os.Stdout, slog.New(slog.NewTextHandler(&said, nil)), nil)
	require.NoError(t, err)
	for range 3 {
		n, err := h.Writer.Write([]byte("abc"))
		require.NoError(t, err)
		require.Equal(t, 3, n)
	}
	require.Equal(t, 1, strings.Count(said.String(), "\n"), said.String())
	require.Contains(t, said.String(), "goes nowhere: vmm run --hvc")
	require.NoError(t, h.Close())
}

// TestHVCFile is one as a console's.
func TestHVCFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hvc")
	require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))
	log := slog.New(slog.DiscardHandler)
	h, err := openHVC("file:"+path, os.Stdout, log, nil)
	require.NoError(t, err)
	require.NoError(t, h.begin())
	_, err = h.Writer.Write([]byte("new"))
	require.NoError(t, err)
	require.NoError(t, h.Close())
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "new", string(b))
	_, err = openHVC("file:"+path+"/x", os.Stdout, log, nil)
	require.ErrorContains(t, err, "second console: ")
	_, err = openHVC("unix:"+path+"/x", os.Stdout, log, nil)
	require.ErrorContains(t, err, "second console: ")
}

// TestHVCSocket: output waits for a client, input comes from it, a second client is turned away,
// and what a client did not take is for the next one.
func TestHVCSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hvc")
	typed := make(chan string, 8)
	h, err := openHVC("unix:"+path, os.Stdout, slog.New(slog.DiscardHandler),
		func(b []byte) int { typed <- string(b); return len(b) })
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	cancelled := make(chan struct{})
	close(cancelled)
	require.False(t, h.socket.Ready(cancelled))

	ready := make(chan bool)
	go func() { ready <- h.socket.Ready(nil) }()
	first := dialHVC(t, path)
	require.True(t, <-ready)
	_, err = h.Writer.Write([]byte("hello"))
	require.NoError(t, err)
	requireReads(t, first, "hello")
	_, err = first.Write([]byte("keys"))
	require.NoError(t, err)
	require.Equal(t, "keys", <-typed)
	second := dialHVC(t, path)
	_, err = second.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)

	require.NoError(t, first.(*net.UnixConn).CloseWrite())
	_, err = h.Writer.Write([]byte("it still reads"))
	require.NoError(t, err)
	requireReads(t, first, "it still reads")
	require.Eventually(t, func() bool {
		h.socket.mu.Lock()
		defer h.socket.mu.Unlock()
		return h.socket.mute
	}, time.Minute, time.Millisecond)
	require.NoError(t, first.Close())
	written := make(chan error)
	go func() {
		_, err := h.Writer.Write([]byte("for the next one"))
		written <- err
	}()
	requireReads(t, dialHVC(t, path), "for the next one")
	require.NoError(t, <-written)

	require.NoError(t, h.Close())
	_, err = h.Writer.Write([]byte("x"))
	require.ErrorIs(t, err, net.ErrClosed)
}

// TestHVCSocketOutlivesAClient: a client that has gone keeps no other away, though the guest does
// not take what it sent.
func TestHVCSocketOutlivesAClient(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hvc")
	h, err := openHVC("unix:"+path, os.Stdout, slog.New(slog.DiscardHandler),
		func([]byte) int { return 0 })
	require.NoError(t, err)
	first := dialHVC(t, path)
	_, err = first.Write([]byte("nobody takes this"))
	require.NoError(t, err)
	time.Sleep(3 * inputRetry)
	s := h.socket
	mute := func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.mute }
	require.False(t, mute(), "it is still there")
	require.NoError(t, first.Close())
	require.Eventually(t, mute, time.Minute, time.Millisecond)
	second := dialHVC(t, path)
	require.Eventually(t, func() bool { return !mute() }, time.Minute, time.Millisecond)
	_, err = h.Writer.Write([]byte("hello"))
	require.NoError(t, err)
	requireReads(t, second, "hello")
	require.NoError(t, h.Close())
}

// failing is a listener that fails a few times before it is closed.
type failing struct {
	net.Listener
	times int
}

func (f *failing) Accept() (net.Conn, error) {
	if f.times--; f.times < 0 {
		return nil, net.ErrClosed
	}
	return nil, unix.EMFILE
}

func (*failing) Close() error { return nil }

// TestHVCSocketWithoutDescriptors: a socket that cannot accept does not keep a processor busy.
func TestHVCSocketWithoutDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s := newHVCSocket(&failing{times: 10}, nil)
		s.clients.Wait()
		require.Equal(t, 10*inputRetry, time.Since(began))
		s.close()
	})
}

func dialHVC(t *testing.T, path string) net.Conn {
	c, err := net.Dial("unix", path)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
	return c
}

func requireReads(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	_, err := io.ReadFull(c, got)
	require.NoError(t, err)
	require.Equal(t, want, string(got))
}
