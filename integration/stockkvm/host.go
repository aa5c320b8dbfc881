package stockkvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"taskguide/integration/stockkvm/wire"
)

// DefaultCPU is a CPU with AMD's hardware virtualization, nested paging and the
// saved next instruction pointer: what kvm_amd asks for.
const DefaultCPU = "EPYC-Milan,+svm,+npt,+nrip-save"

// ErrNeverCameUp says that the inner machine did not say hello in time, or ended
// before it did.
var ErrNeverCameUp = errors.New("the emulated host never came up")

// ErrDied says that the emulated host ended while the rig still needed it.
var ErrDied = errors.New("the emulated host died")

// HostConfig describes one emulated host.
type HostConfig struct {
	Kernel    string // bzImage
	Initramfs string
	Dir       string // for its console log and sockets; made by the caller

	CPU         string        // QEMU's -cpu; DefaultCPU if empty
	CPUs        int           // 2 if 0
	MemoryMiB   int           // 2048 if 0
	BootTimeout time.Duration // until hello; 2 minutes if 0

	Append  []string // further words on the kernel command line
	Network *os.File // one end of a stream socket pair; nil for no card
	Address string   // with Network: the card's address, such as 10.0.0.1/24
	MAC     string   // with Network

	// TSCKHz tells the inner kernel the frequency of its TSC, as another host's
	// Hello has it. Under emulation a kernel's own measuring is off by more than
	// the 250 ppm that KVM takes for the same frequency, while the counters of
	// two hosts here are the same counter. 0 lets it measure.
	TSCKHz int
}

// Host is a running emulated host.
type Host struct {
	cfg   HostConfig
	cmd   *exec.Cmd
	conn  net.Conn
	hello wire.Hello
	out   *wire.Writer[wire.Request]

	stderr bytes.Buffer  // QEMU's; complete once ended is closed
	ended  chan struct{} // QEMU is gone

	mu      sync.Mutex
	nextJob int
	jobs    map[int]*Job
	dead    error // why there will be no more events
}

// StartHost starts QEMU and waits until the agent inside says hello and has a
// working /dev/kvm.
func StartHost(ctx context.Context, cfg HostConfig) (*Host, error) {
	if cfg.BootTimeout == 0 {
		cfg.BootTimeout = 2 * time.Minute
	}
	h := &Host{cfg: cfg, ended: make(chan struct{}), jobs: map[int]*Job{}}
	listener, err := net.Listen("unix", filepath.Join(cfg.Dir, "control.sock"))
	if err != nil {
		return nil, fmt.Errorf("control port: %w", err)
	}
	defer listener.Close()
	if err := h.launch(); err != nil {
		return nil, err
	}
	if err := h.waitForHello(ctx, listener); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// qemuBinary returns QEMU's path or an error that says how to get it.
func qemuBinary() (string, error) {
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return "", errors.New("qemu-system-x86_64 is not here; install the package qemu-system-x86")
	}
	return path, nil
}

func (h *Host) launch() error {
	qemu, err := qemuBinary()
	if err != nil {
		return err
	}
	h.cmd = exec.Command(qemu, append(h.cfg.machineArgs(),
		"-append", h.cfg.commandLine(),
		"-display", "none",
		"-serial", "file:"+h.consolePath(),
		"-chardev", "socket,id=control,path="+filepath.Join(h.cfg.Dir, "control.sock"),
		"-device", "virtio-serial-pci",
		"-device", "virtserialport,chardev=control,name="+wire.PortName)...)
	if h.cfg.Network != nil {
		h.cmd.ExtraFiles = []*os.File{h.cfg.Network}
	}
	h.cmd.Stderr = &h.stderr
	// A rig that is killed must not leave a QEMU that eats two cores.
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := h.cmd.Start(); err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	go func() {
		_ = h.cmd.Wait()
		close(h.ended)
	}()
	return nil
}

