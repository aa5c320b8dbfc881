/*
 * workload=pulse: rewrites its working set once, then halts until the next timer tick, again and
 * again. The halt is its segment.
 */
#include "heap.h"
#include "pages.h"
#include "workloads.h"

static struct pageset sets[MAX_CPUS];

/* Runs once, before any task: it takes the memory of all tasks, or ends the VM with the reason. */
static void prepare(const struct options *options, int tasks)
{
	heap_require((uint64_t)tasks * pageset_cost(options->ws), "the working sets");
	for (int i = 0; i < tasks; i++)
		pageset_init(&sets[i], (unsigned)i, (enum fill)options->fill, options->ws);
}

/* What one task does, at CPL 3. It returns when the task's time is over. */
static void run(struct task *task)
{
	struct pageset *set = &sets[task->id];

	tasks_meet();
	task_begin(task);
	tags_begin(task);
	task_arm(task);
	while (!task_over(task)) {
		task->cool = false;
		tags_phase(task); /* EXIT, before the first write */
		for (uint64_t page = 0; page < set->count; page++) {
			if (task->passes != 0)
				page_verify(set, page);
			page_rewrite(set, page);
			task->writes++;
			task_step(task);
		}
		task->passes++;
		task->cool = true;
		tags_phase(task); /* ENTER */
		uint64_t seen = percpu[task->cpu].wakeups;
		call_halt(&percpu[task->cpu].wakeups, seen);
		task_step(task);
	}
}

const struct workload_ops pulse_ops = {prepare, run, true};
