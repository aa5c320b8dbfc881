/*
 * workload=heap: a program with a garbage collector. A part of its heap lives on, and a page of it
 * is rewritten now and then. The rest is young memory, in blocks. The task allocates a block at
 * random, fills it, and drops it when it has a few younger ones. What was dropped is garbage, which
 * the task declares to be not worth moving (tag.h), unless it is told not to.
 *
 * It verifies a block when it drops it, and pages of the old part in rotation. So it notices if a
 * page gets lost that was not declared, or was written after it had been taken back.
 */
#include "heap.h"
#include "pages.h"
#include "phases.h"
#include "tag.h"
#include "workloads.h"

/* Blocks of a task that are in use at the same time. */
#define YOUNG 4
/* So many young pages are written for each old one. */
#define OLD_STRIDE 64
#define NONE UINT64_MAX

struct heap {
	struct pageset old, young;
	uint64_t blocks, block_pages;
	uint64_t first_range;     /* the table's entry of block 0 */
	uint64_t used[YOUNG];     /* blocks, oldest first; NONE = not yet */
	uint64_t dropped, random, next_old;
};

static struct heap heaps[MAX_CPUS];
static const struct tag_port *ranges; /* NULL: nothing is declared */

static void declare(const struct heap *heap, uint64_t block)
{
	uint64_t bytes = heap->block_pages * PAGE;
	const char *at = (const char *)heap->young.base + block * bytes;

	if (ranges != NULL)
		tag_declare(ranges, (uint32_t)(heap->first_range + block), heap_physical(at), bytes);
}

static void take_back(const struct heap *heap, uint64_t block)
{
	if (ranges != NULL)
		tag_take_back(ranges, (uint32_t)(heap->first_range + block));
}

/* Memory that devices could use: a range is one piece of physical memory, too. */
static void take_pages(struct pageset *set, int task, enum fill fill, uint64_t pages)
{
	set->task = (unsigned)task;
	set->fill = fill;
	set->count = pages;
	set->base = heap_take_straight(pages * PAGE);
	if (set->base == NULL) {
		struct line line = {0};
		put(&line, "usage: workload=heap needs its heap below 3 GiB; ask for a smaller ws=");
		usage_error(&line);
	}
}

static void prepare(const struct options *options, int tasks)
{
	uint64_t pages = options->ws / PAGE, old = pages * options->live / 100;
	uint64_t blocks = TAG_RANGES / (uint64_t)tasks;

	if (options->ws > boot_info.ram_bytes)
		heap_require(options->ws, "the heap");
	heap_require((uint64_t)tasks * pageset_cost(options->ws), "the heap of all tasks");
	if (blocks > (pages - old) / 2)
		blocks = (pages - old) / 2;
	if (old == 0 || blocks < 2 * YOUNG) {
		struct line line = {0};
		put(&line, "usage: workload=heap has too few pages; ask for a larger ws= or another live=");
		usage_error(&line);
	}
	for (int i = 0; i < tasks; i++) {
		struct heap *heap = &heaps[i];
		heap->blocks = blocks;
		heap->block_pages = (pages - old) / blocks;
		heap->first_range = blocks * (uint64_t)i;
		take_pages(&heap->old, i, (enum fill)options->fill, old);
		take_pages(&heap->young, i, (enum fill)options->fill, blocks * heap->block_pages);
		heap->random = mix64(options->seed + (uint64_t)i);
	}
	for (int i = 0; i < tasks; i++) {
		heaps[i].old.generations = heap_take(heaps[i].old.count * sizeof(uint64_t));
		heaps[i].young.generations = heap_take(heaps[i].young.count * sizeof(uint64_t));
	}
	ranges = options->declare != 0 ? tags_ranges() : NULL;
}

static void rewrite(struct task *task, struct pageset *set, uint64_t page)
{
	page_rewrite(set, page);
	task->writes++;
}

static void rewrite_old(struct task *task, struct heap *heap, uint64_t pages)
{
	page_verify_whole(&heap->old, heap->next_old);
	rewrite(task, &heap->old, heap->next_old);
	heap->next_old = (heap->next_old + 1) % pages;
}

/* Drops the oldest young block, once there are enough. */
static void drop(struct task *task, struct heap *heap)
{
	uint64_t block = heap->used[0];

	if (block != NONE) {
		for (uint64_t i = 0; i < heap->block_pages; i++) {
			page_verify(&heap->young, block * heap->block_pages + i);
			task_step(task);
		}
		declare(heap, block);
		heap->dropped++;
	}
	for (unsigned i = 1; i < YOUNG; i++)
		heap->used[i - 1] = heap->used[i];
}

static uint64_t choose(struct heap *heap)
{
	for (;;) {
		heap->random = mix64(heap->random + 1);
		uint64_t block = heap->random % heap->blocks;
		bool used = false;
		for (unsigned i = 0; i < YOUNG - 1; i++)
			used |= heap->used[i] == block;
		if (!used)
			return block;
	}
}

/* Makes room, and fills a block anew. */
static void allocate(struct task *task, struct heap *heap)
{
	drop(task, heap);
	uint64_t block = choose(heap);
	take_back(heap, block);
	/* It must be whole when it is dropped, so phases change between blocks only. */
	for (uint64_t i = 0; i < heap->block_pages; i++) {
		rewrite(task, &heap->young, block * heap->block_pages + i);
		if (i % OLD_STRIDE == 0)
			rewrite_old(task, heap, heap->old.count);
		task_step(task);
	}
	heap->used[YOUNG - 1] = block;
	task->passes++;
}

static void cool_phase(struct task *task, struct heap *heap)
{
	uint64_t pages = task->options->hot / PAGE;

	if (pages > heap->old.count)
		pages = heap->old.count;
	heap->next_old = pages == 0 ? heap->next_old : heap->next_old % pages;
	do {
		if (pages == 0)
			pause();
		else
			rewrite_old(task, heap, pages);
	} while (!task_step(task));
}

static void put_heap(struct task *task, struct line *line)
{
	put_key(line, "dropped", heaps[task->id].dropped);
}

/* All of the heap has content when the run begins, and all but the old part is garbage. */
static void fill_heap(struct task *task, struct heap *heap)
{
	for (uint64_t page = 0; page < heap->old.count; page++) {
		rewrite(task, &heap->old, page);
		task_step(task);
	}
	for (uint64_t page = 0; page < heap->young.count; page++) {
		rewrite(task, &heap->young, page);
		task_step(task);
	}
	for (uint64_t block = 0; block < heap->blocks; block++)
		declare(heap, block);
	for (unsigned i = 0; i < YOUNG; i++)
		heap->used[i] = NONE;
}

static void run(struct task *task)
{
	struct heap *heap = &heaps[task->id];

	task->put_extra = put_heap;
	fill_heap(task, heap);
	tasks_meet();
	task_begin(task);
	phases_begin(task);
	for (;;) {
		if (!task_phase_over(task)) {
			if (task->cool)
				cool_phase(task, heap);
			else
				allocate(task, heap);
		}
		if (task_over(task))
			break;
		if (task_phase_over(task))
			phases_next(task);
		else
			phases_safe_point(task);
	}
	for (unsigned i = 0; i < YOUNG; i++)
		drop(task, heap);
	for (uint64_t page = 0; page < heap->old.count; page++)
		page_verify_whole(&heap->old, page);
}

const struct workload_ops heap_ops = {prepare, run, true};