// machineArgs are QEMU's arguments common to the suites and the shell.
func (c HostConfig) machineArgs() []string {
	args := []string{
		// Not thread=multi: QEMU's emulation of SVM with a thread for each CPU
		// freezes, or lets a task run on another's stack, once in a few
		// minutes of guests (7.2). In turns the CPUs are no slower here.
		"-accel", "tcg,thread=single",
		"-machine", "pc",
		"-cpu", orDefault(c.CPU, DefaultCPU),
		"-smp", strconv.Itoa(orDefault(c.CPUs, 2)),
		"-m", strconv.Itoa(orDefault(c.MemoryMiB, 2048)),
		"-nodefaults", "-no-user-config", "-no-reboot",
		"-kernel", c.Kernel,
		"-initrd", c.Initramfs,
	}
	if c.Network != nil {
		// File descriptor 3 is the first of ExtraFiles.
		args = append(args, "-netdev", "socket,id=net,fd=3",
			"-device", "virtio-net-pci,netdev=net,romfile=,mac="+c.MAC)
	}
	return args
}

func (c HostConfig) commandLine() string {
	words := []string{
		"console=ttyS0", "quiet", "loglevel=5",
		"panic=-1", "oops=panic", // with -no-reboot: a panic ends QEMU
		// Under emulation the clock source watchdog finds the TSC
		// wanting when the machine outside is busy, and KVM would lose
		// its master clock.
		"tsc=reliable",
		"net.ifnames=0",
	}
	if c.TSCKHz != 0 {
		// Without the clocks that it would be compared with, it stays.
		words = append(words, fmt.Sprintf("tsc_early_khz=%d", c.TSCKHz), "hpet=disable", "pmtmr=0")
	}
	if c.Address != "" {
		words = append(words, "stockkvm.address="+c.Address)
	}
	return strings.Join(append(words, c.Append...), " ")
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

func (h *Host) waitForHello(ctx context.Context, listener net.Listener) error {
	type accepted struct {
		conn net.Conn
		err  error
	}
	conns := make(chan accepted, 1)
	go func() {
		conn, err := listener.Accept()
		conns <- accepted{conn, err}
	}()
	timeout := time.NewTimer(h.cfg.BootTimeout)
	defer timeout.Stop()
	select {
	case a := <-conns:
		if a.err != nil {
			return fmt.Errorf("control port: %w", a.err)
		}
		h.conn = a.conn
	case <-h.ended:
		return h.failure(ErrNeverCameUp, "QEMU ended")
	case <-timeout.C:
		return h.failure(ErrNeverCameUp, fmt.Sprintf("QEMU did not open the control port in %v", h.cfg.BootTimeout))
	case <-ctx.Done():
		return ctx.Err()
	}
	h.out = wire.NewWriter[wire.Request](h.conn)
	hello := make(chan error, 1)
	go h.readEvents(hello)
	select {
	case err := <-hello:
		if err == nil && h.hello.KVM == "" {
			return h.failure(ErrNeverCameUp, "it has no /dev/kvm")
		}
		return err
	case <-timeout.C:
		return h.failure(ErrNeverCameUp, fmt.Sprintf("no sign of life in %v", h.cfg.BootTimeout))
	case <-ctx.Done():
		return ctx.Err()
	}
}

// readEvents hands the agent's events to the jobs until the control port ends. It
// sends one value on hello: nil, or why there was none.
func (h *Host) readEvents(hello chan<- error) {
	events := wire.NewReader[wire.Event](h.conn)
	e, err := events.Read()
	if err != nil || e.Hello == nil {
		h.waitEnded()
		hello <- h.failure(ErrNeverCameUp, "it ended before its agent spoke")
		return
	}
	h.hello = *e.Hello
	hello <- nil
	for {
		e, err := events.Read()
		if err != nil {
			h.waitEnded()
			h.bury(h.failure(ErrDied, err.Error()))
			return
		}
		h.mu.Lock()
		job := h.jobs[e.Job]
		if e.Exit != nil {
			delete(h.jobs, e.Job)
		}
		h.mu.Unlock()
		if job != nil {
			job.event(e)
		}
	}
}

// waitEnded gives QEMU a moment to end, so that a failure can quote its stderr and
// the whole console.
func (h *Host) waitEnded() {
	select {
	case <-h.ended:
	case <-time.After(5 * time.Second):
	}
}

// bury ends all jobs with err and makes it the answer to new ones.
func (h *Host) bury(err error) {
	h.mu.Lock()
	jobs := h.jobs
	h.jobs = map[int]*Job{}
	h.dead = err
	h.mu.Unlock()
	for _, j := range jobs {
		j.finish(wire.Exit{Code: -1, Reason: "the host died"}, err)
	}
}

// failure makes an error of kind with a plain reason: the kernel's panic line if
// there is one, QEMU's own complaint, and the console's tail.
func (h *Host) failure(kind error, what string) error {
	console := h.Console()
	if line, ok := panicLine(console); ok {
		what = "kernel panic inside: " + line
	}
	var complaint string
	select {
	case <-h.ended:
		complaint = complaints(h.stderr.String())
	default:
	}
	if complaint != "" {
		what += "; QEMU says: " + complaint
	}
	tail := tailLines(console, 25)
	if tail == "" {
		tail = "(empty)"
	}
	return fmt.Errorf("%w: %s\n--- end of its console ---\n%s\n--- (all of it: %s)", kind, what, tail, h.consolePath())
}

// complaints drops from QEMU's stderr the warnings about CPU features that the
// emulation lacks: there are dozens and they are expected.
func complaints(stderr string) string {
	lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(stderr), "\n"), func(l string) bool {
		return strings.Contains(l, "TCG doesn't support requested feature")
	})
	return strings.Join(lines, "; ")
}

