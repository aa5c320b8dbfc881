/*
 * workload=disk: each task drives the virtio disk of its number with random reads and writes of
 * whole blocks, several at a time, and verifies what it reads. First it writes every block once.
 *
 * Each word of a block follows from the block's number and generation, that is, how often it has
 * been written. The generations are kept in RAM. So a write that got lost shows as an older
 * generation, a write that went elsewhere by its number, and anything else as a word that differs.
 * Before a block is read its buffer is marked, so that data which never came shows, too.
 *
 * With keep= what was read stays where it is for a while before it is verified, and nobody else
 * writes there. So a migration that does not know that the device has written RAM is found out.
 */
#include "heap.h"
#include "histogram.h"
#include "pages.h"
#include "virtio.h"
#include "workloads.h"

#define SECTOR 512
#define SECTOR_WORDS (SECTOR / 8)
#define MAX_DEPTH 64
#define CHAIN 3 /* descriptors of a request: header, data, answer */

/* The first words of each sector of a block. */
#define NUMBER 0
#define GENERATION 1
#define UNREAD UINT64_MAX /* a block's number in a buffer that was not read into yet */
#define STRIDE 0x9e3779b97f4a7c15

/* Device registers and requests, VIRTIO 1.2, section 5.2 */
#define CONFIG_SECTORS 0
#define CONFIG_BLOCK_BYTES 20
#define FEATURE_READ_ONLY (1ull << 5)
#define FEATURE_BLOCK_SIZE (1ull << 6)
#define FEATURE_FLUSH (1ull << 9)
#define REQUEST_READ 0
#define REQUEST_WRITE 1
#define ANSWER_OK 0

struct header {
	uint32_t kind, reserved;
	uint64_t sector;
};

struct request {
	bool in_flight, write;
	uint64_t block;
	uint64_t begun; /* TSC */
};

/* What was read and waits to be verified. */
struct kept {
	bool full;
	unsigned buffer;
	uint64_t block, generation;
};

/* What the device accesses beside the buffers and the queue. */
struct shared {
	struct header headers[MAX_DEPTH];
	volatile uint8_t answers[MAX_DEPTH];
};

/* Which requests come next: every block once, or random ones. */
enum plan { PLAN_WRITE_ALL, PLAN_RANDOM, PLAN_READ_ALL };

struct disk {
	struct virtio_device device;
	struct virtqueue queue;
	struct shared *shared;
	uint64_t *buffers;
	unsigned depth;
	uint64_t words; /* of a block */
	uint64_t blocks;
	uint64_t *generations; /* expected, one a block; 0 = never written */
	bool *busy;            /* one a block: a request for it is in flight */
	struct request requests[MAX_DEPTH];
	unsigned own[MAX_DEPTH]; /* the buffer of each request */
	struct kept *kept;       /* a ring; the next one is the oldest */
	uint64_t keeps, oldest;
	unsigned in_flight;
	enum plan plan;
	uint64_t cursor; /* of the plans that take every block */
	uint64_t random;
	uint64_t reads;
	uint64_t since; /* TSC of the last heartbeat */
	struct histogram latency;
};

static struct disk disks[MAX_CPUS];

static uint64_t random_below(struct disk *d, uint64_t bound)
{
	d->random = d->random * 6364136223846793005 + 1442695040888963407;
	return (uint64_t)((unsigned __int128)mix64(d->random) * bound >> 64);
}

static uint64_t *buffer(const struct disk *d, unsigned number)
{
	return d->buffers + number * d->words;
}

static __attribute__((noreturn)) void refuse(int task, const char *why)
{
	struct line line = {0};

	put(&line, "usage: disk ");
	put_dec(&line, (uint64_t)task);
	put(&line, why);
	usage_error(&line);
}

