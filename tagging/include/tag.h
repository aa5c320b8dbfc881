/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tag.h - tell the hypervisor when this program is easy to migrate.
 *
 * A live migration copies memory while the guest runs and stops it at the end to
 * send what is still dirty. That end is short when the guest happens to write
 * little. A program knows its own calm moments; it marks them as segments:
 *
 *	tag_enter(&tags, MY_TASK);
 *	wait_for_work();                  // writes little memory
 *	tag_exit(&tags, MY_TASK);
 *	do_work();                        // writes a lot
 *
 * Segments nest. Each task (a thread, a process, a device's driver: whatever has
 * phases of its own) picks a 32-bit id that no other task of the VM uses. A task
 * takes part from its first tag_register or tag_enter until tag_unregister: call
 * that before the task ends, or its last state counts for ever.
 *
 * Plain tags are one 32-bit store to the tag port; it leaves the VM and costs
 * microseconds. Fast tags are a store to the task's slot of a page shared with the
 * hypervisor and cost nanoseconds while no migration goes on: see tag_page_init (in
 * Linux programs, tag_page_open), tag_fast_open, tag_fast_enter and tag_fast_exit.
 *
 * Header only. C11 or C++11, GCC or Clang, freestanding (kernels, unikernels) or
 * hosted. Linux programs define TAG_LINUX before including it and get tag_open and
 * tag_page_open, at the end of this file.
 */
#ifndef TAG_H
#define TAG_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where the registers are: 32-bit little-endian, naturally aligned 32-bit
 * accesses only. The VM counts any other access as an error and ignores it. */
#define TAG_MMIO_BASE 0xd0000000u /* guest-physical, one 4 KiB page */
#define TAG_PORT_BASE 0x0d00u     /* I/O port */

#define TAG_REG_ID         0x00u /* R  TAG_ID */
#define TAG_REG_VERSION    0x04u /* R  1 */
#define TAG_REG_ENTER      0x08u /* W  task enters a segment; registers it too */
#define TAG_REG_EXIT       0x0cu /* W  task leaves it */
#define TAG_REG_STATE      0x10u /* R  enum tag_state */
#define TAG_REG_EPOCH      0x14u /* R  completed migrations of this VM */
#define TAG_REG_REGISTER   0x18u /* W  task takes part from now on */
#define TAG_REG_UNREGISTER 0x1cu /* W  task takes part no longer */
#define TAG_REG_PAGE_LO    0x20u /* W  guest-physical address of the tag page */
#define TAG_REG_PAGE_HI    0x24u /* W  upper half; commits. Both 0: no page */
#define TAG_REG_CLOCK_LO   0x28u /* R  host's CLOCK_REALTIME in ns, latched */
#define TAG_REG_CLOCK_HI   0x2cu /* R  upper half of what CLOCK_LO latched */
#define TAG_REG_DEADLINE   0x30u /* R  ms until the migration is forced, 0: never */
#define TAG_REG_CLONES     0x34u /* R  restores of a snapshot of this VM */
#define TAG_REG_PAGES      0x38u /* RW bit i: page i of the device's RAM is a tag page */

#define TAG_ID 0x31474154u /* "TAG1" */

/* What STATE says. A cooperative program that reads TAG_WAITING or TAG_SUSPENDED
 * may bring its next calm segment forward: a migration waits for it. */
enum tag_state {
	TAG_NONE = 0,      /* no migration */
	TAG_WAITING = 1,   /* requested, waits for the gate */
	TAG_PRECOPY = 2,   /* memory is being copied */
	TAG_SUSPENDED = 3, /* the gate closed, nothing is being sent */
	TAG_SWITCHING = 4  /* about to stop here and go on there */
};

/*
 * The tag page: 4096 bytes, aligned, little-endian. The guest writes everything
 * but `notify`, which is the hypervisor's.
 *
 * A slot with flags TAG_SLOT_USED makes `task` a registered task that is inside a
 * segment while `depth` is not 0; the slot is the truth about that task, and
 * writes of its id to the port only say "look at the slot". Slots have a cache
 * line each, so that tasks on different vCPUs do not slow each other down.
 *
 * No transition is lost because both sides store, then fence, then load:
 *	guest:      store depth,  full barrier, load notify, ring if it is not 0
 *	hypervisor: store notify, full barrier, load depths
 * Whatever the interleaving, one of them sees the other's store.
 */
#define TAG_PAGE_MAGIC   0x50474154u /* "TAGP" */
#define TAG_PAGE_VERSION 1u
#define TAG_PAGE_SIZE    4096u
#define TAG_PAGE_SLOTS   63u
#define TAG_NAME_SIZE    32u

/* The tag port is also a PCI function. BAR 0 is a page of the same registers. BAR 2
 * is RAM of the device, and holds tag pages for programs whose own memory has no
 * fixed physical address. See tag_device_page_init. */
#define TAG_PCI_VENDOR   0xf055u
#define TAG_PCI_DEVICE   0x7461u
#define TAG_DEVICE_PAGES 16u

/* A page of guest RAM can also say which memory is not worth moving: see tag_ranges_on.
 * The table takes the second half of the page, so fewer slots are left. */
#define TAG_RANGES           256u
#define TAG_RANGES_AT        0x800u
#define TAG_RANGES_SLOTS     31u
#define TAG_RANGE_PAGES_BITS 24u

#define TAG_SLOT_FREE    0u
#define TAG_SLOT_USED    1u
#define TAG_SLOT_CLAIMED 2u /* being set up; the hypervisor ignores it */

struct tag_slot {
	uint32_t flags;
	uint32_t task;
	uint32_t depth;
	uint32_t reserved[5];     /* 0 */
	char name[TAG_NAME_SIZE]; /* for people; ends at the first 0 */
};

struct tag_page {
	uint32_t magic;
	uint32_t version;
	uint32_t notify; /* not 0: ring the port after changing a slot */
	uint32_t slots;  /* how many follow, up to TAG_PAGE_SLOTS */
	/* In a page of the device's RAM: a word that the page's owner changes again and
	 * again, and after how many ms without a change the owner is dead. Then the
	 * hypervisor clears magic and forgets the tasks. 0: no lease. */
	uint32_t lease;
	uint32_t term_ms;
	uint32_t ranges;      /* entries of the table of declared ranges, 0: there is none */
	uint32_t reserved[9]; /* 0 */
	struct tag_slot slot[TAG_PAGE_SLOTS];
};

#ifdef __cplusplus
static_assert(sizeof(struct tag_slot) == 64, "a slot is a cache line");
static_assert(sizeof(struct tag_page) == TAG_PAGE_SIZE, "the tag page is a page");
#else
_Static_assert(sizeof(struct tag_slot) == 64, "a slot is a cache line");
_Static_assert(sizeof(struct tag_page) == TAG_PAGE_SIZE, "the tag page is a page");
#endif

/* A way to the tag port. Fill it in with tag_init_mmio, tag_init_port or tag_open;
 * all fields are private. Use by several threads at once is fine. */
