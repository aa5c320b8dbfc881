package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNameInUse: another live process serves the socket.
var ErrNameInUse = errors.New("in use by a running VM")

const (
	socketSuffix = ".sock"
	// maxSocketPath is the size of sockaddr_un.sun_path less its terminating zero (unix(7)).
	maxSocketPath = 107
)

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// RuntimeDir is where the control sockets are: $VMM_RUNTIME_DIR, else $XDG_RUNTIME_DIR/vmm, else /run/vmm.
func RuntimeDir() string {
	if dir := os.Getenv("VMM_RUNTIME_DIR"); dir != "" {
		return dir
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "vmm")
	}
	return "/run/vmm"
}

// CheckName refuses names that would not do as a file name or a word in a script.
func CheckName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("name %q: use 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit", name)
	}
	return nil
}

// SocketPath is the control socket of a VM, given by its name or by the path of the socket itself, which
// is told by the '/' in it.
func SocketPath(nameOrPath string) (string, error) {
	if strings.ContainsRune(nameOrPath, '/') {
		return nameOrPath, nil
	}
	if err := CheckName(nameOrPath); err != nil {
		return "", err
	}
	return filepath.Join(RuntimeDir(), nameOrPath+socketSuffix), nil
}

// Names lists the VMs that have a control socket in [RuntimeDir], in order, the dead ones too.
func Names() ([]string, error) {
	entries, err := os.ReadDir(RuntimeDir())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list VMs: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), socketSuffix); ok && e.Type() == os.ModeSocket {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Listen takes the control socket at path, creating its directory (mode 0700) if need be. A socket that nobody
// serves is replaced; one that is served gives [ErrNameInUse]. Closing the listener removes the socket.
func Listen(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("control socket %s: the path is longer than %d bytes: choose a shorter VMM_RUNTIME_DIR or --api", path, maxSocketPath)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("control socket: %w: set VMM_RUNTIME_DIR to a directory that you may write", err)
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	defer unlock()
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	// Linux creates the socket's inode with the mode of the descriptor that is bound to it, so that nobody can
	// connect in between, and no process-wide umask is touched.
	private := func(_, _ string, c syscall.RawConn) error {
		var err error
		ctlErr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(ctlErr, err)
	}
	lc := net.ListenConfig{Control: private}
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return l, nil
}

// lockDir makes "is it stale? then remove and bind" one step among all processes that take names in dir.
// The lock goes with its process, so it needs no cleaning up.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
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
		return fmt.Errorf("%w: choose another name, or stop that one", ErrNameInUse)
	}
	// Anything else (a full backlog, no permission) means that there is, or may be, somebody.
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("%w (%v)", ErrNameInUse, err)
	}
	return os.Remove(path)
}
