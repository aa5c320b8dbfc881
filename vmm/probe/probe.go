package probe

import (
	"taskguide/dirtylog"
	"taskguide/vmm/cpu"
	"taskguide/vmm/kvm"
)

// KVM is what KVM on this host offers.
type KVM struct {
	Kind          Kind   `json:"kind"`
	EmulatedRing0 bool   `json:"emulated_ring0"` // kernel code of guests is emulated
	Kernel        string `json:"kernel"`         // release of the host's Linux
	CPU           string `json:"cpu"`            // model name
	APIVersion    int    `json:"api_version"`

	MaxCPUs         int `json:"max_cpus"`         // of this program's machines here
	RecommendedCPUs int `json:"recommended_cpus"` // KVM_CAP_NR_VCPUS
	MemorySlots     int `json:"memory_slots"`
	XSaveBytes      int `json:"xsave_bytes"`
	AddressBits     int `json:"address_bits"` // of guest-physical addresses

	DirtyTrackers []string `json:"dirty_trackers"` // see dirtylog.Kind
	DirtyRing     int      `json:"dirty_ring"`     // most bytes of a vCPU's ring, 0 for none

	TSCKHz        uint32 `json:"tsc_khz"`
	TSCScaling    bool   `json:"tsc_scaling"`    // guests may have another TSC frequency
	TSCOffset     bool   `json:"tsc_offset"`     // a guest's TSC is set exactly, by its offset
	ClockRealtime bool   `json:"clock_realtime"` // KVM_SET_CLOCK knows about CLOCK_REALTIME
	PIT           bool   `json:"pit"`
	HugePages     bool   `json:"huge_pages"` // the host gives them to guest RAM
	// LegacyCounters says that guests can program AMD's first four performance counters. No CPUID
	// bit announces them, and their counts do not migrate.
	LegacyCounters bool `json:"legacy_counters"`

	// BeyondCPU names what the processor and KVM offer but guests are not shown, because this
	// program cannot save its state or compare it.
	BeyondCPU []string `json:"beyond_cpu"`

	Capabilities []Capability `json:"capabilities"`
	// Notes say what follows from all this for users, in a line each.
	Notes []string `json:"notes"`
}

// Capability is something that KVM may offer and this program makes use of.
type Capability struct {
	Name     string `json:"name"`     // as in linux/kvm.h
	Value    int    `json:"value"`    // what KVM_CHECK_EXTENSION says; 0 is absent
	Required bool   `json:"required"` // no machine without it
	Use      string `json:"use"`      // what it is used for
}

// asked is a capability that this program asks KVM for.
type asked struct {
	number kvm.Capability
	name   string
	use    string
}

// neededCapabilities are those without which there is no machine; usefulCapabilities are the
// others.
var (
	neededCapabilities = []asked{
		{kvm.CapUserMemory, "KVM_CAP_USER_MEMORY", "guest RAM"},
		{kvm.CapIRQChip, "KVM_CAP_IRQCHIP", "interrupt controllers"},
		{kvm.CapImmediateExit, "KVM_CAP_IMMEDIATE_EXIT", "pausing vCPUs"},
		{kvm.CapMPState, "KVM_CAP_MP_STATE", "saving vCPUs"},
		{kvm.CapVCPUEvents, "KVM_CAP_VCPU_EVENTS", "saving vCPUs"},
		{kvm.CapDebugRegs, "KVM_CAP_DEBUGREGS", "saving vCPUs"},
		{kvm.CapXSave, "KVM_CAP_XSAVE", "saving vCPUs"},
		{kvm.CapXCRS, "KVM_CAP_XCRS", "saving vCPUs"},
		{kvm.CapGetTSCKHz, "KVM_CAP_GET_TSC_KHZ", "comparing TSC frequencies"},
		{kvm.CapAdjustClock, "KVM_CAP_ADJUST_CLOCK", "kvmclock across a migration"},
	}
	usefulCapabilities = []asked{
		{kvm.CapXSave2, "KVM_CAP_XSAVE2", "vector state beyond 4 KiB"},
		{kvm.CapPIT2, "KVM_CAP_PIT2", "the PC's timer"},
		{kvm.CapTSCControl, "KVM_CAP_TSC_CONTROL", "guests from hosts with another TSC frequency"},
		{kvm.CapTSCDeadlineTimer, "KVM_CAP_TSC_DEADLINE_TIMER", "the APIC timer's deadline mode"},
		{kvm.CapVCPUAttributes, "KVM_CAP_VCPU_ATTRIBUTES", "the TSC's offset across a migration"},
		{kvm.CapKVMClockCtrl, "KVM_CAP_KVMCLOCK_CTRL", "telling a guest that it was paused"},
		{kvm.CapPMUCapability, "KVM_CAP_PMU_CAPABILITY", "taking performance counters from guests"},
		{
			kvm.CapManualProtect2, "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2",
			"dirty tracking, manual-protect",
		},
		{kvm.CapDirtyLogRing, "KVM_CAP_DIRTY_LOG_RING_ACQ_REL", "dirty tracking, ring"},
	}
)

