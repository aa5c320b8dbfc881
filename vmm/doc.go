// Package vmm is a small virtual machine monitor on KVM whose machines can move.
//
// # How little a monitor has to do
//
// KVM runs guest code on the processor itself and returns when it meets something that only the
// monitor can do. The monitor's work is:
//
//   - Memory. Guest RAM is memory of this process (package memory), registered with KVM in one slot
//     for each guest-physical range: [0, 3 GiB) and from 4 GiB on. The range between belongs to
//     devices; RAM that a device has there is a slot of its own. vm.go
//   - vCPUs. Each is a thread that calls KVM_RUN in a loop. KVM_RUN returns when the
//     guest accessed a port or an address that is a device's; struct kvm_run, shared
//     with KVM, says which, and takes the answer. run.go, vcpu.go
//   - Devices (package device). A serial port, an exit port, the reset line, the tag port, a PCI
//     bus with virtio devices. Interrupt controllers and timers are in KVM: a device drives an
//     input line, or sends a message, and KVM does the rest. devices.go, events.go
//   - The CPUID table, which tells the guest what its processor can do. cpuid.go, package cpu
//   - Boot. A kernel copied into RAM, a few tables, and the registers of the first
//     vCPU. boot.go, package boot
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
// A vCPU can be stopped at any time, and when it has stopped, none of its accesses is half done.
// Both need some care:
//
// A signal gets a vCPU out of KVM_RUN, but it comes too late for one that is just about to enter.
// So a pause first sets the byte immediate_exit in struct kvm_run, which makes the next KVM_RUN
// return at once, and then sends the signal. No vCPU can slip through between the two.
//
// An access to a device is complete only when KVM_RUN is called again: that call takes a read's
// result into the guest's register and moves the instruction pointer on. A state that is saved
// before that would repeat or lose the access. So a vCPU that is to stop enters once more with
// immediate_exit set. KVM finishes the access and comes back without running the guest, or with
// another access of the same instruction, which is handled in the same way.
//
// When all vCPUs stand still, the devices are quiesced: they may have goroutines that
// write RAM or raise interrupts without any vCPU. So Pause promises three things: no vCPU
// runs, no access is half done, and no device writes RAM or changes its state. A device that may
// wait for the host, like a disk, is drained before the vCPUs stop, so that slow storage holds up
// nobody but itself. quiesce.go
//
// The thread that handles an access may itself request a pause: the guest then stands right behind
// this instruction. So a migration can switch over at the very moment at which a program in the
// guest allows it.
//
// # Moving
//
// A machine consists of three parts. Its configuration (config.go) is fixed for life: RAM size,
// vCPUs, CPUID table, TSC frequency. The destination builds a machine from it, or refuses. A guest
// asks once what its processor can do and relies on the answer, so every feature that it was told
// of must be there (package cpu). RAM is sent page by page while the guest goes on writing it, and
// package dirtylog says which pages are written. memory.Guest marks the pages that devices and this
// package write, and tracker.go adds them. The rest, some kilobytes, is the state: registers,
// interrupt controllers, timers, devices, read from KVM and loaded in an order that matters
// (state.go, save.go, msr.go, xsave.go). It is cut into sections (package state), so that older and
// newer programs read each other's.
//
// Time goes on while a machine moves. kvmclock and the time-stamp counters are set to
// what they would be had they run on, by the hosts' clocks (tsc.go), and so are the
// local APICs' timers (lapictimer.go). A counter's frequency is the one that the host's kernel has
// measured, and not its first guess.
//
// Fingerprint (digest.go) is the state without these times, so that the two sides of a
// migration can compare it and name what differs (compare.go).
//
// # What is not trusted
//
// Kernel files, a configuration and a state from elsewhere, and every access of the guest are not
// trusted. Each is checked before use, and a fuzz test feeds its decoder.
package vmm
