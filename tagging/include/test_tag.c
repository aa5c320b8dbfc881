/* SPDX-License-Identifier: Apache-2.0 */
/* Runs tag.h against registers that are plain memory: `make check`. */
#include "tag.h"

enum { REGISTERS = TAG_REG_CLOCK_HI / 4 + 1, UNTOUCHED = 0x5a5a5a5a };

static uint32_t registers[TAG_PAGE_SIZE / 4];
static union {
	struct tag_page page;
	uint64_t align[TAG_PAGE_SIZE / 8];
} memory __attribute__((aligned(TAG_PAGE_SIZE)));

/* Each check that fails ends the test with its line. */
#define CHECK(x) do { if (!(x)) return __LINE__; } while (0)

static void reset(void)
{
	volatile uint32_t *r = registers;
	int i;

	for (i = 0; i < REGISTERS; i++)
		r[i] = UNTOUCHED;
	r[TAG_REG_ID / 4] = TAG_ID;
	r[TAG_REG_VERSION / 4] = 1;
}

/* The register that was written since reset, -1 for none, -2 for several. */
static int written(void)
{
	int i, found = -1;

	for (i = TAG_REG_ENTER / 4; i < REGISTERS; i++)
		if (registers[i] != UNTOUCHED)
			found = found == -1 ? i * 4 : -2;
	return found;
}

static int wrote(uint32_t reg, uint32_t value)
{
	int yes = written() == (int)reg && registers[reg / 4] == value;

	reset();
	return yes;
}

static int test_presence(void)
{
	struct tag_port t;

	reset();
	CHECK(tag_init_mmio(&t, registers) == 0);
	CHECK(written() == -1);
	registers[0] = 0xffffffffu;
	CHECK(tag_init_mmio(&t, registers) == -1);
	registers[0] = 0;
	CHECK(tag_init_mmio(&t, registers) == -1);
	reset();
	registers[1] = 0;
	CHECK(tag_init_mmio(&t, registers) == -1);
	return 0;
}

static int test_plain(void)
{
	struct tag_port t;

	reset();
	CHECK(tag_init_mmio(&t, registers) == 0);
	tag_register(&t, 1);
	CHECK(wrote(TAG_REG_REGISTER, 1));
	tag_enter(&t, 0xffffffffu);
	CHECK(wrote(TAG_REG_ENTER, 0xffffffffu));
	tag_exit(&t, 3);
	CHECK(wrote(TAG_REG_EXIT, 3));
	tag_unregister(&t, 0);
	CHECK(wrote(TAG_REG_UNREGISTER, 0));
	registers[TAG_REG_STATE / 4] = TAG_SUSPENDED;
	registers[TAG_REG_EPOCH / 4] = 7;
	registers[TAG_REG_CLOCK_LO / 4] = 0x89abcdefu;
	registers[TAG_REG_CLOCK_HI / 4] = 0x01234567u;
	CHECK(tag_state(&t) == TAG_SUSPENDED);
	CHECK(tag_epoch(&t) == 7);
	CHECK(tag_clock_ns(&t) == UINT64_C(0x0123456789abcdef));
	CHECK(tag_migrating(&t));
	CHECK(tag_fast_open(&t, 1) == NULL);
	return 0;
}

static int test_layout(void)
{
	CHECK(offsetof(struct tag_page, magic) == 0x0);
	CHECK(offsetof(struct tag_page, version) == 0x4);
	CHECK(offsetof(struct tag_page, notify) == 0x8);
	CHECK(offsetof(struct tag_page, slots) == 0xc);
	CHECK(offsetof(struct tag_page, slot) == 0x40);
	CHECK(offsetof(struct tag_slot, flags) == 0x0);
	CHECK(offsetof(struct tag_slot, task) == 0x4);
	CHECK(offsetof(struct tag_slot, depth) == 0x8);
	CHECK(offsetof(struct tag_slot, name) == 0x20);
	CHECK(offsetof(struct tag_page, lease) == 0x10);
	CHECK(offsetof(struct tag_page, term_ms) == 0x14);
	CHECK(offsetof(struct tag_page, ranges) == 0x18);
	CHECK(offsetof(struct tag_page, slot) + TAG_RANGES_SLOTS * sizeof(struct tag_slot) ==
	      TAG_RANGES_AT);
	CHECK(TAG_RANGES_AT + 8 * TAG_RANGES == TAG_PAGE_SIZE);
	return 0;
}

