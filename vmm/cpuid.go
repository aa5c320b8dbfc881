package vmm

import (
	"fmt"
	"slices"

	"taskguide/vmm/cpu"
	"taskguide/vmm/kvm"
	"taskguide/vmm/probe"
)

// ErrCPUFeatures is returned when this host's processor or KVM lacks something that
// a guest from elsewhere was told it has.
var ErrCPUFeatures = cpu.ErrFeatures

// maxCPUID bounds a CPUID table.
const maxCPUID = kvm.MaxCPUID

// checkHost returns an error if KVM here cannot run a machine from another host.
func checkHost(kvmFD kvm.FD, c *machineConfig) error {
	have, err := probe.Offer(kvmFD)
	if err != nil {
		return err
	}
	if err := cpu.Check(c.CPUID, cpu.Guest(have)); err != nil {
		return err
	}
	if size := kvmFD.XSaveBytes(); c.XSaveBytes > size {
		return fmt.Errorf("%w: its XSAVE area has %d bytes, here %d",
			ErrCPUFeatures, c.XSaveBytes, size)
	}
	return nil
}

// guestCPUID returns what a new machine's guest may see: what hosts have in common (a nil one
// stands for this host), or all that this host has if there are none. This host must be able to run
// the result.
func guestCPUID(kvmFD kvm.FD, hosts []*cpu.Processor) (cpu.Table, error) {
	here, err := probe.CPUOf(kvmFD)
	if err != nil {
		return nil, err
	}
	if len(hosts) == 0 {
		return cpu.Guest(here.Leaves), nil
	}
	hosts = slices.Clone(hosts)
	for i := range hosts {
		if hosts[i] == nil {
			hosts[i] = here
		}
	}
	table, err := cpu.Common(hosts...)
	if err != nil {
		return nil, err
	}
	if err := cpu.Check(table, cpu.Guest(here.Leaves)); err != nil {
		return nil, fmt.Errorf("a machine for other hosts only: add host to --cpu: %w", err)
	}
	return table, nil
}
