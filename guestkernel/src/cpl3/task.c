#include "task.h"
#include "workloads.h"

/* The next step after `when` is a slow one. */
static void arm_for(struct task *task, uint64_t when)
{
	if (when < task->deadline)
		task->deadline = when;
}

/* A phase or a run that is over has been told to the workload, which may go on to a boundary of its
 * own before it heeds it. */
static void arm_end(struct task *task, uint64_t when)
{
	if (when > task->last_step)
		arm_for(task, when);
}

/* What the slow step does itself may be past and still not done: a line or a tag takes as long as
 * it takes, a move of the VM within it too. Then the very next step is a slow one. */
void task_arm(struct task *task)
{
	task->deadline = UINT64_MAX;
	arm_for(task, task->heartbeat);
	arm_for(task, task->dot);
	arm_for(task, task->tags.poll);
	arm_for(task, task->tags.toggle);
	arm_end(task, task->phase_end);
	arm_end(task, task->end);
}

/* Begins to count gaps anew. The longest one may be shorter than the shortest that counts as a
 * stall. */
static void clear_gaps(struct task *task)
{
	task->gap = task->noted = 0;
	memset(task->stalls, 0, sizeof task->stalls);
}

void task_prepare(struct task *task)
{
	uint64_t now = rdtsc();

	task->started = now;
	task->last_step = now;
	task->gap = task->gap_max = task->print = task->excluded = 0;
	task->us = ticks_from_us(1) != 0 ? ticks_from_us(1) : 1;
	clear_gaps(task);
	task->heartbeat = now + ticks_from_us(1000000);
	task->phase_end = task->end = task->schedule = task->dot = UINT64_MAX;
	task->kvmclock_tsc = now;
	task->kvmclock = kvmclock_ns(task->cpu);
	task->begun = false;
	tags_off(task);
	task_arm(task);
}

void task_begin(struct task *task)
{
	task_prepare(task);
	task->begun = true;
	if (task->options->run_time != 0)
		task->end = task->started + ticks_from_us(task->options->run_time);
	if (task->options->dots != 0 && task->id == 0)
		task->dot = task->started + ticks_from_us(task->options->dots);
	task_arm(task);
}

static void note_gap(struct task *task, uint64_t gap)
{
	if (gap > task->gap) {
		task->gap = gap;
		task->noted = gap < task->us ? gap : task->us - 1;
	}
	if (gap > task->gap_max)
		task->gap_max = gap;
	if (gap >= task->us) {
		unsigned power = 63 - (unsigned)__builtin_clzll(gap / task->us);

		task->stalls[power < STALLS ? power : STALLS - 1]++;
	}
}

/* " stalls=1:52,64:3": 52 gaps of 1 to 2 us, 3 of 64 to 128 us; or " stalls=-". */
static void put_stalls(const struct task *task, struct line *line)
{
	const char *before = " stalls=";

	for (unsigned i = 0; i < STALLS; i++) {
		if (task->stalls[i] == 0)
			continue;
		put(line, before);
		put_dec(line, 1ull << i);
		put(line, ":");
		put_dec(line, task->stalls[i]);
		before = ",";
	}
	if (*before == ' ')
		put(line, " stalls=-");
}

static void put_counters(struct task *task, struct line *line, uint64_t now)
{
	put_key(line, "task", (uint64_t)task->id);
	put_key(line, "ms", us_from_ticks(now - task->boot) / 1000);
	put_key(line, "passes", task->passes);
	put_key(line, "writes", task->writes);
	put_key(line, "gap_us", us_from_ticks(task->gap));
	put_key(line, "ticks", percpu[task->cpu].ticks);
	put_key(line, "gap_max_us", us_from_ticks(task->gap_max));
	put_key(line, "print_us", us_from_ticks(task->print));
	put_stalls(task, line);
	put(line, !task->begun ? " phase=prepare" : task->cool ? " phase=cool" : " phase=busy");
	put_key(line, "tsc_ms", us_from_ticks(now) / 1000);
	if (clock.has_kvmclock)
		put_key(line, "kvmclock_ms", kvmclock_ns(task->cpu) / 1000000);
	if (task->put_extra != NULL)
		task->put_extra(task, line);
}

