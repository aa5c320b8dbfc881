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

// input carries what a user types to the guest.
type input struct {
	escapes bool             // whether escapeKey has a meaning
	deliver func([]byte) int // returns how many bytes were taken
	quit    func()           // called when the user asks for the end of the VM
	escaped bool             // the last key was escapeKey
}

// copy reads until the end of r or until the user quits.
func (in *input) copy(r io.Reader) {
	buf := make([]byte, 1024)
	for {
		n, err := r.Read(buf)
		keys, quit := in.filter(buf[:n])
		for len(keys) > 0 {
			taken := in.deliver(keys)
			if keys = keys[taken:]; len(keys) > 0 {
				time.Sleep(inputRetry)
			}
		}
		if quit {
			in.quit()
		}
		if quit || err != nil {
			return
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