// panicLine finds the kernel's own word for why it died.
func panicLine(console string) (string, bool) {
	const mark = "Kernel panic - not syncing: "
	_, after, ok := strings.Cut(console, mark)
	if !ok {
		return "", false
	}
	line, _, _ := strings.Cut(after, "\n")
	return strings.TrimSpace(line), true
}

func tailLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\r\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func (h *Host) consolePath() string { return filepath.Join(h.cfg.Dir, "console.log") }

// Console returns what the inner kernel printed so far.
func (h *Host) Console() string {
	text, _ := os.ReadFile(h.consolePath())
	return strings.ReplaceAll(string(text), "\r", "")
}

// Hello describes the inner machine.
func (h *Host) Hello() wire.Hello { return h.hello }

// Close ends the emulated host, whatever it is doing.
func (h *Host) Close() {
	if h.conn != nil {
		h.conn.Close()
	}
	_ = h.cmd.Process.Kill()
	<-h.ended
}

// Command is a program to run inside.
type Command struct {
	Argv []string
	Env  []string // added to the inner environment
	Dir  string

	// Stdout and Stderr receive output as it comes. Both may be the same
	// writer; a writer that blocks holds up all jobs of the host.
	Stdout, Stderr io.Writer
}

// Job is a program running inside.
type Job struct {
	host *Host
	id   int
	cmd  Command

	done  chan struct{}
	exit  wire.Exit
	err   error
	clock chan int64
}

// Start starts a program inside.
func (h *Host) Start(cmd Command) (*Job, error) {
	j, err := h.newJob(cmd)
	if err != nil {
		return nil, err
	}
	err = h.out.Write(wire.Request{Job: j.id, Start: &wire.Start{Argv: cmd.Argv, Env: cmd.Env, Dir: cmd.Dir}})
	if err != nil {
		return nil, fmt.Errorf("start %s inside: %w", cmd.Argv[0], err)
	}
	return j, nil
}

func (h *Host) newJob(cmd Command) (*Job, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dead != nil {
		return nil, h.dead
	}
	h.nextJob++
	j := &Job{host: h, id: h.nextJob, cmd: cmd, done: make(chan struct{}), clock: make(chan int64, 1)}
	h.jobs[j.id] = j
	return j, nil
}

