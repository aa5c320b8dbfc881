/*
 * Modern virtio devices on PCI, and their split queues (VIRTIO 1.2, sections 2.7 and 4.1). The
 * queues are polled: no interrupt is asked for. Doorbells are plain stores of CPL 3, and the event
 * index saves most of them.
 */
#ifndef VIRTIO_H
#define VIRTIO_H
#include "lib.h"

#define VIRTIO_NET 1 /* kinds of devices, section 5 */
#define VIRTIO_BLOCK 2

#define VIRTIO_F_EVENT_INDEX (1ull << 29)
#define VIRTIO_F_VERSION_1 (1ull << 32)

#define VIRTQUEUE_MAX 256 /* descriptors */
#define VIRTQUEUE_BYTES (3 * PAGE)

/* Addresses of its registers, by part. */
struct virtio_device {
	unsigned slot;
	uint64_t common, notify, config;
	uint32_t notify_stride; /* between two queues' doorbells, in bytes */
	uint64_t features;      /* agreed on */
};

struct virtq_descriptor {
	uint64_t address; /* physical */
	uint32_t bytes;
	uint16_t flags, next;
};

#define VIRTQ_NEXT 1  /* the chain goes on */
#define VIRTQ_WRITE 2 /* the device writes this one */

struct virtq_available {
	volatile uint16_t flags, index;
	volatile uint16_t ring[];
};

struct virtq_used {
	volatile uint16_t flags, index;
	struct {
		volatile uint32_t head, bytes;
	} ring[];
};

struct virtqueue {
	uint16_t size;
	uint16_t added;     /* chains made available so far, modulo 2^16 */
	uint16_t announced; /* of them, those that the doorbell was considered for */
	uint16_t taken;     /* chains taken back so far, modulo 2^16 */
	bool event_index;
	uint16_t number;
	uint64_t doorbell;
	struct virtq_descriptor *descriptors;
	struct virtq_available *available;
	struct virtq_used *used;
};

/* Finds the n-th device of that kind, counted from 0, in the order of slots. */
bool virtio_find(struct virtio_device *device, unsigned kind, unsigned n);
/* Resets the device and agrees on those of the wanted features that it offers. False if it is no
 * modern device. */
bool virtio_begin(struct virtio_device *device, uint64_t wanted);
/* Sets up a queue in VIRTQUEUE_BYTES of zeroed memory of heap_take_straight. False if it holds
 * fewer descriptors. */
bool virtio_queue(struct virtio_device *device, uint16_t number, struct virtqueue *queue,
		  void *memory, uint16_t descriptors);
/* From now on the device serves its queue. */
void virtio_go(struct virtio_device *device);

/* Makes a chain available, which the device need not notice before virtqueue_ring. */
void virtqueue_add(struct virtqueue *queue, uint16_t head);
/* Rings the doorbell, if the device wants to hear of what was added since the last call. */
void virtqueue_ring(struct virtqueue *queue);
/* Takes a chain back that the device is done with, and how much it wrote. False if there is
 * none. */
bool virtqueue_take(struct virtqueue *queue, uint32_t *head, uint32_t *bytes);
#endif
