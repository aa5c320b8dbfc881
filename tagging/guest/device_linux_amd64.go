package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"taskguide/tagging/abi"
)

// DeviceFolder finds the tag device among the PCI devices of a Linux guest, and returns its folder.
// It returns ErrNoPort if this machine has none.
func DeviceFolder() (string, error) { return deviceFolder(pciDevices) }

// reads tells whether a file of a PCI device has this number.
func reads(folder, file string, number int) bool {
	text, err := os.ReadFile(filepath.Join(folder, file))
	return err == nil && strings.TrimSpace(string(text)) == fmt.Sprintf("0x%04x", number)
}

// Device is the tag device, for the one program of a guest that owns it.
type Device struct {
	regs mmio
	// RAM is the device's, and File what others map it by, see [MapRAM].
	RAM  RAM
	File *os.File
}

// OpenDevice opens the device in a folder of DeviceFolder. It needs the rights of root.
func OpenDevice(folder string) (*Device, error) {
	regs, err := openRegs(folder)
	if err != nil {
		return nil, err
	}
	d := &Device{regs: regs}
	if id := d.Read(abi.RegID); id != abi.ID {
		return nil, errors.Join(fmt.Errorf("%w: its id reads %#x", ErrNoPort, id), d.regs.close())
	}
	d.File, err = os.OpenFile(filepath.Join(folder, "resource2"), os.O_RDWR, 0)
	if err != nil {
		return nil, errors.Join(err, d.regs.close())
	}
	if d.RAM, err = MapRAM(d.File); err != nil {
		return nil, errors.Join(err, d.File.Close(), d.regs.close())
	}
	return d, nil
}

// openRegs maps the registers of the device in a folder.
func openRegs(folder string) (mmio, error) {
	enable := filepath.Join(folder, "enable")
	if err := os.WriteFile(enable, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(folder, "resource0"), os.O_RDWR|unix.O_SYNC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return mapShared(f, abi.MMIOBytes)
}

// Close unmaps the device. No page is taken from it.
func (d *Device) Close() error {
	return errors.Join(d.RAM.Close(), d.File.Close(), d.regs.close())
}

// Read reads a register, and Write writes one. The machine may be moved inside a Write.
func (d *Device) Read(register uint32) uint32     { return d.regs.read(register) }
func (d *Device) Write(register uint32, v uint32) { d.regs.write(register, v) }

// RAM is the RAM of the tag device, mapped: DevicePages tag pages, one after the other. Offsets are
// in bytes. Its accesses are plain, because the memory may be uncached, where a locked instruction
// stops the bus of the whole host.
type RAM struct{ words mmio }

// MapRAM maps the device's RAM from its file, which may have come from another program. A fork of
// the program does not have the mapping.
func MapRAM(f *os.File) (RAM, error) {
	mem, err := mapShared(f, abi.DeviceBytes)
	if err != nil {
		return RAM{}, err
	}
	if err := unix.Madvise(mem, unix.MADV_DONTFORK); err != nil {
		return RAM{}, errors.Join(fmt.Errorf("map %s: %w", f.Name(), err), unix.Munmap(mem))
	}
	return RAM{mem}, nil
}

// Load and Store access a word.
func (r RAM) Load(at uint32) uint32     { return r.words.read(at) }
func (r RAM) Store(at uint32, v uint32) { r.words.write(at, v) }

// Close unmaps the RAM.
func (r RAM) Close() error { return r.words.close() }

func mapShared(f *os.File, bytes int) (mmio, error) {
	mem, err := unix.Mmap(int(f.Fd()), 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	return mmio(mem), nil
}

// Fence orders all stores before it before all loads after it: the instruction mfence.
func Fence()

// PageAt returns where page i begins, and SlotAt where its slot n does.
func PageAt(i int) uint32    { return uint32(i) * abi.PageSize }
func SlotAt(i, n int) uint32 { return PageAt(i) + 0x40 + uint32(n)*0x40 }

// Offsets in a page and in a slot, as package tagging documents them.
const (
	PageMagicAt   = 0x00
	PageVersionAt = 0x04
	PageNotifyAt  = 0x08
	PageSlotsAt   = 0x0c
	PageLeaseAt   = 0x10
	PageTermAt    = 0x14
	SlotFlagsAt   = 0x00
	SlotTaskAt    = 0x04
	SlotDepthAt   = 0x08
	SlotNameAt    = 0x20
)
