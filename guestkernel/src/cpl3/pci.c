#include "pci.h"

#define PORT_ADDRESS 0xcf8
#define PORT_DATA 0xcfc
#define ADDRESS_ENABLED 0x80000000u

#define COMMAND_MEMORY 0x002
#define COMMAND_MASTER 0x004
#define COMMAND_NO_INTX 0x400
#define BAR_0 0x10
#define BAR_PORTS 1
#define BAR_64_BIT 4
#define BAR_FLAGS 0xfull

static void select(unsigned slot, unsigned offset)
{
	call_out32(PORT_ADDRESS, ADDRESS_ENABLED | slot << 11 | (offset & 0xfc));
}

uint32_t pci_read(unsigned slot, unsigned offset)
{
	select(slot, offset);
	return call_in32(PORT_DATA);
}

void pci_write(unsigned slot, unsigned offset, uint32_t value)
{
	select(slot, offset);
	call_out32(PORT_DATA, value);
}

uint8_t pci_read_byte(unsigned slot, unsigned offset)
{
	return (uint8_t)(pci_read(slot, offset) >> 8 * (offset & 3));
}

void pci_enable(unsigned slot)
{
	/* The upper half is the status, whose bits a 0 leaves alone. */
	uint32_t command = pci_read(slot, PCI_COMMAND) & 0xffff;

	pci_write(slot, PCI_COMMAND, command | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_NO_INTX);
}

/* boot.S maps these, and nothing else between them. */
static bool mapped(uint64_t address)
{
	return (address >= BAR_LOW && address < BAR_LOW_END) ||
	       (address >= BAR_HIGH && address < BAR_HIGH_END);
}

uint64_t pci_bar(unsigned slot, unsigned number)
{
	uint64_t bar = pci_read(slot, BAR_0 + 4 * number);
	struct line line = {0};

	if ((bar & (BAR_PORTS | BAR_64_BIT)) == BAR_64_BIT)
		bar |= (uint64_t)pci_read(slot, BAR_0 + 4 * number + 4) << 32;
	if ((bar & BAR_PORTS) == 0 && mapped(bar & ~BAR_FLAGS))
		return bar & ~BAR_FLAGS;
	put(&line, "usage: BAR ");
	put_dec(&line, number);
	put(&line, " in PCI slot ");
	put_dec(&line, slot);
	put(&line, " is ");
	put_hex(&line, bar);
	put(&line, ", which this guest cannot reach");
	usage_error(&line);
}
