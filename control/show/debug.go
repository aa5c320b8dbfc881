package show

import (
	"fmt"
	"io"
	"strings"

	"taskguide/control"
	"taskguide/control/text"
)

// Debug writes what each vCPU is doing, each in one line, or in a paragraph if that is too wide.
func Debug(w io.Writer, d control.Debug) error {
	var rows [][]string
	for _, c := range d.VCPUs {
		row := []string{fmt.Sprint(c.ID), c.Error}
		if c.Error == "" {
			row = []string{
				fmt.Sprint(c.ID), c.MPState, fmt.Sprint(c.RIP), fmt.Sprint(c.LVTT),
				fmt.Sprint(c.TSCDeadline), fmt.Sprint(c.TSC), vectors(c.IRR), vectors(c.ISR),
			}
		}
		rows = append(rows, row)
	}
	head := []string{"VCPU", "STATE", "RIP", "LVTT", "TSC-DEADLINE", "TSC", "IRR", "ISR"}
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
