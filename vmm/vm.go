package vmm

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/bobuhiro11/gokvm/kvm"
	"golang.org/x/sys/unix"

	"taskguide/dirtylog"
	"taskguide/memory"
	"taskguide/tagging"
)

var le = binary.LittleEndian

// Guest-physical addresses within the MMIO hole that KVM itself uses: a page for
// real-mode page tables and three for a task state segment, on Intel without
// unrestricted guest mode.
const (
	identityMapAddr = 0xfffbc000
	tssAddr         = 0xfffbd000
)

// VM is one machine. Its methods may be called by any goroutine except where they
// say otherwise.
type VM struct {
	config machineConfig
	kvmFD  int
	fd     int
	hasPIT bool

	ram     *memory.RAM
	slots   []dirtylog.Slot
	vcpus   []*vcpu
	kind    dirtylog.Kind
	ring    *dirtylog.Ring // nil but with dirtylog.KindRing
	tracker *tracker
	tags    *tagging.Port
	serial  *serial
	console *console
	ports   bus
	mmio    bus

	// hold asks the vCPUs to park and ending tells them to leave for good. Both are
	// set before the vCPUs are kicked.
	hold   atomic.Bool
	ending atomic.Bool

	mu       sync.Mutex
	allStill sync.Cond // the last vCPU parked or the machine ended
	mayRun   sync.Cond // hold was lifted or the machine ended
	parked   int
	ended    bool
	exit     Exit
	exitErr  error

	// life keeps vCPUs from being freed while they are kicked.
	life    sync.RWMutex
	threads sync.WaitGroup
	done    chan struct{} // closed once the machine has ended and no vCPU is left
	close   sync.Once
}

// ErrEnded is returned for what a machine that has ended can no longer do.
var ErrEnded = errors.New("the machine has ended")

// ErrRunning is returned for what can only be done to a paused machine.
var ErrRunning = errors.New("the machine is running: pause it first")

// New makes a machine that does not run yet: load a kernel with [VM.Boot] or state
// with [VM.LoadState], then [VM.Resume]. Close it in the end.
func New(cfg Config) (*VM, error) {
	if err := memory.CheckSize(cfg.MemoryBytes); err != nil {
		return nil, err
	}
	if err := checkCPUs(cfg.CPUs); err != nil {
		return nil, err
	}
	kvmFD, err := openKVM()
	if err != nil {
		return nil, err
	}
	mc := machineConfig{Version: configVersion, MemoryBytes: cfg.MemoryBytes, CPUs: cfg.CPUs}
	return build(kvmFD, mc, cfg.Options)
}

// NewFromConfig makes a machine like the one that [VM.Config] described, on
// another host as a rule. It refuses one that this host cannot carry on faithfully:
// the error names what is missing, see [ErrCPUFeatures].
func NewFromConfig(config []byte, opts Options) (*VM, error) {
	mc, err := parseConfig(config)
	if err != nil {
		return nil, err
	}
	kvmFD, err := openKVM()
	if err != nil {
		return nil, err
	}
	if err := checkHost(kvmFD, mc); err != nil {
		unix.Close(kvmFD)
		return nil, err
	}
	return build(kvmFD, *mc, opts)
}

// build makes the machine, which owns kvmFD from here on. What mc does not say yet
// (CPUID, MSRs, TSC frequency) is filled in from this host.
func build(kvmFD int, mc machineConfig, opts Options) (*VM, error) {
	vm := &VM{config: mc, kvmFD: kvmFD, fd: -1, done: make(chan struct{})}
	vm.allStill.L, vm.mayRun.L = &vm.mu, &vm.mu
	vm.hold.Store(true)
	vm.console = newConsole(opts.Console, vm.Running)
	vm.serial = newSerial(vm.console, func(level bool) { vm.setIRQ(serialIRQ, level) })
	err := vm.createPlatform(opts)
	if err == nil {
		err = vm.createVCPUs()
	}
	if err == nil {
		err = vm.createTracker(opts)
	}
	if err != nil {
		vm.release()
		return nil, err
	}
	vm.tags = tagging.NewPort(vm)
	vm.connect()
	for _, c := range vm.vcpus {
		vm.threads.Add(1)
		go c.loop()
	}
	go func() {
		vm.threads.Wait()
		vm.console.close()
		close(vm.done)
	}()
	return vm, nil
}

