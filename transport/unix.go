package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// MaxUnixPath is how many bytes the path of a unix socket may have: the size of
// sockaddr_un.sun_path less its terminating zero (unix(7)).
const MaxUnixPath = 107

// lockTimeout bounds the wait for the lock of a directory in which a socket is made.
const lockTimeout = 10 * time.Second

// ErrSocketInUse is returned when another live process serves the socket.
var ErrSocketInUse = errors.New("in use by another process")

// CheckUnixPath refuses a path that is too long for a unix socket. The kernel would only say
// "invalid argument".
func CheckUnixPath(path string) error {
	if len(path) > MaxUnixPath {
		return fmt.Errorf("the path of a unix socket has at most %d bytes, %s has %d: "+
			"use a shorter one", MaxUnixPath, path, len(path))
	}
	return nil
}

// ListenUnix makes a socket of mode 0600 at path, whatever the umask. It replaces a socket that
// nobody serves, and returns [ErrSocketInUse] for one that is served. Closing the listener removes
// the socket.
func ListenUnix(path string) (net.Listener, error) {
	path = inFileSystem(path)
	if err := CheckUnixPath(path); err != nil {
		return nil, err
	}
	unlock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	// Linux gives the socket's inode the mode of the descriptor that is bound to it, so nobody can
	// connect before a chmod, and the umask of the process stays as it is.
	private := func(_, _ string, c syscall.RawConn) error {
		var err error
		ctlErr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(ctlErr, err)
	}
	lc := net.ListenConfig{Control: private}
	return lc.Listen(context.Background(), "unix", path)
}

// inFileSystem makes path name a file even if it begins with '@', which package net takes for a
// name without a file. Everybody on the host may connect to a socket without a file.
func inFileSystem(path string) string {
	if strings.HasPrefix(path, "@") {
		return "./" + path
	}
	return path
}

// lockDir makes "is it stale? then remove and bind" one step among all processes that make sockets
// in dir. The kernel drops the lock when its process ends. Anybody who may read dir (/tmp, say) can
// hold the lock, so the wait for it is bounded.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(lockTimeout); ; time.Sleep(time.Millisecond) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		held := errors.Is(err, unix.EINTR) || errors.Is(err, unix.EWOULDBLOCK)
		if !held || time.Now().After(end) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
	}
}

// removeStale removes the socket at path if nobody listens there.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return errors.New("exists and is not a socket: remove it or choose another name")
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return fmt.Errorf("%w: choose another name, or stop that one", ErrSocketInUse)
	}
	// Any other error (a full backlog, no permission) means that somebody may listen there.
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("%w (%v)", ErrSocketInUse, err)
	}
	return os.Remove(path)
}
