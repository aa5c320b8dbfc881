/*
 * workload=net: a task sends frames through a virtio network card to a peer that sends each one
 * back, several at a time, and verifies what comes back.
 *
 * A network may lose frames, and does so when the VM moves: what is not back in time counts as lost
 * and is sent again under a new number. But what comes must be as it was sent.
 */
#include "heap.h"
#include "histogram.h"
#include "pages.h"
#include "virtio.h"
#include "workloads.h"

#define RECEIVE 0 /* queues, VIRTIO 1.2, section 5.1.2 */
#define SEND 1
#define MAX_DEPTH 64
#define ROOM 2048 /* of a buffer */
#define FEATURE_MAC (1ull << 5)

#define WORDS 184
#define TYPE 0xb588 /* in the network's order: local experiments (IEEE Std 802) */
#define STRIDE 0x9e3779b97f4a7c15
#define PATIENCE_US 500000

struct frame {
	uint8_t virtio[12]; /* struct virtio_net_hdr: nothing is asked for */
	uint8_t to[6], from[6];
	uint16_t type;
	uint8_t pad[6];
	uint64_t slot, number;
	uint64_t words[WORDS];
} __attribute__((packed, aligned(8)));

#define FRAME_BYTES (sizeof(struct frame) - 12)

struct slot {
	bool waiting, sending; /* for its answer; the device has its buffer */
	uint64_t number;
	uint64_t begun; /* TSC */
};

static struct {
	struct virtio_device device;
	struct virtqueue receive, send;
	char *sent, *received;
	unsigned depth;
	uint8_t mac[6];
	struct slot slots[MAX_DEPTH];
	uint64_t answers, lost;
	uint64_t since; /* TSC of the last heartbeat */
	struct histogram latency;
} net;

static __attribute__((noreturn)) void refuse(const char *why)
{
	struct line line = {0};

	put(&line, "usage: workload=net: ");
	put(&line, why);
	usage_error(&line);
}

static struct frame *sent(unsigned i)
{
	return (struct frame *)(net.sent + i * ROOM);
}

static struct frame *received(unsigned i)
{
	return (struct frame *)(net.received + i * ROOM);
}

static void prepare(const struct options *options, int tasks)
{
	uint64_t buffers = options->depth * ROOM;

	if (tasks != 1)
		refuse("it is for one task");
	if (!virtio_find(&net.device, VIRTIO_NET, 0))
		refuse("there is no virtio card on PCI; give the machine one");
	if (!virtio_begin(&net.device, FEATURE_MAC))
		refuse("the card is no modern virtio device");
	net.depth = (unsigned)options->depth;
	heap_require(2 * (VIRTQUEUE_BYTES + buffers), "the card");
	void *rings = heap_take_straight(2 * VIRTQUEUE_BYTES);
	net.sent = heap_take_straight(buffers);
	net.received = heap_take_straight(buffers);
	if (rings == NULL || net.sent == NULL || net.received == NULL)
		refuse("there are no buffers in one piece");
	if (!virtio_queue(&net.device, RECEIVE, &net.receive, rings, (uint16_t)net.depth) ||
	    !virtio_queue(&net.device, SEND, &net.send, (char *)rings + VIRTQUEUE_BYTES,
			  (uint16_t)net.depth))
		refuse("the card has too short queues for depth=");
	for (unsigned i = 0; i < sizeof net.mac; i++)
		net.mac[i] = mmio_read8(net.device.config + i);
	virtio_go(&net.device);
	for (unsigned i = 0; i < net.depth; i++) {
		net.receive.descriptors[i] = (struct virtq_descriptor){
			heap_physical(received(i)), ROOM, VIRTQ_WRITE, 0};
		net.send.descriptors[i] = (struct virtq_descriptor){
			heap_physical(sent(i)), sizeof(struct frame), 0, 0};
		virtqueue_add(&net.receive, (uint16_t)i);
	}
	virtqueue_ring(&net.receive);
}

static uint64_t first_word(uint64_t slot, uint64_t number)
{
	return mix64(mix64(slot) ^ number);
}

