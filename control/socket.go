package control

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"taskguide/transport"
)

// ErrNameInUse is returned if another live process serves the socket.
var ErrNameInUse = transport.ErrSocketInUse

const socketSuffix = ".sock"

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// RuntimeDir is where the control sockets are: $VMM_RUNTIME_DIR, else $XDG_RUNTIME_DIR/vmm, else
// /run/vmm.
func RuntimeDir() string {
	if dir := os.Getenv("VMM_RUNTIME_DIR"); dir != "" {
		return dir
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "vmm")
	}
	return "/run/vmm"
}

// CheckName refuses names that are unfit for a file name or a word in a script.
func CheckName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("name %q: use 1 to 64 letters, digits, '.', '_' or '-', beginning with "+
			"a letter or digit", name)
	}
	return nil
}

// SocketPath returns the control socket of a VM. nameOrPath is its name, or the path of the socket
// if it contains a '/'.
func SocketPath(nameOrPath string) (string, error) {
	path := nameOrPath
	if !strings.ContainsRune(nameOrPath, '/') {
		if err := CheckName(nameOrPath); err != nil {
			return "", err
		}
		path = filepath.Join(RuntimeDir(), nameOrPath+socketSuffix)
	}
	return path, checkSocketPath(path)
}

// Names lists the VMs that have a control socket in [RuntimeDir], in order, including dead ones.
func Names() ([]string, error) {
	if err := checkRuntimeDir(RuntimeDir()); err != nil {
		return nil, err
	}
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

// checkRuntimeDir refuses a runtime directory in which another user could replace a VM's socket, or
// put a socket under its name.
func checkRuntimeDir(dir string) error {
	info, err := os.Lstat(dir)
	if err == nil && info.Mode().Type() == os.ModeSymlink {
		if err = checkOwner(dir, info); err != nil {
			return err
		}
		info, err = os.Stat(dir)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil // whoever takes a name makes it
	}
	if err != nil {
		return fmt.Errorf("runtime directory: %w", err)
	}
	if info.IsDir() && info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("runtime directory %s may be written by others: "+
			"chmod go-w it, or choose another with VMM_RUNTIME_DIR", dir)
	}
	return checkOwner(dir, info)
}

func checkOwner(dir string, info os.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stat.Uid == 0 || int(stat.Uid) == os.Geteuid() {
		return nil
	}
	return fmt.Errorf("runtime directory %s belongs to user %d, who could answer for your VMs: "+
		"choose another with VMM_RUNTIME_DIR", dir, stat.Uid)
}

// Listen takes the control socket at path. It makes the directory (mode 0700) if necessary. It
// replaces a socket that nobody serves, and returns [ErrNameInUse] for one that is served. Closing
// the listener removes the socket.
func Listen(path string) (net.Listener, error) {
	if err := checkSocketPath(path); err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("control socket: %w: "+
			"set VMM_RUNTIME_DIR to a directory that you may write", err)
	}
	if dir == filepath.Clean(RuntimeDir()) {
		if err := checkRuntimeDir(dir); err != nil {
			return nil, err
		}
	}
	l, err := transport.ListenUnix(path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return l, nil
}

func checkSocketPath(path string) error {
	if err := transport.CheckUnixPath(path); err != nil {
		return fmt.Errorf("control socket: %w (VMM_RUNTIME_DIR, or --api of vmm run)", err)
	}
	return nil
}
