/* The cycle of busy and cool phases that workloads go through, and the tags that mark it. */
#ifndef PHASES_H
#define PHASES_H
#include "task.h"

/* Begins the first phase. With step=out, task i of n is i/n of a cycle ahead of task 0, else all
 * begin with a busy phase. */
void phases_begin(struct task *task);
/* Goes over to the other phase. */
void phases_next(struct task *task);
/*
 * A workload calls this where it would be content to go over to its cool phase. With coop=1 and a
 * migration waiting for the task, a busy phase is over then.
 */
void phases_safe_point(struct task *task);
#endif
