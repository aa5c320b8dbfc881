package vmm

import (
	"fmt"

	"taskguide/vmm/kvm"
)

// Sizes of an XSAVE area in bytes.
const (
	xsaveMinBytes = kvm.XSaveMinBytes
	xsaveMaxBytes = kvm.XSaveMaxBytes
)

// readXSave reads the FPU, SSE, AVX and further state.
func (c *vcpu) readXSave(s *vcpuState) error {
	if err := c.fd.GetXSave(c.xsave); err != nil {
		return err
	}
	// The machine's area may be smaller than this host's, see writeXSave.
	s.xsave = append([]byte(nil), c.xsave[:min(len(c.xsave), c.vm.config.XSaveBytes)]...)
	return nil
}

// writeXSave loads that state. If the source's area is smaller, the rest stays 0: the components
// there, which the guest does not know, are in their initial state.
func (c *vcpu) writeXSave(s *vcpuState) error {
	if len(s.xsave) > len(c.xsave) {
		return fmt.Errorf("%w: XSAVE area of %d bytes, KVM here has %d", ErrState, len(s.xsave),
			len(c.xsave))
	}
	clear(c.xsave[copy(c.xsave, s.xsave):])
	return c.fd.SetXSave(c.xsave)
}
