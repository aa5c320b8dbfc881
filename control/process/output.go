package process

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// console is where the guest's output goes. It logs when bytes begin to be lost and when that ends,
// because a full disk or a reader that went away must not affect the guest.
type console struct {
	file   *os.File
	owned  bool    // opened here, so begin empties it and Close closes it
	begun  bool    // true after the first begin: a guest that is reset goes on in the same file
	screen *screen // unless nil: log lines go to the same file, and this keeps the two apart
	log    *slog.Logger

	mu   sync.Mutex
	lost int64 // bytes since writing began to fail; 0: it works
}

// openConsole opens what spec names. It changes nothing there yet; begin does.
func openConsole(spec string, stdout *os.File, log *slog.Logger) (*console, error) {
	if err := CheckConsole(spec); err != nil {
		return nil, err
	}
	path, ok := strings.CutPrefix(spec, consoleFile)
	if !ok {
		return &console{file: stdout, log: log}, nil
	}
	f, err := openOutput(path)
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	return &console{file: f, owned: true, log: log}, nil
}

// openOutput opens a file for a guest's output, with mode 0600. It refuses links, which may lead
// anywhere, and files that output would destroy or cannot go to. It opens a pipe for reading, too,
// so that its reader may come and go and nobody waits for one.
func openOutput(path string) (*os.File, error) {
	flags := os.O_WRONLY
	if info, err := os.Lstat(path); err == nil {
		switch info.Mode().Type() {
		case os.ModeNamedPipe:
			flags = os.O_RDWR
		case os.ModeSymlink:
			return nil, fmt.Errorf("%s is a symbolic link: give the path that it leads to", path)
		case 0, os.ModeDevice | os.ModeCharDevice:
		default:
			return nil, fmt.Errorf("%s is neither a file nor a pipe nor a terminal", path)
		}
	}
	// The file may have been replaced since. So the flags and the check after opening decide.
	flags |= os.O_CREATE | unix.O_NOFOLLOW | unix.O_NOCTTY | unix.O_NONBLOCK
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, NewFileError(err)
	}
	info, err := f.Stat()
	if err == nil {
		err = checkOutput(f, info)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s %w", path, err)
	}
	return f, nil
}

// checkOutput refuses an open file that must not be written.
func checkOutput(f *os.File, info os.FileInfo) error {
	switch info.Mode().Type() {
	case os.ModeNamedPipe, os.ModeDevice | os.ModeCharDevice:
		return nil
	case 0:
	default:
		return errors.New("is neither a file nor a pipe nor a terminal")
	}
	// The kernel drops the lock when its process ends.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return errors.New("is the console of another VM that runs: choose another file")
	}
	if info.Mode().Perm()&^0o600 == 0 {
		return nil
	}
	if err := f.Chmod(0o600); err != nil {
		return fmt.Errorf("may be read by others, and stays so (%w): choose another file", err)
	}
	return nil
}

// begin empties a file of what an earlier VM left in it. It is separate from openConsole so that a
// VM that is refused does not do so.
func (c *console) begin() error {
	if !c.owned || c.begun {
		return nil
	}
	c.begun = true
	info, err := c.file.Stat()
	if err == nil && info.Mode().IsRegular() {
		err = c.file.Truncate(0)
	}
	if err != nil {
		return fmt.Errorf("console: %w", err)
	}
	return nil
}

func (c *console) Write(p []byte) (int, error) {
	var n int
	var err error
	if c.screen != nil {
		n, err = c.screen.guestWrite(p)
	} else {
		n, err = c.file.Write(p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil:
		if c.lost == 0 {
			c.log.Warn("the guest's output is lost from here on, until it can be written again",
				"error", err)
		}
		c.lost += int64(len(p) - n)
	case c.lost > 0:
		c.tell(c.lost)
		c.lost = 0
	}
	return n, err
}

// lossy is called by the machine when output finds no reader: with 0 when the loss begins, and with
// the number of lost bytes when it ends.
func (c *console) lossy(lost int64) {
	if lost == 0 {
		c.log.Warn("nobody reads the guest's output: it is lost from here on, until somebody does")
		return
	}
	c.tell(lost)
}

func (c *console) tell(lost int64) {
	c.log.Warn(fmt.Sprintf("%d bytes of the guest's output were lost", lost))
}

// end says that the guest prints no more, so that nothing waits for the end of its line.
func (c *console) end() {
	if c.screen != nil {
		c.screen.end()
	}
}

func (c *console) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost > 0 {
		c.tell(c.lost)
		c.lost = 0
	}
	if !c.owned {
		return nil
	}
	return c.file.Close()
}
