package pci

import "taskguide/vmm/device"

// A window is a capability through which a guest accesses the BAR by configuration space alone, as
// firmware does before it maps memory (VIRTIO_PCI_CAP_PCI_CFG; VIRTIO 1.2, section 4.1.4.9): the
// guest writes the BAR's number, an offset and a length, and then accesses the data, which is an
// access to the BAR. It needs no leave to answer accesses to memory.
const (
	windowKind   = 5
	windowBAR    = 4 // its registers, from the capability's beginning
	windowOffset = 8
	windowLength = 12
	windowData   = 16
	windowBytes  = 20
	windowWords  = 4 // bytes of data
)

// windowCapability returns the capability without the two bytes that chain it.
func windowCapability() []byte {
	c := make([]byte, windowBytes-2)
	c[0], c[1] = windowBytes, windowKind
	return c
}

// addWindow makes the capability at a register the window.
func (f *Function) addWindow(at int) {
	f.windowAt = at
	f.mask[at+windowBAR] = 0xff
	le.PutUint32(f.mask[at+windowOffset:], 0xffffffff)
	le.PutUint32(f.mask[at+windowLength:], 0xffffffff)
}

// windowAccess returns the access to the BAR that an access to n bytes of data makes, and false if
// it is none: registers that make no sense lead nowhere. part is where the bytes are in the data.
func (f *Function) windowAccess(register, n int) (a device.Access, part int, ok bool) {
	part = register - f.windowAt - windowData
	if f.windowAt == 0 || part < 0 || part+n > windowWords {
		return a, 0, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	bar := f.value[f.windowAt+windowBAR]
	offset := le.Uint32(f.value[f.windowAt+windowOffset:])
	length := le.Uint32(f.value[f.windowAt+windowLength:])
	switch length {
	case 1, 2, 4:
		ok = bar == 0 && offset%length == 0 && offset < f.BARBytes
	}
	if !ok {
		return a, 0, false
	}
	return device.Access{Offset: uint64(offset), Size: int(length)}, part, true
}

// readWindow answers a read of the window's data. It returns false if that leads nowhere. f.mu is
// not held, because the device takes its own locks first.
func (f *Function) readWindow(register int, p []byte) bool {
	a, part, ok := f.windowAccess(register, len(p))
	if !ok {
		return false
	}
	var data [windowWords]byte
	a.Data = data[:a.Size]
	f.Window(a)
	copy(p, data[part:])
	return true
}

// writeWindow answers a write to the window's data. A write that does not have all bytes of the
// access is ignored.
func (f *Function) writeWindow(register int, p []byte) {
	a, part, ok := f.windowAccess(register, len(p))
	if !ok || part != 0 || len(p) < a.Size {
		return
	}
	a.Data, a.Write = append([]byte(nil), p[:a.Size]...), true
	f.Window(a)
}
