package host

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"taskguide/control"
	"taskguide/control/show"
	"taskguide/control/units"
	"taskguide/dirtylog"
	"taskguide/guestkernel"
	"taskguide/memory"
	"taskguide/migration"
	"taskguide/transport"
	"taskguide/vmm"
)

// Config is the order for a VM's process.
type Config struct {
	Name string // as control.CheckName wants it
	API  string // path of the control socket; empty: the one that Name implies

	// What machine; a guest that comes by a migration brings its own.
	MemoryBytes int64
	CPUs        int
	Kernel      string // file; empty: the embedded guest
	Initrd      string // file; empty: none
	Cmdline     string

	Incoming string // address on which to wait for a migration; empty: boot
	TLSDir   string // certificates for Incoming; empty: no TLS
	Prefault Prefault
	// ReadyBytes is how much RAM to have populated before a guest arrives, with Incoming and PrefaultAll; a guest with
	// another size gets its RAM populated when it comes. 0: none.
	ReadyBytes int64
	DirtyLog   dirtylog.Kind // how writes are tracked; empty: as suits the KVM
	Console    string        // "stdio", "file:PATH" or "off"
}

// Prefault says when the guest's RAM gets host memory.
type Prefault int

const (
	PrefaultNone Prefault = iota // page by page, as it is used
	PrefaultAll                  // all of it before the guest runs or arrives
)

// Streams are the standard streams of the process.
type Streams struct {
	Stdin, Stdout, Stderr *os.File
}

const (
	// drainTimeout bounds how long clients may take to read the end of what they follow.
	drainTimeout = 5 * time.Second
	// signalStatus is what a shell adds to the number of the signal that ended a process.
	signalStatus = 128
)

// Run makes the VM, runs it, and returns the exit status of its process once it has ended or moved away: the guest's own, or
// 0, or 128 and the number of the signal that stopped it. The status is of no meaning if there is an error.
func Run(cfg Config, std Streams) (status int, err error) {
	out, err := openConsole(cfg.Console, std.Stdout)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	path := cfg.API
	if path == "" {
		if path, err = control.SocketPath(cfg.Name); err != nil {
			return 0, err
		}
	}
	socket, err := control.Listen(path)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", cfg.Name, err)
	}
	p := &process{cfg: cfg, std: std, console: out, log: slog.New(newLineHandler(std.Stderr, cfg.Name))}
	p.host = newHost(cfg.Name, func(e control.Event) { p.server.Publish(e) })
	p.server = control.NewServer(p.host, p.host)
	return p.run(socket)
}

// process is what Run has to do with besides the Host.
type process struct {
	cfg     Config
	std     Streams
	host    *Host
	server  *control.Server
	log     *slog.Logger
	console console
	ready   *memory.RAM // populated for the guest to come; nil: none
}

func (p *process) run(socket net.Listener) (int, error) {
	served := make(chan error, 1)
	go func() { served <- p.server.Serve(socket) }()
	defer p.followSignals()()
	defer p.followInput()()

	ctx, cancel := p.host.untilStop()
	defer cancel()
	vm, err := p.provide(ctx)
	if err == nil {
		status, errLive := p.live(vm)
		// The server goes before the machine that it asks about.
		p.shutdown()
		p.host.retire()
		return status, errors.Join(errLive, vm.Close(), <-served)
	}
	p.shutdown()
	if status, stopped := p.host.stopOrdered(); stopped {
		return status, <-served
	}
	return 0, errors.Join(err, <-served)
}

func (p *process) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := p.server.Shutdown(ctx); err != nil {
		p.log.Warn("a client was cut off", "error", err)
	}
}

