package vmm

import (
	"fmt"
	"unsafe"
)

// Sizes of an XSAVE area in bytes: struct kvm_xsave has 4096, more only with
// features that a process has to ask for.
const (
	xsaveMinBytes = 4096
	xsaveMaxBytes = 64 << 10
)

// xsaveSize is how large the XSAVE area of a VM's vCPUs is.
func xsaveSize(vmFD int) int {
	return max(checkExtension(vmFD, capXSave2), xsaveMinBytes)
}

// readXSave reads the FPU, SSE, AVX and further state.
func (c *vcpu) readXSave(s *vcpuState) error {
	req, name := uintptr(kvmGetXSave), "KVM_GET_XSAVE"
	if len(c.xsave) > xsaveMinBytes {
		req, name = kvmGetXSave2, "KVM_GET_XSAVE2"
	}
	if err := get(c.fd, req, name, xsaveHead(c.xsave)); err != nil {
		return err
	}
	// The machine's area may be smaller than this host's, see writeXSave.
	s.xsave = append([]byte(nil), c.xsave[:min(len(c.xsave), c.vm.config.XSaveBytes)]...)
	return nil
}

// writeXSave loads it. An area from a host with a smaller one leaves the rest 0: the
// components there, which the guest does not know, are in their initial state.
func (c *vcpu) writeXSave(s *vcpuState) error {
	if len(s.xsave) > len(c.xsave) {
		return fmt.Errorf("%w: XSAVE area of %d bytes, KVM here has %d", ErrState, len(s.xsave), len(c.xsave))
	}
	clear(c.xsave[copy(c.xsave, s.xsave):])
	return set(c.fd, kvmSetXSave, "KVM_SET_XSAVE", xsaveHead(c.xsave))
}

// xsaveHead is the fixed part of struct kvm_xsave at the start of an area that is as
// large as KVM says.
//
// Sound: the area has at least xsaveMinBytes, and as many as KVM_CAP_XSAVE2 says,
// which is how far the calls reach.
func xsaveHead(area []byte) *[xsaveMinBytes]byte {
	return (*[xsaveMinBytes]byte)(unsafe.Pointer(&area[0]))
}