func (j *Job) event(e wire.Event) {
	if len(e.Out) > 0 && j.cmd.Stdout != nil {
		_, _ = j.cmd.Stdout.Write(e.Out)
	}
	if len(e.Err) > 0 && j.cmd.Stderr != nil {
		_, _ = j.cmd.Stderr.Write(e.Err)
	}
	if e.Clock != 0 {
		j.clock <- e.Clock
	}
	if e.Exit != nil {
		j.finish(*e.Exit, nil)
	}
}

func (j *Job) finish(exit wire.Exit, err error) {
	j.exit, j.err = exit, err
	close(j.done)
}

// Done is closed when the program has ended or the host has died.
func (j *Job) Done() <-chan struct{} { return j.done }

// Wait waits for the program's end. The error is about the host or ctx, never about
// the program's exit status.
func (j *Job) Wait(ctx context.Context) (wire.Exit, error) {
	select {
	case <-j.done:
		return j.exit, j.err
	case <-ctx.Done():
		return wire.Exit{Code: -1}, fmt.Errorf("waiting for %s inside: %w", j.cmd.Argv[0], ctx.Err())
	}
}

// Signal sends a signal to the program and what it started.
func (j *Job) Signal(sig syscall.Signal) error {
	return j.host.out.Write(wire.Request{Job: j.id, Signal: int(sig)})
}

// Input writes to the program's standard input. A few lines at a time: the agent
// waits until the program has room for it.
func (j *Job) Input(p []byte) error {
	return j.host.out.Write(wire.Request{Job: j.id, Input: p})
}

// Output is what a program wrote and how it ended.
type Output struct {
	Stdout, Stderr string
	Exit           wire.Exit
}

// Run runs a program inside to its end.
func (h *Host) Run(ctx context.Context, argv ...string) (Output, error) {
	var stdout, stderr bytes.Buffer
	j, err := h.Start(Command{Argv: argv, Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		return Output{}, err
	}
	exit, err := j.Wait(ctx)
	if err != nil && exit.Code == -1 && ctx.Err() != nil {
		return Output{}, err // the buffers may still be written to
	}
	return Output{Stdout: stdout.String(), Stderr: stderr.String(), Exit: exit}, err
}

// SetClock sets the inner CLOCK_REALTIME to this machine's and returns the remaining
// offset (inner minus outer) and its uncertainty, half a round trip on the control
// port. A fresh machine has its time from an RTC that counts whole seconds; two
// hosts with synchronized clocks are what users have.
func (h *Host) SetClock(ctx context.Context) (offset, uncertainty time.Duration, err error) {
	for range 3 { // the first answers pay for cold code inside
		if offset, _, err = h.clock(ctx, 0); err != nil {
			return 0, 0, err
		}
		if _, _, err = h.clock(ctx, -offset); err != nil {
			return 0, 0, err
		}
	}
	return h.clock(ctx, 0)
}

// clock steps the inner clock and measures it against the outer one.
func (h *Host) clock(ctx context.Context, step time.Duration) (offset, uncertainty time.Duration, err error) {
	j, err := h.newJob(Command{Argv: []string{"clock"}})
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		h.mu.Lock()
		delete(h.jobs, j.id)
		h.mu.Unlock()
	}()
	asked := time.Now()
	if err := h.out.Write(wire.Request{Job: j.id, Clock: &wire.Adjust{StepNanos: int64(step)}}); err != nil {
		return 0, 0, fmt.Errorf("ask for the inner clock: %w", err)
	}
	select {
	case inner := <-j.clock:
		half := time.Since(asked) / 2
		return time.Unix(0, inner).Sub(asked.Add(half)), half, nil
	case <-j.done:
		return 0, 0, j.err
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
}

// Wire makes the private network between two hosts: a pair of connected sockets, one
// for each QEMU. No packet can leave this machine: there is no other end.
func Wire() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("private network: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "wire-a"), os.NewFile(uintptr(fds[1]), "wire-b"), nil
}