static int test_page(void)
{
	struct tag_port t;
	uint32_t i;

	reset();
	CHECK(tag_init_mmio(&t, registers) == 0);
	CHECK(tag_page_init(&t, &memory, 0x1234) == -1);
	CHECK(tag_page_init(&t, (char *)&memory + 8, 0x1000) == -1);
	CHECK(t.page == NULL && written() == -1);
	memory.page.notify = 9;
	memory.page.slot[5].flags = TAG_SLOT_USED;
	CHECK(tag_page_init(&t, &memory, UINT64_C(0x123456000)) == 0);
	CHECK(registers[TAG_REG_PAGE_LO / 4] == 0x23456000u);
	CHECK(registers[TAG_REG_PAGE_HI / 4] == 1);
	CHECK(memory.page.magic == TAG_PAGE_MAGIC && memory.page.version == TAG_PAGE_VERSION);
	CHECK(memory.page.slots == TAG_PAGE_SLOTS && memory.page.notify == 0);
	for (i = 0; i < TAG_PAGE_SLOTS; i++)
		CHECK(memory.page.slot[i].flags == TAG_SLOT_FREE);
	reset();
	tag_page_off(&t);
	CHECK(registers[TAG_REG_PAGE_LO / 4] == 0 && registers[TAG_REG_PAGE_HI / 4] == 0);
	CHECK(t.page == NULL);
	return 0;
}

static int test_fast(void)
{
	struct tag_port t;
	struct tag_slot *a, *b;

	reset();
	CHECK(tag_init_mmio(&t, registers) == 0);
	CHECK(tag_page_init(&t, &memory, 0x1000) == 0);
	reset();
	a = tag_fast_open(&t, 70);
	CHECK(a == &memory.page.slot[0] && wrote(TAG_REG_REGISTER, 70));
	CHECK(a->flags == TAG_SLOT_USED && a->task == 70 && a->depth == 0);
	b = tag_fast_open(&t, 71);
	CHECK(b == &memory.page.slot[1] && wrote(TAG_REG_REGISTER, 71));

	tag_fast_exit(&t, a);
	CHECK(a->depth == 0 && written() == -1);
	tag_fast_enter(&t, a);
	tag_fast_enter(&t, a);
	tag_fast_exit(&t, a);
	CHECK(a->depth == 1 && b->depth == 0 && written() == -1);

	registers[TAG_REG_STATE / 4] = TAG_PRECOPY;
	CHECK(!tag_migrating(&t));
	memory.page.notify = 1;
	CHECK(tag_migrating(&t));
	registers[TAG_REG_STATE / 4] = TAG_NONE;
	CHECK(!tag_migrating(&t));
	reset();
	tag_fast_enter(&t, b);
	CHECK(b->depth == 1 && wrote(TAG_REG_ENTER, 71));
	tag_fast_exit(&t, a);
	CHECK(a->depth == 0 && wrote(TAG_REG_EXIT, 70));
	tag_fast_exit(&t, a);
	CHECK(a->depth == 0 && written() == -1);

	tag_fast_close(&t, a);
	CHECK(a->flags == TAG_SLOT_FREE && wrote(TAG_REG_UNREGISTER, 70));
	CHECK(tag_fast_open(&t, 72) == a && a->task == 72);
	return 0;
}

static int test_slots_run_out(void)
{
	struct tag_port t;
	uint32_t i;

	reset();
	CHECK(tag_init_mmio(&t, registers) == 0);
	CHECK(tag_page_init(&t, &memory, 0x1000) == 0);
	for (i = 0; i < TAG_PAGE_SLOTS; i++)
		CHECK(tag_fast_open(&t, i) == &memory.page.slot[i]);
	reset();
	CHECK(tag_fast_open(&t, i) == NULL);
	CHECK(written() == -1);
	return 0;
}

/* An entry of the table, as the hypervisor reads it. */
static uint64_t entry(uint32_t i)
{
	return memory.align[TAG_RANGES_AT / 8 + i];
}

