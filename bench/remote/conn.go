package remote

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/yamux"
)

// Conn is an agent at a host, as the controller has it.
type Conn struct {
	Target
	// Dir is the agent's folder. It is removed when the agent ends.
	Dir string

	end     time.Duration // how long Close waits for the agent
	ssh     *exec.Cmd
	stderr  bytes.Buffer // complete once ended is closed
	ended   chan struct{}
	session *yamux.Session
	calls   *rpc.Client
}

// Connect starts this program as an agent at a host, with those arguments and the folder's path
// behind them. It calls Serve there. Close ends it.
func Connect(ctx context.Context, t Target, command ...string) (*Conn, error) {
	c, err := connect(ctx, t, command, stillness)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", t, err)
	}
	return c, nil
}

func connect(
	ctx context.Context, t Target, command []string, still time.Duration,
) (*Conn, error) {
	dir, err := upload(ctx, t.Host, still)
	if err != nil {
		return nil, err
	}
	c := &Conn{Target: t, Dir: dir, end: min(patience, still), ended: make(chan struct{})}
	// Not the context's: a run that is over still has something to end there.
	c.ssh = newSSH(context.WithoutCancel(ctx), t.Host, startScript(dir, command))
	c.ssh.Stderr = &c.stderr
	in, err := c.ssh.StdinPipe()
	if err != nil {
		return nil, err
	}
	// Not StdoutPipe, because Wait would close it before its output is read.
	out, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c.ssh.Stdout = w
	err = c.ssh.Start()
	w.Close()
	if err != nil {
		out.Close()
		return nil, err
	}
	go func() {
		_ = c.ssh.Wait() // its last words say more
		close(c.ended)
	}()
	watched, dog := watchFor(ctx, still)
	defer dog.stop()
	if err = c.begin(watched, out, in); err != nil {
		c.Close()
		if errors.Is(context.Cause(watched), errStill) {
			err = context.Cause(watched)
		}
		return nil, explain(err, c.stderr.String())
	}
	return c, nil
}

// begin speaks with the agent over the ssh's standard streams, which it closes, and waits until it
// answers.
func (c *Conn) begin(ctx context.Context, out io.ReadCloser, in io.WriteCloser) (err error) {
	streams := pipes{out, in}
	stop := context.AfterFunc(ctx, func() { streams.Close() })
	defer stop()
	from := bufio.NewReader(out)
	if err := skipChatter(from); err != nil {
		streams.Close()
		return err
	}
	c.session, err = yamux.Client(pipes{buffered{from, out}, in}, configuration(patience))
	if err != nil {
		streams.Close()
		return err
	}
	stream, _, err := c.open(header{kind: streamCalls})
	if err != nil {
		return err
	}
	c.calls = rpc.NewClient(stream)
	_, err = c.Clock(ctx)
	return err
}

// pipes are the standard streams of the ssh.
type pipes struct {
	io.ReadCloser
	io.WriteCloser
}

func (p pipes) Close() error { return errors.Join(p.WriteCloser.Close(), p.ReadCloser.Close()) }

// buffered reads what was read ahead first.
type buffered struct {
	io.Reader
	io.Closer
}

// open opens a stream.
func (c *Conn) open(h header) (net.Conn, *bufio.Reader, error) {
	stream, err := c.session.Open()
	if err != nil {
		return nil, nil, err
	}
	if _, err := io.WriteString(stream, h.String()); err != nil {
		stream.Close()
		return nil, nil, err
	}
	return stream, bufio.NewReaderSize(stream, mostHeader), nil
}

// answered reads the agent's answer to a stream.
func answered(in *bufio.Reader) error {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("wait for an answer: %w", err)
	}
	if said := strings.TrimSuffix(string(line), "\n"); said != answerOK {
		return errors.New(said)
	}
	return nil
}

// Call calls a method of a service of the agent.
func (c *Conn) Call(ctx context.Context, method string, args, reply any) error {
	call := c.calls.Go(method, args, reply, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
		if call.Error != nil {
			return fmt.Errorf("%v: %w", c.Target, call.Error)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Clock compares the host's clock with this host's.
func (c *Conn) Clock(ctx context.Context) (Clock, error) {
	return estimate(clockTrips, time.Now, func() (time.Time, error) {
		var ns int64
		err := c.Call(ctx, "Clock.Now", struct{}{}, &ns)
		return time.Unix(0, ns), err
	})
}

// Put copies a file to a name in the agent's folder, and returns its path there. It is executable,
// and only the host's user has access.
func (c *Conn) Put(name, file string) (at string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	stream, in, err := c.open(header{kind: streamPut, size: info.Size(), name: name})
	if err != nil {
		return "", fmt.Errorf("copy %s to %v: %w", file, c.Target, err)
	}
	defer stream.Close()
	// An error is explained by the answer, if there is one.
	_, err = io.CopyN(stream, f, info.Size())
	if errAnswer := answered(in); errAnswer != nil {
		err = errAnswer
	}
	if err != nil {
		return "", fmt.Errorf("copy %s to %v: %w", file, c.Target, err)
	}
	return path.Join(c.Dir, name), nil
}

// PutFolder copies the files of a folder into one of that name in the agent's.
func (c *Conn) PutFolder(name, folder string) (at string, err error) {
	files, err := os.ReadDir(folder)
	if err != nil {
		return "", err
	}
	for _, f := range files {
		if _, err := c.Put(path.Join(name, f.Name()), filepath.Join(folder, f.Name())); err != nil {
			return "", err
		}
	}
	return path.Join(c.Dir, name), nil
}

// Dial connects with a unix socket in the agent's folder.
func (c *Conn) Dial(name string) (net.Conn, error) {
	stream, in, err := c.open(header{kind: streamDial, name: name})
	if err != nil {
		return nil, err
	}
	if err := answered(in); err != nil {
		stream.Close()
		return nil, err
	}
	return readConn{stream, in}, nil
}

// Forward makes a unix socket here that leads to one in the agent's folder, until it is closed.
func (c *Conn) Forward(socket, name string) (io.Closer, error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer near.Close()
				if far, err := c.Dial(name); err == nil {
					join(near, far)
				}
			}()
		}
	}()
	return l, nil
}

// Close ends the agent, and waits until its ssh has ended, so all that the agent started has ended,
// too, and its folder is removed. It does not wait for a host that is gone.
func (c *Conn) Close() {
	if c.session != nil {
		c.session.Close() // its pipes with it: the agent's standard input ends
	}
	select {
	case <-c.ended:
	case <-time.After(c.end):
		_ = c.ssh.Process.Kill()
		<-c.ended
	}
}
