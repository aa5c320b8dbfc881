/*
 * workload=kv: a key-value store, a hash table with open addressing. Clients' requests arrive at a
 * fixed rate, whatever the store is doing, and nearly all of them read; the time from a request's
 * arrival to its answer is its latency, so that after a pause every request that should have come
 * in it counts with the time it had to wait. In its busy phase the store takes in a burst of
 * updates to random keys besides, as fast as it can. In its cool phase it only serves; the few
 * updates among the requests go to the keys of the first `hot` bytes.
 *
 * Every value is derived from its key and a version, which a table of its own keeps as well: each
 * request verifies the whole entry that it finds.
 */
#include "heap.h"
#include "histogram.h"
#include "pages.h"
#include "phases.h"
#include "workloads.h"

#define VALUE_WORDS 29
/* One request in so many is an update. */
#define UPDATE_EVERY 32
#define LOAD_PERCENT 75

struct entry {
	uint64_t name; /* key + 1; 0 = nothing here */
	uint64_t version;
	uint64_t value[VALUE_WORDS];
	uint64_t check;
};

_Static_assert(sizeof(struct entry) == 256, "16 entries a page");

struct store {
	struct entry *entries;
	uint64_t capacity, keys;
	uint64_t *versions; /* of each key, what its entry must have */
	uint64_t hot;       /* entries at the beginning that the cool phase updates */
	uint64_t random;
	uint64_t interval;  /* TSC ticks between two requests; 0 = none come */
	uint64_t excluded;  /* printing time that the schedule has been moved by */
	uint64_t updates;   /* of the bursts */
	struct histogram latency; /* TSC ticks, since the last heartbeat */
};

static struct store stores[MAX_CPUS];

static void prepare(const struct options *options, int tasks)
{
	uint64_t capacity = options->ws / sizeof(struct entry), keys = capacity * LOAD_PERCENT / 100;

	if (options->ws > boot_info.ram_bytes)
		heap_require(options->ws, "the working set");
	heap_require((uint64_t)tasks * (options->ws + keys * sizeof(uint64_t) + PAGE),
		     "the stores of all tasks");
	for (int i = 0; i < tasks; i++) {
		struct store *s = &stores[i];
		s->capacity = capacity;
		s->keys = keys;
		s->entries = heap_take(options->ws);
		s->versions = heap_take(keys * sizeof(uint64_t));
		s->hot = options->hot / sizeof(struct entry);
		s->random = mix64(options->seed + (uint64_t)i) | 1;
		s->interval = options->rate == 0 ? 0 : ticks_from_us(1000000) / options->rate;
	}
}

static inline uint64_t random_below(struct store *s, uint64_t bound)
{
	s->random ^= s->random << 13;
	s->random ^= s->random >> 7;
	s->random ^= s->random << 17;
	return (uint64_t)((unsigned __int128)s->random * bound >> 64);
}

static inline uint64_t home_of(const struct store *s, uint64_t key)
{
	return (uint64_t)((unsigned __int128)mix64(key) * s->capacity >> 64);
}

/* The entry of the key, or the empty one where it belongs. */
static struct entry *find(const struct store *s, uint64_t key)
{
	uint64_t at = home_of(s, key);

	while (s->entries[at].name != 0 && s->entries[at].name != key + 1)
		at = at + 1 == s->capacity ? 0 : at + 1;
	return &s->entries[at];
}

static inline uint64_t next_word(uint64_t word)
{
	return word * 6364136223846793005 + 1442695040888963407;
}

static inline uint64_t first_word(uint64_t key, uint64_t version)
{
	return mix64(key ^ mix64(version));
}

static void verify_entry(const struct task *task, const struct store *s, uint64_t key,
			 const struct entry *e)
{
	uint64_t page = (uint64_t)(e - s->entries) / (PAGE / sizeof *e), wrong = 0, word;

	if (e->name != key + 1)
		corrupt((unsigned)task->id, "missing", page, key, key + 1, e->name);
	if (e->version != s->versions[key])
		corrupt((unsigned)task->id,
			e->version < s->versions[key] ? "lost-write" : "version", page, key,
			s->versions[key], e->version);
	word = first_word(key, e->version);
	for (unsigned i = 0; i < VALUE_WORDS; i++) {
		wrong |= e->value[i] ^ word;
		word = next_word(word);
	}
	wrong |= e->check ^ word;
	if (wrong != 0)
		corrupt((unsigned)task->id, "value", page, key, 0, wrong);
}

