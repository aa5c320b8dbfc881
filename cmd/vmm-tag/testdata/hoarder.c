/* A program with a heap that is mostly free memory that glibc keeps. It knows nothing of
 * tags. Each line on standard input is answered by how many KiB of it are in memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PIECES = 16384, SIZE = 4000 };

static char *pieces[PIECES];

static long resident(void)
{
	long size, pages = -1;
	FILE *f = fopen("/proc/self/statm", "r");

	if (!f || fscanf(f, "%ld %ld", &size, &pages) != 2)
		exit(1);
	fclose(f);
	return pages * 4;
}

int main(void)
{
	char line[16];
	int i;

	for (i = 0; i < PIECES; i++) {
		pieces[i] = malloc(SIZE);
		if (!pieces[i])
			return 1;
		memset(pieces[i], i, SIZE);
	}
	/* The last one stays, so that the heap's end does not shrink by itself. */
	for (i = 0; i < PIECES - 1; i++)
		free(pieces[i]);
	while (fgets(line, sizeof line, stdin)) {
		printf("%ld\n", resident());
		fflush(stdout);
	}
	return pieces[PIECES - 1][0] == (char)(PIECES - 1) ? 0 : 1;
}
