package show

import (
	"fmt"
	"io"
	"strings"

	"taskguide/control"
	"taskguide/control/text"
)

// Debug writes what each vCPU is doing, each in one line, or in a paragraph if that is too wide.
// The devices' queues follow.
func Debug(w io.Writer, d control.Debug) error {
	if err := debugVCPUs(w, d); err != nil {
		return err
	}
	if len(d.Devices) > 0 {
		fmt.Fprintln(w)
		if err := debugDevices(w, d.Devices); err != nil {
			return err
		}
	}
	c := d.Console
	fmt.Fprintln(w)
	text.Hanging(w, "console: ", fmt.Sprintf("%d bytes printed, %d written, %d lost, %d waiting",
		c.Printed, c.Written, c.Lost, c.Printed-c.Written-c.Lost))
	return nil
}

// debugDevices writes the queues that are in use, and why a device is broken.
func debugDevices(w io.Writer, devices []control.DeviceDebug) error {
	var rows [][]string
	for _, d := range devices {
		used := false
		for i, q := range d.Queues {
			if !q.Ready {
				continue
			}
			used = true
			rows = append(rows, []string{
				d.Name, d.State, fmt.Sprint(i), fmt.Sprint(q.Size), fmt.Sprint(q.Available),
				fmt.Sprint(q.Used), fmt.Sprint(q.InFlight),
			})
		}
		if !used {
			rows = append(rows, []string{d.Name, d.State, "-", "-", "-", "-", "-"})
		}
	}
	head := []string{"DEVICE", "STATE", "QUEUE", "SIZE", "AVAILABLE", "USED", "IN-FLIGHT"}
	if err := text.Table(w, head, rows); err != nil {
		return err
	}
	for _, d := range devices {
		if d.Broken != "" {
			text.Hanging(w, d.Name+" is broken: ", d.Broken)
		}
	}
	return nil
}

func debugVCPUs(w io.Writer, d control.Debug) error {
	var rows [][]string
	for _, c := range d.VCPUs {
		row := []string{fmt.Sprint(c.ID), c.Error}
		if c.Error == "" {
			row = []string{
				fmt.Sprint(c.ID), c.MPState, fmt.Sprint(c.RIP), fmt.Sprint(c.LVTT),
				fmt.Sprint(c.TSCDeadline), fmt.Sprint(c.TSC), vectors(c.IRR), vectors(c.ISR),
				fmt.Sprint(c.Exits),
			}
		}
		rows = append(rows, row)
	}
	head := []string{"VCPU", "STATE", "RIP", "LVTT", "TSC-DEADLINE", "TSC", "IRR", "ISR", "EXITS"}
	return text.Table(w, head, rows)
}

// vectors writes interrupt vectors in hex, as Linux and processors' manuals do.
func vectors(set []int) string {
	if len(set) == 0 {
		return "-"
	}
	var hex []string
	for _, v := range set {
		hex = append(hex, fmt.Sprintf("%#02x", v))
	}
	return strings.Join(hex, ",")
}