static void write_entry(struct store *s, uint64_t key, struct entry *e)
{
	uint64_t word = first_word(key, ++s->versions[key]);

	e->name = key + 1;
	e->version = s->versions[key];
	for (unsigned i = 0; i < VALUE_WORDS; i++) {
		e->value[i] = word;
		word = next_word(word);
	}
	e->check = word;
}

static void read_key(const struct task *task, const struct store *s, uint64_t key)
{
	verify_entry(task, s, key, find(s, key));
}

static void update_key(struct task *task, struct store *s, uint64_t key)
{
	struct entry *e = find(s, key);

	verify_entry(task, s, key, e);
	write_entry(s, key, e);
	task->writes++;
}

/* A key that lies among the hot entries; false when the one tried is empty. */
static bool pick_hot(struct store *s, uint64_t *key)
{
	uint64_t name = s->hot == 0 ? 0 : s->entries[random_below(s, s->hot)].name;

	*key = name - 1;
	return name != 0;
}

static void serve(struct task *task, struct store *s)
{
	uint64_t key;

	if (random_below(s, UPDATE_EVERY) == 0 && pick_hot(s, &key)) {
		if (key >= s->keys)
			corrupt((unsigned)task->id, "name", 0, key, s->keys, key);
		update_key(task, s, key);
	} else {
		read_key(task, s, random_below(s, s->keys));
	}
}

static void burst(struct task *task, struct store *s)
{
	update_key(task, s, random_below(s, s->keys));
	s->updates++;
	if (s->updates % s->keys == 0) {
		task->passes++;
		phases_safe_point(task);
	}
}

static void load(struct task *task, struct store *s)
{
	for (uint64_t key = 0; key < s->keys; key++) {
		write_entry(s, key, find(s, key));
		task->writes++;
		task_step(task);
	}
	if (task->options->inject != INJECT_NONE)
		find(s, s->keys / 2)->value[VALUE_WORDS / 2] ^= 1;
}

static void put_latencies(struct task *task, struct line *line)
{
	struct store *s = &stores[task->id];

	put_key(line, "requests", s->latency.count);
	put_us(line, "p50_us", histogram_permille(&s->latency, 500));
	put_us(line, "p99_us", histogram_permille(&s->latency, 990));
	put_us(line, "p999_us", histogram_permille(&s->latency, 999));
	put_us(line, "max_us", s->latency.max);
	put_key(line, "updates", s->updates);
	memset(&s->latency, 0, sizeof s->latency);
}

static void run(struct task *task)
{
	struct store *s = &stores[task->id];

	task->put_extra = put_latencies;
	load(task, s);
	tasks_meet();
	task_begin(task);
	phases_begin(task);
	task->schedule = s->interval == 0 ? UINT64_MAX : task->last_step;
	s->excluded = task->excluded;
	while (!task_over(task)) {
		if (task->last_step >= task->schedule) {
			serve(task, s);
			uint64_t now = rdtsc();
			if (now < task->last_step) {
				/* The TSC has stepped back meanwhile; so must the schedule, before the two are
				 * compared. */
				task_step(task);
				now = task->last_step;
			}
			histogram_add(&s->latency, now - task->schedule);
			task->schedule += s->interval;
		} else if (!task->cool) {
			burst(task, s);
		} else {
			pause();
		}
		task_step(task);
		if (task_phase_over(task))
			phases_next(task);
		/* Requests do not wait for a line to be printed, which is the guest's own doing. */
		if (task->excluded != s->excluded && s->interval != 0)
			task->schedule += task->excluded - s->excluded;
		s->excluded = task->excluded;
	}
	for (uint64_t key = 0; key < s->keys; key++)
		read_key(task, s, key);
}

const struct workload_ops kv_ops = {prepare, run, true};
