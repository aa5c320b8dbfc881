package show

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"taskguide/control"
	"taskguide/control/text"
	"taskguide/control/units"
)

// VM writes what is known of one VM.
func VM(w io.Writer, vm control.VM) {
	line := func(name, format string, args ...any) {
		text.Hanging(w, fmt.Sprintf("%-10s ", name), fmt.Sprintf(format, args...))
	}
	line("name", "%s", vm.Name)
	line("state", "%s", vm.State)
	line("process", "%d, up %s", vm.PID, uptime(vm.UptimeMS))
	if vm.MemoryBytes > 0 {
		line("memory", "%s", units.Bytes(vm.MemoryBytes))
		line("vCPUs", "%d", vm.CPUs)
	}
	if vm.Incoming != "" {
		line("incoming", "%s", vm.Incoming)
	}
	if vm.MovedTo != "" {
		line("moved to", "%s", vm.MovedTo)
	}
	if m := vm.Migration; m != nil {
		outcome := string(m.Status)
		if m.Error != "" {
			outcome += ": " + m.Error
		}
		line("migration", "to %s: %s", m.Destination, outcome)
	}
}

func uptime(ms float64) time.Duration {
	return (time.Duration(ms) * time.Millisecond).Round(time.Second)
}

// VMs writes a table with a line for each VM.
func VMs(w io.Writer, vms []control.VM) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tSTATE\tMEMORY\tCPUS\tPID\tUPTIME")
	for _, vm := range vms {
		memory, cpus := "-", "-"
		if vm.MemoryBytes > 0 {
			memory, cpus = units.Bytes(vm.MemoryBytes), fmt.Sprint(vm.CPUs)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\n", vm.Name, vm.State, memory, cpus, vm.PID,
			uptime(vm.UptimeMS))
	}
	return t.Flush()
}
