package program

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"taskguide/migration/policy"
)

const (
	// mostLate is how often in a row a program may be late, and is ended for it.
	mostLate = 3
	// queued is how many messages may wait for the program to read them.
	queued = 256
	// warmUp is how long after its start a program has for its first answer, while no page is sent
	// yet: an interpreter has to load.
	warmUp = 2 * time.Second
	// farewell is how long a program has to end by itself once its input has ended.
	farewell = 100 * time.Millisecond
	// loggedLines and loggedBytes bound what of its standard error gets into the log.
	loggedLines = 200
	loggedBytes = 1000 // a line
)

var (
	errLate   = fmt.Errorf("it was late %d times in a row", mostLate)
	errClosed = errors.New("it is asked no more")
)

// Program is a running program.
type Program struct {
	cmd     *exec.Cmd
	in      *os.File
	out     *os.File
	log     *slog.Logger
	lines   chan []byte   // to be written
	written chan struct{} // closed once nothing is written any more
	ended   chan struct{} // closed once the process has ended
	lost    func(error)   // called once, if it is not closed before
	begun   time.Time

	// asking is held while a question waits for its answer, so that there is one at a time.
	asking sync.Mutex

	// mu guards everything below. Nobody waits while holding it.
	mu       sync.Mutex
	asked    int // questions
	answered int // lines
	waiting  chan []byte
	late     int           // questions in a row
	missed   int           // messages dropped since the last one that was not
	gone     bool          // the process has ended
	err      error         // why it is over
	over     chan struct{} // closed with err
}

// Launch starts a program. If it ends, or has to be ended, lost is told why, on a goroutine of its
// own.
func Launch(path string, log *slog.Logger, lost func(error)) (*Program, error) {
	p := &Program{
		log: log, lines: make(chan []byte, queued), written: make(chan struct{}),
		ended: make(chan struct{}), lost: lost, begun: time.Now(), over: make(chan struct{}),
	}
	if err := p.start(path); err != nil {
		return nil, fmt.Errorf("policy program %s: %w", path, err)
	}
	return p, nil
}

func (p *Program) start(path string) error {
	var theirs [3]*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
	}()
	var errIn, errOut, errErr error
	var stderr *os.File
	theirs[0], p.in, errIn = os.Pipe()
	p.out, theirs[1], errOut = os.Pipe()
	stderr, theirs[2], errErr = os.Pipe()
	err := errors.Join(errIn, errOut, errErr)
	if err == nil {
		p.cmd = exec.Command(path)
		p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = theirs[0], theirs[1], theirs[2]
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
		started := make(chan error)
		go p.run(started)
		err = <-started
	}
	if err != nil {
		for _, f := range []*os.File{p.in, p.out, stderr} {
			f.Close()
		}
		return err
	}
	go p.write()
	go p.read()
	go p.relay(stderr)
	return nil
}

// run starts the process and waits for its end. The kernel kills the process when the thread that
// started it ends, so that thread stays here.
func (p *Program) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	p.awaitEnd()
	err = p.cmd.Wait()
	close(p.ended)
	if err == nil {
		err = errors.New("exit status 0")
	}
	p.fail(fmt.Errorf("it has ended: %w", err))
}

// awaitEnd returns once the process has ended and its children are killed. The process is still a
// zombie then, so the number of its group cannot be another's.
func (p *Program) awaitEnd() {
	pid := p.cmd.Process.Pid
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = true
	_ = unix.Kill(-pid, unix.SIGKILL) // no children is an error that does not matter
}

// write feeds the program. A program that does not read blocks only this goroutine.
func (p *Program) write() {
	defer close(p.written)
	defer p.in.Close()
	for {
		select {
		case line := <-p.lines:
			if _, err := p.in.Write(line); err != nil {
				return // it has ended, or does not listen any more and will be late
			}
		case <-p.over:
			return
		}
	}
}

// read takes the program's lines.
func (p *Program) read() {
	lines := bufio.NewReaderSize(p.out, maxLine)
	for {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			p.fail(fmt.Errorf("an answer is longer than %d bytes", maxLine))
			return
		}
		if err != nil {
			return // run tells of its end
		}
		p.take(bytes.Clone(line))
	}
}

// take gives a line to the question that it answers.
func (p *Program) take(line []byte) {
	p.mu.Lock()
	p.answered++
	surplus := p.answered > p.asked
	waiting := p.waiting
	if p.answered == p.asked && waiting != nil {
		p.waiting = nil
		waiting <- line // it has room for one
	}
	p.mu.Unlock()
	if surplus {
		p.fail(fmt.Errorf("it answered %s without a question: "+
			"answer only what has a \"question\"", shown(line)))
	}
}

