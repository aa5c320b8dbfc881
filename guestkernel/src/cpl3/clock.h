/*
 * Time. Everything is measured in TSC ticks, which CPL 3 reads in nanoseconds; kvmclock, which the
 * hypervisor keeps and migrates on its own, is read beside it so that a step of either across a
 * migration can be seen.
 */
#ifndef CLOCK_H
#define CLOCK_H
#include "lib.h"

struct clock {
	uint64_t khz;     /* of the TSC */
	uint64_t boot;    /* TSC when CPL 3 began */
	bool has_kvmclock;
};

extern struct clock clock;

/* Finds out the frequency and says which source it used. Called once, by the boot processor. */
void clock_init(void);
/* Turns kvmclock on for this vCPU. */
void clock_init_cpu(int cpu);
/* Nanoseconds of kvmclock, 0 without one. */
uint64_t kvmclock_ns(int cpu);
void delay_us(uint64_t us);

uint64_t ticks_from_us(uint64_t us);
uint64_t us_from_ticks(uint64_t ticks);
uint64_t ns_from_ticks(uint64_t ticks);
/* " key=value", in microseconds with two decimals. */
void put_us(struct line *line, const char *key, uint64_t ticks);
#endif
