/*
 * The contract between the two rings, shared by C and assembly of both.
 *
 * CPL 3 enters CPL 0 by int3 with the call's number in EAX. There is no other way in: on KVM
 * without hardware virtualization neither syscall nor int 0x80 leads from CPL 3 to CPL 0, and int3
 * does on every KVM.
 */
#ifndef ABI_H
#define ABI_H

#define MAX_CPUS 8

/*
 * Calls. Arguments are in the registers that the instruction at CPL 0 wants, so that the kernel
 * has nothing to move: each of its instructions may cost half a microsecond.
 */
#define CALL_WRITE 0x7001 /* RSI bytes, RCX how many, DX port: rep outsb */
#define CALL_OUT8 0x7002  /* CL value, DX port */
#define CALL_OUT32 0x7003 /* ECX value, DX port */
#define CALL_IN8 0x7004   /* DX port; EAX value */
#define CALL_IN32 0x7005  /* DX port; EAX value */
#define CALL_HALT 0x7006  /* RDI address of a counter, ECX value: hlt unless it has moved on */
#define CALL_CPUID 0x7007 /* RDI leaf, ECX subleaf; EAX, EBX, ECX, EDX */
#define CALL_RDMSR 0x7008 /* ECX register; EDX:EAX value */
#define CALL_WRMSR 0x7009 /* ECX register; EDX:RDI value */

#define VECTOR_TIMER 0x20
#define VECTOR_SERIAL 0x24
#define VECTOR_SPURIOUS 0x2f
#define VECTORS 0x30

#define LAPIC_BASE 0xfee00000
#define IOAPIC_BASE 0xfec00000
#define TAG_REGISTERS 0xd0000000 /* TAG_MMIO_BASE of tag.h, which assembly cannot include */
#define TAG_DEVICE_RAM 0xc0680000 /* BAR 2 of the tag device, in a 2 MiB page from 0xc0600000 on */
/* Where BARs may lie, in whole 2 MiB pages: those of our own VMM, and those of QEMU's firmware. */
#define BAR_LOW 0xc0000000
#define BAR_LOW_END 0xc2000000
#define BAR_HIGH 0xfe000000
#define BAR_HIGH_END IOAPIC_BASE
#define HEAP_BASE 0x8000000000 /* usable RAM, one after the other, in virtual addresses */
#define TRAMPOLINE 0x8000      /* where an AP starts in real mode: below 1 MiB, page-aligned */

#define STATUS_OK 0
#define STATUS_CORRUPT 1
#define STATUS_FAULT 2
#define STATUS_USAGE 3
#define EXIT_PORT 0xf4
#define COM1 0x3f8

/* Offsets into struct percpu, for assembly. */
#define PERCPU_TICKS 0
#define PERCPU_SERIAL 8
#define PERCPU_WAKEUPS 16

#define CMDLINE_MAX 2048
#define MEMMAP_MAX 128

#ifndef __ASSEMBLER__
#include <stdint.h>

/* What a fault leaves behind for CPL 3 to print. */
struct fault {
	uint64_t vector, error, rip, cs, rflags, rsp, ss, cr2;
};

/* One per vCPU, written by CPL 0 (interrupts, faults) and read by CPL 3. */
struct percpu {
	volatile uint64_t ticks;   /* timer interrupts */
	volatile uint64_t serial;  /* serial interrupts */
	volatile uint64_t wakeups; /* all interrupts: what CALL_HALT compares with */
	uint64_t faults;
	struct fault fault;
} __attribute__((aligned(128)));

/* What CPL 0 found at boot. */
struct boot_info {
	char cmdline[CMDLINE_MAX];
	uint64_t ram_bytes;  /* all RAM of the memory map */
	uint64_t heap_bytes; /* mapped from HEAP_BASE on */
	/* The first bytes of the heap are one piece of physical memory, too: where, and how many. */
	uint64_t heap_physical, heap_straight;
	uint64_t has_memmap;
};

extern struct percpu percpu[MAX_CPUS];
extern struct boot_info boot_info;
#endif
#endif
