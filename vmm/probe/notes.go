package probe

import (
	"fmt"

	"taskguide/vmm/kvm"
)

// notes say what follows from what KVM offers.
func (h *KVM) notes() []string {
	var notes []string
	note := func(format string, args ...any) {
		notes = append(notes, fmt.Sprintf(format, args...))
	}
	for _, c := range h.Capabilities {
		if c.Required && c.Value == 0 {
			note("no machine runs here: KVM lacks %s (%s); use a newer kernel", c.Name, c.Use)
		}
	}
	if h.EmulatedRing0 {
		note("guest kernel code is emulated, some 0.5 us an instruction: " +
			"the embedded guest runs well, Linux does not boot")
		note("a guest's RDTSC reads the host's counter: " +
			"time measured by it jumps when a guest moves between hosts")
	}
	if !h.HugePages && !h.EmulatedRing0 {
		note("guest RAM has no huge pages, so guests that touch much of it for the first time, " +
			"as Linux does at boot, are slow: " +
			"echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled, as root")
	}
	if h.LegacyCounters {
		note("guests can program AMD's legacy performance counters, " +
			"whose counts do not move: KVM cannot take them away (KVM_CAP_PMU_CAPABILITY)")
	}
	if !h.TSCScaling {
		note("guests whose TSC does not run at %d kHz (within %d ppm) are refused: "+
			"the TSC cannot be scaled", h.TSCKHz, kvm.TSCTolerancePPM)
	}
	if !h.ClockRealtime {
		note("kvmclock is set without KVM's help after a migration, to within some microseconds")
	}
	if h.RecommendedCPUs < h.MaxCPUs {
		note("KVM recommends at most %d vCPUs, one for each CPU", h.RecommendedCPUs)
	}
	return notes
}
