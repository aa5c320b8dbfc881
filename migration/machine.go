package migration

import (
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
	// Running tells whether the vCPUs run; a machine paused by its user migrates
	// and stays paused.
	Running() bool
	// RequestPause asks the vCPUs to stop and returns at once, so that a vCPU's own
	// thread may call it from an exit. Pause completes it.
	RequestPause()
	// Pause returns once no vCPU runs and no I/O access of theirs is half done.
	Pause() error
	// Resume lets the vCPUs run again.
	Resume() error
	// SaveState returns the device and vCPU state of a paused machine.
	SaveState() ([]byte, error)
	// StateDigest sums up the state of a paused machine, read back from where it
	// lives, without what passes with time (clocks, running timers). It is equal on
	// both sides of a faithful migration.
	StateDigest() (uint64, error)
}

// Incoming is what the destination engine sees of the machine that it fills.
type Incoming interface {
	RAM() *memory.RAM
	// LoadState loads what SaveState returned; vCPUs stand still.
	LoadState(state []byte) error
	StateDigest() (uint64, error)
	// Run starts the vCPUs, or leaves them paused if the source's machine was.
	Run(paused bool) error
	// Discard frees the machine; it will never run. Called on every failure before
	// Run, never after.
	Discard()
}

// Builder makes the destination's machine from the source's configuration. It
// refuses (with an error that names the reason) what this host cannot run.
type Builder interface {
	Build(config []byte) (Incoming, error)
}
