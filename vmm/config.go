package vmm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/bobuhiro11/gokvm/kvm"

	"taskguide/dirtylog"
	"taskguide/memory"
)

// MaxCPUs is how many vCPUs a machine can have.
const MaxCPUs = 8

// Config says what machine to make.
type Config struct {
	MemoryBytes int64 // RAM; from 16 MiB up, a multiple of 1 MiB
	CPUs        int   // vCPUs, 1 to MaxCPUs
	Options
}

// Options are what a machine has on this host and what does not move with it.
type Options struct {
	// Console gets what the guest sends to COM1; nil drops it. It is written by one
	// goroutine of the machine's own and may block: see [VM.RequestPause].
	Console io.Writer
	// DirtyLog says how writes are tracked. The zero value is KVM_GET_DIRTY_LOG. With
	// dirtylog.KindManualProtect, which dirtylog.Auto may choose, [VM.Tracker] is a
	// dirtylog.Protector.
	DirtyLog dirtylog.Kind
	// RAM is fresh memory that the machine takes over if it is of the right size; nil
	// or of another size, the machine makes its own, and RAM stays the caller's.
	RAM *memory.RAM

	ringBytes int // of each vCPU, for tests; 0 is dirtylog.RingBytes
}

// configVersion is the version of machineConfig.
const configVersion = 1

// machineConfig is what a destination must know to make a machine like ours. It
// crosses hosts as JSON.
type machineConfig struct {
	Version     int          `json:"version"`
	MemoryBytes int64        `json:"memory_bytes"`
	CPUs        int          `json:"cpus"`
	TSCKHz      uint32       `json:"tsc_khz"`
	XSaveBytes  int          `json:"xsave_bytes"`
	MSRs        []uint32     `json:"msrs"`  // indices, all saved and loaded
	CPUID       []cpuidEntry `json:"cpuid"` // of vCPU 0
}

// cpuidEntry is struct kvm_cpuid_entry2 for JSON.
type cpuidEntry struct {
	Function uint32 `json:"function"`
	Index    uint32 `json:"index"`
	Flags    uint32 `json:"flags"`
	EAX      uint32 `json:"eax"`
	EBX      uint32 `json:"ebx"`
	ECX      uint32 `json:"ecx"`
	EDX      uint32 `json:"edx"`
}

func (e cpuidEntry) kvm() kvm.CPUIDEntry2 {
	return kvm.CPUIDEntry2{
		Function: e.Function, Index: e.Index, Flags: e.Flags,
		Eax: e.EAX, Ebx: e.EBX, Ecx: e.ECX, Edx: e.EDX,
	}
}

// ErrConfig is returned for a machine configuration that is not one of ours or
// makes no sense.
var ErrConfig = errors.New("invalid machine configuration")

// maxConfigBytes bounds a configuration from another host. A full CPUID table and
// MSR list take some 60 KiB.
const maxConfigBytes = 1 << 20

// parseConfig decodes and checks a configuration from another host. It says
// nothing about whether this host can run it.
func parseConfig(data []byte) (*machineConfig, error) {
	if len(data) > maxConfigBytes {
		return nil, fmt.Errorf("%w: %d bytes is more than any machine needs", ErrConfig, len(data))
	}
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if version.Version != configVersion {
		return nil, fmt.Errorf("%w: version %d, this program knows version %d: use the same program on both hosts",
			ErrConfig, version.Version, configVersion)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	var c machineConfig
	if err := d.Decode(&c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: something follows the JSON object", ErrConfig)
	}
	return &c, c.check()
}

func (c *machineConfig) check() error {
	if err := memory.CheckSize(c.MemoryBytes); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if err := checkCPUs(c.CPUs); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	switch {
	case len(c.CPUID) == 0 || len(c.CPUID) > maxCPUID:
		return fmt.Errorf("%w: %d CPUID entries, want 1 to %d", ErrConfig, len(c.CPUID), maxCPUID)
	case len(c.MSRs) > maxMSRs:
		return fmt.Errorf("%w: %d MSRs, want at most %d", ErrConfig, len(c.MSRs), maxMSRs)
	case c.TSCKHz == 0:
		return fmt.Errorf("%w: no TSC frequency", ErrConfig)
	case c.XSaveBytes < xsaveMinBytes || c.XSaveBytes > xsaveMaxBytes:
		return fmt.Errorf("%w: XSAVE area of %d bytes, want %d to %d", ErrConfig, c.XSaveBytes, xsaveMinBytes, xsaveMaxBytes)
	}
	return c.checkUnique()
}

// checkUnique refuses tables in which one key has two values: which of them counts
// would be up to KVM.
func (c *machineConfig) checkUnique() error {
	leaves := make(map[[2]uint32]bool)
	for _, e := range c.CPUID {
		key := [2]uint32{e.Function, e.Index}
		if leaves[key] {
			return fmt.Errorf("%w: CPUID leaf %#x.%d twice", ErrConfig, e.Function, e.Index)
		}
		leaves[key] = true
	}
	msrs := make(map[uint32]bool)
	for _, i := range c.MSRs {
		if msrs[i] {
			return fmt.Errorf("%w: MSR %#x twice", ErrConfig, i)
		}
		msrs[i] = true
	}
	return nil
}

// ErrCPUs is returned for a number of vCPUs that no machine can have.
var ErrCPUs = errors.New("invalid number of vCPUs")

func checkCPUs(n int) error {
	if n < 1 || n > MaxCPUs {
		return fmt.Errorf("%w: %d, want 1 to %d", ErrCPUs, n, MaxCPUs)
	}
	return nil
}
