/*
 * tagged - a program with segments in C, which looks where the machine moved. See doc.go.
 *
 *	tagged NAME     as `tagged task NAME` of the program in Go
 *	tagged bench    what a tag costs while no migration goes on
 *	tagged ringing  the same while one waits, when tags ask the daemon
 */
#define _GNU_SOURCE
#define TAG_LINUX
#include "tag.h"

#include <stdlib.h>
#include <time.h>

#define WORDS   (16 << 10)
#define BATCHES 21
#define MANY    1000

static uint64_t memory[WORDS];
static unsigned inside, outside, stretches;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void pause_ms(unsigned ms)
{
	const struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};

	nanosleep(&t, NULL);
}

/* Asks the daemon for its status, and returns a number of it, or -1. */
static long status_of(const char *key)
{
	static const char request[] = "{\"op\":\"status\"}";
	static char answer[160 << 10];
	const char *at;
	ssize_t n;
	int fd = tag_connect(TAG_SOCKET);

	if (fd < 0)
		return -1;
	n = send(fd, request, sizeof request - 1, MSG_NOSIGNAL);
	if (n > 0)
		n = recv(fd, answer, sizeof answer - 1, 0);
	close(fd);
	if (n <= 0)
		return -1;
	answer[n] = 0;
	at = strstr(answer, key);
	return at ? atol(at + strlen(key)) : -1;
}

/* How many times the machine has moved. */
static long epoch(void)
{
	return status_of("\"epoch\":");
}

/* Writes memory, and checks that what it wrote is there. */
static void work(const char *name)
{
	uint64_t end = now_ns() + 300000000u, seed;
	size_t i;

	while (now_ns() < end) {
		seed = (uint64_t)random();
		for (i = 0; i < WORDS; i++)
			((volatile uint64_t *)memory)[i] = seed + i;
		for (i = 0; i < WORDS; i++)
			if (((volatile uint64_t *)memory)[i] != seed + i)
				printf("%s: FAULT: word %zu is not what it was\n", name, i);
	}
}

static void say(const char *name, const char *what, long last)
{
	printf("%s: %s epoch=%ld inside=%u outside=%u stretches=%u.\n", name, what, last, inside,
	       outside, stretches);
	fflush(stdout);
}

static int segments(const char *name)
{
	struct tag_client tags;
	struct tag_task task;
	long before, after, last;

	if (tag_client_open(&tags) || tag_task_open(&tags, &task, name))
		return 1;
	last = epoch(); /* outside of a segment, where it stays as it is */
	say(name, "tagged", last);
	while (tag_task_tagged(&task)) {
		TAG_SEGMENT(&task)
			pause_ms(300 + (unsigned)random() % 600);
		before = epoch();
		work(name);
		after = epoch();
		if (before < 0 || after < 0 || !tag_task_tagged(&task))
			break;
		stretches++;
		inside += (unsigned)(before - last);
		outside += (unsigned)(after - before);
		if (after != before)
			say(name, "FAULT: moved outside of its segment,", after);
		if (before != last)
			say(name, "moved", before);
		last = after;
	}
	say(name, "untagged", last);
	return 1;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Prints the median time of one operation, of those that f does. */
static void measured(const char *name, unsigned operations, void (*f)(void))
{
	static uint64_t all[BATCHES];
	size_t i;

	for (i = 0; i < BATCHES; i++) {
		uint64_t begin = now_ns();

		f();
		all[i] = now_ns() - begin;
	}
	qsort(all, BATCHES, sizeof all[0], compare);
	printf("bench: c-%s=%.1f ns.\n", name, (double)all[BATCHES / 2] / operations);
	fflush(stdout);
}

static struct tag_client tags;
static struct tag_task task;
static volatile uint32_t word;
static int there[2], back[2];

static void stores(void)
{
	unsigned i;

	for (i = 0; i < MANY; i++)
		word = i;
}

static void pairs(void)
{
	unsigned i;

	for (i = 0; i < MANY; i++) {
		tag_task_enter(&task);
		tag_task_exit(&task);
	}
}

static void rings(void)
{
	tag_task_enter(&task);
	tag_task_exit(&task);
}

static void trips(void)
{
	char b = 0;

	if (write(there[1], &b, 1) != 1 || read(back[0], &b, 1) != 1)
		exit(1);
}

/* Answers each byte, as another process. */
static void answerer(void)
{
	char b;

	if (pipe(there) || pipe(back) || fork())
		return;
	close(there[1]);
	while (read(there[0], &b, 1) == 1)
		if (write(back[1], &b, 1) != 1)
			break;
	_exit(0);
}

static int bench(int ringing)
{
	answerer();
	if (tag_client_open(&tags) || tag_task_open(&tags, &task, "bench"))
		return 1;
	if (ringing) {
		while (status_of("\"state\":") != TAG_WAITING)
			pause_ms(100);
		measured("ring", 2, rings);
	} else {
		measured("store", MANY, stores);
		measured("tag", 2 * MANY, pairs);
	}
	measured("pipe", 1, trips);
	tag_task_close(&task);
	printf(ringing ? "bench: c-rung.\n" : "bench: c-done.\n");
	return 0;
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	srandom((unsigned)getpid());
	if (strcmp(argv[1], "bench") == 0)
		return bench(0);
	if (strcmp(argv[1], "ringing") == 0)
		return bench(1);
	return segments(argv[1]);
}
