#include "phases.h"
#include "workloads.h"

/* A phase ends so long after the one before was due to end, not did: tasks stay in or out of step
 * however late they notice. */
static void begin_phase(struct task *task, bool cool, uint64_t length)
{
	task->cool = cool;
	tags_phase(task);
	task->phase_end += length;
	if (task->phase_end < task->last_step)
		task->phase_end = task->last_step + length;
	task_arm(task);
}

static uint64_t length_of(const struct task *task, bool cool)
{
	return ticks_from_us(cool ? task->options->cool : task->options->busy);
}

void phases_begin(struct task *task)
{
	uint64_t busy = length_of(task, false), cycle = busy + length_of(task, true), ahead = 0;

	if (task->options->step == STEP_OUT)
		ahead = cycle / (uint64_t)task_count * (uint64_t)task->id;
	tags_begin(task);
	task->phase_end = task->started;
	if (ahead < busy)
		begin_phase(task, false, busy - ahead);
	else
		begin_phase(task, true, cycle - ahead);
}

/* A phase of no length does not exist: the other one goes on. */
void phases_next(struct task *task)
{
	bool cool = length_of(task, !task->cool) == 0 ? task->cool : !task->cool;

	begin_phase(task, cool, length_of(task, cool));
}

void phases_safe_point(struct task *task)
{
	if (task->cool || task->options->cool == 0 || !tags_migration_waits(task))
		return;
	task->phase_end = task->last_step;
	task->deadline = task->last_step; /* the next step notices */
}
