#include "tags.h"
#include "tag.h"
#include "task.h"

/* Reading EPOCH leaves the VM, at up to 25 us: seldom enough not to matter, often enough to tell
 * where a move fell. */
#define POLL_US 10000

_Static_assert(TAG_REGISTERS == TAG_MMIO_BASE, "the page tables map what tag.h uses");

static enum tag_mode mode;
static struct tag_port port;
static struct tag_page page __attribute__((aligned(PAGE)));

bool tags_mmio_present(void)
{
	return tag_init_mmio(&port, (volatile void *)(uint64_t)TAG_MMIO_BASE) == 0;
}

bool tags_port_present(void)
{
	return call_in32(TAG_PORT_BASE + TAG_REG_ID) == TAG_ID;
}

/* Where the PCI bus has BAR 2 of the tag device; 0 if there is none. */
static uint32_t device_ram(void)
{
	const uint32_t id = TAG_PCI_DEVICE << 16 | TAG_PCI_VENDOR;

	for (uint32_t slot = 0; slot < 32; slot++) {
		call_out32(0xcf8, 1u << 31 | slot << 11);
		if (call_in32(0xcfc) != id)
			continue;
		call_out32(0xcf8, 1u << 31 | slot << 11 | 0x18);
		return call_in32(0xcfc) & ~0xfu;
	}
	return 0;
}

bool tags_device_init(struct tag_port *p)
{
	return device_ram() == TAG_DEVICE_RAM &&
	       tag_device_page_init(p, (void *)(uint64_t)TAG_DEVICE_RAM, 0) == 0;
}

const struct tag_port *tags_ranges(void)
{
	static struct tag_port own; /* for tasks that tag in another way, or not at all */
	const struct tag_port *p = &port;

	if (mode != TAG_MODE_FAST) {
		if (tag_init_mmio(&own, (volatile void *)(uint64_t)TAG_MMIO_BASE) != 0)
			return NULL;
		tag_page_init(&own, &page, (uint64_t)&page);
		p = &own;
	}
	return tag_ranges_on(p) == 0 ? p : NULL;
}

void tags_prepare(const struct options *options)
{
	mode = (enum tag_mode)options->tag;
	if (mode == TAG_MODE_NONE)
		return;
	if (!(mode == TAG_MODE_PORT ? tags_port_present() : tags_mmio_present())) {
		console_say("tags: this machine has no tag port, going on with tag=none");
		mode = TAG_MODE_NONE;
		return;
	}
	if (mode == TAG_MODE_FAST)
		tag_page_init(&port, &page, (uint64_t)&page);
	if (mode == TAG_MODE_DEVICE && !tags_device_init(&port)) {
		console_say("tags: this machine has no tag device, going on with tag=none");
		mode = TAG_MODE_NONE;
	}
}

/* By port: CPL 3 may not execute in and out, so that a call does. */
static uint32_t read(uint32_t reg)
{
	return mode == TAG_MODE_PORT ? call_in32((uint16_t)(TAG_PORT_BASE + reg))
				     : tag_read(&port, reg);
}

static void write(uint32_t reg, uint32_t value)
{
	if (mode == TAG_MODE_PORT)
		call_out32((uint16_t)(TAG_PORT_BASE + reg), value);
	else
		tag_write(&port, reg, value);
}

static bool by_slot(const struct task *task)
{
	return task->tags.slot != NULL;
}

static void say_moved(struct task *task, const char *inside)
{
	struct line line = {0};

	put(&line, "moved");
	put_key(&line, "task", (uint64_t)task->id);
	put_key(&line, "epoch", task->tags.epoch);
	put(&line, " inside=");
	put(&line, inside);
	put_key(&line, "ms", us_from_ticks(task->last_step - task->boot) / 1000);
	put(&line, task->cool ? " phase=cool" : " phase=busy");
	task_print(task, &line);
}

