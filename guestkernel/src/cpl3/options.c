#include "options.h"

enum kind { KIND_NUMBER, KIND_SIZE, KIND_TIME, KIND_NAME };

#define MAX_NAMES 12

struct option {
	const char *key;
	enum kind kind;
	unsigned offset;
	const char *names[MAX_NAMES]; /* of KIND_NAME; the position is the value */
};

#define AT(field) __builtin_offsetof(struct options, field)

static const struct option table[] = {
	{"workload",
	 KIND_NAME,
	 AT(workload),
	 {"idle", "phased", "echo", "fault", "tagbench", "heap", "matmul", "sort", "kv",
	  "disk", "net"}},
	{"ws", KIND_SIZE, AT(ws), {0}},
	{"hot", KIND_SIZE, AT(hot), {0}},
	{"busy", KIND_TIME, AT(busy), {0}},
	{"cool", KIND_TIME, AT(cool), {0}},
	{"fill", KIND_NAME, AT(fill), {"zero", "pattern", "random"}},
	{"secs", KIND_TIME, AT(run_time), {0}},
	{"tasks", KIND_NUMBER, AT(tasks), {0}},
	{"cpus", KIND_NUMBER, AT(cpus), {0}},
	{"step", KIND_NAME, AT(step), {"out", "in"}},
	{"touch", KIND_SIZE, AT(touch), {0}},
	{"verify", KIND_NUMBER, AT(verify), {0}},
	{"spin", KIND_NUMBER, AT(spin), {0}},
	{"inject", KIND_NAME, AT(inject), {"0", "1", "stale", "torn"}},
	{"tag", KIND_NAME, AT(tag), {"none", "cool", "fast", "port", "busy", "random", "device"}},
	{"coop", KIND_NUMBER, AT(coop), {0}},
	{"watch", KIND_NUMBER, AT(watch), {0}},
	{"rate", KIND_NUMBER, AT(rate), {0}},
	{"pace", KIND_NUMBER, AT(pace), {0}},
	{"seed", KIND_NUMBER, AT(seed), {0}},
	{"block", KIND_SIZE, AT(block), {0}},
	{"depth", KIND_NUMBER, AT(depth), {0}},
	{"keep", KIND_NUMBER, AT(keep), {0}},
	{"writes", KIND_NUMBER, AT(writes), {0}},
	{"live", KIND_NUMBER, AT(live), {0}},
	{"declare", KIND_NUMBER, AT(declare), {0}},
	{"dots", KIND_TIME, AT(dots), {0}},
};

static const struct options defaults = {
	.workload = WORKLOAD_IDLE,
	.ws = 64 * MIB,
	.hot = 1 * MIB,
	.busy = 1000000,
	.cool = 1000000,
	.step = STEP_OUT,
	.watch = 1,
	.seed = 1,
	.rate = 50000,
	.block = 4096,
	.depth = 8,
	.writes = 50,
	.live = 20,
	.declare = 1,
};

__attribute__((noreturn)) static void reject(const char *problem, const char *word, size_t length,
					     const char *remedy)
{
	struct line line = {0};

	put(&line, "usage: ");
	put(&line, problem);
	put(&line, " \"");
	put_bytes(&line, word, length);
	put(&line, "\" on the kernel command line; ");
	put(&line, remedy);
	usage_error(&line);
}

/* Parses decimal digits and returns what follows them, NULL when there are none or too many. */
static const char *parse_digits(const char *s, const char *end, uint64_t *value)
{
	const char *start = s;

	*value = 0;
	for (; s < end && *s >= '0' && *s <= '9'; s++) {
		if (s - start >= 12)
			return NULL;
		*value = *value * 10 + (uint64_t)(*s - '0');
	}
	return s == start ? NULL : s;
}

static bool parse_scaled(const char *s, const char *end, enum kind kind, uint64_t *value)
{
	static const struct {
		enum kind kind;
		const char *suffix;
		uint64_t scale;
	} scales[] = {
		{KIND_NUMBER, "", 1},        {KIND_SIZE, "", 1},         {KIND_SIZE, "K", KIB},
		{KIND_SIZE, "M", MIB},       {KIND_SIZE, "G", KIB * MIB}, {KIND_TIME, "", 1000000},
		{KIND_TIME, "s", 1000000},   {KIND_TIME, "ms", 1000},    {KIND_TIME, "us", 1},
		{KIND_TIME, "m", 60000000},
	};

	s = parse_digits(s, end, value);
	if (s == NULL)
		return false;
	for (unsigned i = 0; i < sizeof scales / sizeof scales[0]; i++) {
		size_t length = strlen(scales[i].suffix);
		if (scales[i].kind == kind && length == (size_t)(end - s) &&
		    memcmp(s, scales[i].suffix, length) == 0)
			return !__builtin_mul_overflow(*value, scales[i].scale, value);
	}
	return false;
}