// untilStop is a context that ends with the order to stop, or when it is cancelled.
func (h *Host) untilStop() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		select {
		case <-h.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// provide makes the machine with its guest in it, ready to be started, or adopted already if it came. The context must outlive it: a destination whose
// guest has arrived still tells the source so, should that have lost its connection.
func (p *process) provide(ctx context.Context) (*vmm.VM, error) {
	if p.cfg.Incoming != "" {
		return p.receive(ctx)
	}
	return p.boot(ctx)
}

// live runs the machine until it ends or moves away.
func (p *process) live(vm *vmm.VM) (int, error) {
	if p.cfg.Incoming == "" {
		if err := p.host.start(vm); err != nil {
			return 0, err
		}
	}
	e := p.host.live(vm)
	switch {
	case e.movedTo != nil:
		p.log.Info(fmt.Sprintf("moved to %s in %s, downtime %s", e.movedTo.Destination,
			units.Milliseconds(e.movedTo.TotalMS), units.Milliseconds(e.movedTo.DowntimeMS)))
		return 0, nil
	case e.err != nil:
		return 0, fmt.Errorf("%s: %w", p.cfg.Name, e.err)
	case e.exit.Reason == vmm.ExitGuest:
		return int(e.exit.Status), nil
	case e.exit.Reason == vmm.ExitReset:
		p.log.Info("the guest asked for a reset, which ends it")
		return 0, nil
	default:
		return e.status, nil
	}
}

// boot makes the machine that was ordered, with its kernel.
func (p *process) boot(ctx context.Context) (*vmm.VM, error) {
	kernel, initrd := guestkernel.ELF, []byte(nil)
	var err error
	if p.cfg.Kernel != "" {
		if kernel, err = readImage(p.cfg.Kernel, p.cfg.MemoryBytes); err != nil {
			return nil, fmt.Errorf("kernel: %w", err)
		}
	}
	if p.cfg.Initrd != "" {
		if initrd, err = readImage(p.cfg.Initrd, p.cfg.MemoryBytes); err != nil {
			return nil, fmt.Errorf("initrd: %w", err)
		}
	}
	if err := checkHostMemory(p.cfg.MemoryBytes); err != nil {
		return nil, err
	}
	vm, err := vmm.New(vmm.Config{MemoryBytes: p.cfg.MemoryBytes, CPUs: p.cfg.CPUs, Options: p.options()})
	if err != nil {
		return nil, err
	}
	if err := p.prepare(ctx, vm); err != nil {
		vm.Close()
		return nil, err
	}
	if err := vm.Boot(kernel, initrd, p.cfg.Cmdline); err != nil {
		vm.Close()
		if p.cfg.Kernel != "" {
			return nil, fmt.Errorf("%s: %w", p.cfg.Kernel, err)
		}
		return nil, err
	}
	return vm, nil
}

func (p *process) options() vmm.Options {
	opts := vmm.Options{DirtyLog: cmp.Or(p.cfg.DirtyLog, dirtylog.Auto)}
	if p.cfg.Console != consoleOff {
		opts.Console = p.console
	}
	return opts
}

// readImage reads a file that is to go into a RAM of limit bytes.
func readImage(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s is larger than the guest's RAM of %s: use a larger --memory", path, units.Bytes(limit))
	}
	return b, nil
}

// checkHostMemory refuses a RAM that this host could never fill. Less than that may still be too much, which is for its
// user to judge: a guest need not use all it has.
func checkHostMemory(size int64) error {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return fmt.Errorf("ask for the host's memory: %w", err)
	}
	if has := (info.Totalram + info.Totalswap) * uint64(info.Unit); uint64(size) > has {
		return fmt.Errorf("memory of %s is more than this host has (%s with swap)", units.Bytes(size), units.Bytes(int64(has)))
	}
	return nil
}

// prepare does what every machine needs before there is a guest in it.
func (p *process) prepare(ctx context.Context, vm *vmm.VM) error {
	// A vCPU's goroutine that comes out of KVM_RUN needs a processor of the scheduler's at once, or a pause takes
	// milliseconds while others are busy sending pages.
	runtime.GOMAXPROCS(runtime.NumCPU() + vm.CPUs())
	if p.cfg.Prefault == PrefaultNone {
		return nil
	}
	return p.prefault(ctx, vm.RAM())
}

func (p *process) prefault(ctx context.Context, ram *memory.RAM) error {
	begin := time.Now()
	bar := show.NewBytes(p.std.Stderr, IsTerminal(p.std.Stderr), "prefault", ram.Size())
	err := ram.Populate(ctx, runtime.NumCPU(), bar.Set)
	bar.Close()
	if err != nil {
		return fmt.Errorf("prefault: %w", err)
	}
	p.log.Info(fmt.Sprintf("prefaulted %s in %s", units.Bytes(ram.Size()),
		units.Milliseconds(float64(time.Since(begin))/float64(time.Millisecond))))
	return nil
}

