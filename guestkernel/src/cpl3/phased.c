/*
 * workload=phased: a busy phase, in which the task rewrites its whole working set again and again,
 * alternates with a cool one, in which it rewrites only the first `hot` bytes.
 */
#include "heap.h"
#include "pages.h"
#include "phases.h"
#include "workloads.h"

/* One page in so many is verified whole in each pass, the next ones in the next pass. */
#define WHOLE_STRIDE 16
/* How late a page may be and still be made up for. */
#define PACE_SLACK_US 10000
/* Passes before inject= strikes. */
#define INJECT_AFTER 3

static struct pageset sets[MAX_CPUS];

static void prepare(const struct options *options, int tasks)
{
	if (options->ws > boot_info.ram_bytes)
		heap_require(options->ws, "the working set");
	heap_require((uint64_t)tasks * pageset_cost(options->ws), "the working set of all tasks");
	for (int i = 0; i < tasks; i++)
		pageset_init(&sets[i], (unsigned)i, (enum fill)options->fill, options->ws);
}

/*
 * With pace=, a page must not be rewritten before its turn: so many a second from the beginning of
 * the phase on. A pause of the VM is not made up for. Returns true if the phase is over meanwhile.
 */
static bool await_turn(struct task *task, uint64_t *due)
{
	uint64_t interval, now = rdtsc();

	if (task->options->pace == 0)
		return false;
	interval = ticks_from_us(1000000) / task->options->pace;
	if (*due == 0 || now > *due + ticks_from_us(PACE_SLACK_US))
		*due = now;
	while (rdtsc() < *due) {
		pause();
		if (task_step(task))
			return true;
	}
	*due += interval;
	return false;
}

static inline void visit(struct task *task, struct pageset *set, uint64_t page, uint64_t rotation)
{
	if ((page + rotation) % WHOLE_STRIDE == 0)
		page_verify_whole(set, page);
	else
		page_verify(set, page);
	page_rewrite(set, page);
	task->writes++;
}

/* Damages a page whose turn to be verified whole is in the coming pass; a set of a few pages may
 * have none this time. */
static void inject_damage(const struct task *task, struct pageset *set)
{
	for (uint64_t page = set->count / 2; page < set->count; page++)
		if ((page + task->passes) % WHOLE_STRIDE == 0) {
			page_inject(set, page, (enum inject)task->options->inject);
			return;
		}
}

/*
 * Rewrites the working set until the phase is over. The generations add up to the number of writes,
 * which the tasks count apart: so even a lost write to the table of generations would be found.
 */
static void busy_phase(struct task *task, struct pageset *set, uint64_t *cursor)
{
	uint64_t sum = 0, due = 0;
	bool from_start = false;

	for (;;) {
		if (await_turn(task, &due))
			return;
		if (*cursor == 0) {
			sum = 0;
			from_start = true;
		}
		visit(task, set, *cursor, task->passes);
		sum += set->generations[*cursor];
		if (++*cursor == set->count) {
			*cursor = 0;
			task->passes++;
			if (from_start && sum != task->writes)
				corrupt(set->task, "table", set->count, 0, task->writes, sum);
			if (task->options->inject != INJECT_NONE && task->passes >= INJECT_AFTER)
				inject_damage(task, set);
			phases_safe_point(task);
		}
		if (task_step(task))
			return;
	}
}

static void cool_phase(struct task *task, struct pageset *set)
{
	uint64_t pages = task->options->hot / PAGE, page = 0, rotation = 0;

	for (;;) {
		if (pages == 0) {
			pause();
		} else {
			visit(task, set, page, rotation);
			if (++page == pages) {
				page = 0;
				rotation++;
			}
		}
		if (task_step(task))
			return;
	}
}

static void run(struct task *task)
{
	struct pageset *set = &sets[task->id];
	uint64_t cursor = 0;

	/* The first pass fills the pages; there is nothing to verify yet. */
	for (uint64_t page = 0; page < set->count; page++) {
		page_rewrite(set, page);
		task->writes++;
		task_step(task);
	}
	task->passes = 1;
	tasks_meet();
	task_begin(task);
	phases_begin(task);
	for (;;) {
		if (!task_phase_over(task)) {
			if (task->cool)
				cool_phase(task, set);
			else
				busy_phase(task, set, &cursor);
		}
		if (task_over(task))
			break;
		phases_next(task);
	}
	for (uint64_t page = 0; page < set->count; page++)
		page_verify_whole(set, page);
}

const struct workload_ops phased_ops = {prepare, run, true};
