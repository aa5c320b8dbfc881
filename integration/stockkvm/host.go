package stockkvm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
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

// DefaultCPU is a CPU with what kvm_amd needs: AMD's hardware virtualization, nested paging and the
// saved next instruction pointer.
const DefaultCPU = "EPYC-Milan,+svm,+npt,+nrip-save"

// ErrNeverCameUp is returned if the inner machine did not say hello in time, or ended before it
// did.
var ErrNeverCameUp = errors.New("the emulated host never came up")

// ErrDied is returned if the emulated host ended while the rig still needed it.
var ErrDied = errors.New("the emulated host died")

// HostConfig describes one emulated host.
type HostConfig struct {
	Kernel    string // bzImage
	Initramfs string
	Dir       string // for its console log and sockets; made by the caller

	CPU         string        // QEMU's -cpu; DefaultCPU if empty
	CPUs        int           // 1 if 0; Linux guests with several vCPUs hang on more, under any VMM
	MemoryMiB   int           // 2048 if 0
	BootTimeout time.Duration // until hello; 2 minutes if 0

	Name    string   // of the host; the kernel's default if empty
	Disks   []Disk   // vda, vdb, ...
	Console string   // a file that keeps what the kernel prints; one in Dir if empty
	Append  []string // further words on the kernel command line
	Network *os.File // one end of a stream socket pair; nil for no card
	Address string   // with Network: the card's address, like 10.0.0.1/24
	MAC     string   // with Network

	// TSCKHz tells the inner kernel the frequency of its TSC, as another host's Hello has it. Under
	// emulation, a kernel's own measurement is off by more than the 250 ppm that KVM accepts as the
	// same frequency, while two hosts here have the same counter. 0 lets it measure.
	TSCKHz int
}

// Disk is a file or block device of this machine that a host has as a virtio disk.
type Disk struct {
	Path string

	// Shared says that other hosts have it, too. Otherwise QEMU locks the file.
	Shared bool

	Serial string // its serial number, in /sys/block/*/serial; none if empty
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
	dead    error // why no more events will come
}