// receive waits for a migration to bring the machine.
func (p *process) receive(ctx context.Context) (*vmm.VM, error) {
	security, err := transport.LoadTLS(p.cfg.TLSDir)
	if err != nil {
		return nil, err
	}
	ln, err := transport.Listen(p.cfg.Incoming, security)
	if err != nil {
		return nil, err
	}
	addr := p.cfg.Incoming
	if tcp, ok := ln.Addr().(*net.TCPAddr); ok {
		addr = "tcp:" + tcp.String() // with the port that was chosen for port 0
	}
	if err := p.readyRAM(ctx); err != nil {
		ln.Close()
		return nil, err
	}
	defer p.dropReady()
	p.log.Info("waiting for a migration on " + addr)
	p.host.await(addr)
	d := migration.Destination{Builder: builder{p, ctx}, Arrived: func(m migration.Incoming) { p.host.adopt(m.(*vmm.VM)) }, Log: p.log}
	arrived, err := d.Serve(ctx, ln)
	if err != nil {
		return nil, fmt.Errorf("wait for a migration: %w", err)
	}
	p.log.Info("the guest has arrived")
	return arrived.(*vmm.VM), nil
}

// readyRAM populates RAM for a guest that is still to come.
func (p *process) readyRAM(ctx context.Context) error {
	if p.cfg.ReadyBytes == 0 || p.cfg.Prefault == PrefaultNone {
		return nil
	}
	if err := checkHostMemory(p.cfg.ReadyBytes); err != nil {
		return err
	}
	ram, err := memory.New(p.cfg.ReadyBytes)
	if err != nil {
		return err
	}
	p.ready = ram
	return p.prefault(ctx, ram)
}

// dropReady frees RAM that was populated for nothing.
func (p *process) dropReady() {
	if p.ready != nil {
		_ = p.ready.Close()
		p.ready = nil
	}
}

// builder makes the machines that migrations bring.
type builder struct {
	process *process
	ctx     context.Context //nolint:containedctx // of the wait for a migration, which Build has no parameter for
}

func (b builder) Build(config []byte) (migration.Incoming, error) {
	p := b.process
	if err := checkConfigMemory(config); err != nil {
		return nil, err
	}
	opts := p.options()
	opts.RAM = p.ready
	vm, err := vmm.NewFromConfig(config, opts)
	if err != nil {
		return nil, err
	}
	if vm.RAM() == p.ready {
		p.ready = nil // it is the machine's now
		runtime.GOMAXPROCS(runtime.NumCPU() + vm.CPUs())
		return vm, nil
	}
	if err := p.prepare(b.ctx, vm); err != nil {
		vm.Discard()
		return nil, err
	}
	return vm, nil
}

// checkConfigMemory is checkHostMemory of the machine that a source describes, before it is made: KVM needs 2 MiB of its own
// for each GiB of a guest's, which anybody who can connect could ask for. What else is wrong with config is for vmm to say.
func checkConfigMemory(config []byte) error {
	var c struct {
		MemoryBytes int64 `json:"memory_bytes"`
	}
	if json.Unmarshal(config, &c) != nil || c.MemoryBytes <= 0 {
		return nil
	}
	return checkHostMemory(c.MemoryBytes)
}

// followSignals stops the VM on the signals that ask a process to end. The returned function ends that.
func (p *process) followSignals() (stop func()) {
	signals := make(chan os.Signal, 1)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		// nohup and shells without job control start background processes with some of them ignored.
		if !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
	done := make(chan struct{})
	go func() {
		select {
		case s := <-signals:
			p.host.stopWith(signalStatus + int(s.(syscall.Signal)))
		case <-done:
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}

// followInput sends standard input to the guest's console, from a terminal key by key. The returned function gives the
// terminal back.
func (p *process) followInput() (restore func()) {
	if p.cfg.Console != consoleStdio {
		return func() {}
	}
	in := input{deliver: p.host.input, quit: func() { p.host.stopWith(0) }}
	restore = func() {}
	if IsTerminal(p.std.Stdin) {
		if !inForeground(p.std.Stdin) {
			// Reading would stop this process, as it does any background job.
			return restore
		}
		back, err := makeRaw(p.std.Stdin)
		if err != nil {
			p.log.Warn("the terminal stays in line mode", "error", err)
		} else {
			restore, in.escapes = back, true
			p.log.Info("console on this terminal: Ctrl-A X ends the VM, Ctrl-A Ctrl-A sends Ctrl-A")
		}
	}
	// Nothing interrupts a read from a terminal; the goroutine ends with the process, or its input.
	go in.copy(p.std.Stdin)
	return restore
}

// DefaultName is the name of a VM that was given none.
func DefaultName() string { return fmt.Sprintf("vm-%d", os.Getpid()) }

// AbsoluteAddress makes the path in unix:PATH absolute, so that it means the same in another process.
func AbsoluteAddress(addr string) (string, error) {
	network, path, err := transport.ParseAddress(addr)
	if err != nil || network != "unix" {
		return addr, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", fmt.Errorf("address %s: %w", addr, err)
	}
	return "unix:" + path, nil
}
