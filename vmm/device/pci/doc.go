// Package pci is a machine's PCI bus: one host bridge, and the common part of the devices on it.
//
// # What a guest does with it
//
// A guest finds its devices by reading their configuration space. Each device has a slot on the bus
// with 256 bytes of it: who made the device, what it is, where its registers are, whether it may
// act. There are two ways to access it, and [Host] answers both:
//
//	ports 0xcf8 and 0xcfc    write the register's number to the one, access it at the other
//	memory at 0xe0000000     4096 bytes for each function, one after the other (ECAM)
//
// The registers that a driver works with are elsewhere in guest-physical memory. Their address is
// in the configuration space, in the base address register (BAR). A virtio device also has a
// window in its configuration space that leads to them, for guests that have not mapped memory.
//
// # What is fixed
//
// There is no firmware to configure this bus. Each device's kind fixes its slot and the address of
// its BAR ([Function]), so a machine has the same bus on every host. A guest may write a BAR, as it
// does to learn its size. The device answers at its fixed address, or not at all.
//
// # Interrupts
//
// A device has no interrupt line. It sends messages ([msix]): a table, which the guest fills in,
// says for each of the device's reasons which data to store at which address. The guest may mask an
// entry, or all of them. A message that is due meanwhile is noted as pending, and sent when the
// mask is lifted. Pending messages belong to the device's state.
//
// When a device's state is loaded, it says which messages its table holds
// ([device.Interrupt].Prepare). So the machine tells KVM the routes of all devices in one call,
// before the vCPUs run, and the first interrupts after a move wait for none.
package pci
