package vmm

import (
	"errors"
	"fmt"

	"taskguide/vmm/device/virtio"
)

// Vsock says where a machine's vsock is at the host.
type Vsock = virtio.VsockConfig

// ErrVsock is returned for a vsock that is not the guest's.
var ErrVsock = errors.New("vsock does not fit the guest")

// openSameVsock makes the vsock of a guest that will arrive. Nobody is accepted before it runs.
func openSameVsock(c *Vsock, source *machineConfig) (*virtio.Vsock, error) {
	switch {
	case c == nil && source.Vsock == nil:
		return nil, nil
	case c == nil:
		return nil, fmt.Errorf("%w: it has one and none was given: use vmm run --incoming%s",
			ErrVsock, backendFlags(source))
	case source.Vsock == nil:
		return nil, fmt.Errorf("%w: it has none and one was given: use vmm run --incoming%s",
			ErrVsock, backendFlags(source))
	case c.CID != source.Vsock.CID:
		return nil, fmt.Errorf("%w: its address (CID) is %d, and %d was given: "+
			"use vmm run --incoming%s",
			ErrVsock, source.Vsock.CID, c.CID, backendFlags(source))
	}
	return virtio.OpenVsock(*c)
}

// vsockFlag returns the flag that a guest's vsock needs.
func vsockFlag(source *virtio.VsockIdentity) string {
	if source == nil {
		return ""
	}
	return fmt.Sprintf(" --vsock %d,PATH", source.CID)
}

// vsockIdentity returns the description of a vsock for a destination.
func vsockIdentity(v *virtio.Vsock) *virtio.VsockIdentity {
	if v == nil {
		return nil
	}
	id := v.Identity()
	return &id
}
