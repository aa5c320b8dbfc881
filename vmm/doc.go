// Package vmm is a small virtual machine monitor on KVM whose machines can move.
//
// KVM runs guest code on the processor itself and comes back when it meets something
// that only the monitor can do. What is left to the monitor is little:
//
//   - memory: guest RAM is memory of this process, registered with KVM in slots;
//   - vCPUs: a thread each, which calls KVM_RUN in a loop and handles what the guest
//     exited for, nearly always an access to a port or an address that is a device's;
//   - devices: a serial port, an exit port, the tag port; interrupt controllers and
//     timers are KVM's own;
//   - boot: a kernel copied into RAM, and the registers of the first vCPU.
//
// A machine that moves needs three things more. It can stand still: every vCPU is
// taken out of KVM_RUN at any time, with no access half done. It can be written down:
// all that is not RAM, read from KVM and the devices, and loaded into another machine
// of the same make. And it says which pages its guest writes: package dirtylog.
//
// # A machine's life
//
//	New or NewFromConfig --> paused --Resume--> running --> ended
//	                           ^                  |
//	                           +------Pause-------+
//
// A new machine is paused. Boot or LoadState give it something to run.
package vmm