struct tag_port {
	volatile uint32_t *mmio; /* NULL: I/O ports at io */
	uint16_t io;
	struct tag_page *page; /* NULL: no fast tags */
	int device;            /* page is in the device's RAM */
	int ring_fd;           /* holds the tag page's pin on Linux, -1 elsewhere */
};

/* ---- registers ---- */

static inline uint32_t tag_read(const struct tag_port *t, uint32_t reg)
{
#if defined(__x86_64__) || defined(__i386__)
	if (!t->mmio) {
		uint32_t v;
		__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"((uint16_t)(t->io + reg)) : "memory");
		return v;
	}
#endif
	return t->mmio[reg / 4];
}

static inline void tag_write(const struct tag_port *t, uint32_t reg, uint32_t v)
{
#if defined(__x86_64__) || defined(__i386__)
	if (!t->mmio) {
		__asm__ volatile("outl %0, %1" : : "a"(v), "Nd"((uint16_t)(t->io + reg)) : "memory");
		return;
	}
#endif
	/* Memory written before a tag belongs before it, memory after it after it. */
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	t->mmio[reg / 4] = v;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* Whether a tag port answers. A machine without one reads all ones or zeros. */
static inline int tag_present(const struct tag_port *t)
{
	return tag_read(t, TAG_REG_ID) == TAG_ID && tag_read(t, TAG_REG_VERSION) >= 1;
}

/* Use registers mapped at regs (guest-physical TAG_MMIO_BASE). Returns 0, or -1 if
 * no tag port answers there. */
static inline int tag_init_mmio(struct tag_port *t, volatile void *regs)
{
	t->mmio = (volatile uint32_t *)regs;
	t->io = 0;
	t->page = NULL;
	t->device = 0;
	t->ring_fd = -1;
	return tag_present(t) ? 0 : -1;
}

#if defined(__x86_64__) || defined(__i386__)
/* Use I/O ports (normally TAG_PORT_BASE); the caller may execute in and out.
 * Returns 0, or -1 if no tag port answers there. */
static inline int tag_init_port(struct tag_port *t, uint16_t base)
{
	t->mmio = NULL;
	t->io = base;
	t->page = NULL;
	t->device = 0;
	t->ring_fd = -1;
	return tag_present(t) ? 0 : -1;
}
#endif

/* ---- plain tags ---- */

/* The task enters a segment suitable for the switchover. Nests. */
static inline void tag_enter(const struct tag_port *t, uint32_t task)
{
	tag_write(t, TAG_REG_ENTER, task);
}

/* The task leaves the segment. The VM may be moved inside this very call, before
 * it returns. */
static inline void tag_exit(const struct tag_port *t, uint32_t task)
{
	tag_write(t, TAG_REG_EXIT, task);
}

/* The task takes part, outside any segment. tag_enter does it too. */
static inline void tag_register(const struct tag_port *t, uint32_t task)
{
	tag_write(t, TAG_REG_REGISTER, task);
}

/* The task takes part no longer; its open segments are forgotten. */
static inline void tag_unregister(const struct tag_port *t, uint32_t task)
{
	tag_write(t, TAG_REG_UNREGISTER, task);
}

/* Whether a migration goes on, and what it waits for: enum tag_state. */
static inline uint32_t tag_state(const struct tag_port *t)
{
	return tag_read(t, TAG_REG_STATE);
}

/* How many migrations this VM has behind it: a change tells that it moved. */
static inline uint32_t tag_epoch(const struct tag_port *t)
{
	return tag_read(t, TAG_REG_EPOCH);
}

/* The host's CLOCK_REALTIME in ns. All vCPUs share the latch of CLOCK_HI, so two
 * readings that agree are asked for. */
static inline uint64_t tag_clock_ns(const struct tag_port *t)
{
	uint64_t before, now;
	int tries = 8;

	now = tag_read(t, TAG_REG_CLOCK_LO);
	now |= (uint64_t)tag_read(t, TAG_REG_CLOCK_HI) << 32;
	do {
		before = now;
		now = tag_read(t, TAG_REG_CLOCK_LO);
		now |= (uint64_t)tag_read(t, TAG_REG_CLOCK_HI) << 32;
	} while (now - before > UINT64_C(1000000000) && --tries);
	return now;
}

/* ---- fast tags ---- */

/* Sets up page (4096 bytes, aligned, at guest-physical address gpa, which must not
 * change) and gives it to the hypervisor. A VM has one tag page; a later call
 * takes its place. Returns 0, or -1 if page or gpa is not aligned.
 *
 * The page must be memory that the program keeps: the hypervisor writes `notify`
 * until tag_page_off. */
static inline int tag_page_init(struct tag_port *t, void *page, uint64_t gpa)
{
	struct tag_page *p = (struct tag_page *)page;
	volatile uint32_t *word = (volatile uint32_t *)page;
	size_t i;

	if (gpa % TAG_PAGE_SIZE || (uintptr_t)page % TAG_PAGE_SIZE)
		return -1;
	for (i = 0; i < TAG_PAGE_SIZE / 4; i++) /* volatile: no call of memset */
		word[i] = 0;
	p->version = TAG_PAGE_VERSION;
	p->slots = TAG_PAGE_SLOTS;
	__atomic_store_n(&p->magic, TAG_PAGE_MAGIC, __ATOMIC_RELEASE);
	t->page = p;
	t->device = 0;
	tag_write(t, TAG_REG_PAGE_LO, (uint32_t)gpa);
	tag_write(t, TAG_REG_PAGE_HI, (uint32_t)(gpa >> 32));
	return 0;
}

/* Makes page number n of the device's RAM (BAR 2, mapped at ram) the tag page of this
 * program, and commits it beside those that are committed already. The caller owns
 * the device. Returns 0, or -1 if n is too large or the device refuses the page. */
static inline int tag_device_page_init(struct tag_port *t, void *ram, uint32_t n)
{
	struct tag_page *p = (struct tag_page *)ram + n;
	volatile uint32_t *word = (volatile uint32_t *)p;
	uint32_t i, pages;

	if (n >= TAG_DEVICE_PAGES)
		return -1;
	for (i = 0; i < TAG_PAGE_SIZE / 4; i++)
		word[i] = 0;
	word[1] = TAG_PAGE_VERSION;
	word[3] = TAG_PAGE_SLOTS;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	word[0] = TAG_PAGE_MAGIC;
	pages = tag_read(t, TAG_REG_PAGES) | 1u << n;
	tag_write(t, TAG_REG_PAGES, pages);
	if (tag_read(t, TAG_REG_PAGES) != pages)
		return -1;
	t->page = p;
	t->device = 1;
	return 0;
}

/* Takes the device's pages from the hypervisor, all of them; the tasks that have a
 * slot are forgotten. */
static inline void tag_device_pages_off(struct tag_port *t)
{
	tag_write(t, TAG_REG_PAGES, 0);
	t->page = NULL;
}

/* Stores a word of the tag page, before any load that follows. The device's RAM may
 * be uncached memory of the guest, where a locked instruction would stop the whole
 * host's bus: there it is a plain store and a fence. */
static inline void tag_store(const struct tag_port *t, uint32_t *word, uint32_t v)
{
#if defined(__x86_64__) || defined(__i386__)
	if (t->device) {
		__atomic_store_n(word, v, __ATOMIC_RELAXED);
		__asm__ volatile("mfence" : : : "memory");
		return;
	}
#endif
	(void)t;
	__atomic_store_n(word, v, __ATOMIC_SEQ_CST);
}

/* Takes the page from the hypervisor; the tasks that have a slot are forgotten. */
static inline void tag_page_off(struct tag_port *t)
{
	tag_write(t, TAG_REG_PAGE_LO, 0);
	tag_write(t, TAG_REG_PAGE_HI, 0);
	t->page = NULL;
}

/* Gives the task a slot and registers it, outside any segment. NULL if there is no
 * page or no slot left: use plain tags then. */
static inline struct tag_slot *tag_fast_open(const struct tag_port *t, uint32_t task)
{
	uint32_t i;

	for (i = 0; t->page && !t->device && i < t->page->slots; i++) {
		struct tag_slot *s = &t->page->slot[i];
		uint32_t was = TAG_SLOT_FREE;

		if (!__atomic_compare_exchange_n(&s->flags, &was, TAG_SLOT_CLAIMED, 0,
						 __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			continue;
		__atomic_store_n(&s->task, task, __ATOMIC_RELAXED);
		__atomic_store_n(&s->depth, 0, __ATOMIC_RELAXED);
		__atomic_store_n(&s->flags, TAG_SLOT_USED, __ATOMIC_SEQ_CST);
		tag_register(t, task);
		return s;
	}
	return NULL;
}

/* As tag_fast_open, for a page of the device's RAM. The caller chooses the slot, which
 * nobody else uses: tasks that competed for one would need a locked instruction. name
 * may be NULL. */
static inline struct tag_slot *tag_device_slot_open(const struct tag_port *t, uint32_t n,
						    uint32_t task, const char *name)
{
	struct tag_slot *s;
	uint32_t i;

	if (!t->page || !t->device || n >= TAG_PAGE_SLOTS)
		return NULL;
	s = &t->page->slot[n];
	tag_store(t, &s->flags, TAG_SLOT_CLAIMED);
	__atomic_store_n(&s->task, task, __ATOMIC_RELAXED);
	__atomic_store_n(&s->depth, 0, __ATOMIC_RELAXED);
	for (i = 0; i < TAG_NAME_SIZE; i++) {
		*(volatile char *)&s->name[i] = name ? *name : 0;
		if (name && *name)
			name++;
	}
	tag_store(t, &s->flags, TAG_SLOT_USED);
	tag_register(t, task);
	return s;
}

/* As tag_enter, for a task with a slot. One thread at a time uses a slot. */
static inline void tag_fast_enter(const struct tag_port *t, struct tag_slot *s)
{
	uint32_t depth = __atomic_load_n(&s->depth, __ATOMIC_RELAXED);

	tag_store(t, &s->depth, depth + 1);
	if (__atomic_load_n(&t->page->notify, __ATOMIC_SEQ_CST))
		tag_write(t, TAG_REG_ENTER, s->task);
}

/* As tag_exit, for a task with a slot; without a segment to leave it does nothing. */
static inline void tag_fast_exit(const struct tag_port *t, struct tag_slot *s)
{
	uint32_t depth = __atomic_load_n(&s->depth, __ATOMIC_RELAXED);

	if (depth == 0)
		return;
	tag_store(t, &s->depth, depth - 1);
	if (__atomic_load_n(&t->page->notify, __ATOMIC_SEQ_CST))
		tag_write(t, TAG_REG_EXIT, s->task);
}

/* Whether a migration goes on, so that a cooperative program may bring its next calm
 * segment forward. With a tag page it costs nanoseconds while
 * none does; without one it is tag_state. */
static inline int tag_migrating(const struct tag_port *t)
{
	if (t->page && !__atomic_load_n(&t->page->notify, __ATOMIC_RELAXED))
		return 0;
	return tag_state(t) != TAG_NONE;
}

/* As tag_unregister, for a task with a slot; the slot is free again. */
static inline void tag_fast_close(const struct tag_port *t, struct tag_slot *s)
{
	uint32_t task = s->task;

	tag_store(t, &s->flags, TAG_SLOT_FREE);
	tag_write(t, TAG_REG_UNREGISTER, task);
}

/* ---- memory that is not worth moving ---- */

/*
 * A guest that owns its frames (a kernel, a unikernel) can declare memory that may be
 * lost: free memory, garbage, a cache that can be filled again. A migration does not
 * send it while it is declared. Linux programs must not: the kernel may give a frame to
 * somebody else at any time.
 *
 *	tag_declare(&tags, 7, gpa, bytes);   // nobody needs what is in there
 *	...                                  // the VM may move now
 *	tag_take_back(&tags, 7);
 *	memset(p, 0, bytes);                 // first write, then read
 *
 * From the declaration on, the range may at any moment hold zeros, something that it held
 * earlier, or a mixture. Once it has been taken back, it keeps what it holds, as all
 * memory does, but nobody knows what that is until it is written. Writing a part of a page
 * is fine: the rest of it then stays as it is.
 *
 * Take back first, then write: x86 keeps stores in this order, so no fence is needed. The
 * same holds for other vCPUs that learn of it by a lock or an atomic store. What is
 * written while the range is still declared may be lost.
 */

/* Gives the tag page a table of TAG_RANGES ranges, all unused. Call it after
 * tag_page_init and before tag_fast_open. Returns 0, or -1 without a tag page in RAM. */
static inline int tag_ranges_on(const struct tag_port *t)
{
	volatile uint32_t *word;
	uint32_t i;

	if (!t->page || t->device)
		return -1;
	t->page->slots = TAG_RANGES_SLOTS;
	word = (volatile uint32_t *)((char *)t->page + TAG_RANGES_AT);
	for (i = 0; i < 2 * TAG_RANGES; i++)
		word[i] = 0;
	__atomic_store_n(&t->page->ranges, TAG_RANGES, __ATOMIC_RELEASE);
	return 0;
}

/* Stores an entry: the hypervisor, which reads at any time, sees all of it or nothing. */
static inline void tag_range_store(const struct tag_port *t, uint32_t i, uint64_t entry)
{
	char *at = (char *)t->page + TAG_RANGES_AT + 8 * i;

	__atomic_signal_fence(__ATOMIC_SEQ_CST);
#if defined(__i386__)
	/* With 0 in the lower half the entry is unused, whatever the upper half says. */
	((volatile uint32_t *)at)[0] = 0;
	((volatile uint32_t *)at)[1] = (uint32_t)(entry >> 32);
	((volatile uint32_t *)at)[0] = (uint32_t)entry;
#else
	__atomic_store_n((uint64_t *)(void *)at, entry, __ATOMIC_RELEASE);
#endif
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* Declares the whole pages among bytes from guest-physical address gpa on, as range
 * number i below TAG_RANGES; what that range was before is taken back. Ranges may
 * overlap. Needs tag_ranges_on. Returns how many bytes are declared: fewer than asked for
 * if gpa or bytes are no whole pages, or beyond 64 GiB. It costs one store. */
static inline uint64_t tag_declare(const struct tag_port *t, uint32_t i, uint64_t gpa,
				   uint64_t bytes)
{
	const uint64_t most = (UINT64_C(1) << TAG_RANGE_PAGES_BITS) - 1;
	uint64_t first = gpa / TAG_PAGE_SIZE + (gpa % TAG_PAGE_SIZE != 0);
	uint64_t end = (gpa + bytes) / TAG_PAGE_SIZE, pages;

	if (gpa + bytes < gpa || end <= first || first >> (64 - TAG_RANGE_PAGES_BITS))
		pages = 0;
	else
		pages = end - first < most ? end - first : most;
	tag_range_store(t, i, pages ? first << TAG_RANGE_PAGES_BITS | pages : 0);
	return pages * TAG_PAGE_SIZE;
}

/* Takes range number i back: what is written to it from now on arrives. One store. */
static inline void tag_take_back(const struct tag_port *t, uint32_t i)
{
	tag_range_store(t, i, 0);
}

#ifdef __cplusplus
}
#endif

/* ---- Linux user space ---- */

#ifdef TAG_LINUX
#if !defined(__linux__)
#error "TAG_LINUX needs Linux"
#endif
/* Needs _GNU_SOURCE with -std=c11; C++ and -std=gnu11 have all that it uses. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__) || defined(__i386__)
#include <sys/io.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Maps the registers from /dev/mem. Any thread may use them then. */
static inline int tag_open_mmio(struct tag_port *t)
{
	void *regs;
	int err, fd = open("/dev/mem", O_RDWR | O_SYNC | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	regs = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)TAG_MMIO_BASE);
	err = errno;
	close(fd);
	if (regs == MAP_FAILED)
		return -err;
	if (tag_init_mmio(t, regs)) {
		munmap(regs, 4096);
		return -ENODEV;
	}
	return 0;
}

#if defined(__x86_64__) || defined(__i386__)
/* Asks for the I/O ports. The permission is the calling thread's and that of the
 * threads it starts afterwards. (The file /dev/port cannot serve: it splits every
 * access into single bytes, which the tag port refuses.) */
static inline int tag_open_io(struct tag_port *t)
{
	if (ioperm(TAG_PORT_BASE, 0x40, 1))
		return -errno;
	return tag_init_port(t, TAG_PORT_BASE) ? -ENODEV : 0;
}
#endif

/* Finds the tag port: the MMIO page, else the I/O ports. Needs root. Returns 0 or a
 * negative errno; -ENODEV: this machine has no tag port. */
static inline int tag_open(struct tag_port *t)
{
	int err = tag_open_mmio(t);

#if defined(__x86_64__) || defined(__i386__)
	if (err && tag_open_io(t) == 0)
		return 0;
#endif
	return err;
}

/* Keeps the kernel from moving the page to another physical address, which mlock
 * alone does not (compaction, NUMA balancing): a buffer registered with io_uring is
 * pinned for as long as its file is open. Returns that file or a negative errno. */
static inline int tag_pin(void *page)
{
	uint32_t params[30]; /* struct io_uring_params, 120 bytes */
	struct iovec v;
	int err, fd;

	memset(params, 0, sizeof params);
	fd = (int)syscall(425 /* io_uring_setup */, 1, params);
	if (fd < 0)
		return -errno;
	v.iov_base = page;
	v.iov_len = TAG_PAGE_SIZE;
	if (syscall(427 /* io_uring_register */, fd, 0 /* IORING_REGISTER_BUFFERS */, &v, 1)) {
		err = errno;
		close(fd);
		return -err;
	}
	return fd;
}

/* The guest-physical address of a resident page; 0 if the kernel does not tell,
 * which takes CAP_SYS_ADMIN. Documentation/admin-guide/mm/pagemap.rst. */
static inline uint64_t tag_physical(const void *page)
{
	uint64_t entry = 0;
	ssize_t n;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	n = pread(fd, &entry, sizeof entry, (off_t)((uintptr_t)page / TAG_PAGE_SIZE * sizeof entry));
	close(fd);
	if (n != (ssize_t)sizeof entry || !(entry >> 63))
		return 0;
	return (entry & ((UINT64_C(1) << 55) - 1)) * TAG_PAGE_SIZE;
}

/* Allocates, pins and registers the tag page, so that tag_fast_open works. Needs
 * root and io_uring (sysctl kernel.io_uring_disabled must not be 2). Returns 0 or a
 * negative errno; plain tags work either way. Processes that fork and want to share
 * the page open their slots before or after, the page is shared memory. */
static inline int tag_page_open(struct tag_port *t)
{
	uint64_t gpa;
	int fd;
	void *page = mmap(NULL, TAG_PAGE_SIZE, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (page == MAP_FAILED)
		return -errno;
	fd = tag_pin(page);
	if (fd < 0) {
		munmap(page, TAG_PAGE_SIZE);
		return fd;
	}
	gpa = tag_physical(page);
	if (!gpa) {
		close(fd);
		munmap(page, TAG_PAGE_SIZE);
		return -EPERM;
	}
	tag_page_init(t, page, gpa);
	t->ring_fd = fd;
	return 0;
}

/* Undoes tag_open and tag_page_open. Unregister plain tasks before. */
static inline void tag_close(struct tag_port *t)
{
	struct tag_page *page = t->page;

	if (page && t->ring_fd >= 0) {
		tag_page_off(t);
		close(t->ring_fd);
		munmap(page, TAG_PAGE_SIZE);
	}
	if (t->mmio)
		munmap((void *)(uintptr_t)t->mmio, 4096);
	t->mmio = NULL;
	t->ring_fd = -1;
}


/* ---- tasks of Linux programs, without rights ---- */

/*
 * A program says when it is easy to migrate, through vmm-tag's daemon:
 *
 *	struct tag_client tags;
 *	struct tag_task task;
 *
 *	tag_client_open(&tags);           // daemon, else device, else untagged
 *	tag_task_open(&tags, &task, "worker");
 *	for (;;) {
 *		TAG_SEGMENT(&task)
 *			job = wait_for_job();     // writes little memory
 *		work(job);                    // writes a lot
 *	}
 *
 * No call fails in a way that a program must look at. Without a daemon and without a
 * device, one line on standard error says that the program is untagged, and every
 * call returns at once. The same holds after the daemon has ended; open anew then.
 *
 * Threads: any threads may use a client at the same time, but for tag_client_open and
 * tag_client_close; one thread at a time may call tag_fd, tag_poll and tag_task_yes. One
 * thread at a time uses a task; several threads have several tasks, and share nothing.
 * Calls are not for signal handlers, and threads that are in one must not be cancelled
 * (pthread_cancel).
 *
 * A fork: the child is untagged, and its calls do nothing, until it opens a client
 * of its own. A child of vfork must not use its parent's tasks.
 *
 * tag_task_enter and tag_task_exit allocate nothing. They change errno only if they
 * return -1.
 */
#define TAG_SOCKET      "/run/vmm-tag.sock"
#define TAG_PCI_DEVICES "/sys/bus/pci/devices"

/* How a program takes part. */
enum tag_way {
	TAG_BY_NOTHING, /* untagged */
	TAG_BY_DAEMON,
	TAG_BY_DEVICE /* root, and no daemon: plain tags */
};

/* What a migration is doing. */
struct tag_event {
	uint32_t state;       /* enum tag_state */
	uint32_t deadline_ms; /* until it is forced; 0: it is not */
	uint32_t epoch;       /* completed migrations: a change tells that the machine moved */
	int asked;            /* it waits, and a task of this program is outside its segment */
};

/* A program's way to the daemon. All fields are private. */
struct tag_client {
	enum tag_way way;
	struct tag_port port; /* TAG_BY_DEVICE */
	/* Reads 1 in the process that opened the client, and 0 in a fork of it. */
	volatile uint32_t *here;
	uint32_t next; /* id of the next task, with TAG_BY_DEVICE */
	int said;      /* that the program is untagged */
	int watch;     /* the connection of tag_poll, -1 for none */
	struct tag_event last;
	char socket[108];
};

/* A task. All fields are private. */
struct tag_task {
	struct tag_client *client;
	enum tag_way way; /* TAG_BY_NOTHING once the daemon is gone */
	struct tag_page *page, *ram;
	struct tag_slot *slot;
	uint32_t id, depth;
	int fd; /* its connection to the daemon, -1 for none */
};

/* Says once, on standard error, that the program is untagged. Returns -1. */
static inline int tag_untagged(struct tag_client *c, const char *why)
{
	int was = errno;

	if (!__atomic_exchange_n(&c->said, 1, __ATOMIC_RELAXED))
		fprintf(stderr, "tag.h: untagged: %s; migrations do not wait for this program\n", why);
	errno = was;
	return -1;
}

/* Connects to the daemon. Returns a descriptor or a negative errno. */
static inline int tag_connect(const char *path)
{
	const struct timeval patience = {30, 0};
	struct sockaddr_un at;
	int err, fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	memset(&at, 0, sizeof at);
	at.sun_family = AF_UNIX;
	memcpy(at.sun_path, path, strlen(path)); /* tag_client_open_at looked at its length */
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	if (connect(fd, (const struct sockaddr *)&at, sizeof at)) {
		err = errno;
		close(fd);
		return -err;
	}
	return fd;
}

/* Whether a file of a PCI device has this number. */
static inline int tag_pci_reads(int folder, const char *name, unsigned number)
{
	char text[16], want[16];
	ssize_t n;
	int fd = openat(folder, name, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	n = read(fd, text, sizeof text);
	close(fd);
	snprintf(want, sizeof want, "0x%04x", number);
	return n >= 6 && memcmp(text, want, 6) == 0 && (n == 6 || text[6] == '\n');
}

/* Maps the registers of the tag device in a folder. */
static inline int tag_pci_map(struct tag_port *port, int folder)
{
	void *regs;
	int fd = openat(folder, "enable", O_WRONLY | O_CLOEXEC);

	if (fd >= 0) {
		(void)!write(fd, "1", 1);
		close(fd);
	}
	fd = openat(folder, "resource0", O_RDWR | O_SYNC | O_CLOEXEC);
	if (fd < 0)
		return -1;
	regs = mmap(NULL, TAG_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (regs == MAP_FAILED)
		return -1;
	if (madvise(regs, TAG_PAGE_SIZE, MADV_DONTFORK) || tag_init_mmio(port, regs)) {
		munmap(regs, TAG_PAGE_SIZE);
		return -1;
	}
	return 0;
}

/* Finds the tag device among PCI devices, and maps its registers. */
static inline int tag_pci_open(struct tag_port *port, const char *devices)
{
	struct dirent *e;
	int folder, found = -1;
	DIR *all = opendir(devices);

	if (!all)
		return -1;
	while (found && (e = readdir(all))) {
		folder = openat(dirfd(all), e->d_name, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
		if (folder < 0)
			continue;
		if (tag_pci_reads(folder, "vendor", TAG_PCI_VENDOR) &&
		    tag_pci_reads(folder, "device", TAG_PCI_DEVICE))
			found = tag_pci_map(port, folder);
		close(folder);
	}
	closedir(all);
	return found;
}

/* A word that reads 1 here, and 0 in a fork. NULL if the kernel has none. */
static inline volatile uint32_t *tag_here(void)
{
	void *page = mmap(NULL, TAG_PAGE_SIZE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (page == MAP_FAILED)
		return NULL;
	if (madvise(page, TAG_PAGE_SIZE, 18 /* MADV_WIPEONFORK */)) {
		munmap(page, TAG_PAGE_SIZE);
		return NULL;
	}
	*(volatile uint32_t *)page = 1;
	return (volatile uint32_t *)page;
}

/* As tag_client_open, with the daemon's socket and the folder of PCI devices. */
static inline int tag_client_open_at(struct tag_client *c, const char *path, const char *devices)
{
	int fd;

	memset(c, 0, sizeof *c);
	c->watch = -1;
	c->here = tag_here();
	if (!c->here || strlen(path) >= sizeof c->socket)
		return tag_untagged(c, c->here ? "the socket's name is too long" :
						 "the kernel has no MADV_WIPEONFORK");
	memcpy(c->socket, path, strlen(path));
	fd = tag_connect(c->socket);
	if (fd >= 0) {
		close(fd);
		c->way = TAG_BY_DAEMON;
		return 0;
	}
	if (tag_pci_open(&c->port, devices) == 0) {
		c->way = TAG_BY_DEVICE;
		/* Below the daemon's ids. 64 for each process are enough: beyond, they repeat. */
		c->next = 0x60000000u + ((uint32_t)getpid() & 0x3fffffu) * 64;
		return 0;
	}
	if (fd == -EACCES || fd == -EPERM)
		return tag_untagged(c, "no right to connect to the tag daemon");
	return tag_untagged(c, "no tag daemon and no tag device");
}

/* Begins a program's part: by vmm-tag's daemon; without one, and as root, by the tag
 * device itself; else the program is untagged, and all calls do nothing. Returns 0, or
 * -1 if the program is untagged, which standard error says.
 *
 * By the device itself, nobody ends the tasks of a program that is killed. */
static inline int tag_client_open(struct tag_client *c)
{
	return tag_client_open_at(c, TAG_SOCKET, TAG_PCI_DEVICES);
}

/* Ends it. Close its tasks before. */
static inline void tag_client_close(struct tag_client *c)
{
	if (c->way == TAG_BY_DEVICE && *c->here)
		munmap((void *)(uintptr_t)c->port.mmio, TAG_PAGE_SIZE);
	if (c->here)
		munmap((void *)(uintptr_t)c->here, TAG_PAGE_SIZE);
	if (c->watch >= 0)
		close(c->watch);
	memset(c, 0, sizeof *c);
	c->watch = -1;
	c->said = 1;
}

/* ---- answers of the daemon: one JSON object each ---- */

/* What is read of an answer. */
struct tag_answer {
	uint32_t id, page, slot;
	char error[96]; /* empty: none */
	int has_event;
	struct tag_event event;
};

struct tag_json {
	const char *at, *end;
};

static inline void tag_json_space(struct tag_json *j)
{
	while (j->at < j->end &&
	       (*j->at == ' ' || *j->at == '\t' || *j->at == '\n' || *j->at == '\r'))
		j->at++;
}

/* Takes this byte, if it is the next one. */
static inline int tag_json_take(struct tag_json *j, char c)
{
	if (j->at == j->end || *j->at != c)
		return 0;
	j->at++;
	return 1;
}

static inline int tag_json_hex(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* Takes what follows a backslash. Returns the character, '?' for one that is not in
 * ASCII, and 0 if there is none. */
static inline char tag_json_escape(struct tag_json *j)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/ ?   ";
	size_t i;

	for (i = 0; i < sizeof from - 1; i++)
		if (tag_json_take(j, from[i]))
			return to[i];
	if (!tag_json_take(j, 'u'))
		return 0;
	for (i = 0; i < 4; i++, j->at++)
		if (j->at == j->end || !tag_json_hex(*j->at))
			return 0;
	return '?';
}

/* Takes a string, and keeps as much of it as there is room for. Returns 0 if there is
 * none. */
static inline int tag_json_string(struct tag_json *j, char *text, size_t room)
{
	size_t n = 0;
	char c;

	if (!tag_json_take(j, '"'))
		return 0;
	while (j->at < j->end) {
		c = *j->at++;
		if (c == '"') {
			text[n] = 0;
			return 1;
		}
		if ((unsigned char)c < ' ')
			return 0;
		if (c == '\\' && !(c = tag_json_escape(j)))
			return 0;
		if (n + 1 < room)
			text[n++] = (unsigned char)c < 0x7f ? c : '?';
	}
	return 0;
}

/* Takes a whole number of 32 bits, as all of an answer's are. */
static inline int tag_json_number(struct tag_json *j, uint32_t *v)
{
	uint64_t n = 0;
	const char *begin = j->at;

	while (j->at < j->end && *j->at >= '0' && *j->at <= '9') {
		n = n * 10 + (uint64_t)(*j->at++ - '0');
		if (n > UINT32_MAX || (j->at - begin > 1 && *begin == '0'))
			return 0;
	}
	*v = (uint32_t)n;
	return j->at > begin;
}

/* Takes a word, as true, and tells whether it was there. */
static inline int tag_json_word(struct tag_json *j, const char *word)
{
	size_t n = strlen(word);

	if ((size_t)(j->end - j->at) < n || memcmp(j->at, word, n))
		return 0;
	j->at += n;
	return 1;
}

static inline void tag_answer_number(const char *key, uint32_t v, int nested, struct tag_answer *a)
{
	if (!nested) {
		if (!strcmp(key, "id"))
			a->id = v;
		if (!strcmp(key, "page"))
			a->page = v;
		if (!strcmp(key, "slot"))
			a->slot = v;
		return;
	}
	if (!strcmp(key, "state"))
		a->event.state = v;
	if (!strcmp(key, "deadline_ms"))
		a->event.deadline_ms = v;
	if (!strcmp(key, "epoch"))
		a->event.epoch = v;
}

static inline int tag_answer_object(struct tag_json *j, int nested, struct tag_answer *a);

/* Takes the value of a key. Keys that are not known are taken, too, so that a daemon
 * of later can say more; but lists, and objects of another name, are not. */
static inline int tag_answer_value(struct tag_json *j, const char *key, int nested,
				   struct tag_answer *a)
{
	char text[sizeof a->error];
	uint32_t v;

	if (j->at == j->end)
		return 0;
	if (*j->at == '{') {
		a->has_event = !nested && !strcmp(key, "migration");
		return a->has_event && tag_answer_object(j, 1, a);
	}
	if (*j->at == '"') {
		if (!tag_json_string(j, text, sizeof text))
			return 0;
		if (!nested && !strcmp(key, "error"))
			memcpy(a->error, text, sizeof text);
		return 1;
	}
	if (tag_json_word(j, "true")) {
		a->event.asked |= nested && !strcmp(key, "asked");
		return 1;
	}
	if (tag_json_word(j, "false") || tag_json_word(j, "null"))
		return 1;
	if (!tag_json_number(j, &v))
		return 0;
	tag_answer_number(key, v, nested, a);
	return 1;
}

static inline int tag_answer_object(struct tag_json *j, int nested, struct tag_answer *a)
{
	char key[16];

	if (!tag_json_take(j, '{'))
		return 0;
	tag_json_space(j);
	if (tag_json_take(j, '}'))
		return 1;
	do {
		tag_json_space(j);
		if (!tag_json_string(j, key, sizeof key))
			return 0;
		tag_json_space(j);
		if (!tag_json_take(j, ':'))
			return 0;
		tag_json_space(j);
		if (!tag_answer_value(j, key, nested, a))
			return 0;
		tag_json_space(j);
	} while (tag_json_take(j, ','));
	return tag_json_take(j, '}');
}

/* Reads an answer. Returns 0, or -1 if it is none. */
static inline int tag_answer_read(const char *text, size_t n, struct tag_answer *a)
{
	struct tag_json j;

	memset(a, 0, sizeof *a);
	j.at = text;
	j.end = text + n;
	tag_json_space(&j);
	if (!tag_answer_object(&j, 0, a))
		return -1;
	tag_json_space(&j);
	return j.at == j.end ? 0 : -1;
}

/* ---- tasks ---- */

/* Whether the page is still a tag page, and the slot still the task's: whether the
 * daemon lives. */
static inline int tag_task_alive(const struct tag_task *t)
{
	return __atomic_load_n(&t->page->magic, __ATOMIC_RELAXED) == TAG_PAGE_MAGIC &&
	       __atomic_load_n(&t->slot->flags, __ATOMIC_RELAXED) == TAG_SLOT_USED &&
	       __atomic_load_n(&t->slot->task, __ATOMIC_RELAXED) == t->id;
}

/* The task is untagged from now on. Returns -1. */
static inline int tag_task_lost(struct tag_task *t)
{
	t->way = TAG_BY_NOTHING;
	return tag_untagged(t->client, "the tag daemon is gone");
}

/* Waits for an answer for at most 50 ms. Returns for how many us it did, because signals
 * end it early, but no more than that: the clock may leap while the machine stands. */
static inline long tag_task_wait(struct pollfd *p)
{
	const long most = 50000;
	struct timespec from, to;
	long us;

	(void)clock_gettime(CLOCK_MONOTONIC, &from);
	(void)poll(p, 1, (int)(most / 1000));
	(void)clock_gettime(CLOCK_MONOTONIC, &to);
	if (to.tv_sec - from.tv_sec > 1)
		return most;
	us = (long)(to.tv_sec - from.tv_sec) * 1000000 + (to.tv_nsec - from.tv_nsec) / 1000;
	return us < most ? us : most;
}

/* Asks the daemon and waits for its answer, for as long as the page is a tag page, or
 * for 30 s where there is no page yet. The descriptor that comes with it goes to *ram,
 * unless that is NULL. Returns 0, or -1 if the daemon is gone. */
static inline int tag_task_ask(struct tag_task *t, const char *q, int n, struct tag_answer *a,
			       int *ram)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} rights;
	char text[512];
	struct iovec v;
	struct msghdr m;
	struct pollfd p;
	ssize_t got;
	long left = 30000000; /* us */

	if (send(t->fd, q, (size_t)n, MSG_NOSIGNAL) != n)
		return -1;
	p.fd = t->fd;
	p.events = POLLIN;
	for (;;) {
		v.iov_base = text;
		v.iov_len = sizeof text;
		memset(&m, 0, sizeof m);
		m.msg_iov = &v;
		m.msg_iovlen = 1;
		m.msg_control = rights.bytes;
		m.msg_controllen = ram ? sizeof rights.bytes : 0;
		got = recvmsg(t->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (got >= 0 || (errno != EAGAIN && errno != EINTR))
			break;
		left -= tag_task_wait(&p);
		if (t->slot ? !tag_task_alive(t) : left <= 0)
			return -1;
	}
	if (got > 0 && ram && CMSG_FIRSTHDR(&m) && CMSG_FIRSTHDR(&m)->cmsg_type == SCM_RIGHTS)
		memcpy(ram, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof *ram);
	return got > 0 && !(m.msg_flags & MSG_TRUNC) ? tag_answer_read(text, (size_t)got, a) : -1;
}

/* Finds the task's slot in the device's RAM, which a descriptor maps. */
static inline int tag_task_map(struct tag_task *t, const struct tag_answer *a, int ram)
{
	const size_t bytes = (size_t)TAG_DEVICE_PAGES * TAG_PAGE_SIZE;
	void *map;

	if (a->page >= TAG_DEVICE_PAGES || a->slot >= TAG_PAGE_SLOTS || ram < 0)
		return -1;
	map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ram, 0);
	if (map == MAP_FAILED)
		return -1;
	if (madvise(map, bytes, MADV_DONTFORK)) {
		munmap(map, bytes);
		return -1;
	}
	t->ram = (struct tag_page *)map;
	t->page = t->ram + a->page;
	t->slot = &t->page->slot[a->slot];
	t->id = a->id;
	return 0;
}

/* Asks the daemon for a slot. */
static inline int tag_task_join(struct tag_task *t, const char *name)
{
	struct tag_answer a;
	char q[128] = "{\"op\":\"open\",\"name\":\"";
	size_t n = strlen(q), i;
	int err, ram = -1;

	for (i = 0; i < TAG_NAME_SIZE && name[i]; i++) {
		if (name[i] == '"' || name[i] == '\\')
			q[n++] = '\\';
		q[n++] = name[i] < ' ' || name[i] > '~' ? '?' : name[i];
	}
	memcpy(q + n, "\"}", 2);
	t->fd = tag_connect(t->client->socket);
	if (t->fd < 0 || tag_task_ask(t, q, (int)n + 2, &a, &ram))
		err = tag_untagged(t->client, "the tag daemon does not answer");
	else if (a.error[0])
		err = tag_untagged(t->client, a.error);
	else if (tag_task_map(t, &a, ram))
		err = tag_untagged(t->client, "the tag device cannot be mapped");
	else
		err = 0;
	if (ram >= 0)
		close(ram);
	if (err && t->fd >= 0) {
		close(t->fd);
		t->fd = -1;
	}
	return err;
}

/* A task begins, outside any segment: from now on migrations wait for it. Its name is
 * for people, and may have 32 characters of ASCII. The client must outlast the task.
 * Returns 0, or -1 if the task is untagged. */
static inline int tag_task_open(struct tag_client *c, struct tag_task *t, const char *name)
{
	memset(t, 0, sizeof *t);
	t->client = c;
	t->fd = -1;
	if (c->way == TAG_BY_NOTHING || !*c->here)
		return -1;
	if (c->way == TAG_BY_DEVICE) {
		t->id = __atomic_fetch_add(&c->next, 1, __ATOMIC_RELAXED);
		tag_register(&c->port, t->id);
	} else if (tag_task_join(t, name)) {
		return -1;
	}
	t->way = c->way;
	return 0;
}

/* Tells the daemon that the depth has changed, and waits until the host knows. */
static inline int tag_task_ring(struct tag_task *t, int enter)
{
	struct tag_answer a;
	char q[80];
	int was = errno, n;

	n = snprintf(q, sizeof q, "{\"op\":\"ring\",\"id\":%lu%s}", (unsigned long)t->id,
		     enter ? ",\"enter\":true" : "");
	if (tag_task_ask(t, q, n, &a, NULL) || a.error[0])
		return tag_task_lost(t);
	errno = was;
	return 0;
}

/* Stores the depth, and rings if the host wants it. */
static inline int tag_task_tell(struct tag_task *t, int enter)
{
	if (t->way == TAG_BY_NOTHING || !*t->client->here)
		return -1;
	if (t->way == TAG_BY_DEVICE) {
		tag_write(&t->client->port, enter ? TAG_REG_ENTER : TAG_REG_EXIT, t->id);
		return 0;
	}
	if (!tag_task_alive(t))
		return tag_task_lost(t);
	/* No locked instruction: the memory may be uncached. */
	__atomic_store_n(&t->slot->depth, t->depth, __ATOMIC_RELAXED);
#if defined(__x86_64__) || defined(__i386__)
	__asm__ volatile("mfence" : : : "memory");
#else
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
	if (!__atomic_load_n(&t->page->notify, __ATOMIC_RELAXED))
		return 0;
	return tag_task_ring(t, enter);
}

/* A segment begins: from now on, the task writes little memory. Segments nest. Returns
 * 0, or -1 if the task is untagged. */
static inline int tag_task_enter(struct tag_task *t)
{
	t->depth++;
	return tag_task_tell(t, 1);
}

/* The segment ends. While a migration goes on, the call returns once the host knows,
 * because the machine may be moved inside this very call. Outside of a segment it does
 * nothing. */
static inline int tag_task_exit(struct tag_task *t)
{
	if (t->depth == 0)
		return 0;
	t->depth--;
	return tag_task_tell(t, 0);
}

/* Whether a migration is under way. It costs nanoseconds, but for TAG_BY_DEVICE. A
 * program can bring its next segment forward then. */
static inline int tag_task_migrating(const struct tag_task *t)
{
	if (t->way == TAG_BY_NOTHING || !*t->client->here)
		return 0;
	if (t->way == TAG_BY_DEVICE)
		return tag_state(&t->client->port) != TAG_NONE;
	return tag_task_alive(t) && __atomic_load_n(&t->page->notify, __ATOMIC_RELAXED) != 0;
}

/* How many ms it is until the migration under way is forced; 0 if none is, or if it is
 * not forced. It asks the daemon, which takes a fraction of a millisecond. */
static inline uint32_t tag_task_deadline_ms(struct tag_task *t)
{
	static const char q[] = "{\"op\":\"migration\"}";
	struct tag_answer a;

	if (t->way == TAG_BY_NOTHING || !*t->client->here)
		return 0;
	if (t->way == TAG_BY_DEVICE)
		return tag_read(&t->client->port, TAG_REG_DEADLINE);
	if (tag_task_ask(t, q, (int)sizeof q - 1, &a, NULL) || a.error[0]) {
		(void)tag_task_lost(t);
		return 0;
	}
	return a.event.deadline_ms;
}

/* Whether the task takes part. */
static inline int tag_task_tagged(const struct tag_task *t)
{
	return t->way != TAG_BY_NOTHING && *t->client->here &&
	       (t->way == TAG_BY_DEVICE || tag_task_alive(t));
}

/* The task ends. */
static inline void tag_task_close(struct tag_task *t)
{
	int here = t->client && t->client->here && *t->client->here;
	struct tag_answer a;
	char q[64];
	int n;

	if (here && t->way == TAG_BY_DEVICE)
		tag_unregister(&t->client->port, t->id);
	if (here && t->way == TAG_BY_DAEMON) {
		n = snprintf(q, sizeof q, "{\"op\":\"close\",\"id\":%lu}", (unsigned long)t->id);
		(void)tag_task_ask(t, q, n, &a, NULL);
	}
	if (here && t->ram)
		munmap(t->ram, (size_t)TAG_DEVICE_PAGES * TAG_PAGE_SIZE);
	if (t->fd >= 0)
		close(t->fd);
	t->ram = NULL;
	t->fd = -1;
	t->way = TAG_BY_NOTHING;
}

/* ---- to be asked ---- */

/*
 * A program that is outside of its segment can be asked: a migration waits, this long.
 * It makes itself easy to move, and says yes:
 *
 *	for (;;) {
 *		poll(...tag_fd(&tags)...);          // or the program's event loop
 *		while (tag_poll(&tags, &e, 0) == 1)
 *			if (e.asked) {
 *				stop_accepting_and_drain(e.deadline_ms);
 *				tag_task_yes(&task);    // returns at the other side
 *				accept_again();
 *			}
 *	}
 *
 * A program that does nothing says no. One thread at a time calls these three.
 */

/* A descriptor that is readable when tag_poll has something to say, for poll and epoll.
 * -1 if the program is not told: it is untagged, or tags by the device itself. */
static inline int tag_fd(struct tag_client *c)
{
	static const char q[] = "{\"op\":\"watch\"}";

	if (c->way != TAG_BY_DAEMON || !*c->here || c->watch >= 0)
		return c->way == TAG_BY_DAEMON && *c->here ? c->watch : -1;
	c->watch = tag_connect(c->socket);
	if (c->watch >= 0 && send(c->watch, q, sizeof q - 1, MSG_NOSIGNAL) != (ssize_t)sizeof q - 1) {
		close(c->watch);
		c->watch = -1;
	}
	if (c->watch < 0) {
		c->way = TAG_BY_NOTHING;
		return tag_untagged(c, "the tag daemon is gone");
	}
	return c->watch;
}

/* Reads one packet of the daemon's. Returns 1 if it has an event, 0 if there is none. */
static inline int tag_poll_daemon(struct tag_client *c)
{
	struct tag_answer a;
	char text[512];
	ssize_t n;

	do {
		n = recv(c->watch, text, sizeof text, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return 0;
		if (n <= 0 || tag_answer_read(text, (size_t)n, &a) || a.error[0]) {
			close(c->watch);
			c->watch = -1;
			c->way = TAG_BY_NOTHING;
			return tag_untagged(c, "the tag daemon is gone");
		}
	} while (!a.has_event);
	c->last = a.event;
	return 1;
}

static inline int tag_poll_device(struct tag_client *c)
{
	struct tag_event now;

	now.state = tag_state(&c->port);
	now.deadline_ms = tag_read(&c->port, TAG_REG_DEADLINE);
	now.epoch = tag_epoch(&c->port);
	now.asked = now.state == TAG_WAITING || now.state == TAG_SUSPENDED;
	if (now.state == c->last.state && now.epoch == c->last.epoch)
		return 0;
	c->last = now;
	return 1;
}

/* Waits for at most timeout_ms (-1: for ever) until something has changed, and tells it;
 * the first call tells what is. Returns 1 if *e is set, 0 if nothing has changed or a
 * signal came, -1 at once if the program is untagged. */
static inline int tag_poll(struct tag_client *c, struct tag_event *e, int timeout_ms)
{
	const int step = 100; /* how often the device is looked at */
	struct pollfd p;
	int got, turn;

	for (;;) {
		if (c->way == TAG_BY_DAEMON)
			(void)tag_fd(c);
		if (c->way == TAG_BY_NOTHING || !*c->here)
			return -1;
		got = c->way == TAG_BY_DAEMON ? tag_poll_daemon(c) : tag_poll_device(c);
		if (got == 1)
			*e = c->last;
		if (got || timeout_ms == 0)
			return got;
		turn = c->way == TAG_BY_DAEMON || (timeout_ms >= 0 && timeout_ms < step) ? timeout_ms :
											   step;
		p.fd = c->watch;
		p.events = POLLIN;
		if (poll(&p, 1, turn) < 0)
			return 0;
		if (timeout_ms > 0)
			timeout_ms -= turn;
	}
}

/* Says yes: the task is in a segment until the machine has moved, or the migration is
 * over otherwise. Until then the program should write little memory. Call it when
 * tag_poll told that the program is asked. Returns 1 if the machine has moved, 0 if it
 * has not, -1 if the program is untagged. A daemon that hangs tells nothing, and does not
 * end its connection; but the lease of its pages ends. */
static inline int tag_task_yes(struct tag_task *t)
{
	const int look = 200; /* how often the page is looked at, in ms */
	const uint32_t epoch = t->client->last.epoch;
	struct tag_event e;
	int got;

	if (tag_task_enter(t))
		return -1;
	do {
		got = tag_poll(t->client, &e, look);
		if (got == 0 && !tag_task_tagged(t))
			got = -1;
	} while (got == 0 || (got == 1 && e.state != TAG_NONE && e.epoch == epoch));
	(void)tag_task_exit(t);
	return got == 1 ? e.epoch != epoch : -1;
}

static inline struct tag_task *tag_segment_begin(struct tag_task *t)
{
	(void)tag_task_enter(t);
	return t;
}

static inline void tag_segment_end(struct tag_task **t)
{
	if (*t)
		(void)tag_task_exit(*t);
}

/* TAG_SEGMENT(&task) STATEMENT: the statement is a segment, and ends however it is
 * left: at its end, by break, return or goto. */
#define TAG_SEGMENT(task) TAG_SEGMENT_AT(task, __LINE__)
#define TAG_SEGMENT_AT(task, line) TAG_SEGMENT_IN(task, line)
#define TAG_SEGMENT_IN(task, line) TAG_SEGMENT_OF(task, tag_in_##line, tag_once_##line)
#define TAG_SEGMENT_OF(task, in, once)                                                         \
	for (struct tag_task *in __attribute__((cleanup(tag_segment_end))) =                   \
		     tag_segment_begin(task),                                                  \
			     *once = in;                                                       \
	     once; once = NULL)

#ifdef __cplusplus
}
#endif
#endif /* TAG_LINUX */

#endif
