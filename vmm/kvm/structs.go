package kvm

import gokvm "github.com/bobuhiro11/gokvm/kvm"

// Structures that gokvm has right, under their names in linux/kvm.h in Go's spelling.
type (
	Capability   = gokvm.Capability
	ExitType     = gokvm.ExitType
	MemoryRegion = gokvm.UserspaceMemoryRegion
	ClockData    = gokvm.ClockData
	IRQChip      = gokvm.IRQChip
	PITState2    = gokvm.PITState2

	Regs        = gokvm.Regs
	Sregs       = gokvm.Sregs
	Segment     = gokvm.Segment
	Descriptor  = gokvm.Descriptor
	Translation = gokvm.Translation
	MSREntry    = gokvm.MSREntry
	LAPICState  = gokvm.LAPICState
	CPUIDEntry  = gokvm.CPUIDEntry2
	MPState     = gokvm.MPState
	VCPUEvents  = gokvm.VCPUEvents
	DebugRegs   = gokvm.DebugRegs
	XCRS        = gokvm.XCRS
)

// Exits of a vCPU.
const (
	ExitIO            = gokvm.EXITIO
	ExitMMIO          = gokvm.EXITMMIO
	ExitDebug         = gokvm.EXITDEBUG
	ExitIRQWindowOpen = gokvm.EXITIRQWINDOWOPEN
	ExitShutdown      = gokvm.EXITSHUTDOWN
	ExitFailEntry     = gokvm.EXITFAILENTRY
	ExitIntr          = gokvm.EXITINTR
	ExitInternalError = gokvm.EXITINTERNALERROR

	// ExitDirtyRingFull is KVM_EXIT_DIRTY_RING_FULL, which gokvm's list does not have.
	ExitDirtyRingFull ExitType = 31
)

// Capabilities.
const (
	CapIRQChip            = gokvm.CapIRQChip
	CapUserMemory         = gokvm.CapUserMemory
	CapSetTSSAddr         = gokvm.CapSetTSSAddr
	CapNRVCPUS            = gokvm.CapNRVCPUS // how many vCPUs KVM recommends
	CapNRMemSlots         = gokvm.CapNRMemSlots
	CapMPState            = gokvm.CapMPState
	CapPIT2               = gokvm.CapPIT2
	CapSetIdentityMapAddr = gokvm.CapSetIdentityMapAddr
	CapAdjustClock        = gokvm.CapAdjustClock
	CapVCPUEvents         = gokvm.CapVCPUEvents
	CapDebugRegs          = gokvm.CapDebugRegs
	CapXSave              = gokvm.CapXSave
	CapXCRS               = gokvm.CapXCRS
	CapTSCControl         = gokvm.CapTSCControl
	CapGetTSCKHz          = gokvm.CapGetTSCkHz
	CapMaxVCPUS           = gokvm.CapMAXVCPUS
	CapTSCDeadlineTimer   = gokvm.CapTSCDeadlineTimer
	CapKVMClockCtrl       = gokvm.CapKVMClockCtrl
	CapVCPUAttributes     = gokvm.CapVCPUAttributes
	CapImmediateExit      = gokvm.CapImmediateExit
	CapManualProtect2     = gokvm.CapManualDirtyLogProtect2
	CapXSave2             = gokvm.CapXSave2
	CapPMUCapability      = gokvm.CapPMUCapability
	CapDirtyLogRing       = gokvm.CapDirtyLogRingACQRel
)

const (
	// PMUDisable is KVM_PMU_CAP_DISABLE.
	PMUDisable = 1 << 0

	// PITSpeakerDummy is KVM_PIT_SPEAKER_DUMMY: KVM also answers port 0x61.
	PITSpeakerDummy = 1 << 0

	// ClockRealtime is KVM_CLOCK_REALTIME and ClockHostTSC KVM_CLOCK_HOST_TSC: flags of
	// [ClockData] and bits of [CapAdjustClock].
	ClockRealtime = 1 << 2
	ClockHostTSC  = 1 << 3

	// TSCTolerancePPM is how far TSC frequencies may differ before KVM scales, in parts per
	// million.
	TSCTolerancePPM = 250
)

// IRQLevel is struct kvm_irq_level.
type IRQLevel struct {
	IRQ   uint32
	Level uint32
}

// PITConfig is struct kvm_pit_config.
type PITConfig struct {
	Flags uint32 // PITSpeakerDummy
	_     [15]uint32
}

// Enabling is struct kvm_enable_cap.
type Enabling struct {
	Capability uint32
	_          uint32 // flags, none defined
	Args       [4]uint64
	_          [64]byte
}

// DeviceAttr is struct kvm_device_attr. gokvm has none.
type DeviceAttr struct {
	_     uint32 // flags, none defined
	Group uint32
	Attr  uint64
	Addr  *uint64
}

// MaxCPUID bounds a CPUID table; KVM's own bound is 256 (KVM_MAX_CPUID_ENTRIES).
const MaxCPUID = 256

// CPUID is struct kvm_cpuid2 with room for entries.
type CPUID struct {
	N       uint32
	_       uint32
	Entries [MaxCPUID]CPUIDEntry
}

// MaxMSRs bounds the MSRs of one machine.
const MaxMSRs = 1024

// MSRTable is struct kvm_msrs with room for entries.
type MSRTable struct {
	N       uint32
	_       uint32
	Entries [MaxMSRs]MSREntry
}

// MSRList is struct kvm_msr_list with room for indices.
type MSRList struct {
	N       uint32
	Indices [MaxMSRs]uint32
}
