// Package tagpci is the tag port as a function on the PCI bus, for programs in guests whose kernels
// let them use a device, but neither physical memory nor I/O ports.
//
//	BAR 0   a page with the registers of the tag port, the same as at tagging.MMIOBase
//	BAR 2   64 KiB of the device's own RAM, prefetchable, for 16 tag pages
//
// A Linux guest finds the two as files, resource0 and resource2, which root can open and pass on to
// others, who map them without any right of their own.
//
// # RAM that is not the guest's
//
// A page of guest RAM is a bad tag page for a program under an operating system. The system may
// move the program's page to another frame, or give the frame to somebody else when the program
// dies, and the machine would write its word notify there. Device RAM has one place. The guest's
// accesses do not leave the machine: KVM has a memory slot for it, beside those of guest RAM. No
// dirty log and no round of a migration knows of that slot. Its content is saved with the
// function's state, when the vCPUs stand, and pages that are all zero take no room.
//
// Package tagging looks at the pages and says what is in them. This package has the bus, the life,
// and the thread that counts the pages' leases.
package tagpci
