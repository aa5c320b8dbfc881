#include "heap.h"

static uint64_t taken;

uint64_t heap_free(void)
{
	return boot_info.heap_bytes - taken;
}

void *heap_take(uint64_t bytes)
{
	if (bytes > heap_free())
		return NULL;
	void *at = (void *)(HEAP_BASE + taken);
	taken += (bytes + PAGE - 1) & -PAGE;
	return at;
}

void *heap_take_straight(uint64_t bytes)
{
	if (taken + bytes > boot_info.heap_straight)
		return NULL;
	return heap_take(bytes);
}

uint64_t heap_physical(const void *at)
{
	return boot_info.heap_physical + ((uint64_t)at - HEAP_BASE);
}

void heap_require(uint64_t bytes, const char *what)
{
	struct line line = {0};

	if (bytes <= heap_free())
		return;
	put(&line, "usage: ");
	put(&line, what);
	put(&line, " needs ");
	put_dec(&line, (bytes + MIB - 1) / MIB);
	put(&line, " MiB and this guest has ");
	put_dec(&line, heap_free() / MIB);
	put(&line, " MiB to give; ask for less or give the machine more memory");
	usage_error(&line);
}
