package kvm

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"unsafe"

	gokvm "github.com/bobuhiro11/gokvm/kvm"
	"golang.org/x/sys/unix"
)

var le = binary.LittleEndian

// RunArea is the memory that KVM shares with the owner of a vCPU: struct kvm_run, followed by the
// page of port I/O data. Only the vCPU's own thread reads it, between two KVM_RUN calls;
// immediate_exit alone is written by others.
type RunArea struct {
	mem []byte
}

const (
	runImmediateExit = 1 << 8 // as the second byte of the first word
	runExitReason    = 8
	runUnion         = 32 // offset of the anonymous union
)

// MapRunArea maps the run area of a vCPU. size is the number of bytes that [GetVCPUMmapSize]
// returns.
func (fd FD) MapRunArea(size int) (RunArea, error) {
	mem, err := unix.Mmap(int(fd), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return RunArea{}, fmt.Errorf("map the run area of a vCPU: %w", err)
	}
	return RunArea{mem}, nil
}

// RunAreaOf returns a run area in the caller's memory, which must begin at a multiple of 4. Tests
// use it to stand in for KVM.
func RunAreaOf(mem []byte) RunArea { return RunArea{mem} }

// Unmap frees the mapping.
func (r RunArea) Unmap() error { return unix.Munmap(r.mem) }

// head is the word of struct kvm_run that contains immediate_exit. Its other bytes are
// request_interrupt_window, which is not used with an in-kernel interrupt controller, and padding.
//
// Sound: mem is a page-aligned mapping of at least a page, or as RunAreaOf requires.
func (r RunArea) head() *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer(&r.mem[0]))
}

// SetImmediateExit makes the next KVM_RUN finish what the last one left half done, and return.
func (r RunArea) SetImmediateExit() { r.head().Store(runImmediateExit) }

// ClearImmediateExit lets KVM_RUN run the guest again.
func (r RunArea) ClearImmediateExit() { r.head().Store(0) }

// ExitReason says why KVM_RUN came back.
func (r RunArea) ExitReason() ExitType { return ExitType(le.Uint32(r.mem[runExitReason:])) }

// Suberror says what caused an [ExitInternalError].
func (r RunArea) Suberror() uint32 { return le.Uint32(r.mem[runUnion:]) }

// HardwareReason is the processor's reason for an [ExitFailEntry].
func (r RunArea) HardwareReason() uint64 { return le.Uint64(r.mem[runUnion:]) }

// PortIO is an [ExitIO]: one or more accesses of Size bytes each to one port, with their data one
// after the other.
type PortIO struct {
	Write bool
	Size  int
	Port  uint16
	Data  []byte // within the run area
}

// PortIO reads the port access of an [ExitIO].
func (r RunArea) PortIO() (PortIO, error) {
	u := r.mem[runUnion:]
	size, count, offset := int(u[1]), uint64(le.Uint32(u[4:])), le.Uint64(u[8:])
	length := count * uint64(size)
	if offset > uint64(len(r.mem)) || length > uint64(len(r.mem))-offset {
		return PortIO{}, fmt.Errorf("KVM_EXIT_IO has %d bytes of data at %d in a run area of %d",
			length, offset, len(r.mem))
	}
	return PortIO{
		Write: u[0] == gokvm.EXITIOOUT,
		Size:  size,
		Port:  le.Uint16(u[2:]),
		Data:  r.mem[offset : offset+length],
	}, nil
}

// MMIO is an [ExitMMIO], one access of up to 8 bytes.
type MMIO struct {
	Write bool
	GPA   uint64
	Data  []byte // within the run area
}

// MMIO reads the access of an [ExitMMIO].
func (r RunArea) MMIO() (MMIO, error) {
	u := r.mem[runUnion:]
	length := le.Uint32(u[16:])
	if length > 8 {
		return MMIO{}, fmt.Errorf("KVM_EXIT_MMIO of %d bytes", length)
	}
	return MMIO{Write: u[20] != 0, GPA: le.Uint64(u), Data: u[8 : 8+length]}, nil
}
