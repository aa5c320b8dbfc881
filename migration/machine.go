package migration

import (
	"context"

	"taskguide/dirtylog"
	"taskguide/memory"
	"taskguide/tagging"
)

// Machine is what the source engine sees of a virtual machine. The engine owns
// nothing of it: after a failed or cancelled migration the machine is as it was,
// running (if it ran before) with dirty logging off.
//
// Pause and Resume are not counted: the engine calls Resume only if it paused a
// running machine itself.
type Machine interface {
	// Config describes the machine to a destination, which builds one like it:
	// RAM size, vCPUs, CPUID. The bytes are opaque to the engine.
	Config() ([]byte, error)
	// RAM is the guest's memory, live: pages change while they are read.
	RAM() *memory.RAM
	// Tracker reports pages written by the guest and by the machine's own devices.
	Tracker() dirtylog.Tracker
	// Tags is the tag port, whose gate guides the migration.
	Tags() *tagging.Port
	// Running tells whether the vCPUs run. A machine paused by its user migrates and stays paused.
	Running() bool
	// RequestPause asks the vCPUs to stop and returns at once, so that a vCPU's own
	// thread may call it from an exit. Pause completes it.
	RequestPause()
	// Pause returns once no vCPU runs, no I/O access of theirs is half done, and no device
	// writes RAM or changes its state.
	Pause() error
	// Resume lets the vCPUs run again.
	Resume() error
	// SaveState returns the device and vCPU state of a paused machine.
	SaveState() ([]byte, error)
	// ReleaseDisks makes durable what the guest wrote to the disks of a paused machine, and lets go
	// of them, so that the destination can take them. If ctx ends before, or after an error, they
	// stay here. Resume takes them back.
	ReleaseDisks(ctx context.Context) error
	Comparable
}

// Comparable is a paused machine whose state can be compared with that of its copy at the other end
// of a migration. The state is read back from KVM and the devices, and leaves out what passes with
// time (clocks, running timers).
type Comparable interface {
	// Fingerprint is the state, part by part. The bytes are opaque to the engine.
	Fingerprint() ([]byte, error)
	// CompareStates compares the fingerprints of both ends; one of them comes from another host.
	// The error says what differs, with the values at both ends.
	CompareStates(source, destination []byte) error
	// StateDigest is a checksum of the fingerprint, for peers that cannot compare fingerprints. It
	// is equal on both sides of a faithful migration.
	StateDigest() (uint64, error)
}

// Incoming is what the destination engine sees of the machine that it fills.
type Incoming interface {
	RAM() *memory.RAM
	// LoadState loads what SaveState returned, while the vCPUs stand still.
	LoadState(state []byte) error
	Comparable
	// Run starts the vCPUs, or leaves them paused if the source's machine was.
	Run(paused bool) error
	// Discard frees the machine, which will never run. It is called on every failure before Run,
	// and never after Run.
	Discard()
}

// Builder makes the destination's machine from the source's configuration. It returns an error that
// names the reason if this host cannot run the machine.
type Builder interface {
	Build(config []byte) (Incoming, error)
}
