/*
 * The part of the guest that runs at CPL 0: it maps the RAM, installs the descriptor tables, and
 * hands every vCPU over to user_start at CPL 3. It is kept this small because KVM without hardware
 * virtualization emulates CPL 0 instruction by instruction; whatever can be done at CPL 3 is done
 * there.
 */
#include "abi.h"

#define PAGE 4096ull
#define LARGE (2ull << 20)
#define GIB (1ull << 30)
#define E820_RAM 1

#define SEL_CODE64 0x08
#define SEL_UCODE 0x23
#define SEL_UDATA 0x2b
#define SEL_TSS 0x30

/* One entry of the hvm_start_info memory map (struct hvm_memmap_table_entry). */
struct memmap_entry {
	uint64_t addr, size;
	uint32_t type, reserved;
};

struct gate {
	uint16_t offset_low, selector, flags, offset_mid;
	uint32_t offset_high, reserved;
};

struct tss {
	uint32_t reserved0;
	uint64_t rsp0;
	uint32_t reserved1[22];
	uint16_t reserved2, iomap;
} __attribute__((packed));

_Static_assert(sizeof(struct memmap_entry) == 24, "as in hvm_memmap_table_entry");
_Static_assert(sizeof(struct gate) == 16, "as the processor wants it");
_Static_assert(sizeof(struct tss) == 104, "as the processor wants it");

/* The stack on which interrupts enter: what iretq takes back, preceded by what the stubs push. */
struct frame {
	uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

extern uint64_t gdt[], heap_pdpt[];
extern char kernel_stacks[], kernel_end[], image_end[], user_stacks[];
extern char trampoline[], trampoline_end[];
extern struct memmap_entry memmap[];
extern uint32_t memmap_entries;
extern char trap_call[], trap_timer[], trap_serial[], trap_spurious[], trap_faults[];
void user_fault(int cpu);
void kernel_start(uint32_t cpu);
struct frame *kernel_fault(const struct frame *frame);

static struct gate idt[VECTORS];
static struct tss tss[MAX_CPUS];
static struct {
	uint64_t rip, cs, rflags, rsp, ss, argument;
} to_user[MAX_CPUS];

static inline void out8(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port));
}

/*
 * Maps all whole 2 MiB pages of RAM above the image one after the other from HEAP_BASE on. The page
 * directories lie between the end of the kernel and the end of its 2 MiB page: about 200 of them, a
 * GiB of RAM each.
 */
static void map_heap(void)
{
	uint64_t *directory = 0, *next = (uint64_t *)kernel_end;
	uint64_t pages = 0;

	for (uint32_t i = 0; i < memmap_entries; i++) {
		if (memmap[i].type != E820_RAM)
			continue;
		uint64_t end = memmap[i].addr + memmap[i].size;
		uint64_t at = (memmap[i].addr + LARGE - 1) & -LARGE;
		boot_info.ram_bytes += memmap[i].size;
		if (at < (uint64_t)image_end)
			at = (uint64_t)image_end;
		if (pages == 0)
			boot_info.heap_physical = at;
		for (; at + LARGE <= end; at += LARGE) {
			if (pages % 512 == 0) {
				if (next == (uint64_t *)LARGE)
					break;
				directory = next;
				next += 512;
				heap_pdpt[pages / 512] = (uint64_t)directory + 7;
			}
			directory[pages % 512] = at + 0x87;
			pages++;
		}
		if (boot_info.heap_straight == 0)
			boot_info.heap_straight = pages * LARGE;
	}
	boot_info.heap_bytes = pages * LARGE;
	boot_info.has_memmap = memmap_entries != 0;
}

static void set_gate(int vector, const char *handler, uint16_t flags)
{
	uint64_t offset = (uint64_t)handler;

	idt[vector] = (struct gate){
		.offset_low = (uint16_t)offset,
		.offset_mid = (uint16_t)(offset >> 16),
		.offset_high = (uint32_t)(offset >> 32),
		.selector = SEL_CODE64,
		.flags = flags,
	};
}

/* Interrupt gates: 0x8e00 for CPL 0 only, 0xee00 where CPL 3 may raise it. */
static void build_idt(void)
{
	for (int vector = 0; vector < VECTORS; vector++)
		set_gate(vector, trap_faults + 16 * vector, 0x8e00);
	set_gate(3, trap_call, 0xee00);
	set_gate(VECTOR_TIMER, trap_timer, 0x8e00);
	set_gate(VECTOR_SERIAL, trap_serial, 0x8e00);
	set_gate(VECTOR_SPURIOUS, trap_spurious, 0x8e00);
}

static void boot_once(void)
{
	/* The PIC and its PIT interrupt, where a BIOS left them on, would arrive as vector 8. */
	out8(0x21, 0xff);
	out8(0xa1, 0xff);
	map_heap();
	build_idt();
	char *to = (char *)TRAMPOLINE, *from = trampoline;
	uint64_t count = (uint64_t)(trampoline_end - trampoline);
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count)::"memory");
}

void kernel_start(uint32_t cpu)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) idt_pointer = {sizeof idt - 1, (uint64_t)idt};

	if (cpu == 0)
		boot_once();
	char *stack = kernel_stacks + PAGE * cpu;
	*(struct percpu **)stack = &percpu[cpu];
	tss[cpu].rsp0 = (uint64_t)stack + PAGE;
	tss[cpu].iomap = sizeof(struct tss);
	uint64_t base = (uint64_t)&tss[cpu];
	uint16_t selector = (uint16_t)(SEL_TSS + 16 * cpu);
	gdt[selector / 8] = (sizeof(struct tss) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 |
			    (base >> 24) << 56;
	__asm__ volatile("lidt %0\n\tltr %1" ::"m"(idt_pointer), "r"(selector));
}

/*
 * Notes the fault and goes on at user_fault (CPL 3), which prints it. A vCPU that faults while it
 * does so ends the VM at once. Returns the stack that trap_faults takes RDI and iretq from.
 */
struct frame *kernel_fault(const struct frame *frame)
{
	uint64_t stack = (uint64_t)frame & -PAGE;
	struct percpu *cpu = *(struct percpu **)stack;
	uint64_t number = (uint64_t)(cpu - percpu);
	uint64_t cr2;

	if (cpu->faults++ != 0) {
		out8(EXIT_PORT, STATUS_FAULT);
		for (;;)
			__asm__ volatile("cli; hlt");
	}
	__asm__("movq %%cr2, %0" : "=r"(cr2));
	cpu->fault = (struct fault){frame->vector, frame->error, frame->rip, frame->cs,
				    frame->rflags, frame->rsp,	 frame->ss,  cr2};
	to_user[number].rip = (uint64_t)user_fault;
	to_user[number].cs = SEL_UCODE;
	to_user[number].rflags = 0x202;
	to_user[number].rsp = (uint64_t)user_stacks + 65536 * (number + 1) - 8;
	to_user[number].ss = SEL_UDATA;
	to_user[number].argument = number;
	return (struct frame *)&to_user[number];
}