// createPlatform makes the VM, its interrupt controllers and its memory.
func (vm *VM) createPlatform(opts Options) error {
	fd, err := ioctl(vm.kvmFD, kvmCreateVM, 0)
	if err != nil {
		return fmt.Errorf("KVM_CREATE_VM: %w", err)
	}
	unix.CloseOnExec(fd)
	vm.fd = fd
	if checkExtension(vm.kvmFD, uintptr(kvm.CapSetIdentityMapAddr)) > 0 {
		addr := uint64(identityMapAddr)
		if err := set(fd, kvmSetIdentityMapAddr, "KVM_SET_IDENTITY_MAP_ADDR", &addr); err != nil {
			return err
		}
	}
	if checkExtension(vm.kvmFD, uintptr(kvm.CapSetTSSAddr)) > 0 {
		if _, err := ioctl(fd, kvmSetTSSAddr, tssAddr); err != nil {
			return fmt.Errorf("KVM_SET_TSS_ADDR: %w", err)
		}
	}
	if _, err := ioctl(fd, kvmCreateIRQChip, 0); err != nil {
		return fmt.Errorf("KVM_CREATE_IRQCHIP: %w", err)
	}
	if checkExtension(vm.kvmFD, uintptr(kvm.CapPIT2)) > 0 {
		if err := set(fd, kvmCreatePIT2, "KVM_CREATE_PIT2", &pitConfig{}); err != nil {
			return err
		}
		vm.hasPIT = true
	}
	if err := vm.chooseTracker(opts); err != nil {
		return err
	}
	return vm.createMemory(opts)
}

// createMemory makes RAM, or takes it over, and registers it, a slot for each of its regions.
func (vm *VM) createMemory(opts Options) error {
	ram := opts.RAM
	if ram == nil || ram.Size() != vm.config.MemoryBytes {
		var err error
		if ram, err = memory.New(vm.config.MemoryBytes); err != nil {
			return err
		}
	}
	vm.ram = ram
	for i, r := range ram.Regions() {
		vm.slots = append(vm.slots, dirtylog.Slot{
			ID: uint32(i), GPA: r.GPA, First: r.First, Pages: r.Pages, Host: hostAddress(ram, r),
		})
	}
	for _, s := range vm.slots {
		region := kvm.UserspaceMemoryRegion{
			Slot:          s.ID,
			GuestPhysAddr: s.GPA,
			MemorySize:    uint64(s.Pages) * memory.PageSize,
			UserspaceAddr: uint64(s.Host),
		}
		if err := set(vm.fd, kvmSetUserMemoryRegion, "KVM_SET_USER_MEMORY_REGION", &region); err != nil {
			return fmt.Errorf("give the guest its RAM: %w", err)
		}
	}
	return nil
}

// createVCPUs makes the vCPUs and settles what of the configuration is still open.
func (vm *VM) createVCPUs() error {
	size, err := ioctl(vm.kvmFD, kvmGetVCPUMmapSize, 0)
	if err != nil {
		return fmt.Errorf("KVM_GET_VCPU_MMAP_SIZE: %w", err)
	}
	for id := range vm.config.CPUs {
		c, err := newVCPU(vm, id, size)
		if err != nil {
			return fmt.Errorf("create vCPU %d: %w", id, err)
		}
		vm.vcpus = append(vm.vcpus, c)
	}
	if err := vm.settleTSC(); err != nil {
		return err
	}
	if err := vm.settleCPUID(); err != nil {
		return err
	}
	return vm.settleState()
}

// settleCPUID gives every vCPU its CPUID table.
func (vm *VM) settleCPUID() error {
	if vm.config.CPUID == nil {
		supported, err := supportedCPUID(vm.kvmFD)
		if err != nil {
			return err
		}
		deadline := checkExtension(vm.kvmFD, uintptr(kvm.CapTSCDeadlineTimer)) > 0
		vm.config.CPUID = toConfig(machineCPUID(supported, vm.config.CPUs, vm.config.TSCKHz, deadline))
	}
	table := fromConfig(vm.config.CPUID)
	for id, c := range vm.vcpus {
		if err := setCPUID(c.fd, vcpuCPUID(table, uint32(id))); err != nil {
			return fmt.Errorf("vCPU %d: %w", id, err)
		}
	}
	return nil
}

