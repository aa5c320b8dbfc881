/*
 * Tags: how tasks tell the hypervisor about their calm phases, and what they notice of being moved.
 * The tag port's registers and the fast tags are those of tagging/include/tag.h.
 */
#ifndef TAGS_H
#define TAGS_H
#include "options.h"

struct line;
struct task;
struct tag_port;
struct tag_slot;

/* What a task keeps about its tags. */
struct tagging {
	struct tag_slot *slot; /* fast tags: this task's slot of the tag page */
	bool inside;           /* within a segment */
	uint32_t epoch;        /* as last read */
	uint32_t state;        /* as last read, with coop=1 */
	uint64_t poll;         /* TSC: when EPOCH is to be read next; UINT64_MAX = never */
	uint64_t toggle;       /* TSC: with tag=random, when the segment begins or ends */
	uint64_t random;       /* state of the generator behind tag=random */
};

/* Whether a tag port answers by MMIO; by I/O port. */
bool tags_mmio_present(void);
bool tags_port_present(void);
/* Makes page 0 of the tag device's RAM the tag page of a port. False if this machine has none. */
bool tags_device_init(struct tag_port *port);
/* A tag page with a table of ranges, however tasks tag; NULL if this machine has no tag port. Call
 * it after tags_prepare, and before a task begins. */
const struct tag_port *tags_ranges(void);
/* Decides how all tasks tag. Without a tag port that is not at all, and one line says so. */
void tags_prepare(const struct options *options);

/* A task takes part from tags_begin to tags_end; tags_off is for one that does not. */
void tags_off(struct task *task);
void tags_begin(struct task *task);
void tags_end(struct task *task);
/* Tells that the task goes over to its cool or busy phase: call it before the first write of a busy
 * phase. */
void tags_phase(struct task *task);
/* Reads EPOCH (and STATE), begins and ends random segments: whatever is due by now. */
void tags_poll(struct task *task);
/* Whether a migration waits for this task's next segment, and the task was asked to heed that. */
bool tags_migration_waits(const struct task *task);
#endif
