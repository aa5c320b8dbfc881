package cli

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"taskguide/control/process"
)

// OutliveOutputs keeps this process alive when a reader of its outputs goes away, as in vmm run |
// head. Writes to the output then fail. Without it, SIGPIPE would end the process, and with it a
// guest or the view of a migration.
func OutliveOutputs() {
	// Caught and not ignored, because programs that this one starts would inherit an ignored
	// signal.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
}

// EndLine ends the line on which a terminal has echoed Ctrl-C, so that the next text on errs begins
// on its own line. A terminal with a live line does not need that, because the next drawing erases
// the echo.
func EndLine(screen, errs *os.File) {
	if process.IsTerminal(errs) && !process.IsTerminal(screen) {
		fmt.Fprintln(errs)
	}
}

// EraseEcho erases what a terminal has echoed since its live line was last drawn, if it ever was.
func EraseEcho(screen *os.File) {
	if process.IsTerminal(screen) {
		fmt.Fprint(screen, "\r\x1b[K")
	}
}

// sayTimeout is how long a last line may take to be read, because a pipe that nobody reads must not
// keep a process from ending.
const sayTimeout = 2 * time.Second

// Say writes one line to w, but waits no longer than sayTimeout.
func Say(w io.Writer, line string) {
	done := make(chan struct{})
	go func() {
		fmt.Fprintln(w, line) // nobody is left to be told of an error
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(sayTimeout):
	}
}