// Ask asks KVM what it offers. The error is [kvm.ErrNoKVM], [kvm.ErrPermission], or one that tells
// which part of KVM does not work.
func Ask() (*KVM, error) {
	fd, err := kvm.Open()
	if err != nil {
		return nil, err
	}
	defer fd.Close()
	here := readHost()
	h := &KVM{
		Kind: here.kind, EmulatedRing0: here.kind == PVM, Kernel: here.kernel, CPU: here.cpu,
		APIVersion: kvm.APIVersion, HugePages: here.hugePages,
	}
	for i, list := range [][]asked{neededCapabilities, usefulCapabilities} {
		for _, a := range list {
			h.Capabilities = append(h.Capabilities, Capability{
				Name: a.name, Value: fd.Check(a.number), Required: i == 0, Use: a.use,
			})
		}
	}
	h.RecommendedCPUs = fd.Check(kvm.CapNRVCPUS)
	h.MaxCPUs = min(cpu.MaxVCPUs, fd.Check(kvm.CapMaxVCPUS))
	h.MemorySlots = fd.Check(kvm.CapNRMemSlots)
	h.XSaveBytes = fd.XSaveBytes()
	h.ClockRealtime = fd.Check(kvm.CapAdjustClock)&kvm.ClockRealtime != 0
	h.TSCScaling = fd.Check(kvm.CapTSCControl) > 0
	h.PIT = fd.Check(kvm.CapPIT2) > 0
	for _, k := range dirtylog.Offered(fd) {
		h.DirtyTrackers = append(h.DirtyTrackers, string(k))
	}
	h.DirtyRing = fd.Check(kvm.CapDirtyLogRing)
	if err := h.readMachine(fd); err != nil {
		return nil, err
	}
	h.Notes = h.notes()
	return h, nil
}

// readMachine asks for what shows only in a VM with a vCPU.
func (h *KVM) readMachine(system kvm.FD) error {
	table, err := Offer(system)
	if err != nil {
		return err
	}
	h.AddressBits = table.AddressBits()
	h.BeyondCPU = cpu.Beyond(table)
	vm, err := system.CreateVM()
	if err != nil {
		return err
	}
	defer vm.Close()
	if err := vm.DisablePMU(); err != nil {
		return err
	}
	if _, err := kvm.CreateIRQChip.Do(vm, 0); err != nil {
		return err
	}
	vm.GoByHostTSC()
	fd, err := vm.CreateVCPU(0)
	if err != nil {
		return err
	}
	defer fd.Close()
	if h.TSCKHz, err = fd.RunAtHostTSC(); err != nil {
		return err
	}
	h.TSCOffset = fd.HasTSCOffset()
	if err := kvm.SetCPUID2.Do(fd, Entries(cpu.Guest(table))); err != nil {
		return err
	}
	h.LegacyCounters = HasLegacyCounters(fd)
	return nil
}

// HasLegacyCounters tells whether AMD's first event selector keeps what a vCPU writes to it. The
// value written is an event for every ring, with the counter off. KVM ignores the write if that
// counter does not exist.
func HasLegacyCounters(vcpu kvm.FD) bool {
	const eventSelect0, clocks = 0xc0010000, 0x30076
	msrs := new(kvm.MSRTable)
	_ = msrs.Set(vcpu, eventSelect0, clocks)
	got, err := msrs.Read(vcpu, []uint32{eventSelect0})
	return err == nil && len(got) == 1 && got[0].Data != 0
}