static int test_ranges(void)
{
	const uint64_t most = (UINT64_C(1) << 24) - 1, page = TAG_PAGE_SIZE;
	struct tag_port t;
	uint32_t i;

	reset();
	CHECK(tag_init_mmio(&t, registers) == 0);
	CHECK(tag_ranges_on(&t) == -1);
	CHECK(tag_page_init(&t, &memory, 0x1000) == 0);
	CHECK(memory.page.ranges == 0);
	memory.align[TAG_PAGE_SIZE / 8 - 1] = 7;
	CHECK(tag_ranges_on(&t) == 0);
	CHECK(memory.page.ranges == TAG_RANGES && memory.page.slots == TAG_RANGES_SLOTS);
	for (i = 0; i < TAG_RANGES; i++)
		CHECK(entry(i) == 0);
	CHECK(tag_declare(&t, 255, 0x12345000, 3 * page) == 3 * page);
	CHECK(entry(255) == ((UINT64_C(0x12345) << 24) | 3) && entry(254) == 0);
	CHECK(tag_declare(&t, 0, 0x1001, 2 * page) == page); /* whole pages alone */
	CHECK(entry(0) == ((UINT64_C(2) << 24) | 1));
	CHECK(tag_declare(&t, 0, 0x1001, page) == 0 && entry(0) == 0);
	CHECK(tag_declare(&t, 1, 0, page) == page && entry(1) == 1);
	CHECK(tag_declare(&t, 1, 0, UINT64_C(1) << 40) == most * page && entry(1) == most);
	CHECK(tag_declare(&t, 1, UINT64_MAX - 5, 3 * page) == 0 && entry(1) == 0);
	CHECK(tag_declare(&t, 1, UINT64_C(1) << 52, page) == 0 && entry(1) == 0);
	CHECK(tag_declare(&t, 1, (UINT64_C(1) << 52) - page, page) == page);
	CHECK(entry(1) == ((((UINT64_C(1) << 40) - 1) << 24) | 1));
	tag_take_back(&t, 255);
	CHECK(entry(255) == 0);
	for (i = 0; i < TAG_RANGES_SLOTS; i++)
		CHECK(tag_fast_open(&t, i) == &memory.page.slot[i]);
	CHECK(tag_fast_open(&t, i) == NULL);
	CHECK(entry(1) == ((((UINT64_C(1) << 40) - 1) << 24) | 1));
	t.device = 1;
	CHECK(tag_ranges_on(&t) == -1);
	return 0;
}

#ifdef TAG_LINUX
/* What the machine permits is not for this test to decide, but a page that is
 * there must be whole. */
static int test_linux_page(void)
{
	struct tag_port t;
	struct tag_slot *s;
	uint64_t gpa;
	int err;

	reset();
	CHECK(tag_init_mmio(&t, registers) == 0);
	err = tag_page_open(&t);
	if (err) {
		CHECK(err < 0 && t.page == NULL && t.ring_fd == -1);
		return 0;
	}
	gpa = (uint64_t)registers[TAG_REG_PAGE_HI / 4] << 32 | registers[TAG_REG_PAGE_LO / 4];
	CHECK(gpa != 0 && gpa == tag_physical(t.page));
	s = tag_fast_open(&t, 5);
	CHECK(s == &t.page->slot[0]);
	tag_fast_close(&t, s);
	tag_page_off(&t);
	CHECK(close(t.ring_fd) == 0);
	return 0;
}
#endif

#if !defined(__STDC_HOSTED__) || __STDC_HOSTED__
#include <stdio.h>
#endif

int main(void)
{
	int line = 0;

	if (!line)
		line = test_presence();
	if (!line)
		line = test_plain();
	if (!line)
		line = test_layout();
	if (!line)
		line = test_page();
	if (!line)
		line = test_fast();
	if (!line)
		line = test_slots_run_out();
	if (!line)
		line = test_ranges();
#ifdef TAG_LINUX
	if (!line)
		line = test_linux_page();
#endif
#if !defined(__STDC_HOSTED__) || __STDC_HOSTED__
	if (line)
		fprintf(stderr, "test_tag.c:%d: check failed\n", line);
#endif
	return line != 0;
}
