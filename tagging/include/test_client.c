/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program with one task, for the tests of vmm-tag: it does what standard input says,
 * a word a line, and answers each with a line of its result.
 *
 *	test_client SOCKET DEVICES    tags
 *	test_client answers           reads answers, each after its length in 4 bytes
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define TAG_LINUX
#include "tag.h"
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

static struct tag_client tags;
static struct tag_task task;

/* The child of a fork opens a task of its own. Returns what it got from the parent's
 * task, and then whether its own took part. */
static int forked(const char *socket, const char *devices)
{
	int status = 0, result;
	pid_t child = fork();

	if (child == 0) {
		result = tag_task_enter(&task) == -1 && tag_task_exit(&task) == -1 &&
			 !tag_task_migrating(&task) && !tag_task_tagged(&task);
		tag_task_close(&task);
		tag_client_close(&tags);
		if (tag_client_open_at(&tags, socket, devices))
			_exit(result);
		(void)tag_task_open(&tags, &task, "child");
		if (tag_task_enter(&task) == 0 && tag_task_tagged(&task))
			result |= 2;
		tag_task_close(&task);
		_exit(result);
	}
	if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

static int segments(void)
{
	int seen = 0;

	TAG_SEGMENT(&task)
		seen = (int)task.depth;
	TAG_SEGMENT(&task) {
		TAG_SEGMENT(&task)
			seen = seen * 10 + (int)task.depth;
		seen = seen * 10 + (int)task.depth;
		break;
	}
	return seen * 10 + (int)task.depth;
}

/* Waits until the program is asked, and returns the deadline. */
static int asked(void)
{
	struct tag_event e;
	int got;

	do {
		got = tag_poll(&tags, &e, -1);
	} while (got == 0 || (got == 1 && !e.asked));
	return got == 1 ? (int)e.deadline_ms : got;
}

static void nothing(int signal)
{
	(void)signal;
}

/* A signal comes each millisecond from now on, as to a program that is profiled. */
static int alarms(void)
{
	const struct itimerval often = {{0, 1000}, {0, 1000}};
	struct sigaction by;

	memset(&by, 0, sizeof by);
	by.sa_handler = nothing;
	by.sa_flags = SA_RESTART;
	return sigaction(SIGALRM, &by, NULL) || setitimer(ITIMER_REAL, &often, NULL);
}

static int act(const char *word, const char *socket, const char *devices)
{
	if (!strcmp(word, "client"))
		return tag_client_open_at(&tags, socket, devices);
	if (!strncmp(word, "open ", 5))
		return tag_task_open(&tags, &task, word + 5);
	if (!strcmp(word, "enter"))
		return tag_task_enter(&task);
	if (!strcmp(word, "exit"))
		return tag_task_exit(&task);
	if (!strcmp(word, "segments"))
		return segments();
	if (!strcmp(word, "migrating"))
		return tag_task_migrating(&task);
	if (!strcmp(word, "deadline"))
		return (int)tag_task_deadline_ms(&task);
	if (!strcmp(word, "asked"))
		return asked();
	if (!strcmp(word, "yes"))
		return tag_task_yes(&task);
	if (!strcmp(word, "tagged"))
		return tag_task_tagged(&task);
	if (!strcmp(word, "alarms"))
		return alarms();
	if (!strcmp(word, "fork"))
		return forked(socket, devices);
	if (!strcmp(word, "close")) {
		tag_task_close(&task);
		tag_client_close(&tags);
		return 0;
	}
	return -99;
}

/* Memory that ends where a packet ends: a read beyond it is a fault. */
static char *edge(size_t n)
{
	const size_t room = (size_t)1 << 20;
	static char *memory;

	if (!memory) {
		memory = (char *)mmap(NULL, room + TAG_PAGE_SIZE, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (memory == MAP_FAILED || mprotect(memory + room, TAG_PAGE_SIZE, PROT_NONE))
			exit(1);
	}
	if (n > room)
		exit(1);
	return memory + room - n;
}

/* Prints what each packet says, or that it is no answer. */
static int answers(void)
{
	struct tag_answer a;
	uint32_t n;
	char *packet;

	while (fread(&n, sizeof n, 1, stdin) == 1) {
		packet = edge(n);
		if (fread(packet, 1, n, stdin) != n)
			return 1;
		if (tag_answer_read(packet, n, &a))
			puts("none");
		else
			printf("%lu %lu %lu %d %lu %lu %lu %d %s\n", (unsigned long)a.id,
			       (unsigned long)a.page, (unsigned long)a.slot, a.has_event,
			       (unsigned long)a.event.state, (unsigned long)a.event.deadline_ms,
			       (unsigned long)a.event.epoch, a.event.asked, a.error);
		fflush(stdout);
	}
	return 0;
}

int main(int argc, char **argv)
{
	char line[128];

	if (argc == 2 && !strcmp(argv[1], "answers"))
		return answers();
	if (argc != 3)
		return 2;
	while (fgets(line, sizeof line, stdin)) {
		line[strcspn(line, "\n")] = 0;
		printf("%d\n", act(line, argv[1], argv[2]));
		fflush(stdout);
	}
	return 0;
}