// relay puts what the program writes on standard error into the log. It reads on once there was too
// much, or the program would block.
func (p *Program) relay(stderr *os.File) {
	defer stderr.Close()
	go func() {
		<-p.ended
		time.Sleep(farewell)
		stderr.Close() // a child of the program that lives on may hold the other end
	}()
	lines := bufio.NewReaderSize(stderr, loggedBytes)
	for n := 0; n < loggedLines; n++ {
		line, cut, err := lines.ReadLine()
		if err != nil {
			return
		}
		p.log.Info("policy program", "says", clean(string(line)))
		for cut && err == nil {
			_, cut, err = lines.ReadLine()
		}
	}
	p.log.Warn("policy program: it has said too much, and the rest is dropped")
	_, _ = io.Copy(io.Discard, lines)
}

// Ask puts a question, and returns the answer: nil if there is none in time. An error says why the
// program is over.
func (p *Program) Ask(m Message, within time.Duration) (*policy.Action, error) {
	p.asking.Lock()
	defer p.asking.Unlock()
	p.mu.Lock()
	if p.answered == 0 {
		within = max(within, warmUp-time.Since(p.begun))
	}
	p.mu.Unlock()
	return p.ask(m, within)
}

// TryAsk is Ask for a caller that must not wait for others. It asks nothing while another question
// is open, or while the program still owes an answer, because it would be late.
func (p *Program) TryAsk(m Message, within time.Duration) (*policy.Action, error) {
	if !p.asking.TryLock() {
		return nil, nil
	}
	defer p.asking.Unlock()
	p.mu.Lock()
	owes := p.answered < p.asked
	p.mu.Unlock()
	if owes {
		return nil, nil
	}
	return p.ask(m, within)
}

func (p *Program) ask(m Message, within time.Duration) (*policy.Action, error) {
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	answered := make(chan []byte, 1)
	if err := p.send(m, answered); err != nil {
		return nil, err
	}
	select {
	case line := <-answered:
		return p.judge(line)
	case <-p.over:
		return nil, p.Err()
	case <-deadline.C:
		return p.wasLate(answered)
	}
}

// send puts a message into the queue. If answered is not nil, it is a question.
func (p *Program) send(m Message, answered chan []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	if m.Missed = p.missed; answered != nil {
		m.Question = p.asked + 1
	}
	line, err := m.encode()
	if err != nil {
		return err
	}
	select {
	case p.lines <- line:
		p.missed = 0
	default:
		p.missed++
		return nil // a question that is not sent will be late
	}
	if answered != nil {
		p.asked++
		p.waiting = answered
	}
	return nil
}

// judge reads the answer to a question.
func (p *Program) judge(line []byte) (*policy.Action, error) {
	a, err := parse(bytes.TrimRight(line, "\r\n"))
	if err != nil {
		p.fail(fmt.Errorf("a wrong answer: %w", err))
		return nil, p.Err()
	}
	p.mu.Lock()
	p.late = 0
	p.mu.Unlock()
	return &a, nil
}

// wasLate counts a question without an answer, unless the answer has come at the last moment.
func (p *Program) wasLate(answered chan []byte) (*policy.Action, error) {
	p.mu.Lock()
	p.waiting = nil
	select {
	case line := <-answered:
		p.mu.Unlock()
		return p.judge(line)
	default:
	}
	p.late++
	late := p.late
	p.mu.Unlock()
	if late < mostLate {
		return nil, nil
	}
	p.fail(errLate)
	return nil, p.Err()
}

// Tell tells of something. It never waits.
func (p *Program) Tell(m Message) {
	_ = p.send(m, nil) // an error says that nobody listens any more
}

// Err is why the program is over, nil if it is not.
func (p *Program) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// end notes why the program is over, and tells whether it was not before.
func (p *Program) end(why error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return false
	}
	p.err = why
	close(p.over)
	return true
}

// fail ends the program because of what it did.
func (p *Program) fail(why error) {
	if !p.end(why) {
		return
	}
	p.kill()
	go p.lost(why)
}

func (p *Program) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.gone {
		_ = unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL) // an end at this moment does not matter
	}
}

// Close ends the program: its input ends, and soon it is killed.
func (p *Program) Close() {
	if p.end(errClosed) {
		select {
		case <-p.ended:
		case <-time.After(farewell):
		}
	}
	p.kill()
	select {
	case <-p.ended:
	case <-time.After(time.Second): // the kernel cannot end it now, but will
	}
	// A child that has left the group lives on. It may hold the other ends, and never read the
	// input that a write waits to get rid of.
	p.in.Close()
	p.out.Close()
}
