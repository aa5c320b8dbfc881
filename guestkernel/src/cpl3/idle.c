/*
 * workload=idle: halts between timer ticks, or with spin=1 spins and so sees every pause. With
 * touch=SIZE it fills that much memory once; with verify=1 it goes on verifying it, a few pages a
 * turn. fill=zero leaves truly zero pages, which nonetheless have been written.
 */
#include "heap.h"
#include "pages.h"
#include "workloads.h"

/* Verified between two ticks, or between two turns of the spinning loop. */
#define VERIFY_PER_TICK 256
#define VERIFY_PER_TURN 1

static struct pageset sets[MAX_CPUS];

static void prepare(const struct options *options, int tasks)
{
	if (options->touch == 0)
		return;
	if (options->touch > boot_info.ram_bytes)
		heap_require(options->touch, "the memory to touch");
	heap_require((uint64_t)tasks * pageset_cost(options->touch),
		     "the memory to touch of all tasks");
	for (int i = 0; i < tasks; i++)
		pageset_init(&sets[i], (unsigned)i, (enum fill)options->fill, options->touch);
}

static void verify_zero(const struct pageset *set, uint64_t page)
{
	const uint64_t *words = set->base + page * (PAGE / 8);
	uint64_t seen = 0;

	for (unsigned i = 0; i < PAGE / 8; i++)
		seen |= words[i];
	for (unsigned i = 0; seen != 0 && i < PAGE / 8; i++)
		if (words[i] != 0)
			corrupt(set->task, "zero", page, i, 0, words[i]);
}

static void verify_some(struct task *task, struct pageset *set, uint64_t *cursor, unsigned count)
{
	for (unsigned i = 0; i < count && i < set->count; i++) {
		if (set->fill == FILL_ZERO)
			verify_zero(set, *cursor);
		else
			page_verify_whole(set, *cursor);
		if (++*cursor == set->count) {
			*cursor = 0;
			task->passes++;
		}
	}
}

static void touch(struct task *task, struct pageset *set)
{
	for (uint64_t page = 0; page < set->count; page++) {
		if (set->fill == FILL_ZERO)
			memset(set->base + page * (PAGE / 8), 0, PAGE);
		else
			page_rewrite(set, page);
		task->writes++;
		task_step(task);
	}
	if (set->count != 0 && task->options->inject != INJECT_NONE)
		page_inject(set, set->count / 2, INJECT_FLIP);
}

static void run(struct task *task)
{
	struct pageset *set = &sets[task->id];
	bool spin = task->options->spin != 0, verify = task->options->verify != 0 && set->count != 0;
	uint64_t cursor = 0;

	task->cool = true;
	touch(task, set);
	tasks_meet();
	task_begin(task);
	tags_begin(task);
	tags_phase(task);
	task_arm(task);
	while (!task_over(task)) {
		if (spin) {
			if (verify)
				verify_some(task, set, &cursor, VERIFY_PER_TURN);
			else
				pause();
		} else {
			uint64_t seen = percpu[task->cpu].wakeups;
			if (verify)
				verify_some(task, set, &cursor, VERIFY_PER_TICK);
			call_halt(&percpu[task->cpu].wakeups, seen);
		}
		task_step(task);
	}
	while (verify && task->passes < 1)
		verify_some(task, set, &cursor, VERIFY_PER_TICK);
}

const struct workload_ops idle_ops = {prepare, run, false};