/* Sets up the device with all that it accesses in memory. */
static void open_disk(struct disk *d, int task, const struct options *options)
{
	uint64_t data = (options->depth + options->keep) * options->block;

	if (!virtio_find(&d->device, VIRTIO_BLOCK, (unsigned)task))
		refuse(task, " of virtio on PCI is not there; give the machine one for each task");
	if (!virtio_begin(&d->device, FEATURE_READ_ONLY | FEATURE_BLOCK_SIZE | FEATURE_FLUSH))
		refuse(task, " is no modern virtio device");
	if ((d->device.features & FEATURE_READ_ONLY) != 0)
		refuse(task, " is read-only");
	if ((d->device.features & FEATURE_BLOCK_SIZE) != 0 &&
	    options->block % mmio_read(d->device.config + CONFIG_BLOCK_BYTES) != 0)
		refuse(task, " has larger blocks than block= says");
	heap_require(VIRTQUEUE_BYTES + PAGE + data, "the disk");
	void *rings = heap_take_straight(VIRTQUEUE_BYTES);
	d->shared = heap_take_straight(PAGE);
	d->buffers = heap_take_straight(data);
	if (rings == NULL || d->shared == NULL || d->buffers == NULL)
		refuse(task, " gets no buffers in one piece; use a smaller block=, depth= or keep=");
	if (!virtio_queue(&d->device, 0, &d->queue, rings, (uint16_t)(CHAIN * options->depth)))
		refuse(task, " has too short a queue for depth=");
	virtio_go(&d->device);
}

/* Fills in the parts of the chains that are always the same. */
static void link_chains(struct disk *d)
{
	for (unsigned i = 0; i < d->depth; i++) {
		struct virtq_descriptor *chain = d->queue.descriptors + CHAIN * i;
		chain[0] = (struct virtq_descriptor){heap_physical(&d->shared->headers[i]),
						     sizeof(struct header), VIRTQ_NEXT,
						     (uint16_t)(CHAIN * i + 1)};
		chain[1] = (struct virtq_descriptor){0, (uint32_t)(d->words * 8), VIRTQ_NEXT,
						     (uint16_t)(CHAIN * i + 2)};
		chain[2] = (struct virtq_descriptor){
			heap_physical((const void *)&d->shared->answers[i]), 1, VIRTQ_WRITE, 0};
		d->own[i] = i;
	}
}

static void choose_blocks(struct disk *d, int task, const struct options *options)
{
	uint64_t config = d->device.config + CONFIG_SECTORS;
	uint64_t sectors = mmio_read(config) | (uint64_t)mmio_read(config + 4) << 32;
	uint64_t bytes = options->ws < sectors * SECTOR ? options->ws : sectors * SECTOR;

	d->blocks = bytes / options->block;
	if (d->blocks < 2 * options->depth)
		refuse(task, " and ws= must hold twice as many blocks as depth= says");
	uint64_t table = d->blocks * sizeof *d->generations;
	uint64_t kept = options->keep * sizeof *d->kept;
	heap_require(table + d->blocks + kept + 2 * PAGE, "the table of the disk's blocks");
	d->generations = heap_take(table);
	d->busy = heap_take(d->blocks);
	d->kept = heap_take(kept);
	d->keeps = options->keep;
	for (unsigned i = 0; i < d->keeps; i++)
		d->kept[i].buffer = d->depth + i;
}

static void prepare(const struct options *options, int tasks)
{
	/* First what devices access, see heap_take_straight. */
	for (int i = 0; i < tasks; i++)
		open_disk(&disks[i], i, options);
	for (int i = 0; i < tasks; i++) {
		struct disk *d = &disks[i];
		d->depth = (unsigned)options->depth;
		d->words = options->block / 8;
		d->random = mix64(options->seed * MAX_CPUS + (uint64_t)i);
		link_chains(d);
		choose_blocks(d, i, options);
	}
}

static uint64_t first_word(uint64_t block, uint64_t generation)
{
	return mix64(mix64(block) ^ generation);
}

/* Word i of a block, given its first_word. */
static inline uint64_t word_of(uint64_t first, uint64_t block, uint64_t generation, uint64_t i)
{
	switch (i % SECTOR_WORDS) {
	case NUMBER:
		return block;
	case GENERATION:
		return generation;
	default:
		return first + i * STRIDE;
	}
}

