package vmm

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"taskguide/dirtylog"
	"taskguide/memory"
	"taskguide/vmm/cpu"
	"taskguide/vmm/device"
	"taskguide/vmm/device/virtio"
	"taskguide/vmm/kvm"
	"taskguide/vmm/probe"
)

var le = binary.LittleEndian

// Guest-physical addresses within the MMIO hole that KVM itself uses: a page for
// real-mode page tables and three for a task state segment, on Intel without
// unrestricted guest mode.
const (
	identityMapAddr = 0xfffbc000
	tssAddr         = 0xfffbd000
)

// VM is one machine. Any goroutine may call its methods, unless a method says otherwise.
type VM struct {
	config machineConfig
	kvmFD  kvm.FD
	fd     kvm.FD
	hasPIT bool
	// tscScaled says that the guest's TSC has another frequency than the host's. It is set
	// while the machine is built.
	tscScaled bool

	ram     *memory.RAM
	guest   *memory.Guest // RAM, as devices write it
	slots   []dirtylog.Slot
	vcpus   []*vcpu
	kind    dirtylog.Kind
	ring    *dirtylog.Ring // nil except with dirtylog.KindRing
	tracker *tracker
	devices *device.Set
	routes  *routes
	log     *slog.Logger
	private [][]byte // memory of devices

	backends
	patience time.Duration // that the host has if nobody says how long; set while it is built

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

	// errands lets vCPUs have one errand at a time. It is taken before any other lock.
	errands sync.Mutex

	// life keeps vCPUs from being freed while they are kicked.
	life    sync.RWMutex
	threads sync.WaitGroup
	over    chan struct{}   // closed with ended set
	done    chan struct{}   // closed once the machine has ended and no vCPU is left
	unused  <-chan struct{} // closed once no device uses RAM any more; set before done is closed
	close   sync.Once
}

// ErrEnded is returned for what a machine that has ended can no longer do.
var ErrEnded = errors.New("the machine has ended")

// ErrRunning is returned for what can only be done to a paused machine.
var ErrRunning = errors.New("the machine is running: pause it first")

// New makes a machine that does not run yet. Load a kernel with [VM.Boot] or a state with
// [VM.LoadState], then call [VM.Resume], and Close in the end.
func New(cfg Config) (*VM, error) {
	if err := memory.CheckSize(cfg.MemoryBytes); err != nil {
		return nil, err
	}
	if err := checkCPUs(cfg.CPUs); err != nil {
		return nil, err
	}
	kvmFD, err := kvm.Open()
	if err != nil {
		return nil, err
	}
	guest, err := guestCPUID(kvmFD, cfg.CPU)
	if err != nil {
		kvmFD.Close()
		return nil, err
	}
	mc := machineConfig{
		Version: configVersion, MemoryBytes: cfg.MemoryBytes, CPUs: cfg.CPUs,
		XSaveBytes: max(guest.XSaveBytes(), xsaveMinBytes), Optional: newOptions(),
	}
	b, err := openBackends(cfg.CPUs, cfg.Options)
	if err != nil {
		kvmFD.Close()
		return nil, err
	}
	devices := newDevices(cfg.Options, b)
	if cfg.Balloon != BalloonReporting {
		devices.Drop(virtio.BalloonKind().Name)
	}
	mc.Sections = announced(devices.Catalog())
	return build(kvmFD, mc, guest, devices, b, cfg.Options)
}

// NewFromConfig makes a machine like the one that [VM.Config] described, usually on another host.
// It refuses a machine that this host cannot run faithfully; the error names what is missing, see
// [ErrCPUFeatures].
func NewFromConfig(config []byte, opts Options) (*VM, error) {
	mc, err := parseConfig(config, known(opts))
	if err != nil {
		return nil, err
	}
	b, err := openSameBackends(mc, opts)
	if err != nil {
		return nil, err
	}
	devices := newDevices(opts, b)
	devices.Keep(mc.Sections)
	// The next destination need not know sections that this machine does not have.
	mc.Sections = announced(devices.Catalog())
	mc.keepOptions()
	kvmFD, err := kvm.Open()
	if err == nil {
		if err = checkHost(kvmFD, mc); err != nil {
			kvmFD.Close()
		}
	}
	if err != nil {
		b.close()
		return nil, err
	}
	return build(kvmFD, *mc, nil, devices, b, opts)
}

