/*
 * workload=sort: a merge sort of random keys as it is done on disks, but in memory. In its busy
 * phase a task makes keys, sorts runs that fit the cache, and merges them from one half of its
 * memory into the other, pass by pass, until one run is left. In its cool phase it only reads: it
 * verifies that the keys are in order and still the same ones. A phase ends with the first whole
 * sort, or verification, after its time.
 */
#include "heap.h"
#include "pages.h"
#include "phases.h"
#include "workloads.h"

#define RUN 16384   /* keys that are sorted within the cache */
#define SMALL 16    /* keys sorted by insertion; RUN is SMALL times an even power of two */
#define STEP_KEYS 64
#define KEYS_PER_PAGE (PAGE / sizeof(uint64_t))

/* What stays the same however keys are ordered. */
struct digest {
	uint64_t sum, mixed;
};

struct sorter {
	uint64_t n;
	uint64_t *from, *to; /* the halves; from holds the keys */
	struct digest digest;
	uint64_t sorts, verified;
};

static struct sorter all[MAX_CPUS];

static void prepare(const struct options *options, int tasks)
{
	uint64_t half = options->ws / 2 & -PAGE;
	struct line line = {0};

	if (half == 0) {
		put(&line, "usage: workload=sort needs ws=8K or more");
		usage_error(&line);
	}
	if (options->ws > boot_info.ram_bytes)
		heap_require(options->ws, "the working set");
	heap_require((uint64_t)tasks * 2 * half, "the keys of all tasks");
	for (int i = 0; i < tasks; i++) {
		all[i].n = half / sizeof(uint64_t);
		all[i].from = heap_take(half);
		all[i].to = heap_take(half);
	}
}

static inline void digest_add(struct digest *digest, uint64_t key)
{
	digest->sum += key;
	digest->mixed ^= key * 0x9e3779b97f4a7c15;
}

static bool digest_equal(const struct digest *a, const struct digest *b)
{
	return a->sum == b->sum && a->mixed == b->mixed;
}

static __attribute__((noreturn)) void corrupt_keys(const struct task *task, const char *kind,
						   uint64_t at, uint64_t want, uint64_t got)
{
	corrupt((unsigned)task->id, kind, at / KEYS_PER_PAGE, at, want, got);
}

static void make_keys(struct task *task, struct sorter *s)
{
	uint64_t seed = mix64(mix64(task->options->seed + (uint64_t)task->id) + s->sorts);

	s->digest = (struct digest){0, 0};
	for (uint64_t i = 0; i < s->n; i++) {
		s->from[i] = mix64(seed + i);
		digest_add(&s->digest, s->from[i]);
		if (i % STEP_KEYS == 0)
			task_step(task);
	}
	task->writes += s->n / KEYS_PER_PAGE;
}

static void insertion_sort(uint64_t *keys, uint64_t count)
{
	for (uint64_t i = 1; i < count; i++) {
		uint64_t key = keys[i], j = i;
		for (; j > 0 && keys[j - 1] > key; j--)
			keys[j] = keys[j - 1];
		keys[j] = key;
	}
}

/* Merges [begin, middle) and [middle, end) of from into to. */
static void merge(struct task *task, const uint64_t *from, uint64_t *to, uint64_t begin,
		  uint64_t middle, uint64_t end, struct digest *digest)
{
	uint64_t left = begin, right = middle;

	for (uint64_t at = begin; at < end; at++) {
		bool take_left = right == end || (left < middle && from[left] <= from[right]);
		to[at] = from[take_left ? left : right];
		left += take_left;
		right += !take_left;
		digest_add(digest, to[at]);
		if (at % STEP_KEYS == 0)
			task_step(task);
	}
}

/* Merges all pairs of neighbouring runs of so many keys within [begin, end). */
static void merge_runs(struct task *task, const uint64_t *from, uint64_t *to, uint64_t begin,
		       uint64_t end, uint64_t run, struct digest *digest)
{
	for (uint64_t at = begin; at < end; at += 2 * run) {
		uint64_t middle = at + run < end ? at + run : end;
		uint64_t last = at + 2 * run < end ? at + 2 * run : end;
		merge(task, from, to, at, middle, last, digest);
	}
}

static void form_runs(struct task *task, struct sorter *s)
{
	struct digest ignored = {0, 0};

	for (uint64_t begin = 0; begin < s->n; begin += RUN) {
		uint64_t end = begin + RUN < s->n ? begin + RUN : s->n;
		for (uint64_t i = begin; i < end; i += SMALL) {
			insertion_sort(s->from + i, SMALL);
			task_step(task);
		}
		/* There and back, so that the run ends where it was. */
		for (uint64_t run = SMALL; run < RUN; run *= 4) {
			merge_runs(task, s->from, s->to, begin, end, run, &ignored);
			merge_runs(task, s->to, s->from, begin, end, 2 * run, &ignored);
		}
		if (task_over(task))
			return;
	}
	task->writes += s->n / KEYS_PER_PAGE;
}

static void merge_pass(struct task *task, struct sorter *s, uint64_t run)
{
	struct digest digest = {0, 0};
	uint64_t *to = s->to;

	merge_runs(task, s->from, to, 0, s->n, run, &digest);
	if (!digest_equal(&digest, &s->digest))
		corrupt_keys(task, "merge", 0, s->digest.sum, digest.sum);
	s->to = s->from;
	s->from = to;
	task->writes += s->n / KEYS_PER_PAGE;
	task->passes++;
}

static void sort_once(struct task *task, struct sorter *s)
{
	make_keys(task, s);
	form_runs(task, s);
	for (uint64_t run = RUN; run < s->n && !task_over(task); run *= 2)
		merge_pass(task, s, run);
	if (task_over(task))
		return;
	s->sorts++;
	if (task->options->inject != INJECT_NONE)
		s->from[s->n / 2] ^= 1;
}

static void verify(struct task *task, struct sorter *s)
{
	struct digest digest = {0, 0};
	uint64_t last = 0;

	for (uint64_t i = 0; i < s->n; i++) {
		uint64_t key = s->from[i];
		if (key < last)
			corrupt_keys(task, "order", i, last, key);
		last = key;
		digest_add(&digest, key);
		if (i % STEP_KEYS == 0)
			task_step(task);
	}
	if (!digest_equal(&digest, &s->digest))
		corrupt_keys(task, "keys", 0, s->digest.sum, digest.sum);
	s->verified++;
}

static void put_sorts(struct task *task, struct line *line)
{
	put_key(line, "sorts", all[task->id].sorts);
	put_key(line, "verified", all[task->id].verified);
}

static void run(struct task *task)
{
	struct sorter *s = &all[task->id];

	task->put_extra = put_sorts;
	sort_once(task, s);
	verify(task, s);
	tasks_meet();
	task_begin(task);
	phases_begin(task);
	while (!task_over(task)) {
		if (task->cool) {
			verify(task, s);
		} else {
			sort_once(task, s);
			phases_safe_point(task);
		}
		if (task_phase_over(task))
			phases_next(task);
	}
}

const struct workload_ops sort_ops = {prepare, run, true};
