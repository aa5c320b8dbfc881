package process

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
	"taskguide/vmm/cpu"
)

// Config describes a VM's process.
type Config struct {
	Name string // must pass control.CheckName
	API  string // path of the control socket; empty: the one for Name

	// The machine to make. A guest that comes by a migration brings its own.
	MemoryBytes int64
	CPUs        int
	Kernel      string // file; empty: the embedded guest
	Initrd      string // file; empty: none
	Cmdline     string
	Disks       []vmm.Disk
	Vsock       *vmm.Vsock // nil: none
	Nets        []vmm.Net
	CPU         []*cpu.Processor // as in vmm.Config
	Balloon     vmm.Balloon

	Incoming string          // address on which to wait for a migration; empty: boot a kernel
	TLSDir   string          // certificates for Incoming; empty: no TLS
	Plain    transport.Plain // where Incoming may be without TLS
	Allow    []string        // certificate names of permitted senders; nil: any of the CA
	Prefault Prefault
	// ReadyBytes is how much RAM to populate before a guest arrives, with Incoming and PrefaultAll.
	// If the guest has another size, its RAM is populated when it comes. 0: none.
	ReadyBytes int64
	DirtyLog   dirtylog.Kind // how writes are tracked; empty: what suits the KVM
	Console    string        // "stdio", "file:PATH" or "off"
	HVC        string        // the second console: "off", "stdio", "file:PATH" or "unix:PATH"
	Log        LogConfig
	// ShutdownTimeout is how long a guest has to shut down before it is ended. 0: it is ended
	// without being asked.
	ShutdownTimeout time.Duration
	OnReset         OnReset // for a guest that was booted here
	// MovedStatus is the exit status of this process once its guest runs elsewhere.
	MovedStatus int
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

// Run makes the VM, runs it, and returns the exit status of its process once it has ended or moved
// away; docs/cli.md lists them. If there is an error, the status has no meaning.
func Run(cfg Config, std Streams) (status int, err error) {
	log, err := openLog(cfg.Log, cfg.Name, std.Stderr)
	if err != nil {
		return 0, err
	}
	defer func() { log.close(err) }()
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
	// After the name is taken, so that a process that is refused leaves the console of the VM with
	// that name alone.
	out, err := openConsole(cfg.Console, std.Stdout, log.Logger)
	if err != nil {
		return 0, errors.Join(err, socket.Close())
	}
	defer out.Close()
	log.shares(out)
	p := &process{cfg: cfg, std: std, console: out, log: log.Logger}
	p.vm = newVM(cfg.Name, func(e control.Event) { p.server.Publish(e) })
	if p.hvc, err = openHVC(cfg.HVC, std.Stdout, log.Logger, p.vm.hvcInput); err != nil {
		return 0, errors.Join(err, socket.Close())
	}
	defer p.hvc.Close()
	if p.hvc.file != nil {
		log.shares(p.hvc.file)
	}
	p.vm.log, p.vm.shutdown, p.vm.onReset = p.log, cfg.ShutdownTimeout, cfg.OnReset
	p.server = control.NewServer(p.vm, p.vm)
	return p.run(socket)
}

// process is what Run handles besides the VM.
type process struct {
	cfg     Config
	std     Streams
	vm      *VM
	server  *control.Server
	log     *slog.Logger
	console *console
	hvc     *hvc
	ready   *memory.RAM // populated for the guest to come; nil: none
	// answers is where a guest has arrived, and where its source can ask about it for as long as
	// this process lives. nil: the guest was booted here.
	answers net.Listener
}

func (p *process) run(socket net.Listener) (int, error) {
	served := make(chan error, 1)
	go func() { served <- p.server.Serve(socket) }()
	defer p.followSignals()()
	defer p.followInput()()

	ctx, cancel := p.vm.untilStop()
	defer cancel()
	vm, err := p.provide(ctx)
	if err != nil {
		return p.unborn(err, served)
	}
	e, errLive := p.live(vm)
	for e.again && errLive == nil {
		vm.Close()
		if vm, err = p.vm.bootAgain(p.boot); err != nil {
			return p.unborn(err, served)
		}
		e, errLive = p.live(vm)
	}
	// Shut the server down before the machine, because the server asks about it.
	p.shutdown()
	p.vm.retire()
	if p.answers != nil {
		p.answers.Close()
	}
	err = errors.Join(vm.Close(), <-served)
	p.console.end()
	if p.hvc.file != nil {
		p.hvc.file.end()
	}
	if errLive != nil {
		return 0, errors.Join(errLive, err)
	}
	return p.conclude(e), err
}

// bootAgain boots until an order to stop. The first boot's context may have ended with an order
// that was withdrawn since, because the fate of a migration was unknown.
func (h *VM) bootAgain(boot func(context.Context) (*vmm.VM, error)) (*vmm.VM, error) {
	ctx, cancel := h.untilStop()
	defer cancel()
	return boot(ctx)
}

// unborn ends a process without a guest. err says why it has none, unless the VM was told to stop.
func (p *process) unborn(err error, served <-chan error) (int, error) {
	e, stopped := p.vm.endUnborn()
	p.shutdown()
	if stopped {
		return p.conclude(e), <-served
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

// errEnding is sent to a source whose guest was about to come here.
var errEnding = errors.New("the vmm run there was told to end (vmm stop or a signal): " +
	"start it again, or migrate elsewhere")

// untilStop returns a context that ends with the order to stop, or when it is cancelled.
func (h *VM) untilStop() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.Background())
	stopped := h.stopped()
	go func() {
		select {
		case <-stopped:
			cancel(errEnding)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// provide makes the machine with its guest in it. A booted guest is ready to be started, and a
// guest that arrived is already adopted. The context must outlive it, because a destination still
// answers a source that lost its connection after its guest arrived.
func (p *process) provide(ctx context.Context) (*vmm.VM, error) {
	if p.cfg.Incoming != "" {
		return p.receive(ctx)
	}
	return p.boot(ctx)
}

// live runs the machine until it ends or moves away.
func (p *process) live(vm *vmm.VM) (ending, error) {
	if p.cfg.Incoming == "" {
		if err := p.vm.start(vm); err != nil {
			return ending{}, err
		}
	}
	e := p.vm.live(vm)
	if e.err != nil {
		return e, fmt.Errorf("%s: %w", p.cfg.Name, e.err)
	}
	return e, nil
}

// conclude writes the log's last line, which says how the VM's life here ended, and returns the
// exit status for that.
func (p *process) conclude(e ending) int {
	switch e.how {
	case control.EndMoved:
		p.log.Info(fmt.Sprintf("moved to %s in %s, downtime %s", e.movedTo.Destination,
			units.Milliseconds(e.movedTo.TotalMS), units.Milliseconds(e.movedTo.DowntimeMS)),
			"migration", e.migration)
		return p.cfg.MovedStatus
	case control.EndExit:
		p.log.Info(fmt.Sprintf("ended by the guest, with status %d", e.exit.Status))
		return int(e.exit.Status)
	case control.EndPowerOff:
		p.log.Info("ended by the guest, which switched itself off")
		return 0
	case control.EndReset:
		p.log.Info("ended by the guest, which asked for a reset")
		return 0
	default:
		p.log.Info("stopped by " + e.order.by)
		return e.order.status
	}
}

// boot makes the machine that cfg describes, with its kernel.
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
	p.cfg.Nets = vmm.WithAddresses(p.cfg.Nets) // which stay when the guest starts again
	vm, err := vmm.New(vmm.Config{
		MemoryBytes: p.cfg.MemoryBytes, CPUs: p.cfg.CPUs, CPU: p.cfg.CPU,
		Balloon: p.cfg.Balloon, Options: p.options(),
	})
	if err != nil {
		return nil, err
	}
	if err := vm.Boot(kernel, initrd, p.cfg.Cmdline); err != nil {
		vm.Close()
		if p.cfg.Kernel != "" {
			return nil, fmt.Errorf("%s: %w", p.cfg.Kernel, err)
		}
		return nil, err
	}
	if err = p.beginOutput(); err == nil {
		err = p.prepare(ctx, vm)
	}
	if err != nil {
		vm.Close()
		return nil, err
	}
	return vm, nil
}

// beginOutput empties the files of the guest's consoles, once nothing refuses the VM any more: they
// may say why the last one ended. A log may be one of these files, so it comes before a log has
// anything to say.
func (p *process) beginOutput() error { return errors.Join(p.console.begin(), p.hvc.begin()) }

func (p *process) options() vmm.Options {
	opts := vmm.Options{
		DirtyLog: cmp.Or(p.cfg.DirtyLog, dirtylog.Auto), Disks: p.cfg.Disks, Nets: p.cfg.Nets,
		HVC: p.hvc.Output, Vsock: p.vsock(), Log: p.log,
	}
	opts.Console = &p.vm.beats
	if p.cfg.Console != consoleOff {
		// Beats come first: their time is not that of a terminal that is slow.
		opts.Console = io.MultiWriter(&p.vm.beats, p.console)
		opts.ConsoleLossy = p.console.lossy
	}
	return opts
}

// vsock returns the guest's vsock, which makes its socket as control sockets are made.
func (p *process) vsock() *vmm.Vsock {
	if p.cfg.Vsock == nil {
		return nil
	}
	v := *p.cfg.Vsock
	v.Listen = transport.ListenUnix
	return &v
}

// readImage reads a file that must fit into a RAM of limit bytes.
func readImage(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, FileError(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, FileError(err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s is larger than the guest's RAM of %s: use a larger --memory",
			path, units.Bytes(limit))
	}
	return b, nil
}

// checkHostMemory refuses a RAM that this host could never fill. Whether a smaller size is too much
// is for the user to judge, because a guest need not use all it has.
func checkHostMemory(size int64) error {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return fmt.Errorf("ask for the host's memory: %w", err)
	}
	if has := (info.Totalram + info.Totalswap) * uint64(info.Unit); uint64(size) > has {
		return fmt.Errorf("memory of %s is more than this host has (%s with swap)",
			units.Bytes(size), units.Bytes(int64(has)))
	}
	return nil
}

// prepare does what every machine needs before it gets a guest.
func (p *process) prepare(ctx context.Context, vm *vmm.VM) error {
	raiseProcessors(vm.CPUs())
	if p.cfg.Prefault == PrefaultNone {
		return nil
	}
	return p.prefault(ctx, vm.RAM())
}

func (p *process) prefault(ctx context.Context, ram *memory.RAM) error {
	begin := time.Now()
	bar := show.NewBytes(p.std.Stderr, IsTerminal(p.std.Stderr), "prefault", ram.Size())
	err := ram.Populate(ctx, memory.Workers(), bar.Set)
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
	security := transport.Security{Plain: p.cfg.Plain, Allow: p.cfg.Allow}
	var err error
	if security.TLS, err = transport.LoadTLS(p.cfg.TLSDir); err != nil {
		return nil, err
	}
	ln, err := transport.Listen(p.cfg.Incoming, security)
	if err != nil {
		return nil, err
	}
	addr := transport.Bound(p.cfg.Incoming, ln)
	defer p.dropReady()
	if err = p.beginOutput(); err == nil {
		err = p.readyRAM(ctx)
	}
	if err != nil {
		ln.Close()
		return nil, err
	}
	p.log.Info("waiting for a migration on " + addr)
	p.vm.await(addr)
	d := migration.Destination{
		Builder: builder{p, ctx},
		Arrived: func(m migration.Incoming) { p.vm.adopt(m.(*vmm.VM)) },
		Admit:   security.Admit,
		Log:     p.log,
	}
	arrived, err := d.Serve(ctx, ln)
	if err != nil {
		return nil, fmt.Errorf("wait for a migration: %w", err)
	}
	p.answers = ln
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

// dropReady frees populated RAM that no guest used.
func (p *process) dropReady() {
	if p.ready != nil {
		_ = p.ready.Close()
		p.ready = nil
	}
}

// builder makes the machines that migrations bring.
type builder struct {
	process *process
	// ctx is that of the wait for a migration. Build has no parameter for it.
	ctx context.Context //nolint:containedctx
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
		p.ready = nil // it belongs to the machine now
		raiseProcessors(vm.CPUs())
		return vm, nil
	}
	if err := p.prepare(b.ctx, vm); err != nil {
		vm.Discard()
		return nil, err
	}
	return vm, nil
}

// checkConfigMemory is checkHostMemory for the machine that a source describes. It runs before the
// machine is made, because KVM needs 2 MiB of its own for each GiB of a guest's, and anybody who
// can connect could ask for that. vmm checks the rest of config.
func checkConfigMemory(config []byte) error {
	var c struct {
		MemoryBytes int64 `json:"memory_bytes"`
	}
	if json.Unmarshal(config, &c) != nil || c.MemoryBytes <= 0 {
		return nil
	}
	return checkHostMemory(c.MemoryBytes)
}

// followSignals stops the VM on the signals that ask a process to end, until stop is called.
func (p *process) followSignals() (stop func()) {
	signals := make(chan os.Signal, 1)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		// nohup, and shells without job control, start background processes with some signals
		// ignored.
		if !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-signals:
				n := s.(syscall.Signal)
				if err := p.vm.obey(bySignal(n), urgency(n)); err != nil {
					p.log.Warn(fmt.Sprintf("not ended by %s", unix.SignalName(n)), "error", err)
				}
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}

// followInput sends standard input to the guest's console, from a terminal key by key. restore
// resets the terminal.
func (p *process) followInput() (restore func()) {
	in := input{deliver: p.vm.input, quit: p.quit}
	switch consoleStdio {
	case p.cfg.Console:
	case p.cfg.HVC:
		in.deliver = p.vm.hvcInput
	default:
		return func() {}
	}
	restore = func() {}
	if IsTerminal(p.std.Stdin) {
		if !inForeground(p.std.Stdin) {
			// Reading would stop this process, as it would any background job.
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
	// Nothing can interrupt a read from a terminal, so this goroutine ends with the process or its
	// input.
	go in.copy(p.std.Stdin)
	return restore
}

// bySignal is the order to stop that a signal gives. SIGTERM is how service managers ask, so
// obeying it is not a failure.
func bySignal(n syscall.Signal) order {
	o := order{ending: control.EndSignal, by: unix.SignalName(n)}
	if n != syscall.SIGTERM {
		o.status = signalStatus + int(n)
	}
	return o
}

// urgency says how soon a signal ends the VM. Service managers give it time.
func urgency(n syscall.Signal) control.StopMode {
	if n == syscall.SIGTERM {
		return control.StopSafe
	}
	return control.StopNow
}

// byKey is the order of the user at the console.
var byKey = order{ending: control.EndStop, by: "Ctrl-A X"}

// quit obeys the terminal's key for the end of the VM.
func (p *process) quit() {
	if err := p.vm.obey(byKey, control.StopNow); err != nil {
		p.log.Warn("not ended", "error", err)
	}
}

// DefaultName is the name of a VM that was not given one.
func DefaultName() string { return fmt.Sprintf("vm-%d", os.Getpid()) }

// AbsoluteAddress makes the path in unix:PATH absolute, so that it means the same in another
// process.
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
