package show

import (
	"fmt"
	"io"
	"strings"

	"taskguide/control/text"
	"taskguide/control/units"
	"taskguide/vmm/probe"
)

// KVM writes what a host's KVM offers.
func KVM(w io.Writer, h *probe.KVM) {
	line := func(name, format string, args ...any) {
		text.Hanging(w, fmt.Sprintf("%-16s ", name), fmt.Sprintf(format, args...))
	}
	line("kernel", "Linux %s", h.Kernel)
	line("processor", "%s", h.CPU)
	line("KVM", "%s, API version %d", kind(h), h.APIVersion)
	line("machines", "up to %d vCPUs (%d recommended), %d memory slots, %d address bits, XSAVE %s",
		h.MaxCPUs, h.RecommendedCPUs, h.MemorySlots, h.AddressBits,
		units.Bytes(int64(h.XSaveBytes)))
	var trackers []string
	for _, t := range h.DirtyTrackers {
		trackers = append(trackers, string(t))
	}
	line("dirty tracking", "%s", strings.Join(trackers, ", "))
	line("TSC", "%d kHz; scaling %s, offset %s, realtime clock %s",
		h.TSCKHz, yes(h.TSCScaling), yes(h.TSCOffset), yes(h.ClockRealtime))
	fmt.Fprintln(w)
	capabilities(w, h.Capabilities)
	if len(h.BeyondCPU) > 0 {
		fmt.Fprintf(w, "\nNot shown to guests, as it could not move with them:\n")
		text.Hanging(w, " ", strings.Join(h.BeyondCPU, ", "))
	}
	for i, note := range h.Notes {
		if i == 0 {
			fmt.Fprintln(w)
		}
		text.Hanging(w, "- ", note)
	}
}

// capabilities writes a table whose last column is wrapped below itself.
func capabilities(w io.Writer, all []probe.Capability) {
	name, value := len("CAPABILITY"), len("VALUE")
	for _, c := range all {
		name, value = max(name, len(c.Name)), max(value, len(capability(c)))
	}
	row := func(n, v, use string) {
		text.Hanging(w, fmt.Sprintf("%-*s  %-*s  ", name, n, value, v), use)
	}
	row("CAPABILITY", "VALUE", "USED FOR")
	for _, c := range all {
		row(c.Name, capability(c), c.Use)
	}
}

func kind(h *probe.KVM) string {
	if h.EmulatedRing0 {
		return string(h.Kind) + " (guest kernel code is emulated)"
	}
	return string(h.Kind)
}

func capability(c probe.Capability) string {
	switch {
	case c.Value > 0:
		return fmt.Sprint(c.Value)
	case c.Required:
		return "MISSING"
	default:
		return "no"
	}
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