static void send(struct task *task, unsigned i)
{
	struct frame *f = sent(i);
	struct slot *s = &net.slots[i];

	s->number++;
	memcpy(f->to, net.mac, sizeof f->to);
	memcpy(f->from, net.mac, sizeof f->from);
	f->type = TYPE;
	f->slot = i;
	f->number = s->number;
	uint64_t word = first_word(i, s->number);
	for (unsigned w = 0; w < WORDS; w++, word += STRIDE)
		f->words[w] = word;
	s->waiting = s->sending = true;
	s->begun = rdtsc();
	task->writes++;
	virtqueue_add(&net.send, (uint16_t)i);
}

static void verify(const struct task *task, const struct frame *f)
{
	uint64_t word = first_word(f->slot, f->number);

	for (unsigned w = 0; w < WORDS; w++, word += STRIDE)
		if (f->words[w] != word)
			corrupt((unsigned)task->id, "frame", f->slot, w, word, f->words[w]);
}

/* Other frames than ours are nobody's business. */
static void take_frame(const struct task *task, const struct frame *f, uint32_t bytes)
{
	uint64_t now = rdtsc();

	if (bytes < sizeof *f || f->type != TYPE || memcmp(f->from, net.mac, sizeof net.mac) != 0)
		return;
	if (f->slot >= net.depth || f->number > net.slots[f->slot].number)
		corrupt((unsigned)task->id, "unsent", f->slot, 0, net.depth, f->number);
	verify(task, f);
	struct slot *s = &net.slots[f->slot];
	if (!s->waiting || f->number != s->number)
		return; /* it counts as lost already */
	s->waiting = false;
	net.answers++;
	if (now >= s->begun)
		histogram_add(&net.latency, now - s->begun);
}

static void poll(struct task *task)
{
	uint32_t head, bytes;

	while (virtqueue_take(&net.send, &head, &bytes)) {
		if (head >= net.depth || !net.slots[head].sending)
			corrupt((unsigned)task->id, "used-ring", head, SEND, net.depth, head);
		net.slots[head].sending = false;
	}
	while (virtqueue_take(&net.receive, &head, &bytes)) {
		if (head >= net.depth)
			corrupt((unsigned)task->id, "used-ring", head, RECEIVE, net.depth, head);
		take_frame(task, received(head), bytes);
		memset(received(head), 0, sizeof(struct frame));
		virtqueue_add(&net.receive, (uint16_t)head);
	}
	virtqueue_ring(&net.receive);
}

static void put_answers(struct task *task, struct line *line)
{
	uint64_t now = rdtsc(), us = us_from_ticks(now > net.since ? now - net.since : 0);

	(void)task;
	put_key(line, "reads", net.answers);
	put_key(line, "lost", net.lost);
	put_key(line, "requests", net.latency.count);
	put_key(line, "kib_s",
		us == 0 ? 0 : net.latency.count * FRAME_BYTES * 1000000 / KIB / us);
	put_us(line, "p50_us", histogram_permille(&net.latency, 500));
	put_us(line, "p99_us", histogram_permille(&net.latency, 990));
	put_us(line, "max_us", net.latency.max);
	memset(&net.latency, 0, sizeof net.latency);
	net.since = now;
}

static void run(struct task *task)
{
	uint64_t patience = ticks_from_us(PATIENCE_US);

	task->put_extra = put_answers;
	task_begin(task);
	net.since = task->last_step;
	while (!task_over(task)) {
		poll(task);
		uint64_t now = rdtsc();
		for (unsigned i = 0; i < net.depth; i++) {
			struct slot *s = &net.slots[i];
			/* A TSC that stepped back makes the difference huge, and the frame lost. */
			if (s->waiting && now - s->begun > patience) {
				s->waiting = false;
				net.lost++;
			}
			if (!s->waiting && !s->sending)
				send(task, i);
		}
		virtqueue_ring(&net.send);
		task_step(task);
	}
}

const struct workload_ops net_ops = {prepare, run, false};
