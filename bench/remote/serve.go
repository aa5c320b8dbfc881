package remote

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/rpc"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/yamux"
)

// The kinds of streams. A stream begins with a line that says its kind and, behind a space, what it
// is about.
const (
	streamCalls = "calls" // no more words
	streamPut   = "put"   // SIZE NAME; the file follows, and the agent answers with a line
	streamDial  = "dial"  // NAME; the agent answers with a line, and the socket's bytes follow
)

// answerOK is the line of an agent that has done what a stream asks for. Another line is an error.
const answerOK = "ok"

// mostHeader bounds a stream's first line, and an answer.
const mostHeader = 4096

// patience is how long one end waits for an answer of the other before it takes it for lost.
const patience = 20 * time.Second

var errHeader = errors.New("a stream begins with what this program does not know")

// header is the first line of a stream.
type header struct {
	kind string
	name string // of a file in the agent's folder
	size int64
}

func (h header) String() string {
	switch h.kind {
	case streamPut:
		return fmt.Sprintf("%s %d %s\n", h.kind, h.size, h.name)
	case streamDial:
		return fmt.Sprintf("%s %s\n", h.kind, h.name)
	default:
		return h.kind + "\n"
	}
}

// parseHeader reads the first line of a stream, without its end.
func parseHeader(line string) (h header, err error) {
	kind, rest, _ := strings.Cut(line, " ")
	h.kind, h.name = kind, rest
	switch kind {
	case streamCalls:
		if line != kind {
			return header{}, errHeader
		}
		return h, nil
	case streamPut:
		size, name, _ := strings.Cut(rest, " ")
		if h.size, err = strconv.ParseInt(size, 10, 64); err != nil || h.size < 0 ||
			strconv.FormatInt(h.size, 10) != size {
			return header{}, fmt.Errorf("%w: the size of a file is %q", errHeader, size)
		}
		h.name = name
	case streamDial:
	default:
		return header{}, fmt.Errorf("%w: %q", errHeader, kind)
	}
	if !filepath.IsLocal(h.name) || strings.ContainsAny(h.name, "\n\x00") {
		return header{}, fmt.Errorf("%w: %q is no file in the folder", errHeader, h.name)
	}
	return h, nil
}

// configuration is that of both ends, which wait so long for an answer. What the library logs about
// the end of a connection is no news.
func configuration(patient time.Duration) *yamux.Config {
	c := yamux.DefaultConfig()
	c.KeepAliveInterval, c.ConnectionWriteTimeout = patient/4, patient
	c.LogOutput = io.Discard
	return c
}

// agent is the end at the host.
type agent struct {
	dir      string
	services *rpc.Server
}

// Serve works in dir for the controller that writes in and reads out, until it has gone. services
// are receivers of net/rpc, by their names. The process is to end then, because a read of in may go
// on: nothing ends one of standard input while an ssh without a network holds it open.
func Serve(in io.ReadCloser, out io.WriteCloser, dir string, services map[string]any) error {
	return serve(in, out, dir, services, configuration(patience))
}

func serve(
	in io.ReadCloser, out io.WriteCloser, dir string, services map[string]any, c *yamux.Config,
) error {
	a := &agent{dir, rpc.NewServer()}
	for name, s := range services {
		if err := a.services.RegisterName(name, s); err != nil {
			return err
		}
	}
	if err := a.services.RegisterName("Clock", Watch{}); err != nil {
		return err
	}
	if _, err := io.WriteString(out, greeting); err != nil {
		return nil // the controller has gone
	}
	session, err := yamux.Server(pipes{in, out}, c)
	if err != nil {
		return err
	}
	for {
		stream, err := session.Accept()
		if err != nil {
			return nil // the controller has gone; closing the session would wait for the read
		}
		go a.serve(stream)
	}
}

// serve carries out what a stream asks for.
func (a *agent) serve(stream net.Conn) {
	defer stream.Close()
	in := bufio.NewReaderSize(stream, mostHeader)
	line, err := in.ReadSlice('\n')
	if err != nil {
		return
	}
	h, err := parseHeader(strings.TrimSuffix(string(line), "\n"))
	if err != nil {
		reply(stream, err)
		return
	}
	switch h.kind {
	case streamCalls:
		a.services.ServeConn(readConn{stream, in})
	case streamPut:
		file := &io.LimitedReader{R: in, N: h.size}
		err := put(filepath.Join(a.dir, h.name), file)
		_, _ = io.Copy(io.Discard, file) // the other end listens once it has sent all
		reply(stream, err)
	case streamDial:
		socket, err := net.Dial("unix", filepath.Join(a.dir, h.name))
		if reply(stream, err); err == nil {
			join(readConn{stream, in}, socket)
		}
	}
}

// readConn is a stream whose first line was read.
type readConn struct {
	net.Conn
	in *bufio.Reader
}

func (c readConn) Read(b []byte) (int, error) { return c.in.Read(b) }

// reply answers a stream.
func reply(w io.Writer, err error) {
	line := answerOK
	if err != nil {
		line = strings.Join(strings.Fields(err.Error()), " ")
	}
	fmt.Fprintln(w, line[:min(len(line), mostHeader-1)])
}

// put writes a file, all that in is to give, and its folder.
func put(path string, in *io.LimitedReader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, in)
	if err == nil && in.N > 0 {
		err = io.ErrUnexpectedEOF
	}
	return errors.Join(err, f.Close())
}

// join copies both ways until one of them ends, and closes both.
func join(a, b net.Conn) {
	done := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		go func() {
			_, _ = io.Copy(way[0], way[1])
			done <- struct{}{}
		}()
	}
	<-done
	a.Close()
	b.Close()
	<-done
}

// Watch is the service that tells the time.
type Watch struct{}

// Now is the wall clock of the host, in ns since 1970.
func (Watch) Now(_ struct{}, ns *int64) error {
	*ns = time.Now().UnixNano()
	return nil
}
