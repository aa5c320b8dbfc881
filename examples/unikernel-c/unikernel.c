/* A unikernel that says when it is easy to move. It ends once it has been moved. */
#include "../../tagging/include/tag.h"

/* The PVH note names the entry point, which is entered in 32-bit protected mode without paging. */
__asm__(".section .note.pvh, \"a\", @note\n"
	".long 4, 4, 18\n.asciz \"Xen\"\n.long start\n"
	".text\n.globl start\nstart: movl $stack_end, %esp\n call run\n");

static uint32_t memory[1 << 18]; /* 256 pages */

static void out(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static void say(const char *text)
{
	while (*text)
		out(0x3f8, (uint8_t)*text++); /* COM1 */
}

static void end(const char *text, uint8_t status)
{
	say(text);
	out(0xf4, status); /* the exit port: this ends the VM */
}

void run(void)
{
	struct tag_port tags;

	if (tag_init_port(&tags, TAG_PORT_BASE) != 0)
		end("unikernel: no tag port\n", 1);
	tag_register(&tags, 1);
	uint32_t epoch = tag_epoch(&tags);
	say("unikernel: at work\n");
	for (;;) {
		for (unsigned i = 0; i < sizeof memory / sizeof *memory; i += 1024)
			memory[i]++; /* busy: a word of every page */
		if (tag_epoch(&tags) != epoch)
			end("unikernel: moved, while it was busy\n", 2);
		tag_enter(&tags, 1); /* calm from here: it only waits, and writes nothing */
		uint64_t begun = tag_clock_ns(&tags);
		while (tag_clock_ns(&tags) - begun < 20000000)
			;
		tag_exit(&tags, 1);
		if (tag_epoch(&tags) != epoch)
			end("unikernel: moved, inside the segment\n", 0);
	}
}
