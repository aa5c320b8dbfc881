package vmm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"taskguide/dirtylog"
	"taskguide/memory"
	"taskguide/vmm/cpu"
	"taskguide/vmm/device"
	"taskguide/vmm/device/virtio"
	"taskguide/vmm/state"
)

// MaxCPUs is how many vCPUs a machine can have.
const MaxCPUs = cpu.MaxVCPUs

// Config says what machine to make.
type Config struct {
	MemoryBytes int64 // RAM; from 16 MiB up, a multiple of 1 MiB
	CPUs        int   // vCPUs, 1 to MaxCPUs
	// CPU are the hosts that must be able to run the guest, besides this one; a nil entry stands
	// for this host. The guest sees what they have in common. Without any, it sees all that this
	// host has.
	CPU []*cpu.Processor
	// Balloon says what becomes of memory that the guest does not use. Empty means BalloonOff.
	Balloon Balloon
	Options
}

// Output is where what a guest prints goes.
type Output = device.Console

// Balloon says what becomes of memory that a guest does not use.
type Balloon string

const (
	BalloonOff       Balloon = "off"       // the guest keeps it
	BalloonReporting Balloon = "reporting" // the guest reports it, and the host takes it
)

// Options are what a machine has on this host and what does not move with it.
type Options struct {
	// Console gets what the guest sends to COM1; nil drops it. One goroutine of the machine writes
	// to it, and it may block: see [device.Console].
	Console io.Writer
	// ConsoleLossy, unless nil, is called when output is lost, see [device.Console].
	ConsoleLossy func(lost int64)
	// HVC gets what the guest sends to its second console, hvc0 for Linux. See [virtio.Console].
	HVC Output
	// DirtyLog says how writes are tracked. The zero value is KVM_GET_DIRTY_LOG. With
	// dirtylog.KindManualProtect, which dirtylog.Auto may choose, the pages of
	// [VM.Tracker] are protected on demand.
	DirtyLog dirtylog.Kind
	// Disks are the machine's, in the order in which its guest finds them.
	Disks []Disk
	// Nets are the machine's network cards, in the order in which its guest finds them.
	Nets []Net
	// Vsock is the machine's; nil: it has none.
	Vsock *Vsock
	// Log gets the messages of devices; nil drops them.
	Log *slog.Logger
	// Devices are those that the machine has besides the ones from package vmm. A machine from
	// elsewhere gets only those that it already had.
	Devices []device.Device
	// RAM is fresh memory that the machine takes over if it has the right size. Otherwise, or if it
	// is nil, the machine makes its own, and RAM stays the caller's.
	RAM *memory.RAM

	ringBytes    int // of each vCPU, for tests; 0 is dirtylog.RingBytes
	consoleBytes int // of the console's queue, for tests; see device.Console
}

func (o Options) log() *slog.Logger {
	if o.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Log
}

// configVersion is the version of machineConfig.
const configVersion = 2

// machineConfig is what a destination must know to make an equal machine. It crosses hosts as JSON.
type machineConfig struct {
	Version     int       `json:"version"`
	MemoryBytes int64     `json:"memory_bytes"`
	CPUs        int       `json:"cpus"`
	TSCKHz      uint32    `json:"tsc_khz"`
	XSaveBytes  int       `json:"xsave_bytes"`
	MSRs        []uint32  `json:"msrs"`  // indices, all saved and loaded
	CPUID       cpu.Table `json:"cpuid"` // of vCPU 0
	// Sections announces the sections that the machine's state will have, beyond those that every
	// machine has. A destination that cannot read them refuses before a page is sent.
	Sections []state.Kind `json:"sections,omitempty"`
	// Disks are the machine's. A destination must have the same.
	Disks []virtio.DiskIdentity `json:"disks,omitempty"`
	// Nets are the machine's network cards. A destination must have the same.
	Nets []virtio.NetIdentity `json:"nets,omitempty"`
	// Vsock is the machine's, if it has one. A destination must have the same.
	Vsock *virtio.VsockIdentity `json:"vsock,omitempty"`
	// Optional holds what a destination may ignore if it does not know it. It refuses any other
	// unknown key by name. See options.
	Optional map[string]json.RawMessage `json:"optional,omitempty"`
}

// Keys of machineConfig.Optional.
const (
	// optionSpeaker says that KVM's PIT answers port 0x61: the gate and the output of channel 2,
	// with which kernels measure other clocks during boot. Machines of older programs do not have
	// it.
	optionSpeaker = "pit-speaker"
)

// options are the keys that this program knows. Their value is always true.
var options = []string{optionSpeaker}

// newOptions returns the options of a new machine.
func newOptions() map[string]json.RawMessage {
	all := make(map[string]json.RawMessage)
	for _, name := range options {
		all[name] = json.RawMessage("true")
	}
	return all
}

// has tells whether the machine has one of the options.
func (c *machineConfig) has(option string) bool { return string(c.Optional[option]) == "true" }

// keepOptions drops what this program does not know.
func (c *machineConfig) keepOptions() {
	kept := make(map[string]json.RawMessage)
	for _, name := range options {
		if c.has(name) {
			kept[name] = c.Optional[name]
		}
	}
	c.Optional = kept
}

// ErrConfig is returned for a machine configuration that is not from this program or is not valid.
var ErrConfig = errors.New("invalid machine configuration")

// maxConfigBytes bounds a configuration from another host. A full CPUID table and
// MSR list take some 60 KiB.
const maxConfigBytes = 1 << 20

// parseConfig decodes and checks a configuration from another host; reads are the state sections
// that this machine can read. It does not check whether this host can run the machine.
func parseConfig(data []byte, reads state.Catalog) (*machineConfig, error) {
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
		return nil, fmt.Errorf("%w: version %d, this program knows version %d: use the same "+
			"program on both hosts",
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
	return &c, c.check(reads)
}

func (c *machineConfig) check(reads state.Catalog) error {
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
		return fmt.Errorf("%w: XSAVE area of %d bytes, want %d to %d", ErrConfig, c.XSaveBytes,
			xsaveMinBytes, xsaveMaxBytes)
	}
	if err := reads.AdmitAll(c.Sections); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return c.checkUnique()
}

// checkUnique refuses tables in which one key has two values, because KVM would decide which one
// counts.
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
		if !cpu.MSRMoves(i) {
			return fmt.Errorf("%w: MSR %#x does not move", ErrConfig, i)
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
