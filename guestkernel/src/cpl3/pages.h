/*
 * Pages that prove themselves. Each holds, as 64-bit words:
 *
 *	  0      stamp      derived from task, page and generation
 *	  1      identity   page number and task
 *	  2      generation how often this page has been written
 *	  3      check      derived from the two words before it
 *	  4-510  body       zero, a short repeated pattern, or random; derived from the stamp
 *	511      stamp      again, written last
 *
 * The generation that each page must have is kept apart from the pages. So a write that got lost
 * shows as an older generation, a torn page as two different stamps, a page that went to the wrong
 * place by its identity, and damage to the inside when the body is computed again and compared.
 */
#ifndef PAGES_H
#define PAGES_H
#include "options.h"

struct pageset {
	unsigned task;
	enum fill fill;
	uint64_t count;
	uint64_t *base;
	uint64_t *generations; /* expected, one per page; 0 = never written */
};

/* Bytes of heap that a pageset of so many bytes takes. */
uint64_t pageset_cost(uint64_t bytes);
void pageset_init(struct pageset *set, unsigned task, enum fill fill, uint64_t bytes);
/* Verifies the page's words outside its body. A mismatch prints CORRUPT and ends the VM with
 * STATUS_CORRUPT. */
void page_verify(const struct pageset *set, uint64_t page);
/* Verifies every word of the page, likewise. */
void page_verify_whole(const struct pageset *set, uint64_t page);
/* Writes the page's next generation, and returns it. */
uint64_t page_rewrite(struct pageset *set, uint64_t page);
/* Damages a page on purpose, as a faulty migration would, to prove that it is found. */
void page_inject(struct pageset *set, uint64_t page, enum inject inject);
/* Prints the CORRUPT line and ends the VM. */
__attribute__((noreturn)) void corrupt(unsigned task, const char *kind, uint64_t page,
				       uint64_t word, uint64_t want, uint64_t got);
#endif
