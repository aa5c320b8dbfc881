package qemu

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
	"syscall"
	"time"

	"taskguide/bench/peer/qemu/qmp"
	"taskguide/guestkernel/heartbeat"
)

// Binary is QEMU's program, looked up in PATH.
const Binary = "qemu-system-x86_64"

// ErrMissing is returned if QEMU is not installed.
var ErrMissing = errors.New(Binary + " is not here; install the package qemu-system-x86")

// ErrExited is returned if QEMU ended while it was still needed.
var ErrExited = errors.New("QEMU has ended")

// MachineType is one of QEMU's machine types.
type MachineType string

// The machines that the guest is known to run on.
const (
	MicroVM MachineType = "microvm"
	PC      MachineType = "pc"
	// NoMachine has no CPU and no memory: QEMU only answers questions.
	NoMachine MachineType = "none"
)

// Accel is what executes the guest's instructions.
type Accel string

// The accelerators.
const (
	KVM Accel = "kvm"
	TCG Accel = "tcg" // QEMU's software emulation
)

// Options describe one QEMU process.
type Options struct {
	Machine     MachineType // MicroVM if empty
	Accel       Accel       // KVM if empty
	CPU         string      // -cpu; one that suits the accelerator if empty
	CPUs        int         // 1 if 0
	MemoryBytes int64       // 512 MiB if 0; TCG adds 8 KiB, see tcgOddBytes

	Kernel  string // ELF with a PVH note
	Cmdline string

	// Preallocate is the number of threads that touch all guest memory before the guest runs. 0
	// leaves it to the first access.
	Preallocate int

	Incoming bool // waits for a migration instead of booting

	// Binary is QEMU's program. If empty, it is the package's Binary.
	Binary string
	// Command is put before QEMU's own command line, for instance
	// "ip netns exec NAME".
	Command []string
	// Args are added to QEMU's command line.
	Args []string
}

// VM is a running QEMU.
type VM struct {
	// Console is the guest's first serial port.
	Console *heartbeat.Log
	// Watch records when the guest's console was read.
	Watch *heartbeat.Watch

	opts   Options
	dir    string
	cmd    *exec.Cmd
	input  io.WriteCloser
	qmp    *qmp.Client
	stderr bytes.Buffer // complete once exited is closed
	exited chan struct{}
}

// Start starts QEMU and returns once it answers on QMP: the guest has begun to boot,
// or, with Incoming, QEMU waits for Listen.
func Start(ctx context.Context, opts Options) (*VM, error) {
	opts.fill()
	if _, err := exec.LookPath(opts.Binary); err != nil {
		return nil, ErrMissing
	}
	dir, err := os.MkdirTemp("", "qemu-")
	if err != nil {
		return nil, fmt.Errorf("QEMU's folder: %w", err)
	}
	vm := &VM{Console: &heartbeat.Log{}, opts: opts, dir: dir, exited: make(chan struct{})}
	if err := vm.launch(); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	if err := vm.connect(ctx); err != nil {
		vm.Close()
		return nil, err
	}
	return vm, nil
}

// tcgOddBytes keeps the guest's memory from being a multiple of 64 pages. QEMU 7.2's software
// emulation has a short cut for that size that clears dirty bits without telling its own TLB:
// writes during a migration are lost, and the guest finds its memory corrupt. Other sizes avoid the
// short cut.
const tcgOddBytes = 8 << 10