// build makes the machine, which owns kvmFD and b from here on. It fills in what mc does not
// say yet: CPUID from guest, which is what the guest may see, and MSRs and TSC frequency from this
// host.
func build(
	kvmFD kvm.FD, mc machineConfig, guest cpu.Table, devices *device.Set, b backends, opts Options,
) (*VM, error) {
	mc.Disks, mc.Nets = identities(b.disks), netIdentities(b.nets)
	mc.Vsock = vsockIdentity(b.vsock)
	vm := &VM{
		config: mc, kvmFD: kvmFD, fd: kvm.Closed, devices: devices, backends: b, log: opts.log(),
		over: make(chan struct{}), done: make(chan struct{}), patience: patience,
	}
	vm.allStill.L, vm.mayRun.L = &vm.mu, &vm.mu
	vm.hold.Store(true)
	err := vm.createPlatform(opts)
	if err == nil {
		err = vm.createVCPUs(guest)
	}
	if err == nil {
		err = vm.createTracker(opts)
	}
	if err == nil {
		err = devices.Attach(board{vm})
	}
	if err != nil {
		if vm.ram == opts.RAM {
			vm.ram = nil // nobody has written it, so another machine may take it over
		}
		vm.release()
		return nil, err
	}
	for _, c := range vm.vcpus {
		vm.threads.Add(1)
		go c.loop()
	}
	go func() {
		vm.threads.Wait()
		vm.unused = vm.devices.Close(patience)
		close(vm.done)
	}()
	return vm, nil
}

// createPlatform makes the VM, its interrupt controllers and its memory.
func (vm *VM) createPlatform(opts Options) error {
	fd, err := vm.kvmFD.CreateVM()
	if err != nil {
		return err
	}
	vm.fd = fd
	if vm.kvmFD.Check(kvm.CapSetIdentityMapAddr) > 0 {
		addr := uint64(identityMapAddr)
		if err := kvm.SetIdentityMapAddr.Do(fd, &addr); err != nil {
			return err
		}
	}
	if vm.kvmFD.Check(kvm.CapSetTSSAddr) > 0 {
		if _, err := kvm.SetTSSAddr.Do(fd, tssAddr); err != nil {
			return err
		}
	}
	if _, err := kvm.CreateIRQChip.Do(fd, 0); err != nil {
		return err
	}
	if vm.kvmFD.Check(kvm.CapPIT2) > 0 {
		pit := kvm.PITConfig{}
		if vm.config.has(optionSpeaker) {
			pit.Flags = kvm.PITSpeakerDummy
		}
		if err := kvm.CreatePIT2.Do(fd, &pit); err != nil {
			return err
		}
		vm.hasPIT = true
	}
	vm.routes = newRoutes(fd)
	if err := fd.DisablePMU(); err != nil {
		return err
	}
	if err := vm.chooseTracker(opts); err != nil {
		return err
	}
	return vm.createMemory(opts)
}

// maxSlotPages bounds a memory slot (64 GiB), so that the dirty log of a large guest comes in
// pieces of 2 MiB. A piece stays in the cache from when KVM writes it until it is harvested, and
// KVM can write one while another is looked through.
const maxSlotPages = 64 << 30 / memory.PageSize

// memorySlots divides RAM into slots.
func memorySlots(ram *memory.RAM) []dirtylog.Slot {
	var slots []dirtylog.Slot
	for _, r := range ram.Regions() {
		for done := 0; done < r.Pages; done += maxSlotPages {
			part := memory.Region{
				GPA:   r.GPA + uint64(done)*memory.PageSize,
				First: r.First + done,
				Pages: min(maxSlotPages, r.Pages-done),
			}
			slots = append(slots, dirtylog.Slot{
				ID: uint32(len(slots)), GPA: part.GPA, First: part.First, Pages: part.Pages,
				Host: kvm.Address(ram.Range(part.First, part.Pages)),
			})
		}
	}
	return slots
}