// StartHost starts QEMU and waits until the agent inside says hello and has a working /dev/kvm. It
// returns ErrNeverCameUp, wrapped, if that does not happen.
func StartHost(ctx context.Context, cfg HostConfig) (*Host, error) {
	if cfg.BootTimeout == 0 {
		cfg.BootTimeout = 2 * time.Minute
	}
	if err := cfg.roomForFiles(); err != nil {
		return nil, err
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
	// A killed rig must not leave a QEMU that takes two cores, hence Pdeathsig. In its own process
	// group, QEMU does not see a terminal's ctrl-c: only the rig does, which ends QEMU.
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := h.cmd.Start(); err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	go func() {
		_ = h.cmd.Wait()
		close(h.ended)
	}()
	return nil
}

// machineArgs are the QEMU arguments that the suites and the shell share.
func (c HostConfig) machineArgs() []string {
	args := []string{
		// Not thread=multi: with a thread for each CPU, QEMU's emulation of SVM (7.2) freezes, or
		// lets a task run on another's stack, once in a few minutes of guests. One thread for all
		// CPUs is as fast here.
		"-accel", "tcg,thread=single",
		"-machine", "pc",
		"-cpu", orDefault(c.CPU, DefaultCPU),
		"-smp", strconv.Itoa(orDefault(c.CPUs, 1)),
		"-m", strconv.Itoa(c.memoryMiB()),
		"-nodefaults", "-no-user-config", "-no-reboot",
		"-kernel", c.Kernel,
		"-initrd", c.Initramfs,
	}
	if c.Network != nil {
		// File descriptor 3 is the first of ExtraFiles.
		args = append(args, "-netdev", "socket,id=net,fd=3",
			"-device", "virtio-net-pci,netdev=net,romfile=,mac="+c.MAC)
	}
	for i, d := range c.Disks {
		device := fmt.Sprintf("virtio-blk-pci,drive=disk%d", i)
		if d.Serial != "" {
			device += ",serial=" + d.Serial
		}
		args = append(args, "-blockdev", d.blockdev(i), "-device", device)
	}
	return args
}

func (c HostConfig) memoryMiB() int { return orDefault(c.MemoryMiB, 2048) }

// roomForFiles refuses files that do not fit, because the kernel would find only part of them and
// panic for another reason.
func (c HostConfig) roomForFiles() error {
	info, err := os.Stat(c.Initramfs)
	if err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	// The root file system takes up to half of the RAM, and the archive stays until it is unpacked.
	need := int(info.Size()>>20)*5/2 + 128
	if need > c.memoryMiB() {
		return fmt.Errorf("%d MiB of files do not fit a host of %d MiB: give it %d MiB of memory",
			info.Size()>>20, c.memoryMiB(), need)
	}
	return nil
}

// blockdev describes the disk to QEMU as JSON, so that a path may have any character.
func (d Disk) blockdev(i int) string {
	file := map[string]any{"driver": "file", "filename": d.Path}
	if info, err := os.Stat(d.Path); err == nil && info.Mode()&os.ModeDevice != 0 {
		file["driver"] = "host_device"
	}
	if d.Shared {
		file["locking"] = "off"
	}
	text, err := json.Marshal(map[string]any{
		"driver": "raw", "node-name": fmt.Sprintf("disk%d", i), "file": file,
	})
	if err != nil {
		panic(err) // it holds only strings and maps of strings
	}
	return string(text)
}

func (c HostConfig) commandLine() string {
	words := []string{
		"console=ttyS0", "quiet", "loglevel=5",
		"panic=-1", "oops=panic", // with -no-reboot: a panic ends QEMU
		// Under emulation, when the machine outside is busy, the clock source watchdog rejects the
		// TSC, and KVM would lose its master clock.
		"tsc=reliable",
		// Likewise a timer interrupt may come too late for the kernel's check at boot, which would
		// end in a panic.
		"no_timer_check",
		"net.ifnames=0",
	}
	if c.TSCKHz != 0 {
		// Without these clocks, the kernel cannot compare the TSC with them and keeps it.
		words = append(words, fmt.Sprintf("tsc_early_khz=%d", c.TSCKHz), "hpet=disable", "pmtmr=0")
	}
	if c.Address != "" {
		words = append(words, "stockkvm.address="+c.Address)
	}
	if c.Name != "" {
		words = append(words, "stockkvm.name="+c.Name)
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
		return h.failure(ErrNeverCameUp,
			fmt.Sprintf("QEMU did not open the control port in %v", h.cfg.BootTimeout))
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
		if err == nil {
			go h.keepAwake()
		}
		return err
	case <-timeout.C:
		return h.failure(ErrNeverCameUp, fmt.Sprintf("no sign of life in %v", h.cfg.BootTimeout))
	case <-ctx.Done():
		return ctx.Err()
	}
}

// awake is how often the agent is asked for a sign of life.
const awake = time.Second

// keepAwake makes bytes flow in both directions all the time, until the host ends. Output of the
// host was seen to stay in QEMU, or in the virtio-serial port, until the next request: a prompt or
// an exit that nothing follows would never arrive, and the test would wait for it.
func (h *Host) keepAwake() {
	tick := time.NewTicker(awake)
	defer tick.Stop()
	for {
		select {
		case <-h.ended:
			return
		case <-tick.C:
		}
		if h.out.Write(wire.Request{Clock: &wire.Adjust{}}) != nil {
			return
		}
	}
}

// readEvents hands the agent's events to the jobs until the control port ends. It
// sends one value on hello: nil, or why there was none.
func (h *Host) readEvents(hello chan<- error) {
	events := wire.NewReader[wire.Message](h.conn)
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

// waitEnded gives QEMU a moment to end, so that an error can quote its stderr and the whole
// console.
func (h *Host) waitEnded() {
	select {
	case <-h.ended:
	case <-time.After(5 * time.Second):
	}
}

// bury ends all jobs with err, which also becomes the answer to new ones.
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

// failure makes an error of a kind with a plain reason: the kernel's panic line if there is one,
// QEMU's own words, and the console's tail.
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
	err := fmt.Errorf("%w: %s\n--- end of its console ---\n%s", kind, what, tail)
	if h.cfg.Console != "" {
		err = fmt.Errorf("%w\n--- all of it: %s", err, h.cfg.Console)
	}
	return err
}

// complaints drops from QEMU's stderr the warnings about CPU features that the
// emulation lacks: there are dozens and they are expected.
func complaints(stderr string) string {
	lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(stderr), "\n"), func(l string) bool {
		return strings.Contains(l, "TCG doesn't support requested feature")
	})
	return strings.Join(lines, "; ")
}

