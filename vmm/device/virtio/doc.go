// Package virtio has the devices that a guest drives through queues in its own RAM (Virtual I/O
// Device, VIRTIO, version 1.2: modern devices on PCI).
//
// # A queue
//
// A driver describes each request by a chain of descriptors: ranges of RAM that the device reads,
// then ranges that it writes. It puts the number of the first one into a ring, the available ring,
// and rings the queue's doorbell. The device does what the chain asks for, puts its number into a
// second ring, the used ring, and interrupts. Neither side waits for the other.
//
//	driver: descriptors --> available ring --> doorbell --> device
//	driver: <-- interrupt <-- used ring <-----------------------+
//
// Both sides write to RAM when they next want to be told (the event index), as in "ring when you
// put the next one in". That saves most doorbells and interrupts.
//
// # Who does what
//
//	queue.go    the rings; pure but for RAM
//	chain.go    from a descriptor to checked ranges of RAM
//	device.go   a device's life: registers, status, workers, quiescing
//	common.go   the registers that all devices have, as a driver sees them
//	saved.go    the state that moves
//	room.go     chains for what comes unasked, as frames from a network do
//	inspect.go  what vmm debug shows
//
// One file for each device has what it does with a chain: rng.go, block.go, net.go, console.go,
// vsock.go, balloon.go. Some have another end, at the host:
//
//	disk.go     a disk's file; owner.go has its locks, imprint.go tells whether it changed
//	wire.go     what a network card is connected to: tap.go or stream.go
//	announce.go how a network card says where its guest is now
//	vsockhost.go
//	            the unix sockets of a vsock
//
// A backend serves chains in one of two ways. A disk needs time, so it gets each chain to keep
// until it is done. A console or a socket answers at once, or not before something happens at the
// host: it handles the chain under the device's lock, or leaves it in the queue.
//
// # Nothing of it is trusted
//
// The guest may write everything in the rings at any time. Each descriptor is copied before it is
// checked, a chain is no longer than its queue, and each range lies in RAM. When a driver breaks a
// rule, the device is broken (status DEVICE_NEEDS_RESET) and does nothing until it is reset, and
// the log gets one line.
//
// # Under migration
//
// A quiesced device has no request in flight: it takes no more requests, and those that it took are
// done and their pages marked. For a disk, which may take long, that begins while the vCPUs still
// run ([Block.Drain]). So the state has no requests, only the positions in the rings. After Resume
// the device looks at each queue once, because a doorbell may have rung meanwhile. After a move
// each queue interrupts once, and so do the device's own registers, because an interrupt may have
// been under way when the state was saved. One interrupt too many does no harm, while one too few
// hangs a driver. For the same reason the first request after a move interrupts whatever the event
// index says.
//
// What comes from outside waits where it is while a device is quiesced: a network card reads no
// frame. A card that has not run yet drops them, because they are not its guest's.
package virtio
