package abi

import "time"

// These say where the registers are, and how much address space they take.
const (
	PortBase  = 0x0d00     // I/O port of the first register
	PortBytes = 0x40       // of I/O ports
	MMIOBase  = 0xd0000000 // guest-physical address of the same registers
	MMIOBytes = 4096
)

// These are the offsets of the registers, which are 32-bit words, little-endian.
const (
	RegID         = 0x00
	RegVersion    = 0x04
	RegEnter      = 0x08
	RegExit       = 0x0c
	RegState      = 0x10
	RegEpoch      = 0x14
	RegRegister   = 0x18
	RegUnregister = 0x1c
	RegPageLo     = 0x20
	RegPageHi     = 0x24
	RegClockLo    = 0x28
	RegClockHi    = 0x2c
	RegDeadlineMS = 0x30
	RegClones     = 0x34
	RegPages      = 0x38
)

// RegID and RegVersion read as these values.
const (
	ID      = 0x31474154 // "TAG1"
	Version = 1
)

// MigrationState is what a guest reads from RegState.
type MigrationState uint32

// The states of a migration.
const (
	StateNone          MigrationState = 0 // no migration
	StateWaiting       MigrationState = 1 // requested, waiting for the gate
	StatePreCopy       MigrationState = 2
	StateSuspended     MigrationState = 3 // the gate closed; no page is sent
	StateSwitchingOver MigrationState = 4
)

// The tag page is the same as struct tag_page of tag.h.
const (
	PageSize    = 4096
	PageMagic   = 0x50474154 // "TAGP"
	PageVersion = 1
	PageSlots   = 63

	// SlotNameBytes is how many bytes a slot has for its task's name.
	SlotNameBytes = 32
)

// The tag device as a PCI function. Its BAR 0 is a page of the same registers, and its BAR 2 is
// device RAM that holds tag pages.
const (
	PCIVendor   = 0xf055
	PCIDevice   = 0x7461
	DevicePages = 16
	DeviceBytes = DevicePages * PageSize
)

// MaxTerm is the longest term of a page's lease. The host ends a lease of a longer term then, too.
const MaxTerm = 10 * time.Minute

// A tag page of guest RAM may have a table of declared ranges, which takes the second half of the
// page. Then only RangesSlots of its slots are there. Each entry is 64 bits: the number of pages in
// the low RangePageBits, 0 for an entry that is not used, and above them the number of the first
// page.
const (
	Ranges        = 256
	RangesAt      = 0x800
	RangesSlots   = 31
	RangePageBits = 24
)

// A slot's flags have these values.
const (
	SlotFree    = 0
	SlotUsed    = 1
	SlotClaimed = 2 // being set up; the host ignores it
)