// panicLine finds the kernel's own reason for its panic.
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

func (h *Host) consolePath() string {
	return orDefault(h.cfg.Console, filepath.Join(h.cfg.Dir, "console.log"))
}

// Console returns what the inner kernel printed so far.
func (h *Host) Console() string {
	text, _ := os.ReadFile(h.consolePath())
	return strings.ReplaceAll(string(text), "\r", "")
}

// Hello describes the inner machine.
func (h *Host) Hello() wire.Hello { return h.hello }

// CPUTime is how much of this machine's processors the emulation has used so far. It tells what
// work costs inside, whatever else runs here.
func (h *Host) CPUTime() (time.Duration, error) {
	var ts unix.Timespec
	// The clock of another process: clock_getcpuclockid(3).
	const scheduled = 2
	clock := int32(^h.cmd.Process.Pid)<<3 | scheduled
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("CPU time of the emulated host: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

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

	// Input says that the program reads what Job.Input writes. Without it, it reads nothing.
	Input bool

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
	start := &wire.Start{Argv: cmd.Argv, Env: cmd.Env, Dir: cmd.Dir, Input: cmd.Input}
	err = h.out.Write(wire.Request{Job: j.id, Start: start})
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
	j := &Job{
		host: h, id: h.nextJob, cmd: cmd, done: make(chan struct{}), clock: make(chan int64, 1),
	}
	h.jobs[j.id] = j
	return j, nil
}

func (j *Job) event(e wire.Message) {
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

// Wait waits until the program has ended. Its error is about the host or ctx, never about the
// program's exit status.
func (j *Job) Wait(ctx context.Context) (wire.Exit, error) {
	select {
	case <-j.done:
		return j.exit, j.err
	case <-ctx.Done():
		return wire.Exit{Code: -1},
			fmt.Errorf("waiting for %s inside: %w", j.cmd.Argv[0], ctx.Err())
	}
}

// Signal sends a signal to the program and to what it started.
func (j *Job) Signal(sig syscall.Signal) error {
	return j.host.out.Write(wire.Request{Job: j.id, Signal: int(sig)})
}

// Input writes to the standard input of a program that was started with Input. Write a few lines at
// a time, because the agent waits until the program has room for them.
func (j *Job) Input(p []byte) error {
	return j.host.out.Write(wire.Request{Job: j.id, Input: p})
}

// Output is a program's output and how it ended.
type Output struct {
	Stdout, Stderr string
	Exit           wire.Exit
}

// Run runs a program inside until it ends.
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

// SetClock sets the inner CLOCK_REALTIME to this machine's. It returns the remaining offset (inner
// minus outer) and its uncertainty, half a round trip on the control port. Users have hosts with
// synchronized clocks, but a fresh machine has its time from an RTC that counts whole seconds.
func (h *Host) SetClock(ctx context.Context) (offset, uncertainty time.Duration, err error) {
	if offset, _, err = h.readClock(ctx); err != nil {
		return 0, 0, err
	}
	if _, _, err = h.clock(ctx, -offset); err != nil {
		return 0, 0, err
	}
	return h.readClock(ctx)
}

// readClock measures the inner clock several times, and returns the measurement with the shortest
// round trip: the first answers are slow because the code inside is cold, and any may be late on a
// busy machine.
func (h *Host) readClock(ctx context.Context) (offset, uncertainty time.Duration, err error) {
	uncertainty = math.MaxInt64
	for range 5 {
		o, u, err := h.clock(ctx, 0)
		if err != nil {
			return 0, 0, err
		}
		if u < uncertainty {
			offset, uncertainty = o, u
		}
	}
	return offset, uncertainty, nil
}

// clock steps the inner clock and measures it against the outer one.
func (h *Host) clock(
	ctx context.Context, step time.Duration,
) (offset, uncertainty time.Duration, err error) {
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
	if err := h.out.Write(wire.Request{
		Job: j.id, Clock: &wire.Adjust{StepNanos: int64(step)},
	}); err != nil {
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

// Wire makes the private network between two hosts: a pair of connected sockets, one for each QEMU.
// No packet can leave this machine, because nothing else is connected.
func Wire() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("private network: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "wire-a"), os.NewFile(uintptr(fds[1]), "wire-b"), nil
}
