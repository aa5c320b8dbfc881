/*
 * From the PVH entry (32-bit, paging off, EBX = hvm_start_info) or a SIPI (16-bit) to 64-bit mode
 * at CPL 0. The layout of hvm_start_info is the Xen project's public/arch-x86/hvm/start_info.h.
 */
#include "abi.h"

#define START_INFO_MAGIC 0x336ec578
#define SI_MAGIC 0
#define SI_VERSION 4
#define SI_CMDLINE 24
#define SI_MEMMAP 40
#define SI_MEMMAP_ENTRIES 48

#define SEL_CODE64 0x08
#define SEL_DATA 0x10
#define SEL_CODE32 0x18
#define SEL_UCODE 0x23
#define SEL_UDATA 0x2b
#define SEL_TSS 0x30

#define MSR_EFER 0xc0000080
#define LARGE 0x200000

	.section .note.xen, "a", @note
	.balign 4
	.long 4, 8, 18 /* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.balign 4
	.quad pvh_start

	.text
	.code32
	.globl pvh_start
pvh_start:
	cli
	cld
	/*
	 * Copy whatever the loader left in memory now: it may lie anywhere in RAM, which the page
	 * tables do not map, and the AP trampoline goes to low memory.
	 */
	cmpl $START_INFO_MAGIC, SI_MAGIC(%ebx)
	jne 4f
	movl SI_CMDLINE(%ebx), %esi
	testl %esi, %esi
	jz 2f
	movl $boot_info, %edi
	movl $(CMDLINE_MAX - 1), %ecx
1:	lodsb
	stosb
	testb %al, %al
	jz 2f
	loop 1b
2:	cmpl $1, SI_VERSION(%ebx)
	jb 4f
	movl SI_MEMMAP(%ebx), %esi
	movl SI_MEMMAP_ENTRIES(%ebx), %eax
	cmpl $MEMMAP_MAX, %eax
	jbe 3f
	movl $MEMMAP_MAX, %eax
3:	movl %eax, memmap_entries
	imull $6, %eax, %ecx
	movl $memmap, %edi
	rep movsl
4:	lgdt gdt_pointer
	xorl %ebp, %ebp /* EBP = 0: the boot processor */

enter_long_mode:
	movl $0x620, %eax /* PAE, OSFXSR, OSXMMEXCPT */
	movl %eax, %cr4
	movl $pml4, %eax
	movl %eax, %cr3
	movl $MSR_EFER, %ecx
	xorl %edx, %edx
	movl $0x100, %eax /* LME */
	wrmsr
	movl $0x80010033, %eax /* PG, WP, NE, ET, MP, PE */
	movl %eax, %cr0
	ljmp $SEL_CODE64, $start64

	.code64
start64:
	movl $SEL_DATA, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	xorl %eax, %eax
	movl %eax, %fs
	movl %eax, %gs
	testl %ebp, %ebp
	jz 1f
	movl $1, %ebp
	lock xaddl %ebp, cpus_started
	cmpl $MAX_CPUS, %ebp
	jb 1f
park:	cli
	hlt
	jmp park
1:	movl %ebp, %eax /* EBP = number of this vCPU */
	shll $12, %eax
	leaq kernel_stacks + 4096(%rax), %rsp
	movl %ebp, %edi
	call kernel_start
	/* To CPL 3: user_start(cpu) on this vCPU's user stack. */
	movl %ebp, %eax
	shlq $16, %rax
	leaq user_stacks + 65536 - 8(%rax), %rax
	movl $SEL_UDATA, %ecx
	movl %ecx, %ds
	movl %ecx, %es
	pushq $SEL_UDATA
	pushq %rax
	pushq $0x202
	pushq $SEL_UCODE
	pushq $user_start
	movl %ebp, %edi
	iretq

/* Copied to TRAMPOLINE; every address in it is relative to that. */
	.globl trampoline, trampoline_end
	.code16
trampoline:
	cli
	cld
	xorw %ax, %ax
	movw %ax, %ds
	lgdtl trampoline_gdt - trampoline + TRAMPOLINE
	movl %cr0, %eax
	orl $1, %eax
	movl %eax, %cr0
	ljmpl $SEL_CODE32, $ap32
	.balign 4
trampoline_gdt:
	.word gdt_end - gdt - 1
	.long gdt
trampoline_end:

	.code32
ap32:	movl $SEL_DATA, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl $1, %ebp /* EBP = 1: an application processor */
	jmp enter_long_mode

	.data
	.balign 8
	.globl gdt
gdt:	.quad 0
	.quad 0x00af9a000000ffff /* SEL_CODE64 */
	.quad 0x00cf92000000ffff /* SEL_DATA */
	.quad 0x00cf9a000000ffff /* SEL_CODE32 */
	.quad 0x00affa000000ffff /* SEL_UCODE */
	.quad 0x00cff2000000ffff /* SEL_UDATA */
	.fill 2 * MAX_CPUS, 8, 0 /* SEL_TSS, two slots each, filled in by kernel_start */
gdt_end:
	.balign 4
	.word 0
gdt_pointer:
	.word gdt_end - gdt - 1
	.long gdt

	.balign 4
cpus_started: .long 1

/*
 * Page tables that are known when the image is built: the kernel's page (supervisor only), the user
 * pages of the image, and the devices. kernel_start adds the heap. 7 = present, writable,
 * user; 0x80 = 2 MiB page; 0x18 = uncached.
 */
	.section .data.tables, "aw"
	.balign 4096
	.globl pml4, heap_pdpt
pml4:	.quad low_pdpt + 7
	.quad heap_pdpt + 7
	.fill 510, 8, 0
low_pdpt:
	.quad low_pd + 7, 0, 0, device_pd + 7
	.fill 508, 8, 0
low_pd:	.quad 0x000083
	.quad 0x200087, 0x400087, 0x600087
	.fill 508, 8, 0
	.set page, BAR_LOW
	.macro registers_to end
	.rept ((\end) - page) / LARGE
	.quad page + 0x9f
	.set page, page + LARGE
	.endr
	.endm
	.macro nothing_to end
	.fill ((\end) - page) / LARGE, 8, 0
	.set page, \end
	.endm
device_pd: /* from 3 GiB on, one entry for each 2 MiB */
	registers_to TAG_DEVICE_RAM & ~0x1fffff
	.quad (TAG_DEVICE_RAM & ~0x1fffff) + 0x87 /* memory, though a device's */
	.set page, page + LARGE
	registers_to BAR_LOW_END
	nothing_to TAG_REGISTERS
	.quad tag_pt + 7
	.set page, page + LARGE
	nothing_to BAR_HIGH
	registers_to BAR_HIGH_END
	.quad IOAPIC_BASE + 0x9f, LAPIC_BASE + 0x9f
	.fill 8, 8, 0
tag_pt:	.quad TAG_REGISTERS + 0x1f
	.fill 511, 8, 0

	.bss
	.balign 4096
	.globl kernel_stacks
heap_pdpt: .skip 4096
kernel_stacks: .skip 4096 * MAX_CPUS
	.globl memmap, memmap_entries
memmap:	.skip 24 * MEMMAP_MAX
memmap_entries: .skip 4
