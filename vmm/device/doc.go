// Package device has a machine's devices: what a device is, which devices there are, and how they
// live.
//
// # A device's life
//
// A device may have goroutines and backends of its own: it writes guest RAM and raises interrupts
// without a request by a vCPU. A migration must be able to stop that, because the destination never
// sees a write that comes after the last pages were read. So a device can be quiesced:
//
//	Attach --> quiesced --Resume--> working --> Close
//	             |  ^                  |
//	   Save, Load,  +-----Quiesce------+
//	   Fingerprint
//
// A machine comes to a stand in this order: first its vCPUs are parked, so no access comes; then
// every device is quiesced. It starts in the reverse order. In between, state and RAM belong to one
// moment and do not change.
//
// A device that asks the host for something that may take long, like a disk, is a [Drainer]: it
// finishes its requests and takes no new ones before the vCPUs are parked. So a slow host costs no
// downtime, and one that hangs holds no vCPU.
//
// # Two rules
//
// A device writes RAM only through [memory.Guest], which marks each write for the dirty log. It
// writes nothing after Quiesce has returned. The suite in devicetest checks both.
//
// # Adding a device
//
// A device is one file here and one line in [New], which has the order. A device on the PCI bus is
// a file of package virtio, and a line where package vmm calls [New]. Its kind ([Device.Kind]) has
// its name and versions: the machine announces them to a destination, saves and loads the state
// under them, and refuses by name what it cannot read. Call devicetest.Run in the device's test.
package device
