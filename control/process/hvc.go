package process

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"taskguide/transport"
	"taskguide/vmm"
)

const consoleUnix = "unix:"

// CheckHVC refuses anything but what the second console can be, which shares standard input and
// output with nobody.
func CheckHVC(spec, console string) error {
	switch path, isSocket := strings.CutPrefix(spec, consoleUnix); {
	case isSocket && path != "":
		return nil
	case spec == consoleStdio && console == consoleStdio:
		return errors.New("second console on stdio, where COM1 is: use --console off or file:PATH")
	case CheckConsole(spec) != nil:
		return fmt.Errorf("second console %q: use off, stdio, file:PATH or unix:PATH", spec)
	}
	return nil
}

// hvc is where the second console's output goes, and its input comes from.
type hvc struct {
	vmm.Output
	file   *console   // unless nil: a file, or standard output
	socket *hvcSocket // unless nil
}

// openHVC opens what spec names. deliver passes input to the guest.
func openHVC(
	spec string, stdout *os.File, log *slog.Logger, deliver func([]byte) int,
) (*hvc, error) {
	log = log.With("console", "hvc0")
	path, isSocket := strings.CutPrefix(spec, consoleUnix)
	switch {
	case spec == consoleOff:
		return &hvc{Output: vmm.Output{Writer: &nowhere{log: log}}}, nil
	case isSocket:
		ln, err := transport.ListenUnix(path)
		if err != nil {
			return nil, fmt.Errorf("second console: %w", err)
		}
		s := newHVCSocket(ln, deliver)
		lossy := (&console{log: log}).lossy
		return &hvc{Output: vmm.Output{Writer: s, Lossy: lossy}, socket: s}, nil
	}
	c, err := openConsole(spec, stdout, log)
	if err != nil {
		return nil, fmt.Errorf("second %w", err)
	}
	return &hvc{Output: vmm.Output{Writer: c, Lossy: c.lossy}, file: c}, nil
}

// begin empties a file, as that of a console.
func (h *hvc) begin() error {
	if h.file == nil {
		return nil
	}
	return h.file.begin()
}

// Close closes what was opened. The machine has ended.
func (h *hvc) Close() error {
	switch {
	case h.file != nil:
		return h.file.Close()
	case h.socket != nil:
		h.socket.close()
	}
	return nil
}

// nowhere drops what a guest prints, and says so once.
type nowhere struct {
	log  *slog.Logger
	once sync.Once
}

func (n *nowhere) Write(p []byte) (int, error) {
	n.once.Do(func() {
		n.log.Warn("the guest prints on its second console, which goes nowhere: " +
			"vmm run --hvc stdio, file:PATH or unix:PATH shows it")
	})
	return len(p), nil
}

// hvcSocket is a console that one program at a time connects to. Output waits for it.
type hvcSocket struct {
	ln      net.Listener
	deliver func([]byte) int
	clients sync.WaitGroup

	mu      sync.Mutex // guards what follows
	client  net.Conn
	mute    bool          // the client sends no more
	changed chan struct{} // closed when there is a client, and then replaced; closed at the end
	closed  bool
}

func newHVCSocket(ln net.Listener, deliver func([]byte) int) *hvcSocket {
	s := &hvcSocket{ln: ln, deliver: deliver, changed: make(chan struct{})}
	s.clients.Go(s.accept)
	return s
}

// accept takes clients. One that comes while there is another is turned away, unless that one has
// finished sending, for it may be gone.
func (s *hvcSocket) accept() {
	for {
		c, err := s.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(inputRetry) // no descriptors are left, for instance
			continue
		}
		if !s.welcome(c) {
			c.Close()
			continue
		}
		s.clients.Go(func() {
			in := input{deliver: func(b []byte) int { return s.pass(c, b) }}
			in.copy(c)
			s.silent(c)
		})
	}
}

func (s *hvcSocket) welcome(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.client != nil && !s.mute {
		return false
	}
	if s.client != nil {
		s.client.Close()
	}
	s.client, s.mute = c, false
	close(s.changed)
	s.changed = make(chan struct{})
	return true
}

// pass gives the guest what a client sends. It drops that at the end, and once there is another
// client, because the guest may never take it. A client that has gone is found out here while the
// guest takes nothing, or it would keep others away for good.
func (s *hvcSocket) pass(c net.Conn, b []byte) int {
	if client, _, closed := s.now(); closed || client != nil && client != c {
		return len(b)
	}
	n := s.deliver(b)
	if n == 0 && hungUp(c) {
		s.silent(c)
	}
	return n
}

// hungUp tells whether the other end has finished sending, though not all may have been read.
func hungUp(c net.Conn) (yes bool) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, _ := unix.Poll(poll, 0)
		yes = n > 0
	})
	return yes
}

// silent notes that a client sends no more. It may still read.
func (s *hvcSocket) silent(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mute = s.mute || s.client == c
}

// gone forgets a client that cannot be written to.
func (s *hvcSocket) gone(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.Close()
	if s.client == c {
		s.client = nil
	}
}

func (s *hvcSocket) now() (client net.Conn, changed <-chan struct{}, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.client, s.changed, s.closed
}

// Ready implements [virtio.Readied].
func (s *hvcSocket) Ready(cancel <-chan struct{}) bool {
	for {
		client, changed, _ := s.now()
		if client != nil {
			return true
		}
		select {
		case <-changed:
		case <-cancel:
			return false
		}
	}
}

// Write sends output to the client. What a client that goes away did not take is for the next one.
func (s *hvcSocket) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		client, changed, closed := s.now()
		switch {
		case closed:
			return written, net.ErrClosed
		case client == nil:
			<-changed
			continue
		}
		n, err := client.Write(p[written:])
		written += n
		if err != nil {
			s.gone(client)
		}
	}
	return written, nil
}

func (s *hvcSocket) close() {
	s.ln.Close()
	s.mu.Lock()
	s.closed = true
	if s.client != nil {
		s.client.Close()
	}
	close(s.changed)
	s.mu.Unlock()
	s.clients.Wait()
}