/*
 * The TSC stepped back: the VM came to a host whose TSC is younger. Every point in time that the
 * task holds moves by the same step, which kvmclock gives; without one the step itself counts as no
 * time.
 */
static void rebase(struct task *task, uint64_t now)
{
	/* Only differences to these are taken, so they may lie before the new TSC began. */
	uint64_t *const since[] = {&task->boot, &task->started, &task->kvmclock_tsc};
	/* These are compared: what was due before the new TSC began must not be due never. */
	uint64_t *const due[] = {
		&task->heartbeat, &task->phase_end,   &task->end, &task->schedule,
		&task->tags.poll, &task->tags.toggle, &task->dot,
	};
	uint64_t then = task->last_step;

	if (clock.has_kvmclock)
		then = task->kvmclock_tsc + ticks_from_us((kvmclock_ns(task->cpu) - task->kvmclock) / 1000);
	if (then < task->last_step)
		then = task->last_step;
	note_gap(task, then - task->last_step);
	uint64_t step = then - now;
	for (unsigned i = 0; i < sizeof since / sizeof since[0]; i++)
		*since[i] -= step;
	for (unsigned i = 0; i < sizeof due / sizeof due[0]; i++)
		if (*due[i] != UINT64_MAX)
			*due[i] = *due[i] > step ? *due[i] - step : 0;
	task->stepped += step;
	task->last_step = now;
	task_arm(task);
}

void task_print(struct task *task, struct line *line)
{
	uint64_t before = rdtsc(), after;

	/* A line may follow work that no step has told of: perhaps the VM was moved within a tag.
	 * That time is no printing. */
	if (before < task->last_step)
		rebase(task, before);
	else
		note_gap(task, before - task->last_step);
	console_send(line);
	after = rdtsc();
	task->last_step = before;
	if (after < before) {
		rebase(task, after);
		return;
	}
	task->last_step = after;
	task->excluded += after - before;
	if (after - before > task->print)
		task->print = after - before;
}

static void heartbeat(struct task *task, uint64_t now)
{
	struct line line = {0};

	put(&line, "hb");
	put_counters(task, &line, now);
	task->kvmclock = kvmclock_ns(task->cpu);
	task->kvmclock_tsc = now;
	clear_gaps(task);
	task->print = 0;
	/* A line each second of the run; after a long pause one line, not all that were missed. */
	do
		task->heartbeat += ticks_from_us(1000000);
	while (task->heartbeat <= now);
	task_print(task, &line);
}

/* A line of its own: who reads lines need not know of it. After a long pause one, not all missed.
 * */
static void put_dot(struct task *task)
{
	struct line line = {0};

	put(&line, ".");
	task_print(task, &line);
	task->dot = task->last_step + ticks_from_us(task->options->dots);
}

static void say_stepped(struct task *task)
{
	struct line line = {0};

	put(&line, "clock: the TSC stepped back,");
	put_key(&line, "task", (uint64_t)task->id);
	put_key(&line, "step_ms", us_from_ticks(task->stepped) / 1000);
	task->stepped = 0;
	task_print(task, &line);
}

void task_slow_step(struct task *task, uint64_t now)
{
	if (now < task->last_step) {
		rebase(task, now);
	} else {
		note_gap(task, now - task->last_step);
		task->last_step = now;
	}
	if (task->stepped != 0)
		say_stepped(task);
	if (now >= task->heartbeat)
		heartbeat(task, now);
	if (now >= task->tags.poll || now >= task->tags.toggle)
		tags_poll(task);
	if (task->last_step >= task->dot)
		put_dot(task);
	if (task->last_step >= task->deadline)
		task_arm(task);
}

void task_finish(struct task *task)
{
	static int finished;
	struct line line = {0};

	tags_end(task);
	put(&line, "done");
	put_counters(task, &line, task->last_step);
	task_print(task, &line);
	if (__atomic_add_fetch(&finished, 1, __ATOMIC_ACQ_REL) == task_count)
		vm_exit(STATUS_OK);
	cpu_idle(task->cpu);
}
