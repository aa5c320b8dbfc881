#include "virtio.h"
#include "heap.h"
#include "pci.h"

#define VENDOR 0x1af4
#define MODERN 0x1040       /* device numbers of modern devices: this and the kind */
#define TRANSITIONAL 0x1000 /* of those that have both interfaces: this and the kind, less 1 */

#define CAPABILITY_VENDOR 0x09
#define CAPABILITY_COMMON 1
#define CAPABILITY_NOTIFY 2
#define CAPABILITY_DEVICE 4

/* struct virtio_pci_common_cfg */
#define FEATURES_SELECT 0x00
#define FEATURES 0x04
#define ACCEPTED_SELECT 0x08
#define ACCEPTED 0x0c
#define CONFIG_VECTOR 0x10
#define STATUS 0x14
#define QUEUE_SELECT 0x16
#define QUEUE_SIZE 0x18
#define QUEUE_VECTOR 0x1a
#define QUEUE_ENABLE 0x1c
#define QUEUE_NOTIFY 0x1e
#define QUEUE_DESCRIPTORS 0x20
#define QUEUE_AVAILABLE 0x28
#define QUEUE_USED 0x30

#define NO_VECTOR 0xffff

#define STATUS_ACKNOWLEDGE 1
#define STATUS_DRIVER 2
#define STATUS_DRIVER_OK 4
#define STATUS_FEATURES_OK 8

#define USED_NO_NOTIFY 1
#define AVAILABLE_NO_INTERRUPT 1

/* Of several structures of a kind, the first one is to be preferred. */
static void note_structure(struct virtio_device *device, unsigned at)
{
	unsigned kind = pci_read_byte(device->slot, at + 3);
	uint64_t *part = kind == CAPABILITY_COMMON   ? &device->common
			 : kind == CAPABILITY_NOTIFY ? &device->notify
			 : kind == CAPABILITY_DEVICE ? &device->config
						     : NULL;

	if (part == NULL || *part != 0)
		return;
	*part = pci_bar(device->slot, pci_read_byte(device->slot, at + 4)) +
		pci_read(device->slot, at + 8);
	if (kind == CAPABILITY_NOTIFY)
		device->notify_stride = pci_read(device->slot, at + 16);
}

bool virtio_find(struct virtio_device *device, unsigned kind, unsigned n)
{
	unsigned slot = 0;

	for (;; slot++) {
		if (slot == PCI_SLOTS)
			return false;
		uint32_t id = pci_read(slot, PCI_ID);
		if (id != ((MODERN + kind) << 16 | VENDOR) &&
		    id != ((TRANSITIONAL + kind - 1) << 16 | VENDOR))
			continue;
		if (n-- == 0)
			break;
	}
	*device = (struct virtio_device){.slot = slot};
	unsigned at = pci_read_byte(slot, PCI_CAPABILITIES) & 0xfc;
	for (int left = 48; at != 0 && left > 0; left--) {
		if (pci_read_byte(slot, at) == CAPABILITY_VENDOR)
			note_structure(device, at);
		at = pci_read_byte(slot, at + 1) & 0xfc;
	}
	return true;
}

static uint64_t offered(const struct virtio_device *device)
{
	mmio_write(device->common + FEATURES_SELECT, 1);
	uint64_t high = mmio_read(device->common + FEATURES);
	mmio_write(device->common + FEATURES_SELECT, 0);
	return high << 32 | mmio_read(device->common + FEATURES);
}

static void accept(const struct virtio_device *device)
{
	mmio_write(device->common + ACCEPTED_SELECT, 0);
	mmio_write(device->common + ACCEPTED, (uint32_t)device->features);
	mmio_write(device->common + ACCEPTED_SELECT, 1);
	mmio_write(device->common + ACCEPTED, (uint32_t)(device->features >> 32));
}

bool virtio_begin(struct virtio_device *device, uint64_t wanted)
{
	const uint8_t status = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK;

	if (device->common == 0 || device->notify == 0 || device->config == 0)
		return false;
	pci_enable(device->slot);
	mmio_write8(device->common + STATUS, 0);
	while (mmio_read8(device->common + STATUS) != 0)
		pause();
	mmio_write8(device->common + STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
	device->features = offered(device) & (wanted | VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_INDEX);
	accept(device);
	mmio_write8(device->common + STATUS, status);
	return (device->features & VIRTIO_F_VERSION_1) != 0 &&
	       (mmio_read8(device->common + STATUS) & STATUS_FEATURES_OK) != 0;
}

static void write_address(uint64_t reg, const void *at)
{
	mmio_write(reg, (uint32_t)heap_physical(at));
	mmio_write(reg + 4, (uint32_t)(heap_physical(at) >> 32));
}

bool virtio_queue(struct virtio_device *device, uint16_t number, struct virtqueue *queue,
		  void *memory, uint16_t descriptors)
{
	uint64_t common = device->common;

	mmio_write16(common + CONFIG_VECTOR, NO_VECTOR);
	mmio_write16(common + QUEUE_SELECT, number);
	uint16_t size = mmio_read16(common + QUEUE_SIZE);
	if (size < descriptors)
		return false;
	if (size > VIRTQUEUE_MAX)
		mmio_write16(common + QUEUE_SIZE, size = VIRTQUEUE_MAX);
	*queue = (struct virtqueue){
		.size = size,
		.number = number,
		.event_index = (device->features & VIRTIO_F_EVENT_INDEX) != 0,
		.doorbell = device->notify +
			    device->notify_stride * (uint64_t)mmio_read16(common + QUEUE_NOTIFY),
		.descriptors = memory,
		.available = (void *)((char *)memory + PAGE),
		.used = (void *)((char *)memory + 2 * PAGE),
	};
	queue->available->flags = queue->event_index ? 0 : AVAILABLE_NO_INTERRUPT;
	mmio_write16(common + QUEUE_VECTOR, NO_VECTOR);
	write_address(common + QUEUE_DESCRIPTORS, queue->descriptors);
	write_address(common + QUEUE_AVAILABLE, queue->available);
	write_address(common + QUEUE_USED, queue->used);
	mmio_write16(common + QUEUE_ENABLE, 1);
	return true;
}

void virtio_go(struct virtio_device *device)
{
	mmio_write8(device->common + STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER |
						     STATUS_FEATURES_OK | STATUS_DRIVER_OK);
}

void virtqueue_add(struct virtqueue *queue, uint16_t head)
{
	queue->available->ring[queue->added % queue->size] = head;
	queue->added++;
	__atomic_thread_fence(__ATOMIC_RELEASE);
	queue->available->index = queue->added;
}

void virtqueue_ring(struct virtqueue *queue)
{
	uint16_t before = queue->announced, count = (uint16_t)(queue->added - before);

	if (count == 0)
		return;
	queue->announced = queue->added;
	/* What the device wants to hear of is read after it could see the chains; it looks for chains
	 * after it has written that. So one of the two sees the other. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (queue->event_index) {
		/* The event index lies behind the used ring: ring once the chain of that number is in. */
		uint16_t event = *(volatile uint16_t *)&queue->used->ring[queue->size];
		if ((uint16_t)(event - before) >= count)
			return;
	} else if ((queue->used->flags & USED_NO_NOTIFY) != 0) {
		return;
	}
	mmio_write16(queue->doorbell, queue->number);
}

bool virtqueue_take(struct virtqueue *queue, uint32_t *head, uint32_t *bytes)
{
	if (queue->used->index == queue->taken)
		return false;
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	*head = queue->used->ring[queue->taken % queue->size].head;
	*bytes = queue->used->ring[queue->taken % queue->size].bytes;
	queue->taken++;
	return true;
}