func (o *Options) fill() {
	o.Binary = orDefault(o.Binary, Binary)
	o.Machine = orDefault(o.Machine, MicroVM)
	o.Accel = orDefault(o.Accel, KVM)
	o.CPUs = orDefault(o.CPUs, 1)
	o.MemoryBytes = orDefault(o.MemoryBytes, 512<<20)
	if o.Accel == TCG {
		o.MemoryBytes += tcgOddBytes
	}
	if o.CPU == "" {
		o.CPU = "max"
		if o.Accel == KVM {
			// KVM may refuse to set the MSR arch-capabilities where it is itself virtualized.
			o.CPU = "host,arch-capabilities=off"
		}
	}
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// exitPort is the guest's exit port; QEMU ends with (value << 1) | 1.
const exitPort = "0xf4"

func (o Options) args(monitor string) []string {
	if o.Machine == NoMachine {
		return []string{
			"-nodefaults", "-no-user-config", "-display", "none", "-machine", string(NoMachine),
			"-qmp", "unix:" + monitor,
		}
	}
	machine := string(o.Machine)
	if o.Machine == MicroVM {
		machine += ",pic=off,pit=off,rtc=off"
	}
	backend := fmt.Sprintf("memory-backend-memfd,id=ram,size=%d,share=on", o.MemoryBytes)
	if o.Preallocate > 0 {
		backend += fmt.Sprintf(",prealloc=on,prealloc-threads=%d", o.Preallocate)
	}
	args := []string{
		"-name", "guest,debug-threads=on", // names the vCPUs' threads "CPU 0/KVM"
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-object", backend,
		"-machine", machine + ",memory-backend=ram",
		"-m", fmt.Sprintf("%dB", o.MemoryBytes),
		"-accel", string(o.Accel),
		"-cpu", o.CPU,
		"-smp", strconv.Itoa(o.CPUs),
		"-kernel", o.Kernel,
		"-append", o.Cmdline,
		"-chardev", "stdio,id=console,signal=off",
		"-serial", "chardev:console",
		"-device", "isa-debug-exit,iobase=" + exitPort + ",iosize=1",
		"-qmp", "unix:" + monitor,
	}
	if o.Incoming {
		args = append(args, "-incoming", "defer")
	}
	return append(args, o.Args...)
}

func (vm *VM) launch() error {
	argv := append(slices.Clone(vm.opts.Command), vm.opts.Binary)
	argv = append(argv, vm.opts.args(vm.monitor()+",server=on,wait=off")...)
	vm.cmd = exec.Command(argv[0], argv[1:]...)
	console, out, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("QEMU's console: %w", err)
	}
	defer out.Close()
	vm.cmd.Stdout = out
	vm.cmd.Stderr = &vm.stderr
	// A killed parent must not leave QEMUs behind, and only the caller acts on Ctrl-C.
	vm.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if vm.input, err = vm.cmd.StdinPipe(); err != nil {
		console.Close()
		return fmt.Errorf("QEMU's console: %w", err)
	}
	if err := vm.cmd.Start(); err != nil {
		console.Close()
		return fmt.Errorf("start QEMU: %w", err)
	}
	at := make(chan struct{})
	close(at)
	vm.Watch = heartbeat.NewWatch(console, vm.Console, at)
	go func() {
		_ = vm.cmd.Wait()
		<-vm.Watch.Done() // the log is complete before anybody learns of the end
		close(vm.exited)
	}()
	return nil
}

func (vm *VM) monitor() string { return filepath.Join(vm.dir, "qmp.sock") }

// connect waits for QEMU's socket and greets it.
func (vm *VM) connect(ctx context.Context) error {
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", vm.monitor())
		if err == nil {
			vm.qmp, err = qmp.New(ctx, conn)
			return vm.explain(err)
		}
		select {
		case <-poll.C:
		case <-vm.exited:
			return vm.explain(ErrExited)
		case <-ctx.Done():
			return fmt.Errorf("waiting for QEMU: %w", ctx.Err())
		}
	}
}

// explain adds QEMU's last words to an error, if it has ended.
func (vm *VM) explain(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, qmp.ErrClosed) {
		select { // the connection ends a moment before the process
		case <-vm.exited:
		case <-time.After(2 * time.Second):
		}
	}
	select {
	case <-vm.exited:
		return fmt.Errorf("%w: %w (%v): %s", err, ErrExited, vm.cmd.ProcessState,
			strings.TrimSpace(vm.stderr.String()))
	default:
		return err
	}
}

// QMP is the connection to QEMU's monitor.
func (vm *VM) QMP() *qmp.Client { return vm.qmp }

// Input types into the guest's serial port.
func (vm *VM) Input(p []byte) error {
	_, err := vm.input.Write(p)
	return err
}

// Exited is closed once QEMU has ended.
func (vm *VM) Exited() <-chan struct{} { return vm.exited }

// Err says how QEMU ended, with its last words; nil while it runs.
func (vm *VM) Err() error {
	select {
	case <-vm.exited:
		return vm.explain(ErrExited)
	default:
		return nil
	}
}

// Pid is QEMU's process.
func (vm *VM) Pid() int { return vm.cmd.Process.Pid }

// Wait waits until QEMU ends and returns the status that the guest wrote to its exit port. It
// returns an error if QEMU ended in any other way.
func (vm *VM) Wait(ctx context.Context) (status int, err error) {
	select {
	case <-vm.exited:
	case <-ctx.Done():
		return 0, fmt.Errorf("waiting for QEMU's end: %w", ctx.Err())
	}
	code := vm.cmd.ProcessState.ExitCode()
	if code < 0 || code&1 == 0 {
		return 0, vm.explain(errors.New("the guest did not use its exit port"))
	}
	return code >> 1, nil
}

// Close ends QEMU and its guest at once.
func (vm *VM) Close() {
	if vm.qmp != nil {
		vm.qmp.Close()
	}
	_ = vm.cmd.Process.Kill()
	<-vm.exited
	os.RemoveAll(vm.dir)
}
