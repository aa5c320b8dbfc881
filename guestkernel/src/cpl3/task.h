/*
 * A task: what one vCPU does, in steps. A step is short (one page, one turn of a loop); the time
 * from the end of one to the end of the next is what a pause of the VM shows up in, so the longest
 * one, the gap, is what the guest itself saw of a migration.
 */
#ifndef TASK_H
#define TASK_H
#include "clock.h"
#include "options.h"
#include "tags.h"

/* Gaps are counted by powers of two of a microsecond: [i] has those of at least 2^i us and less
 * than twice that, the last one all longer ones. Shorter ones than 1 us are not counted. */
#define STALLS 27

struct task {
	int id;
	int cpu;
	const struct options *options;
	uint64_t boot;      /* TSC: where `ms` counts from */
	uint64_t started;   /* TSC */
	uint64_t last_step; /* TSC */
	uint64_t gap, gap_max;
	uint64_t us;        /* TSC ticks of a microsecond */
	uint64_t noted;     /* TSC ticks: gaps longer than that are looked at */
	uint32_t stalls[STALLS]; /* since the last heartbeat */
	uint64_t print;     /* longest that a line took to print since the last heartbeat */
	uint64_t deadline;  /* TSC of when the next step is a slow one */
	uint64_t heartbeat, dot, phase_end, end; /* TSC; UINT64_MAX = never */
	/* TSC: a workload's own, UINT64_MAX = none; it is kept here so that a TSC that steps takes it
	 * along */
	uint64_t schedule;
	uint64_t passes, writes;
	/* ns at the last heartbeat, and the TSC then: to bridge a TSC that steps back */
	uint64_t kvmclock;
	uint64_t kvmclock_tsc;
	uint64_t stepped;   /* TSC ticks that it has stepped back and that have not been told yet */
	uint64_t excluded;  /* TSC ticks that printing has taken since the task began */
	bool begun;         /* its run, that is: it does not prepare any more */
	bool cool;          /* in a cool phase */
	struct tagging tags;
	/* a workload's own fields of the heartbeat, or NULL */
	void (*put_extra)(struct task *task, struct line *line);
};

/* Starts a task's heartbeat, while it prepares its memory: that takes as long as it takes, whatever
 * secs= says. */
void task_prepare(struct task *task);
/* Starts the clock of its run, without tags. What came before does not count. */
void task_begin(struct task *task);
/* Ends the task's run: prints its last line; the last of all tasks ends the VM with STATUS_OK. */
__attribute__((noreturn)) void task_finish(struct task *task);
/* The rare rest of task_step. */
void task_slow_step(struct task *task, uint64_t now);
/* Computes the deadline anew after one of its parts has been changed. */
void task_arm(struct task *task);
/* Prints a line, which does not count as a gap. */
void task_print(struct task *task, struct line *line);

/* Counts one step. Returns true when something is due: the phase or the run is over, see
 * task_phase_over and task_over. */
static inline __attribute__((always_inline)) bool task_step(struct task *task)
{
	uint64_t now = rdtsc();

	/* A TSC that stepped back makes this huge, which is looked into on the slow path. */
	if (now - task->last_step > task->noted || now >= task->deadline) {
		task_slow_step(task, now);
		return task->last_step >= task->phase_end || task->last_step >= task->end;
	}
	task->last_step = now;
	return false;
}

static inline bool task_over(const struct task *task)
{
	return task->last_step >= task->end;
}

static inline bool task_phase_over(const struct task *task)
{
	return task->last_step >= task->phase_end;
}
#endif
