package process

import (
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	consoleStdio = "stdio"
	consoleOff   = "off"
	consoleFile  = "file:"
)

// CheckConsole refuses anything but "stdio", "file:PATH" and "off".
func CheckConsole(spec string) error {
	if path, ok := strings.CutPrefix(spec, consoleFile); ok && path != "" || spec == consoleStdio ||
		spec == consoleOff {
		return nil
	}
	return fmt.Errorf("console %q: use stdio, file:PATH or off", spec)
}

// escapeKey is Ctrl-A, as in QEMU's console.
const escapeKey = 'A' - '@'

// inputRetry is the pause before offering input again to a guest that does not read it.
const inputRetry = 10 * time.Millisecond

// inputReads is how many reads of a terminal wait for a guest that takes no input. Keys beyond that
// are lost, as they are in a terminal's own queue.
const inputReads = 1024

// input carries what a user types to the guest.
//
// A guest may take no input for long: it does not read, or stands still without its disks, or it is
// not known where it is. The user must be able to end it then, so reading goes on.
type input struct {
	escapes bool             // whether escapeKey has a meaning
	deliver func([]byte) int // returns how many bytes were taken
	quit    func()           // called when the user asks for the end; it may be refused
	escaped bool             // the last key was escapeKey
}

// copy reads until the end of r, and returns once the guest has taken what was read.
func (in *input) copy(r io.Reader) {
	typed, done := make(chan []byte, inputReads), make(chan struct{})
	go func() {
		defer close(done)
		for keys := range typed {
			in.pass(keys)
		}
	}()
	for {
		buf := make([]byte, 1024)
		n, err := r.Read(buf)
		keys, quit := in.filter(buf[:n])
		in.hold(typed, keys)
		if quit {
			in.quit()
		}
		if err != nil {
			close(typed)
			<-done
			return
		}
	}
}

// hold has keys wait for the guest. Who types them does not wait; a file or a pipe does.
func (in *input) hold(typed chan<- []byte, keys []byte) {
	if !in.escapes {
		in.pass(keys)
		return
	}
	select {
	case typed <- keys:
	default:
	}
}

// pass passes keys to the guest, however long that takes.
func (in *input) pass(keys []byte) {
	for len(keys) > 0 {
		taken := in.deliver(keys)
		if keys = keys[taken:]; len(keys) > 0 {
			time.Sleep(inputRetry)
		}
	}
}

// filter removes the escapes from keys, in place. quit says that the user asked for the end.
func (in *input) filter(keys []byte) (rest []byte, quit bool) {
	if !in.escapes {
		return keys, false
	}
	rest = keys[:0]
	for _, k := range keys {
		switch {
		case !in.escaped && k == escapeKey:
			in.escaped = true
			continue
		case in.escaped && (k == 'x' || k == 'X'):
			in.escaped = false
			return rest, true
		case in.escaped && k != escapeKey:
			// Not an escape of ours: send nothing, so that a mistyped one does no harm.
		default:
			rest = append(rest, k)
		}
		in.escaped = false
	}
	return rest, false
}
