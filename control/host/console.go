package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	consoleStdio = "stdio"
	consoleOff   = "off"
	consoleFile  = "file:"
)

// console is where the guest's output goes.
type console interface {
	io.WriteCloser
}

type stdout struct{ io.Writer }

func (stdout) Close() error { return nil }

// CheckConsole refuses what is none of "stdio", "file:PATH" and "off".
func CheckConsole(spec string) error {
	if path, ok := strings.CutPrefix(spec, consoleFile); ok && path != "" || spec == consoleStdio || spec == consoleOff {
		return nil
	}
	return fmt.Errorf("console %q: use stdio, file:PATH or off", spec)
}

// openConsole opens what spec names. A file is begun anew.
func openConsole(spec string, out *os.File) (console, error) {
	if err := CheckConsole(spec); err != nil {
		return nil, err
	}
	path, ok := strings.CutPrefix(spec, consoleFile)
	if !ok {
		return stdout{out}, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	return f, nil
}

// escapeKey is Ctrl-A, as in QEMU's console.
const escapeKey = 'A' - '@'

// inputRetry is how long to wait for a guest that does not read its input.
const inputRetry = 10 * time.Millisecond

// input carries what a user types to the guest.
type input struct {
	escapes bool             // escapeKey has a meaning
	deliver func([]byte) int // returns how many bytes were taken
	quit    func()           // the user asked for the end
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

// filter takes the escapes out of keys, in place.
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
			// No escape of ours: nothing is sent, so that a mistyped one does no harm.
		default:
			rest = append(rest, k)
		}
		in.escaped = false
	}
	return rest, false
}

// lineHandler writes log records as lines for people: "vmm: NAME: message: error (key=value)".
type lineHandler struct {
	mu     *sync.Mutex
	w      io.Writer
	prefix string
	attrs  []slog.Attr
}

func newLineHandler(w io.Writer, name string) slog.Handler {
	return lineHandler{mu: new(sync.Mutex), w: w, prefix: "vmm: " + name + ": "}
}

func (h lineHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (h lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.attrs = append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)
	return h
}

func (h lineHandler) WithGroup(string) slog.Handler { return h }

func (h lineHandler) Handle(_ context.Context, r slog.Record) error {
	text := h.prefix + r.Message
	var pairs []string
	add := func(a slog.Attr) bool {
		if a.Key == "error" {
			text += ": " + a.Value.String()
		} else {
			pairs = append(pairs, a.String())
		}
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	if len(pairs) > 0 {
		text += " (" + strings.Join(pairs, ", ") + ")"
	}
	text = strings.ReplaceAll(text, "\n", "; ")
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.w, text+"\n")
	return errors.Join(err)
}