static void write_words(uint64_t *words, uint64_t from, uint64_t to, uint64_t block,
			uint64_t generation)
{
	uint64_t first = first_word(block, generation);

	for (uint64_t i = from; i < to; i++)
		words[i] = word_of(first, block, generation, i);
}

static const char *kind_of(const uint64_t *words, uint64_t i, uint64_t block, uint64_t generation)
{
	const uint64_t *sector = words + (i - i % SECTOR_WORDS);

	if (sector[NUMBER] == UNREAD)
		return "unread";
	if (sector[NUMBER] != block)
		return "misplaced";
	if (sector[GENERATION] != words[GENERATION])
		return "torn";
	if (sector[GENERATION] != generation)
		return sector[GENERATION] < generation ? "lost-write" : "generation";
	return "body";
}

static void verify(const struct task *task, const uint64_t *words, uint64_t count, uint64_t block,
		   uint64_t generation)
{
	uint64_t first = first_word(block, generation), differs = 0;

	for (uint64_t i = 0; i < count; i++)
		differs |= words[i] ^ word_of(first, block, generation, i);
	for (uint64_t i = 0; differs != 0 && i < count; i++) {
		uint64_t want = word_of(first, block, generation, i);
		if (words[i] != want)
			corrupt((unsigned)task->id, kind_of(words, i, block, generation), block, i,
				want, words[i]);
	}
}

/* Damages what is about to be written. */
static void damage(const struct disk *d, uint64_t *words, uint64_t block, enum inject inject)
{
	uint64_t older = d->generations[block];

	switch (inject) {
	case INJECT_NONE:
		break;
	case INJECT_FLIP:
		words[d->words - 1] ^= 1ull << 17;
		break;
	case INJECT_STALE:
		write_words(words, 0, d->words, block, older);
		break;
	case INJECT_TORN:
		write_words(words, d->words - SECTOR_WORDS, d->words, block, older);
		break;
	}
}

static void submit(const struct task *task, struct disk *d, unsigned i, uint64_t block, bool write)
{
	uint64_t *words = buffer(d, d->own[i]);

	if (write) {
		write_words(words, 0, d->words, block, d->generations[block] + 1);
		if (d->plan == PLAN_RANDOM)
			damage(d, words, block, (enum inject)task->options->inject);
	} else {
		for (uint64_t w = NUMBER; w < d->words; w += SECTOR_WORDS)
			words[w] = UNREAD;
	}
	d->shared->headers[i] = (struct header){write ? REQUEST_WRITE : REQUEST_READ, 0,
						block * (d->words / SECTOR_WORDS)};
	d->shared->answers[i] = 0xff;
	d->queue.descriptors[CHAIN * i + 1].address = heap_physical(words);
	d->queue.descriptors[CHAIN * i + 1].flags = write ? VIRTQ_NEXT : VIRTQ_NEXT | VIRTQ_WRITE;
	d->requests[i] = (struct request){true, write, block, rdtsc()};
	d->busy[block] = true;
	d->in_flight++;
	virtqueue_add(&d->queue, (uint16_t)(CHAIN * i));
}

/* The plan's next request; false at its end. No two requests in flight are for the same block. */
static bool next(const struct task *task, struct disk *d, uint64_t *block, bool *write)
{
	if (d->plan != PLAN_RANDOM) {
		*block = d->cursor++;
		*write = d->plan == PLAN_WRITE_ALL;
		return *block < d->blocks;
	}
	*write = random_below(d, 100) < task->options->writes;
	*block = random_below(d, d->blocks);
	while (d->busy[*block])
		*block = (*block + 1) % d->blocks;
	return !task_over(task);
}

static __attribute__((noreturn)) void failed(const struct task *task, const struct request *r,
					     uint8_t answer)
{
	struct line line = {0};

	put(&line, "FAULT disk");
	put_key(&line, "task", (uint64_t)task->id);
	put_key(&line, "block", r->block);
	put_key(&line, "write", r->write);
	put_key(&line, "answer", answer);
	console_send(&line);
	vm_exit(STATUS_FAULT);
}

