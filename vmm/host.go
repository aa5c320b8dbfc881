package vmm

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/bobuhiro11/gokvm/kvm"
	"golang.org/x/sys/unix"
)

// HostKind says by what means KVM runs guests.
type HostKind string

const (
	HostIntel HostKind = "intel" // VMX: kvm_intel
	HostAMD   HostKind = "amd"   // SVM: kvm_amd
	// HostPVM is KVM without hardware virtualization (kvm_pvm): guest user mode runs
	// natively, guest kernel mode is emulated instruction by instruction.
	HostPVM HostKind = "pvm"
)

// Host is what KVM on this host offers.
type Host struct {
	Kind          HostKind `json:"kind"`
	EmulatedRing0 bool     `json:"emulated_ring0"` // kernel code of guests is emulated
	Kernel        string   `json:"kernel"`         // release of the host's Linux
	CPU           string   `json:"cpu"`            // model name
	APIVersion    int      `json:"api_version"`

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

	Capabilities []Capability `json:"capabilities"`
	// Notes say in a line each what follows from all this for users.
	Notes []string `json:"notes"`
}

// Capability is something that KVM may offer and this program makes use of.
type Capability struct {
	Name     string `json:"name"`     // as in linux/kvm.h
	Value    int    `json:"value"`    // what KVM_CHECK_EXTENSION says; 0 is absent
	Required bool   `json:"required"` // no machine without it
	Use      string `json:"use"`      // what it is used for
}

// usedCapabilities is all that this program asks KVM for.
var usedCapabilities = []struct {
	number uintptr
	Capability
}{
	{uintptr(kvm.CapUserMemory), Capability{Name: "KVM_CAP_USER_MEMORY", Required: true, Use: "guest RAM"}},
	{uintptr(kvm.CapIRQChip), Capability{Name: "KVM_CAP_IRQCHIP", Required: true, Use: "interrupt controllers"}},
	{capImmediateExit, Capability{Name: "KVM_CAP_IMMEDIATE_EXIT", Required: true, Use: "pausing vCPUs"}},
	{uintptr(kvm.CapMPState), Capability{Name: "KVM_CAP_MP_STATE", Required: true, Use: "saving vCPUs"}},
	{uintptr(kvm.CapVCPUEvents), Capability{Name: "KVM_CAP_VCPU_EVENTS", Required: true, Use: "saving vCPUs"}},
	{uintptr(kvm.CapDebugRegs), Capability{Name: "KVM_CAP_DEBUGREGS", Required: true, Use: "saving vCPUs"}},
	{uintptr(kvm.CapXSave), Capability{Name: "KVM_CAP_XSAVE", Required: true, Use: "saving vCPUs"}},
	{uintptr(kvm.CapXCRS), Capability{Name: "KVM_CAP_XCRS", Required: true, Use: "saving vCPUs"}},
	{uintptr(kvm.CapGetTSCkHz), Capability{Name: "KVM_CAP_GET_TSC_KHZ", Required: true, Use: "comparing TSC frequencies"}},
	{capAdjustClock, Capability{Name: "KVM_CAP_ADJUST_CLOCK", Required: true, Use: "kvmclock across a migration"}},
	{capXSave2, Capability{Name: "KVM_CAP_XSAVE2", Use: "vector state beyond 4 KiB"}},
	{uintptr(kvm.CapPIT2), Capability{Name: "KVM_CAP_PIT2", Use: "the PC's timer"}},
	{capTSCControl, Capability{Name: "KVM_CAP_TSC_CONTROL", Use: "guests from hosts with another TSC frequency"}},
	{uintptr(kvm.CapTSCDeadlineTimer), Capability{Name: "KVM_CAP_TSC_DEADLINE_TIMER", Use: "the APIC timer's deadline mode"}},
	{capVCPUAttributes, Capability{Name: "KVM_CAP_VCPU_ATTRIBUTES", Use: "the TSC's offset across a migration"}},
	{uintptr(kvm.CapKVMClockCtrl), Capability{Name: "KVM_CAP_KVMCLOCK_CTRL", Use: "telling a guest that it was paused"}},
	{capManualProtect2, Capability{Name: "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2", Use: "dirty tracking, manual-protect"}},
	{capDirtyLogRing, Capability{Name: "KVM_CAP_DIRTY_LOG_RING_ACQ_REL", Use: "dirty tracking, ring"}},
}