/* Reads EPOCH, with watch=0 nothing. Returns whether the VM has moved since the last time. */
static bool epoch_changed(struct task *task)
{
	uint32_t epoch;

	if (task->options->watch == 0)
		return false;
	epoch = read(TAG_REG_EPOCH);
	if (epoch == task->tags.epoch)
		return false;
	task->tags.epoch = epoch;
	return true;
}

static void check_epoch(struct task *task)
{
	if (epoch_changed(task))
		say_moved(task, task->tags.inside ? "1" : "0");
}

/*
 * EPOCH is read on both sides of the tag. A change seen behind ENTER, or behind EXIT, fell into the
 * tag itself or next to it. It is neither clearly inside nor outside, and the line says that.
 */
static void enter(struct task *task)
{
	bool moved;

	check_epoch(task);
	if (by_slot(task))
		tag_fast_enter(&port, task->tags.slot);
	else
		write(TAG_REG_ENTER, (uint32_t)task->id);
	moved = epoch_changed(task);
	task->tags.inside = true;
	if (moved)
		say_moved(task, "enter");
}

static void leave(struct task *task)
{
	bool moved;

	check_epoch(task);
	if (by_slot(task))
		tag_fast_exit(&port, task->tags.slot);
	else
		write(TAG_REG_EXIT, (uint32_t)task->id);
	moved = epoch_changed(task);
	task->tags.inside = false;
	if (moved)
		say_moved(task, "exit");
}

/* Uniform within [0, 2 * the length of the phase that a true tag would follow]. */
static void arm_toggle(struct task *task)
{
	const struct options *options = task->options;
	uint64_t mean = task->tags.inside ? options->cool : options->busy;

	task->tags.random = mix64(task->tags.random);
	task->tags.toggle = task->last_step + ticks_from_us(task->tags.random % (2 * mean + 1));
}

void tags_off(struct task *task)
{
	task->tags = (struct tagging){.poll = UINT64_MAX, .toggle = UINT64_MAX};
}

void tags_begin(struct task *task)
{
	struct tagging *tags = &task->tags;

	if (mode == TAG_MODE_NONE)
		return;
	tags->epoch = read(TAG_REG_EPOCH);
	if (mode == TAG_MODE_FAST)
		tags->slot = tag_fast_open(&port, (uint32_t)task->id);
	if (mode == TAG_MODE_DEVICE)
		tags->slot = tag_device_slot_open(&port, (uint32_t)task->id,
						  (uint32_t)task->id, "phased");
	if (!by_slot(task))
		write(TAG_REG_REGISTER, (uint32_t)task->id);
	tags->poll = task->last_step + ticks_from_us(POLL_US);
	if (mode == TAG_MODE_RANDOM) {
		tags->random = mix64(task->options->seed + (uint64_t)task->id);
		arm_toggle(task);
	}
}

void tags_end(struct task *task)
{
	struct tagging *tags = &task->tags;

	if (tags->poll == UINT64_MAX)
		return;
	if (tags->inside)
		leave(task);
	if (by_slot(task))
		tag_fast_close(&port, tags->slot);
	else
		write(TAG_REG_UNREGISTER, (uint32_t)task->id);
	tags_off(task);
}

void tags_phase(struct task *task)
{
	bool calm = mode == TAG_MODE_BUSY ? !task->cool : task->cool;

	if (task->tags.poll == UINT64_MAX || mode == TAG_MODE_RANDOM || calm == task->tags.inside)
		return;
	if (calm)
		enter(task);
	else
		leave(task);
}

void tags_poll(struct task *task)
{
	struct tagging *tags = &task->tags;

	if (task->last_step >= tags->toggle) {
		if (tags->inside)
			leave(task);
		else
			enter(task);
		arm_toggle(task);
	}
	if (task->last_step >= tags->poll) {
		check_epoch(task);
		if (task->options->coop != 0)
			tags->state = read(TAG_REG_STATE);
		tags->poll = task->last_step + ticks_from_us(POLL_US);
	}
}

bool tags_migration_waits(const struct task *task)
{
	return task->tags.state == TAG_WAITING || task->tags.state == TAG_SUSPENDED;
}
