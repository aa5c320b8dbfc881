/*
 * Every entry into CPL 0 after boot: calls (int3), interrupts, faults. Each instruction here may be
 * emulated at half a microsecond, so these paths save nothing they do not change, and faults are
 * left to CPL 3 to print.
 */
#include "abi.h"

	.text
	.globl trap_call
trap_call:
	cmpl $CALL_OUT32, %eax
	je call_out32
	cmpl $CALL_WRITE, %eax
	je call_write
	cmpl $CALL_OUT8, %eax
	je call_out8
	cmpl $CALL_IN8, %eax
	je call_in8
	cmpl $CALL_IN32, %eax
	je call_in32
	cmpl $CALL_HALT, %eax
	je call_halt
	cmpl $CALL_CPUID, %eax
	je call_cpuid
	cmpl $CALL_RDMSR, %eax
	je call_rdmsr
	cmpl $CALL_WRMSR, %eax
	je call_wrmsr
	pushq $0 /* not one of ours: a stray int3 */
	pushq $3
	jmp fault_common

call_write:
	rep outsb
	iretq
call_out8:
	movl %ecx, %eax
	outb %al, %dx
	iretq
call_out32:
	movl %ecx, %eax
	outl %eax, %dx
	iretq
call_in8:
	xorl %eax, %eax
	inb %dx, %al
	iretq
call_in32:
	inl %dx, %eax
	iretq
call_halt:
	/* Interrupts are off from the comparison to the sti whose shadow covers hlt: no wake-up is
	 * lost. */
	cmpl %ecx, (%rdi)
	jne 1f
	sti
	hlt
	cli
1:	iretq
call_cpuid:
	movl %edi, %eax
	cpuid
	iretq
call_rdmsr:
	rdmsr
	iretq
call_wrmsr:
	movl %edi, %eax
	wrmsr
	iretq

/* The bottom of every kernel stack page holds the address of the vCPU's struct percpu. */
	.macro interrupt name, counter
	.globl \name
\name:	pushq %rax
	movq %rsp, %rax
	andq $-4096, %rax
	movq (%rax), %rax
	incq \counter(%rax)
	incq PERCPU_WAKEUPS(%rax)
	movl $LAPIC_BASE + 0xb0, %eax /* end of interrupt */
	movl $0, (%rax)
	popq %rax
	iretq
	.endm

	interrupt trap_timer, PERCPU_TICKS
	interrupt trap_serial, PERCPU_SERIAL

	.globl trap_spurious
trap_spurious:
	iretq

/* One stub of 16 bytes each. The processor itself pushes an error code for some vectors; the others
 * get a zero. */
#define HAS_ERROR_CODE(v) \
	((v) == 8 || ((v) >= 10 && (v) <= 14) || (v) == 17 || (v) == 21 || (v) == 29 || (v) == 30)

	.balign 16
	.globl trap_faults
trap_faults:
	.set vector, 0
	.rept VECTORS
	.balign 16
	.if !HAS_ERROR_CODE(vector)
	pushq $0
	.endif
	pushq $vector
	jmp fault_common
	.set vector, vector + 1
	.endr

fault_common:
	movq %rsp, %rdi
	andq $-16, %rsp
	call kernel_fault
	movq %rax, %rsp
	movq 40(%rsp), %rdi
	iretq
