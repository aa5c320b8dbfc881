/* The kernel command line: key=value words. */
#ifndef OPTIONS_H
#define OPTIONS_H
#include "lib.h"

enum workload {
	WORKLOAD_IDLE,
	WORKLOAD_PHASED,
	WORKLOAD_ECHO,
	WORKLOAD_FAULT,
	WORKLOAD_TAGBENCH,
	WORKLOAD_HEAP,
	WORKLOAD_MATMUL,
	WORKLOAD_SORT,
	WORKLOAD_KV,
	WORKLOAD_DISK,
	WORKLOAD_NET,
};

enum fill { FILL_ZERO, FILL_PATTERN, FILL_RANDOM };
enum step { STEP_OUT, STEP_IN };
enum tag_mode {
	TAG_MODE_NONE,
	TAG_MODE_COOL,
	TAG_MODE_FAST,
	TAG_MODE_PORT,
	TAG_MODE_BUSY,
	TAG_MODE_RANDOM,
	TAG_MODE_DEVICE
};
enum inject { INJECT_NONE, INJECT_FLIP, INJECT_STALE, INJECT_TORN };

/* Times are microseconds, sizes bytes. */
struct options {
	uint64_t workload;
	uint64_t ws, hot;
	uint64_t busy, cool;
	uint64_t fill;
	uint64_t run_time; /* secs=, 0 = forever */
	uint64_t tasks, cpus; /* 0 = one task per vCPU, every vCPU that answers */
	uint64_t step;
	uint64_t touch, verify, spin;
	uint64_t inject;
	uint64_t tag, coop, watch, seed;
	uint64_t rate; /* requests a second of each task */
	uint64_t pace; /* pages a second of each task's busy phase, 0: as fast as it can */
	uint64_t block;  /* bytes of a request to the disk */
	uint64_t depth;  /* requests in flight */
	uint64_t keep;   /* blocks that were read and are verified later */
	uint64_t writes; /* percent of the requests that write */
	uint64_t live;    /* percent of a heap that lives on */
	uint64_t declare; /* whether garbage is declared to be not worth moving */
	uint64_t dots; /* between two dots of task 0; 0 = none */
};

/* Ends the VM with STATUS_USAGE and a line that names the word when it makes no sense. */
void options_parse(const char *cmdline, struct options *options);
const char *options_workload_name(uint64_t workload);
#endif
