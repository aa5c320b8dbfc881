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
	// thread may call it from an exit. Park completes it.
	RequestPause()
	// Park asks the vCPUs to stop, whether or not RequestPause did so before, and returns once no
	// vCPU runs and no I/O access of theirs is half done. Devices may still work.
	Park() error
	// Resume lets the vCPUs run again, and the devices work. It undoes all that Storage does.
	Resume() error
	// SaveState returns the device and vCPU state of a paused machine.
	SaveState() ([]byte, error)
	Storage
	Comparable
}

// Storage is what of a machine waits for the host, which may take long or hang. Each method returns
// soon after its ctx has ended, with an error that names what it waited for. What the host was
// asked for then goes on in the background.
type Storage interface {
	// Drain makes the devices begin nothing new, and returns once what they have begun is done and
	// its pages are marked. The vCPUs run on. Whatever it returns, Undrain undoes it, as long as
	// the vCPUs were not asked to pause.
	Drain(ctx context.Context) error
	Undrain()
	// Quiesce returns once no device of a parked machine writes RAM or changes its state. After
	// Drain it finds nothing to wait for.
	Quiesce(ctx context.Context) error
	// SyncDisks makes durable what the guest has written so far, while it runs.
	SyncDisks(ctx context.Context) error
	// TakeDisks returns an error if the machine does not have its disks, and cannot take them back.
	// A machine that stands still may have released them, and another one may have them since.
	TakeDisks(ctx context.Context) error
	// ReleaseDisks makes durable what the guest wrote to the disks of a quiesced machine, and lets
	// go of them, so that the destination can take them. After an error they stay here.
	ReleaseDisks(ctx context.Context) error
	// Busy names what the host has not done yet, in words for people. It is empty if that is
	// nothing. It does not wait.
	Busy() string
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
