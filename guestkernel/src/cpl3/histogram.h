/* Counts of values in buckets whose width grows with the value: each is within 3% of what it stands
 * for. */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H
#include "lib.h"

#define HISTOGRAM_SUB 32 /* buckets for each power of two */
#define HISTOGRAM_BUCKETS (60 * HISTOGRAM_SUB)

struct histogram {
	uint64_t count, max;
	uint32_t buckets[HISTOGRAM_BUCKETS];
};

static inline void histogram_add(struct histogram *h, uint64_t value)
{
	unsigned power = 63 - (unsigned)__builtin_clzll(value | 1);
	unsigned shift = power > 5 ? power - 5 : 0;

	h->buckets[shift * HISTOGRAM_SUB + (unsigned)(value >> shift)]++;
	h->count++;
	if (value > h->max)
		h->max = value;
}

/* The value that so many of 1000 are not above, rounded up to the end of its bucket; 0 of an empty
 * one. */
static inline uint64_t histogram_permille(const struct histogram *h, unsigned permille)
{
	uint64_t rank = (h->count * permille + 999) / 1000, seen = 0;

	for (unsigned i = 0; i < HISTOGRAM_BUCKETS && rank != 0; i++) {
		seen += h->buckets[i];
		if (seen < rank)
			continue;
		unsigned shift = i < 2 * HISTOGRAM_SUB ? 0 : i / HISTOGRAM_SUB - 1;
		uint64_t value = ((uint64_t)(i - shift * HISTOGRAM_SUB + 1) << shift) - 1;
		return value < h->max ? value : h->max;
	}
	return 0;
}
#endif
