// Package kvm is KVM's interface to user space (Documentation/virt/kvm/api.rst, linux/kvm.h): its
// requests, structures and capabilities, in one place.
//
// # File descriptors
//
// Programs call KVM by ioctl. There are three kinds of file descriptor, each made from the one
// before:
//
//	system   /dev/kvm           what does this KVM offer; make a VM
//	VM       a virtual machine  its memory, interrupt controllers, clock; make a vCPU
//	vCPU     a virtual CPU      its registers; run it
//
// [FD] stands for all of them. KVM refuses a request to the wrong kind.
//
// # Requests
//
// A request is a number that says which one it is and which structure goes with it. [Request] has
// the structure's Go type beside the number, so that a program that passes another type does not
// compile:
//
//	err := kvm.GetRegs.Do(vcpu, &regs)
//
// Structures come from gokvm if it has them right. The calls are made here, not by gokvm's helpers,
// because those treat an interrupted KVM_RUN as success, marshal MSRs by reflection, and pass
// pointers through Go calls as integers, which the garbage collector does not see.
//
// # Events
//
// Two things need no vCPU's thread. With [FD.WatchStores] a guest's store signals an [EventFD].
// With [FD.DeliverEvents] a signal raises an interrupt, which goes where [FD.SetRoutes] says. KVM
// takes all routes at once, and takes a while, so a caller collects changes first.
//
// # Shared memory
//
// KVM shares two pieces of memory with the owner of a vCPU: [RunArea], where KVM_RUN says why it
// came back, and [DirtyRing], to which it appends the pages that the vCPU dirties.
package kvm
