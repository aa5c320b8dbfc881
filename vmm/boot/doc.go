// Package boot turns a kernel file into what a machine starts from: the content of its memory, and
// the registers of its first vCPU.
//
// There are three kinds of kernel, and the file itself says which it is:
//
//	PVH        an ELF file with a note that names an entry point, entered in 32-bit protected mode.
//	           Our embedded guest is one, and Linux with CONFIG_PVH. elf.go, pvh.go
//	bzImage    Linux' own format, entered at its 64-bit entry point with page tables. bzimage.go
//	multiboot  a file that has a multiboot header near its beginning, entered in 32-bit protected
//	           mode. GNU Mach and Xen are two of these. multiboot.go
//
// A file can be of two kinds. PVH counts for more than multiboot, and bzImage for more than both.
//
// [Parse] reads the file, and [Load] puts the kernel, an initrd, a command line and a map of memory
// into an [Image]. Every kernel gets the tables by which it finds processors and interrupt
// controllers, where a PC's firmware has them: ACPI, and the MP table for kernels that do not know
// ACPI. ACPI also describes the other hardware (dsdt.asl), and how to switch the machine off.
// acpi.go, mptable.go
//
// There is no firmware, so none of this runs in the guest.
//
// The functions are pure: they use no machine, KVM or file system. Kernel files are not trusted. An
// Image lies within the RAM that it was made for, whatever its file says; a fuzz test checks that.
package boot
