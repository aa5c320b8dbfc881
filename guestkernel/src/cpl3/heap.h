/* Memory for the workloads: the whole 2 MiB pages of RAM above the image, handed out once and never
 * given back. */
#ifndef HEAP_H
#define HEAP_H
#include "lib.h"

/* Page-aligned memory, zero on first use; NULL when there is not that much. */
void *heap_take(uint64_t bytes);
uint64_t heap_free(void);
/* Likewise, for a device: memory that is one piece of physical memory, too. Call it before anything
 * else is taken; later there may be none. */
void *heap_take_straight(uint64_t bytes);
/* The physical address of what heap_take_straight has returned. */
uint64_t heap_physical(const void *at);
/* Ends the VM with STATUS_USAGE, saying what was wanted, unless that much is free. */
void heap_require(uint64_t bytes, const char *what);
#endif
