#include "pages.h"
#include "heap.h"

#define WORDS (PAGE / 8)
#define STAMP 0
#define IDENTITY 1
#define GENERATION 2
#define CHECK 3
#define BODY 4
#define LAST (WORDS - 1)

/* Two 64-bit lanes: an SSE2 register. */
typedef uint64_t pair __attribute__((vector_size(16), may_alias));

struct header {
	uint64_t stamp, identity, generation, check;
};

static struct header make_header(const struct pageset *set, uint64_t page, uint64_t generation)
{
	struct header h;

	h.identity = page | (uint64_t)set->task << 48;
	h.generation = generation;
	h.check = mix64(h.identity ^ mix64(generation));
	h.stamp = mix64(h.check);
	return h;
}

uint64_t pageset_cost(uint64_t bytes)
{
	uint64_t table = bytes / PAGE * sizeof(uint64_t);

	return bytes + ((table + PAGE - 1) & -PAGE);
}

void pageset_init(struct pageset *set, unsigned task, enum fill fill, uint64_t bytes)
{
	set->task = task;
	set->fill = fill;
	set->count = bytes / PAGE;
	set->base = heap_take(bytes);
	set->generations = heap_take(set->count * sizeof(uint64_t));
}

/* The body as a stream: two pairs of words at a time, 127 times. The last word of the last one is
 * the stamp's place. */
struct body {
	enum fill fill;
	pair a, b;
};

static struct body body_begin(enum fill fill, uint64_t stamp)
{
	struct body body = {.fill = fill};

	switch (fill) {
	case FILL_ZERO:
		break;
	case FILL_PATTERN:
		body.a = (pair){stamp, ~stamp};
		body.b = (pair){stamp, 0x5555555555555555};
		break;
	case FILL_RANDOM:
		/* The generator's state must not be 0, and the lanes must differ. */
		body.a = (pair){mix64(stamp + 1) | 1, mix64(stamp + 2) | 1};
		body.b = (pair){mix64(stamp + 3) | 1, mix64(stamp + 4) | 1};
		break;
	}
	return body;
}

/* xorshift64 in each lane; what is not random stays as it is. */
static inline __attribute__((always_inline)) pair xorshift(pair x)
{
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

static void body_write(enum fill fill, uint64_t stamp, uint64_t *words)
{
	struct body body = body_begin(fill, stamp);
	pair *at = (pair *)(words + BODY), *end = (pair *)(words + WORDS);

	if (fill == FILL_RANDOM) {
		for (; at < end; at += 2) {
			at[0] = body.a = xorshift(body.a);
			at[1] = body.b = xorshift(body.b);
		}
		return;
	}
	for (; at < end; at += 2) {
		at[0] = body.a;
		at[1] = body.b;
	}
}

/* Returns the first word of the body that is not as it should be, or 0. */
static uint64_t body_differs(enum fill fill, uint64_t stamp, const uint64_t *words, uint64_t *want)
{
	struct body body = body_begin(fill, stamp);

	for (uint64_t i = BODY; i < WORDS; i += 4) {
		if (fill == FILL_RANDOM) {
			body.a = xorshift(body.a);
			body.b = xorshift(body.b);
		}
		const pair *at = (const pair *)(words + i);
		pair difference = (at[0] ^ body.a) | (at[1] ^ body.b);
		if (i + 4 == WORDS)
			difference = (at[0] ^ body.a) | (pair){(at[1] ^ body.b)[0], 0};
		if ((difference[0] | difference[1]) == 0)
			continue;
		const uint64_t expected[4] = {body.a[0], body.a[1], body.b[0], body.b[1]};
		for (unsigned j = 0; j < 4; j++)
			if (i + j != LAST && words[i + j] != expected[j]) {
				*want = expected[j];
				return i + j;
			}
	}
	return 0;
}

void corrupt(unsigned task, const char *kind, uint64_t page, uint64_t word, uint64_t want,
	     uint64_t got)
{
	struct line line = {0};

	put(&line, "CORRUPT");
	put_key(&line, "task", task);
	put_key(&line, "page", page);
	put(&line, " want ");
	put_hex(&line, want);
	put(&line, " got ");
	put_hex(&line, got);
	put_key(&line, "word", word);
	put(&line, " kind=");
	put(&line, kind);
	console_send(&line);
	vm_exit(STATUS_CORRUPT);
}

static __attribute__((noreturn, noinline)) void report(const struct pageset *set, uint64_t page,
						       const struct header *h)
{
	const uint64_t *words = set->base + page * WORDS;

	if (words[STAMP] != words[LAST])
		corrupt(set->task, "torn", page, LAST, words[STAMP], words[LAST]);
	if (words[IDENTITY] != h->identity)
		corrupt(set->task, "misplaced", page, IDENTITY, h->identity, words[IDENTITY]);
	if (words[GENERATION] != h->generation)
		corrupt(set->task,
			words[GENERATION] < h->generation ? "lost-write" : "generation", page,
			GENERATION, h->generation, words[GENERATION]);
	if (words[CHECK] != h->check)
		corrupt(set->task, "check", page, CHECK, h->check, words[CHECK]);
	corrupt(set->task, "stamp", page, STAMP, h->stamp, words[STAMP]);
}

static inline bool header_differs(const uint64_t *words, const struct header *h)
{
	return ((words[STAMP] ^ h->stamp) | (words[IDENTITY] ^ h->identity) |
		(words[GENERATION] ^ h->generation) | (words[CHECK] ^ h->check) |
		(words[LAST] ^ h->stamp)) != 0;
}

void page_verify(const struct pageset *set, uint64_t page)
{
	struct header h = make_header(set, page, set->generations[page]);

	if (header_differs(set->base + page * WORDS, &h))
		report(set, page, &h);
}

void page_verify_whole(const struct pageset *set, uint64_t page)
{
	const uint64_t *words = set->base + page * WORDS;
	struct header h = make_header(set, page, set->generations[page]);
	uint64_t want, word;

	if (header_differs(words, &h))
		report(set, page, &h);
	word = body_differs(set->fill, h.stamp, words, &want);
	if (word != 0)
		corrupt(set->task, "body", page, word, want, words[word]);
}

uint64_t page_rewrite(struct pageset *set, uint64_t page)
{
	uint64_t *words = set->base + page * WORDS;
	uint64_t generation = ++set->generations[page];
	struct header h = make_header(set, page, generation);

	words[STAMP] = h.stamp;
	words[IDENTITY] = h.identity;
	words[GENERATION] = h.generation;
	words[CHECK] = h.check;
	body_write(set->fill, h.stamp, words);
	words[LAST] = h.stamp;
	return generation;
}

void page_inject(struct pageset *set, uint64_t page, enum inject inject)
{
	uint64_t *words = set->base + page * WORDS;

	switch (inject) {
	case INJECT_NONE:
		break;
	case INJECT_FLIP:
		words[WORDS / 2] ^= 1ull << 17;
		break;
	case INJECT_STALE:
		/* As if the last write had not arrived: the page is whole, and one generation too old. */
		set->generations[page] -= 2;
		page_rewrite(set, page);
		set->generations[page]++;
		break;
	case INJECT_TORN: {
		/* The second half is of the generation before. */
		struct header old = make_header(set, page, set->generations[page] - 1);
		words[LAST] = old.stamp;
		break;
	}
	}
}