// createMemory makes RAM, or takes it over, and registers it slot by slot.
func (vm *VM) createMemory(opts Options) error {
	ram := opts.RAM
	if ram == nil || ram.Size() != vm.config.MemoryBytes {
		var err error
		if ram, err = memory.New(vm.config.MemoryBytes); err != nil {
			return err
		}
	}
	vm.ram, vm.guest = ram, memory.NewGuest(ram)
	vm.slots = memorySlots(ram)
	for _, s := range vm.slots {
		region := kvm.MemoryRegion{
			Slot:          s.ID,
			GuestPhysAddr: s.GPA,
			MemorySize:    uint64(s.Pages) * memory.PageSize,
			UserspaceAddr: uint64(s.Host),
		}
		if err := kvm.SetMemoryRegion.Do(vm.fd, &region); err != nil {
			return fmt.Errorf("give the guest its RAM: %w", err)
		}
	}
	return nil
}

// createVCPUs makes the vCPUs and settles what is still open in the configuration.
func (vm *VM) createVCPUs(guest cpu.Table) error {
	size, err := kvm.GetVCPUMmapSize.Do(vm.kvmFD, 0)
	if err != nil {
		return err
	}
	vm.fd.GoByHostTSC()
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
	if err := vm.settleCPUID(guest); err != nil {
		return err
	}
	return vm.settleState()
}

// settleCPUID gives every vCPU its CPUID table.
func (vm *VM) settleCPUID(guest cpu.Table) error {
	if vm.config.CPUID == nil {
		vm.config.CPUID = cpu.Machine(guest, vm.config.CPUs, vm.config.TSCKHz)
	}
	for id, c := range vm.vcpus {
		table := cpu.ForVCPU(vm.config.CPUID, uint32(id))
		if err := kvm.SetCPUID2.Do(c.fd, probe.Entries(table)); err != nil {
			return fmt.Errorf("vCPU %d: %w", id, err)
		}
	}
	return nil
}

// settleState finds out which MSRs the machine has, and makes room for XSAVE areas as large as
// this host's.
func (vm *VM) settleState() error {
	for _, c := range vm.vcpus {
		c.xsave = make([]byte, vm.fd.XSaveBytes())
	}
	return vm.settleMSRs()
}

// Config describes the machine to a destination, as JSON for [NewFromConfig].
func (vm *VM) Config() ([]byte, error) { return json.Marshal(&vm.config) }

// RAM is the guest's memory.
func (vm *VM) RAM() *memory.RAM { return vm.ram }

// CPUs is the number of vCPUs.
func (vm *VM) CPUs() int { return vm.config.CPUs }

// Tracker reports pages written by the guest and, through [memory.Guest], by its devices.
func (vm *VM) Tracker() dirtylog.Tracker { return vm.tracker }

// DirtyLog is how writes are tracked.
func (vm *VM) DirtyLog() dirtylog.Kind { return vm.kind }

// Close ends the machine if it has not ended and frees it. Afterwards, methods return
// ErrEnded or do nothing; no slice of its RAM may be used.
func (vm *VM) Close() error {
	vm.Stop()
	<-vm.done
	vm.close.Do(vm.free)
	return nil
}

// free frees the machine, as soon as no device uses its RAM. If the host hangs, that is in the
// background, and may be never.
func (vm *VM) free() {
	if allClosed([]<-chan struct{}{vm.unused}) {
		vm.release()
		return
	}
	vm.log.Warn("ended without waiting for the host any longer", "busy", vm.Busy())
	go func() {
		<-vm.unused
		vm.release()
	}()
}

// release frees what the machine has. No vCPU runs any more.
func (vm *VM) release() {
	vm.life.Lock()
	defer vm.life.Unlock()
	if vm.ring != nil {
		vm.ring.Close()
	}
	for _, c := range vm.vcpus {
		c.release()
	}
	vm.vcpus = nil
	vm.backends.close() // including those whose devices were never attached
	if vm.routes != nil {
		vm.routes.close()
	}
	if vm.fd != kvm.Closed {
		vm.fd.Close()
	}
	vm.kvmFD.Close()
	if port := vm.devices.Tags.Port; port != nil {
		port.Forget() // clients may still ask it
	}
	for _, b := range vm.private {
		_ = memory.FreePrivate(b)
	}
	if vm.ram != nil {
		vm.ram.Close()
	}
}
