package show

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"taskguide/control/units"
	"taskguide/vmm"
)

// Host writes what a host's KVM offers.
func Host(w io.Writer, h *vmm.Host) error {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-16s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("kernel", "Linux %s", h.Kernel)
	line("processor", "%s", h.CPU)
	line("KVM", "%s, API version %d", kind(h), h.APIVersion)
	line("machines", "up to %d vCPUs (%d recommended), %d memory slots, %d address bits, XSAVE %s",
		h.MaxCPUs, h.RecommendedCPUs, h.MemorySlots, h.AddressBits, units.Bytes(int64(h.XSaveBytes)))
	var trackers []string
	for _, t := range h.DirtyTrackers {
		trackers = append(trackers, string(t))
	}
	line("dirty tracking", "%s", strings.Join(trackers, ", "))
	line("TSC", "%d kHz; scaling %s, offset %s, realtime clock %s",
		h.TSCKHz, yes(h.TSCScaling), yes(h.TSCOffset), yes(h.ClockRealtime))
	fmt.Fprintln(w)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "CAPABILITY\tVALUE\tUSED FOR")
	for _, c := range h.Capabilities {
		fmt.Fprintf(table, "%s\t%s\t%s\n", c.Name, capability(c), c.Use)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, note := range h.Notes {
		fmt.Fprintf(w, "\n- %s", note)
	}
	if len(h.Notes) > 0 {
		fmt.Fprintln(w)
	}
	return nil
}

func kind(h *vmm.Host) string {
	if h.EmulatedRing0 {
		return string(h.Kind) + " (guest kernel code is emulated)"
	}
	return string(h.Kind)
}

func capability(c vmm.Capability) string {
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