// Probe asks KVM what it offers. The error is [ErrNoKVM], [ErrKVMPermission] or that
// of a KVM that does not work, and says what to do.
func Probe() (*Host, error) {
	fd, err := openKVM()
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	h := &Host{APIVersion: kvmAPIVersion}
	h.readSystem()
	for _, c := range usedCapabilities {
		c.Value = checkExtension(fd, c.number)
		h.Capabilities = append(h.Capabilities, c.Capability)
	}
	h.RecommendedCPUs = checkExtension(fd, uintptr(kvm.CapNRVCPUS))
	h.MaxCPUs = min(MaxCPUs, checkExtension(fd, uintptr(kvm.CapMAXVCPUS)))
	h.MemorySlots = checkExtension(fd, uintptr(kvm.CapNRMemSlots))
	h.XSaveBytes = xsaveSize(fd)
	h.ClockRealtime = checkExtension(fd, capAdjustClock)&clockRealtime != 0
	h.TSCScaling = checkExtension(fd, capTSCControl) > 0
	h.PIT = checkExtension(fd, uintptr(kvm.CapPIT2)) > 0
	for _, k := range offeredTrackers(fd) {
		h.DirtyTrackers = append(h.DirtyTrackers, string(k))
	}
	h.DirtyRing = checkExtension(fd, capDirtyLogRing)
	if err := h.readMachine(fd); err != nil {
		return nil, err
	}
	h.Notes = h.notes()
	return h, nil
}

// readMachine asks what only shows in a VM with a vCPU.
func (h *Host) readMachine(kvmFD int) error {
	supported, err := supportedCPUID(kvmFD)
	if err != nil {
		return err
	}
	h.AddressBits = int(addressBits(supported))
	vm, err := ioctl(kvmFD, kvmCreateVM, 0)
	if err != nil {
		return fmt.Errorf("KVM_CREATE_VM: %w", err)
	}
	defer unix.Close(vm)
	if _, err := ioctl(vm, kvmCreateIRQChip, 0); err != nil {
		return fmt.Errorf("KVM_CREATE_IRQCHIP: %w", err)
	}
	fd, err := ioctl(vm, kvmCreateVCPU, 0)
	if err != nil {
		return fmt.Errorf("KVM_CREATE_VCPU: %w", err)
	}
	defer unix.Close(fd)
	kHz, err := ioctl(fd, kvmGetTSCKHz, 0)
	if err != nil {
		return fmt.Errorf("KVM_GET_TSC_KHZ: %w", err)
	}
	h.TSCKHz = uint32(kHz)
	h.TSCOffset = get(fd, kvmHasDeviceAttr, "KVM_HAS_DEVICE_ATTR",
		&deviceAttr{group: tscControlGroup, attr: tscOffsetAttr}) == nil
	return nil
}

// readSystem reads what Linux says about host and processor.
func (h *Host) readSystem() {
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		h.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	cpuinfo, _ := os.ReadFile("/proc/cpuinfo")
	h.CPU = cpuinfoField(string(cpuinfo), "model name")
	h.Kind = hostKind(string(cpuinfo), hasPVM())
	h.EmulatedRing0 = h.Kind == HostPVM
}

func hasPVM() bool {
	_, err := os.Stat("/sys/module/kvm_pvm")
	return err == nil
}

// hostKind tells how KVM runs guests, from /proc/cpuinfo and whether kvm_pvm is
// loaded. A KVM that works without the processor's help can only be that one.
func hostKind(cpuinfo string, pvm bool) HostKind {
	flags := strings.Fields(cpuinfoField(cpuinfo, "flags"))
	switch {
	case pvm:
		return HostPVM
	case slices.Contains(flags, "vmx"):
		return HostIntel
	case slices.Contains(flags, "svm"):
		return HostAMD
	}
	return HostPVM
}

// cpuinfoField is a field of the first processor in /proc/cpuinfo.
func cpuinfoField(cpuinfo, name string) string {
	for line := range strings.Lines(cpuinfo) {
		key, value, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// emulatesRing0 tells whether guest kernel code is emulated on this host.
func emulatesRing0() bool {
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	return err == nil && hostKind(string(cpuinfo), hasPVM()) == HostPVM
}

// ErrEmulatedRing0 is returned for a kernel that cannot run where guest kernel code
// is emulated.
var ErrEmulatedRing0 = errors.New("this KVM emulates guest kernel code instruction by instruction (no hardware virtualization) and knows too few instructions for Linux: use a host with VMX or SVM")

func (h *Host) notes() []string {
	var notes []string
	for _, c := range h.Capabilities {
		if c.Required && c.Value == 0 {
			notes = append(notes, fmt.Sprintf("no machine runs here: KVM lacks %s (%s); use a newer kernel", c.Name, c.Use))
		}
	}
	if h.EmulatedRing0 {
		notes = append(notes, "guest kernel code is emulated, some 0.5 us an instruction: the embedded guest runs well, Linux does not boot")
		notes = append(notes, "a guest's RDTSC reads the host's counter: time measured by it jumps when a guest moves between hosts")
	}
	if !h.TSCScaling {
		notes = append(notes, fmt.Sprintf("guests whose TSC does not run at %d kHz (within %d ppm) are refused: the TSC cannot be scaled", h.TSCKHz, tscTolerancePPM))
	}
	if !h.ClockRealtime {
		notes = append(notes, "kvmclock is set without KVM's help after a migration, to within some microseconds")
	}
	if h.RecommendedCPUs < h.MaxCPUs {
		notes = append(notes, fmt.Sprintf("KVM recommends at most %d vCPUs, one for each CPU", h.RecommendedCPUs))
	}
	return notes
}
