package device

import "taskguide/vmm/state"

// New returns devices for a machine, not attached yet: those listed here, then more. They are
// attached, resumed, saved and loaded in this order, and quiesced in reverse.
func New(c Console, more ...Device) *Set {
	s := &Set{Serial: NewSerial(c), Tags: &Tags{}, ACPI: &ACPI{}}
	s.devices = append([]Device{s.Serial, s.Tags, &Exit{}, &I8042{}, &CMOS{}, s.ACPI}, more...)
	return s
}

// stateless are the devices without state that every machine has had from the beginning. They are
// not announced, and this list never changes.
var stateless = []string{"exit", "i8042", "cmos"}

// Base returns the sections of devices that every machine has had from the beginning. They are not
// announced, and this list never changes: see docs/compatibility.md.
func Base() state.Catalog {
	return state.Catalog{{Name: "serial", Version: 1}, {Name: "tags", Version: 1}}
}
