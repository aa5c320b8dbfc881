/* Configuration space of PCI bus 0, by I/O ports: function 0 of each slot. */
#ifndef PCI_H
#define PCI_H
#include "lib.h"

#define PCI_SLOTS 32
#define PCI_ID 0x00 /* vendor in the low half, device in the high half */
#define PCI_COMMAND 0x04
#define PCI_CAPABILITIES 0x34
#define PCI_ABSENT 0xffffffff

/* The 32-bit register at an offset, which is a multiple of 4. */
uint32_t pci_read(unsigned slot, unsigned offset);
void pci_write(unsigned slot, unsigned offset, uint32_t value);
/* Any byte of it. */
uint8_t pci_read_byte(unsigned slot, unsigned offset);
/* Lets the device answer in its BARs and access RAM, without interrupts by a line. */
void pci_enable(unsigned slot);
/* The address of a BAR, at which CPL 3 reaches it. Ends the VM with STATUS_USAGE if it does not. */
uint64_t pci_bar(unsigned slot, unsigned number);
#endif