static bool parse_name(const char *s, const char *end, const struct option *option, uint64_t *value)
{
	for (unsigned i = 0; i < MAX_NAMES && option->names[i] != NULL; i++)
		if (strlen(option->names[i]) == (size_t)(end - s) &&
		    memcmp(s, option->names[i], (size_t)(end - s)) == 0) {
			*value = i;
			return true;
		}
	return false;
}

static const char *remedy(const struct option *option)
{
	static struct line line;

	switch (option->kind) {
	case KIND_NUMBER:
		return "give a number";
	case KIND_SIZE:
		return "give a size, like 4096, 64K, 16M or 2G";
	case KIND_TIME:
		return "give a time, like 2s, 500ms, or a number of seconds";
	default:
		put(&line, "give one of");
		for (unsigned i = 0; i < MAX_NAMES && option->names[i] != NULL; i++) {
			put(&line, " ");
			put(&line, option->names[i]);
		}
		line.text[line.used] = '\0';
		return line.text;
	}
}

static void parse_word(const char *word, const char *end, struct options *options)
{
	const char *value = word;

	while (value < end && *value != '=')
		value++;
	for (unsigned i = 0; i < sizeof table / sizeof table[0]; i++) {
		const struct option *option = &table[i];
		if (value == end || strlen(option->key) != (size_t)(value - word) ||
		    memcmp(word, option->key, (size_t)(value - word)) != 0)
			continue;
		uint64_t *field = (uint64_t *)((char *)options + option->offset);
		bool ok = option->kind == KIND_NAME ? parse_name(value + 1, end, option, field)
						    : parse_scaled(value + 1, end, option->kind, field);
		if (!ok)
			reject("cannot use", word, (size_t)(end - word), remedy(option));
		return;
	}
	reject("unknown option", word, (size_t)(end - word),
	       "see the package documentation of guestkernel for what it knows");
}

void options_parse(const char *cmdline, struct options *options)
{
	*options = defaults;
	while (*cmdline != '\0') {
		const char *end = cmdline;
		while (*end != '\0' && *end != ' ' && *end != '\t' && *end != '\n')
			end++;
		/* QEMU's microvm appends its virtio devices by itself. */
		if (end != cmdline && !str_prefix(cmdline, "virtio_mmio."))
			parse_word(cmdline, end, options);
		cmdline = *end == '\0' ? end : end + 1;
	}
	options->hot &= -PAGE;
	options->ws = (options->ws + PAGE - 1) & -PAGE;
	options->touch = (options->touch + PAGE - 1) & -PAGE;
	if (options->ws == 0)
		reject("cannot use", "ws=0", 4, "a task needs at least one page");
	if (options->hot > options->ws)
		options->hot = options->ws;
	if (options->rate > 10000000)
		reject("cannot use", "rate", 4, "a task can be asked for up to 10000000 requests a second");
	if (options->pace > 10000000)
		reject("cannot use", "pace", 4, "a task can be asked for up to 10000000 pages a second");
	if (options->block == 0 || options->block % 512 != 0 || options->block > MIB)
		reject("cannot use", "block", 5, "give a multiple of 512 bytes, up to 1M");
	if (options->depth == 0 || options->depth > 64)
		reject("cannot use", "depth", 5, "a disk takes 1 to 64 requests at a time");
	if (options->keep > 65536)
		reject("cannot use", "keep", 4, "a disk keeps up to 65536 blocks");
	if (options->writes > 100)
		reject("cannot use", "writes", 6, "give a percentage");
	if (options->live > 99)
		reject("cannot use", "live", 4, "give a percentage below 100");
	if (options->busy == 0 && options->cool == 0)
		reject("cannot use", "busy=0 cool=0", 13, "give one of the phases some time");
}

const char *options_workload_name(uint64_t workload)
{
	return table[0].names[workload];
}
