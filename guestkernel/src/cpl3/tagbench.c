/*
 * workload=tagbench: what a tag costs when no migration goes on, each way of tagging by itself.
 * Prints the median over batches, so that being preempted by the host does not count, and ends with
 * status 0.
 */
#include "tag.h"
#include "workloads.h"

#define BATCHES 101
/* Slow ways leave the VM at microseconds each; a fast tag takes nanoseconds, less than reading the
 * TSC does. */
#define SLOW_TAGS 20
#define FAST_TAGS 20000
#define TASK 0

static struct tag_port port;
static struct tag_slot *slot;
static struct tag_page page __attribute__((aligned(PAGE)));

static void prepare(const struct options *options, int tasks)
{
	struct line line = {0};

	(void)options;
	(void)tasks;
	if (tag_init_mmio(&port, (volatile void *)(uint64_t)TAG_MMIO_BASE) == 0 && tags_port_present())
		return;
	put(&line, "usage: workload=tagbench needs a tag port, and this machine has none");
	usage_error(&line);
}

static void by_mmio(void)
{
	tag_enter(&port, TASK);
	tag_exit(&port, TASK);
}

static void by_port(void)
{
	call_out32(TAG_PORT_BASE + TAG_REG_ENTER, TASK);
	call_out32(TAG_PORT_BASE + TAG_REG_EXIT, TASK);
}

static void by_slot(void)
{
	tag_fast_enter(&port, slot);
	tag_fast_exit(&port, slot);
}

static void by_range(void)
{
	tag_declare(&port, 7, 0x100000, 64 * PAGE);
	tag_take_back(&port, 7);
}

static void by_read(void)
{
	tag_epoch(&port);
	tag_epoch(&port);
}

static void sort_up(uint64_t *values, unsigned count)
{
	for (unsigned i = 1; i < count; i++)
		for (unsigned j = i; j > 0 && values[j] < values[j - 1]; j--) {
			uint64_t swap = values[j];
			values[j] = values[j - 1];
			values[j - 1] = swap;
		}
}

/* Nanoseconds of one of the two operations that pair does. */
static inline __attribute__((always_inline)) uint64_t measure(struct task *task, void (*pair)(void),
							      unsigned operations)
{
	uint64_t batches[BATCHES];

	for (unsigned i = 0; i < BATCHES; i++) {
		uint64_t start = rdtsc();
		for (unsigned j = 0; j < operations / 2; j++)
			pair();
		batches[i] = rdtsc() - start;
		task_step(task);
	}
	sort_up(batches, BATCHES);
	return (ns_from_ticks(batches[BATCHES / 2]) + operations / 2) / operations;
}

static void run(struct task *task)
{
	struct line line = {0};
	uint64_t fast = 0, device = 0, range = 0;

	put(&line, "tagbench");
	tag_register(&port, TASK);
	put_key(&line, "mmio_ns", measure(task, by_mmio, SLOW_TAGS));
	put_key(&line, "port_ns", measure(task, by_port, SLOW_TAGS));
	tag_unregister(&port, TASK);
	if (tag_page_init(&port, &page, (uint64_t)&page) == 0 &&
	    (slot = tag_fast_open(&port, TASK)) != NULL) {
		fast = measure(task, by_slot, FAST_TAGS);
		tag_fast_close(&port, slot);
		if (tag_ranges_on(&port) == 0)
			range = measure(task, by_range, FAST_TAGS);
		tag_page_off(&port);
	}
	if (tags_device_init(&port) &&
	    (slot = tag_device_slot_open(&port, 0, TASK, "tagbench")) != NULL) {
		device = measure(task, by_slot, FAST_TAGS);
		tag_fast_close(&port, slot);
		tag_device_pages_off(&port);
	}
	put_key(&line, "fast_ns", fast);
	put_key(&line, "device_ns", device);
	put_key(&line, "range_ns", range);
	put_key(&line, "read_ns", measure(task, by_read, SLOW_TAGS));
	task_print(task, &line);
}

const struct workload_ops tagbench_ops = {prepare, run, false};