// settleState finds out which MSRs and how large an XSAVE area the machine has.
func (vm *VM) settleState() error {
	size := xsaveSize(vm.fd)
	if vm.config.XSaveBytes == 0 {
		vm.config.XSaveBytes = size
	}
	for _, c := range vm.vcpus {
		c.xsave = make([]byte, max(size, xsaveMinBytes))
	}
	if vm.config.MSRs == nil {
		indices, err := savedMSRs(vm.kvmFD, vm.vcpus[0].fd)
		if err != nil {
			return err
		}
		vm.config.MSRs = indices
	}
	return nil
}

// Config describes the machine to a destination, as JSON for [NewFromConfig].
func (vm *VM) Config() ([]byte, error) { return json.Marshal(&vm.config) }

// RAM is the guest's memory.
func (vm *VM) RAM() *memory.RAM { return vm.ram }

// CPUs is the number of vCPUs.
func (vm *VM) CPUs() int { return vm.config.CPUs }

// Tracker reports pages written by the guest and, through [VM.MarkDirty], by the
// host.
func (vm *VM) Tracker() dirtylog.Tracker {
	if p, ok := vm.tracker.Tracker.(dirtylog.Protector); ok {
		return protector{vm.tracker, p}
	}
	return vm.tracker
}

// DirtyLog is how writes are tracked.
func (vm *VM) DirtyLog() dirtylog.Kind { return vm.kind }

// Tags is the tag port.
func (vm *VM) Tags() *tagging.Port { return vm.tags }

// Slice returns n bytes of live guest RAM at a guest-physical address, false if any
// of them is not RAM. Report what you write there with MarkDirty, afterwards.
func (vm *VM) Slice(gpa uint64, n int) ([]byte, bool) { return vm.ram.Slice(gpa, n) }

// MarkDirty reports n bytes of RAM at gpa as written by the host, which KVM's dirty
// log does not see. Call it after the write: a harvest in between would report the
// page too early. What is not RAM is ignored.
func (vm *VM) MarkDirty(gpa uint64, n int) { vm.tracker.mark(gpa, n) }

// SerialInput sends bytes to the guest's COM1. It returns how many were taken, fewer
// than all when the guest does not read them.
func (vm *VM) SerialInput(p []byte) int { return vm.serial.input(p) }

// setIRQ drives an input line of the interrupt controllers.
func (vm *VM) setIRQ(irq uint32, level bool) {
	l := irqLevel{irq: irq}
	if level {
		l.level = 1
	}
	if err := set(vm.fd, kvmIRQLine, "KVM_IRQ_LINE", &l); err != nil {
		// Not here: the caller may hold locks that come after the machine's.
		go vm.end(Exit{Reason: ExitError}, fmt.Errorf("raise interrupt %d: %w", irq, err))
	}
}

// Close ends the machine if it has not ended and frees it. Afterwards, methods return
// ErrEnded or do nothing; no slice of its RAM may be used.
func (vm *VM) Close() error {
	vm.Stop()
	<-vm.done
	vm.close.Do(vm.release)
	return nil
}

// release frees what the machine has. No vCPU runs any more.
func (vm *VM) release() {
	// Input would raise interrupts at a file descriptor that may be another's by then.
	vm.serial.hold()
	vm.life.Lock()
	defer vm.life.Unlock()
	if vm.ring != nil {
		vm.ring.Close()
	}
	for _, c := range vm.vcpus {
		c.release()
	}
	started := vm.tags != nil
	vm.vcpus = nil
	if vm.fd >= 0 {
		unix.Close(vm.fd)
	}
	unix.Close(vm.kvmFD)
	if vm.ram != nil {
		vm.ram.Close()
	}
	if !started {
		// Nobody else closes it: the vCPUs' threads were never started.
		vm.console.close()
	}
}
