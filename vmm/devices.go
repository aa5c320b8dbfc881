package vmm

import (
	"fmt"
	"slices"

	"taskguide/memory"
	"taskguide/tagging"
	"taskguide/vmm/device"
	"taskguide/vmm/device/pci"
	"taskguide/vmm/device/tagpci"
	"taskguide/vmm/device/virtio"
	"taskguide/vmm/kvm"
	"taskguide/vmm/state"
)

// newDevices makes the devices that a machine on this host may have, with what was opened for them.
func newDevices(opts Options, b backends) *device.Set {
	bus := pci.NewHost()
	more := []device.Device{
		bus, virtio.NewRNG(bus, opts.log()), virtio.NewConsole(bus, opts.HVC, opts.log()),
		virtio.NewBalloon(bus, opts.log()),
	}
	for i, d := range b.disks {
		more = append(more, virtio.NewBlock(bus, i, d, opts.log()))
	}
	for i, n := range b.nets {
		more = append(more, virtio.NewNet(bus, i, n, opts.log()))
	}
	if b.vsock != nil {
		more = append(more, virtio.NewVsock(bus, b.vsock, opts.log()))
	}
	set := device.New(device.Console{
		Writer: opts.Console, Lossy: opts.ConsoleLossy, Queue: opts.consoleBytes,
	}, append(more, opts.Devices...)...)
	set.Add(tagpci.New(bus, set.Tags, opts.log()))
	return set
}

// reads returns the sections of state that a machine with these devices reads.
func reads(devices state.Catalog) state.Catalog { return slices.Concat(kvmKinds, devices) }

// known returns the sections of all machines that can be made with these options.
func known(opts Options) state.Catalog {
	return slices.Concat(reads(newDevices(opts, backends{}).Catalog()), diskKinds(), netKinds(),
		state.Catalog{virtio.VsockKind()})
}

// announced returns the sections of its state that not every machine has.
func announced(devices state.Catalog) []state.Kind {
	return reads(devices).Beyond(slices.Concat(baseKinds, device.Base()))
}

// board is what a machine is to its devices.
type board struct{ vm *VM }

// RAM implements [device.Board].
func (b board) RAM() *memory.Guest { return b.vm.guest }

// SetIRQ implements [device.Board].
func (b board) SetIRQ(line uint32, level bool) {
	l := kvm.IRQLevel{IRQ: line}
	if level {
		l.Level = 1
	}
	if err := kvm.SetIRQLine.Do(b.vm.fd, &l); err != nil {
		b.vm.fail(fmt.Errorf("raise interrupt %d: %w", line, err))
	}
}

// Memory implements [device.Board].
func (b board) Memory(gpa uint64, bytes int) []byte {
	mem, err := memory.NewPrivate(bytes)
	if err != nil {
		b.vm.fail(fmt.Errorf("make memory for a device: %w", err))
		return make([]byte, bytes)
	}
	b.vm.private = append(b.vm.private, mem)
	// The slot comes after those of RAM, and no dirty log knows of it.
	region := kvm.MemoryRegion{
		Slot:          uint32(len(b.vm.slots) + len(b.vm.private) - 1),
		GuestPhysAddr: gpa,
		MemorySize:    uint64(bytes),
		UserspaceAddr: uint64(kvm.Address(mem)),
	}
	if err := kvm.SetMemoryRegion.Do(b.vm.fd, &region); err != nil {
		b.vm.fail(fmt.Errorf("give the guest a device's memory: %w", err))
	}
	return mem
}

// fail ends the machine with an error. It does so from another goroutine, because the calling
// device may hold its locks, which come after the machine's in the order of locks.
func (vm *VM) fail(err error) { go vm.end(Exit{Reason: ExitError}, err) }

// MayWait implements [device.Board].
func (b board) MayWait() bool { return b.vm.Running() }

// Exit implements [device.Board].
func (b board) Exit(status uint8) { b.vm.end(Exit{Reason: ExitGuest, Status: status}, nil) }

// Reset implements [device.Board].
func (b board) Reset() { b.vm.end(Exit{Reason: ExitReset}, nil) }

// PowerOff implements [device.Board].
func (b board) PowerOff() { b.vm.end(Exit{Reason: ExitPowerOff}, nil) }

// Prefer implements [device.Board].
func (b board) Prefer(name string) {
	nameThread(name)
	preferLatency()
}

// Tags is the tag port.
func (vm *VM) Tags() *tagging.Port { return vm.devices.Tags.Port }

// SerialInput sends bytes to the guest's COM1. It returns how many were taken, which is fewer than
// all if the guest does not read them. It takes none from when the state was saved until the guest
// is known to stay here, because they would stay behind.
func (vm *VM) SerialInput(p []byte) int { return vm.devices.Serial.Input(p) }

// HVCInput is SerialInput for the second console. Without one, input is dropped.
func (vm *VM) HVCInput(p []byte) int {
	for d := range vm.devices.All() {
		if c, ok := d.(*virtio.Console); ok {
			return c.Input(p)
		}
	}
	return len(p)
}
