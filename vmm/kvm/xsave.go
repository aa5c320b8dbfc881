package kvm

import "unsafe"

// Sizes of an XSAVE area in bytes: struct kvm_xsave has 4096. An area is larger only with features
// that a process has to ask for.
const (
	XSaveMinBytes = 4096
	XSaveMaxBytes = 64 << 10
)

// xsaveHead is the fixed part of struct kvm_xsave.
type xsaveHead [XSaveMinBytes]byte

// XSaveBytes is the size of the XSAVE area of a VM's vCPUs, in bytes.
func (fd FD) XSaveBytes() int { return max(fd.Check(CapXSave2), XSaveMinBytes) }

// GetXSave reads a vCPU's FPU, SSE, AVX and further state into an area of its VM's XSaveBytes.
func (fd FD) GetXSave(area []byte) error {
	if len(area) > XSaveMinBytes {
		return getXSave2.Do(fd, headOf(area))
	}
	return getXSave.Do(fd, headOf(area))
}

// SetXSave loads that state from an area of this size.
func (fd FD) SetXSave(area []byte) error { return setXSave.Do(fd, headOf(area)) }

// headOf returns the fixed part at the start of an area.
//
// Sound: the slice has at least that many bytes. Callers promise that it has as many as
// KVM_CAP_XSAVE2 says, which is how far the calls reach.
func headOf(area []byte) *xsaveHead {
	return (*xsaveHead)(unsafe.Pointer(&area[:XSaveMinBytes][0]))
}
