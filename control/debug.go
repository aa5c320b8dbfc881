package control

import "fmt"

// Debug is what the vCPUs and the devices with queues are doing. It helps to find out why a guest
// hangs.
type Debug struct {
	VCPUs   []VCPUDebug   `json:"vcpus"`
	Devices []DeviceDebug `json:"devices"`
	Console ConsoleDebug  `json:"console"`
}

// ConsoleDebug counts the bytes of the guest's output on its first console, COM1, in this process.
// Those that were printed and are neither written nor lost wait for whoever reads them.
type ConsoleDebug struct {
	Printed int64 `json:"printed"`
	Written int64 `json:"written"`
	Lost    int64 `json:"lost"`
}

// DeviceDebug is what one device is doing.
type DeviceDebug struct {
	Name string `json:"name"`
	// State is unused, set-up, working or broken.
	State string `json:"state"`
	// Broken says why it is broken, if this process knows.
	Broken string       `json:"broken,omitempty"`
	Queues []QueueDebug `json:"queues"`
}

// QueueDebug is the state of a device's queue.
type QueueDebug struct {
	Size  int  `json:"size"`
	Ready bool `json:"ready"`
	// Available counts the chains that the driver has put in, and Used those that the device has
	// given back, modulo 65536. InFlight are those that the device has.
	Available int `json:"available"`
	Used      int `json:"used"`
	InFlight  int `json:"in_flight"`
}

// VCPUDebug is what one vCPU is doing.
type VCPUDebug struct {
	ID int `json:"id"`
	// Error says why the fields below are unknown. It is empty if they are known.
	Error string `json:"error,omitempty"`
	// MPState is KVM's state of the vCPU: runnable, halted, uninitialized, ...
	MPState string   `json:"mp_state"`
	RIP     Register `json:"rip"`
	// LVTT is the LAPIC's timer register. In TSC-deadline mode, the timer fires when TSC reaches
	// TSCDeadline, unless that is 0.
	LVTT        Register `json:"lvtt"`
	TSCDeadline Register `json:"tsc_deadline"`
	TSC         Register `json:"tsc"`
	// IRR are the interrupt vectors that the LAPIC has requested, ISR those in service.
	IRR []int `json:"irr"`
	ISR []int `json:"isr"`
	// Exits counts how often the vCPU came out of the guest to this process, for an access to a
	// device for instance.
	Exits uint64 `json:"exits"`
}

// Register is a processor's register. In JSON it is a hexadecimal string, because many programs
// keep only 53 bits of a number.
type Register uint64

// String returns the register in hexadecimal.
func (r Register) String() string { return fmt.Sprintf("%#x", uint64(r)) }

// MarshalText implements [encoding.TextMarshaler].
func (r Register) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (r *Register) UnmarshalText(text []byte) error {
	if _, err := fmt.Sscanf(string(text), "0x%x", (*uint64)(r)); err != nil {
		return fmt.Errorf("register %q: want a number as 0x1f", text)
	}
	return nil
}
