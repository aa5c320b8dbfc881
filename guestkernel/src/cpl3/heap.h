/* Memory for the workloads: all RAM that the image does not take, handed out once and never given
 * back. */
#ifndef HEAP_H
#define HEAP_H
#include "lib.h"

/* Page-aligned memory, zero on first use; NULL when there is not that much. */
void *heap_take(uint64_t bytes);
uint64_t heap_free(void);
/* Ends the VM with STATUS_USAGE, saying what was wanted, unless that much is free. */
void heap_require(uint64_t bytes, const char *what);
#endif
