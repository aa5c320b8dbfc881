package vmm

import "taskguide/tagging"

// bus is an address space, of I/O ports or of guest-physical memory, and who answers
// in it.
type bus []window

// window is a range of addresses that a device answers.
type window struct {
	start, size uint64
	handle      handler
}

// handler does accesses of size bytes each, one after the other, to the address at
// offset in its window: data has one for a plain access and more for a string
// instruction. For a read it fills data in. It returns errLeave if the access ends
// the machine.
type handler func(offset uint64, size int, data []byte, write bool) error

// access gives an access to the device in whose window it begins. Where nobody
// answers, reads give all ones and writes are lost.
func (b bus) access(addr uint64, size int, data []byte, write bool) error {
	for _, w := range b {
		if addr >= w.start && addr-w.start < w.size {
			return w.handle(addr-w.start, size, data, write)
		}
	}
	if !write {
		fill(data, 0xff)
	}
	return nil
}

func fill(p []byte, v byte) {
	for i := range p {
		p[i] = v
	}
}

// Ports of the devices that are not worth a file of their own.
const (
	portExit    = 0xf4
	portI8042   = 0x64 // its command and status register
	i8042Reset  = 0xfe // command: pulse the processor's reset line
	i8042Status = 0    // ready for a command, nothing to read
	portCMOS    = 0x70 // index and data of the CMOS clock
)

// connect attaches the machine's devices.
func (vm *VM) connect() {
	vm.ports = bus{
		{serialPort, serialPorts, vm.serial.access},
		{tagging.PortBase, tagging.PortBytes, vm.accessTags},
		{portExit, 1, vm.accessExit},
		{portI8042, 1, vm.accessI8042},
		{portCMOS, 2, accessCMOS},
	}
	vm.mmio = bus{
		{tagging.MMIOBase, tagging.MMIOBytes, vm.accessTags},
	}
}

// accessTags hands accesses to the tag port, which judges offset and size itself.
func (vm *VM) accessTags(offset uint64, size int, data []byte, write bool) error {
	for ; size > 0 && len(data) >= size; data = data[size:] {
		var word [8]byte
		if write {
			copy(word[:], data[:size])
			vm.tags.Write(offset, size, le.Uint32(word[:]))
			continue
		}
		le.PutUint32(word[:], vm.tags.Read(offset, size))
		copy(data[:size], word[:])
	}
	return nil
}

// accessExit ends the machine with the status that the guest writes.
func (vm *VM) accessExit(_ uint64, _ int, data []byte, write bool) error {
	if !write || len(data) == 0 {
		fill(data, 0xff)
		return nil
	}
	vm.end(Exit{Reason: ExitGuest, Status: data[0]}, nil)
	return errLeave
}

// accessI8042 is what is left of the keyboard controller: the reset line.
func (vm *VM) accessI8042(_ uint64, _ int, data []byte, write bool) error {
	if !write || len(data) == 0 {
		fill(data, i8042Status)
		return nil
	}
	if data[0] != i8042Reset {
		return nil
	}
	vm.end(Exit{Reason: ExitReset}, nil)
	return errLeave
}

// accessCMOS is a clock that lost its battery: all registers are 0, which kernels take
// for a time that is not set. With all ones they would wait for an update in progress
// to end.
func accessCMOS(_ uint64, _ int, data []byte, write bool) error {
	if !write {
		fill(data, 0)
	}
	return nil
}
