// Package vmm is a small virtual machine monitor on KVM whose machines can move.
//
// # How little a monitor has to do
//
// KVM runs guest code on the processor itself and comes back when it meets something
// that only the monitor can do. What is left to the monitor:
//
//   - Memory. Guest RAM is memory of this process (package memory), registered with
//     KVM in one slot for each guest-physical range: [0, 3 GiB) and from 4 GiB on. What
//     lies between belongs to devices. vm.go
//   - vCPUs. Each is a thread that calls KVM_RUN in a loop. KVM_RUN returns when the
//     guest accessed a port or an address that is a device's; struct kvm_run, shared
//     with KVM, says which, and takes the answer. run.go, vcpu.go, ioctl.go
//   - Devices. A serial port, an exit port, the reset line, the tag port (package
//     tagging). Interrupt controllers and timers are KVM's own: a device drives an
//     input line and KVM does the rest. bus.go, serial.go, console.go
//   - What the guest takes for its processor: the CPUID table. cpuid.go
//   - Boot. A kernel copied into RAM, a few tables, and the registers of the first
//     vCPU. boot.go, elf.go, pvh.go, bzimage.go, mptable.go, acpi.go
//
// # A machine's life
//
//	New or NewFromConfig --> paused --Resume--> running --> ended --Close--> freed
//	                           ^                  |
//	                           +------Pause-------+
//
// A new machine is paused. Boot or LoadState give it something to run. It ends when
// its guest says so, crashes, or Stop is called; Wait tells which.
//
// # Standing still
//
// A vCPU can be stopped at any time, and when it has stopped, nothing of it is half
// done. Both take some care:
//
// Getting it out of KVM_RUN takes a signal, which comes too late for a vCPU that is
// just about to enter. So whoever wants a pause first sets the byte immediate_exit in
// struct kvm_run, which makes the next KVM_RUN return at once, and then sends the
// signal; between the two, no vCPU can slip through.
//
// An access to a device is complete only when KVM_RUN is called again: that call
// takes a read's result into the guest's register and moves the instruction pointer
// on. A state that is saved before would repeat or lose the access. So a vCPU that is
// to stop enters once more with immediate_exit set. KVM finishes the access and comes
// back without running the guest, or with another access of the same instruction,
// which is handled in the same way.
//
// A pause may even be requested from within an access, by the thread that handles it:
// the guest then stands right behind this instruction. That is how a migration
// switches over at the very moment at which a program of the guest allows it.
//
// # Moving
//
// What makes up a machine is said in three parts. Its configuration (config.go) is
// fixed for life: RAM size, vCPUs, CPUID table, TSC frequency. The destination builds
// a machine from it, or refuses: a guest asks once what its processor can do and
// relies on the answer, so every feature that it was told of must be there
// (features.go). RAM is sent page by page while the guest goes on writing it, for
// which package dirtylog says which pages are written; what this package itself writes
// into RAM is added by tracker.go. The rest, some kilobytes, is the state: registers,
// interrupt controllers, timers, devices (state.go, save.go, msr.go, xsave.go), read
// from KVM and loaded in an order that matters.
//
// Time goes on while a machine moves. kvmclock and the time-stamp counters are set to
// what they would be had they run on, by the hosts' clocks (tsc.go).
//
// StateDigest (digest.go) sums up the state without such times, so that the two sides
// of a migration can compare.
//
// # What is not trusted
//
// Kernel files, a configuration and a state that come from elsewhere, and every access
// of the guest. Each is checked before use, and a fuzz test feeds its decoder.
package vmm
