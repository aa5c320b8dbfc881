/*
 * Gives free memory of an unmodified program back when a migration begins, so that the
 * migration does not send it. Preload it in a Linux guest with vmm-tag's daemon, of a VM
 * that was started with --balloon reporting:
 *
 *	LD_PRELOAD=/usr/lib/giveback.so program
 *
 * It knows the arenas of glibc (malloc_trim) and of jemalloc (mallctl, which redis and
 * others have). The program takes no part in guidance by it: a program that is asked can
 * do the same in its callback, and choose the moment.
 *
 * GIVEBACK_SOCKET names another socket of the daemon. GIVEBACK_VERBOSE=1 says on standard
 * error when memory was given back.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#define TAG_LINUX
#include "tag.h"

/* "arena.4096.purge" is jemalloc's way to say all arenas (MALLCTL_ARENAS_ALL). */
#define ALL_ARENAS "arena.4096.purge"

typedef int mallctl_fn(const char *name, void *old, size_t *old_size, void *value,
		       size_t value_size);

static void give_back(void)
{
	/* A program's own jemalloc, not one that this library would have to be linked with. */
	mallctl_fn *mallctl;

	*(void **)&mallctl = dlsym(RTLD_DEFAULT, "mallctl");
	if (mallctl)
		(void)mallctl(ALL_ARENAS, NULL, NULL, NULL, 0);
	(void)malloc_trim(0);
	if (getenv("GIVEBACK_VERBOSE"))
		fprintf(stderr, "giveback: free memory was given back\n");
}

static void *watch(void *unused)
{
	const char *socket = getenv("GIVEBACK_SOCKET");
	uint32_t before = TAG_NONE;
	struct tag_client c;
	struct tag_event e = { TAG_NONE, 0, 0, 0 };
	int got;

	(void)unused;
	(void)tag_client_open_at(&c, socket ? socket : TAG_SOCKET, "");
	while ((got = tag_poll(&c, &e, -1)) >= 0) {
		if (got == 0)
			continue;
		/* Once for each migration, as soon as it has begun. */
		if (before == TAG_NONE && e.state != TAG_NONE)
			give_back();
		before = e.state;
	}
	tag_client_close(&c);
	return NULL;
}

/* The program's signals are the program's: this thread takes none. */
__attribute__((constructor)) static void start(void)
{
	pthread_attr_t detached;
	sigset_t all, old;
	pthread_t thread;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	(void)pthread_create(&thread, &detached, watch, NULL);
	pthread_attr_destroy(&detached);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}