/* Verifies the oldest of what is kept, if there is any. */
static struct kept *verify_oldest(const struct task *task, struct disk *d)
{
	struct kept *k = &d->kept[d->oldest];

	if (k->full)
		verify(task, buffer(d, k->buffer), d->words, k->block, k->generation);
	k->full = false;
	d->oldest = (d->oldest + 1) % d->keeps;
	return k;
}

/* Verifies what was read, or keeps it; then the request gets the buffer of the oldest. */
static void take_data(const struct task *task, struct disk *d, unsigned i)
{
	uint64_t block = d->requests[i].block, generation = d->generations[block];

	if (d->keeps == 0) {
		verify(task, buffer(d, d->own[i]), d->words, block, generation);
		return;
	}
	struct kept *k = verify_oldest(task, d);
	unsigned next = k->buffer;
	*k = (struct kept){true, d->own[i], block, generation};
	d->own[i] = next;
}

static void complete(struct task *task, struct disk *d, unsigned i)
{
	struct request *r = &d->requests[i];
	uint64_t now = rdtsc();

	if (d->shared->answers[i] != ANSWER_OK)
		failed(task, r, d->shared->answers[i]);
	/* The TSC steps back when the VM comes to a host whose TSC is younger. */
	if (now >= r->begun)
		histogram_add(&d->latency, now - r->begun);
	if (r->write) {
		d->generations[r->block]++;
		task->writes++;
		task->passes = task->writes / d->blocks;
	} else {
		take_data(task, d, i);
		d->reads++;
	}
	r->in_flight = false;
	d->busy[r->block] = false;
	d->in_flight--;
}

/* Takes back what the device has done, and returns how much that was. */
static unsigned complete_all(struct task *task, struct disk *d)
{
	unsigned count = 0;
	uint32_t head, bytes;

	for (; virtqueue_take(&d->queue, &head, &bytes); count++) {
		unsigned i = head / CHAIN;
		if (head % CHAIN != 0 || i >= d->depth || !d->requests[i].in_flight)
			corrupt((unsigned)task->id, "used-ring", head, 0, CHAIN * d->depth, head);
		complete(task, d, i);
	}
	return count;
}

static void follow(struct task *task, struct disk *d, enum plan plan)
{
	bool more = true, write;
	uint64_t block;

	d->plan = plan;
	d->cursor = 0;
	while (more || d->in_flight != 0) {
		if (complete_all(task, d) == 0 && d->in_flight == d->depth)
			pause();
		for (unsigned i = 0; i < d->depth && more; i++)
			if (!d->requests[i].in_flight && (more = next(task, d, &block, &write)))
				submit(task, d, i, block, write);
		virtqueue_ring(&d->queue);
		task_step(task);
	}
}

static void put_requests(struct task *task, struct line *line)
{
	struct disk *d = &disks[task->id];
	uint64_t now = rdtsc(), us = us_from_ticks(now > d->since ? now - d->since : 0);

	put_key(line, "reads", d->reads);
	put_key(line, "requests", d->latency.count);
	put_key(line, "kib_s", us == 0 ? 0 : d->latency.count * d->words * 8 / KIB * 1000000 / us);
	put_us(line, "p50_us", histogram_permille(&d->latency, 500));
	put_us(line, "p99_us", histogram_permille(&d->latency, 990));
	put_us(line, "max_us", d->latency.max);
	memset(&d->latency, 0, sizeof d->latency);
	d->since = now;
}

static void run(struct task *task)
{
	struct disk *d = &disks[task->id];

	d->since = task->last_step;
	task->put_extra = put_requests;
	follow(task, d, PLAN_WRITE_ALL);
	tasks_meet();
	task_begin(task);
	memset(&d->latency, 0, sizeof d->latency);
	d->since = task->last_step;
	follow(task, d, PLAN_RANDOM);
	follow(task, d, PLAN_READ_ALL);
	for (uint64_t i = 0; i < d->keeps; i++)
		verify_oldest(task, d);
}

const struct workload_ops disk_ops = {prepare, run, false};
