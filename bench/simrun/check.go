package simrun

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"taskguide/memory"
)

// checkCells is how many cells of a map are checked by real moves.
const checkCells = 6

// errNothingToCheck is of a map whose guests did not move.
var errNothingToCheck = errors.New("fewer than six cells of the map have moves to check")

// CheckCells chooses cells of the middle downtime limit: the one with the least gain in the p99,
// the one with the largest, and four at even distances between them. Medians differ less.
func (s MapSummary) CheckCells() ([]MapCell, error) {
	limit := s.LimitsMS[len(s.LimitsMS)/2]
	var all []MapCell
	for _, c := range s.Cells {
		if c.LimitMS == limit && c.Best != "" {
			all = append(all, c)
		}
	}
	if len(all) < checkCells {
		return nil, errNothingToCheck
	}
	slices.SortStableFunc(all, func(a, b MapCell) int { return cmp.Compare(a.GainP99, b.GainP99) })
	var chosen []MapCell
	for i := range checkCells {
		chosen = append(chosen, all[i*(len(all)-1)/(checkCells-1)])
	}
	return chosen, nil
}

// WriteCheck writes an experiment for vmm bench custom that moves guests like those of six cells.
// The embedded guest rewrites its working set at the pace of the cell, if its host is fast enough;
// its heartbeats say how much it wrote. Its phases do not vary, as the map's do.
func (s MapSummary) WriteCheck(w io.Writer) error {
	cells, err := s.CheckCells()
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("# Six cells of a map of vmm bench map, as real moves: vmm bench custom FILE\n" +
		"title: Six cells of the map\nguests:\n")
	var policies []string
	for i, c := range cells {
		busy := time.Duration(c.BusyMS * float64(time.Millisecond))
		pace := c.Ratio * float64(s.Setting.BitsPerSecond) / 8 / memory.PageSize
		fmt.Fprintf(&b,
			"  # Simulated p50: guided %.1f ms, %s %.1f ms; p99: %.1f ms, %s %.1f ms.\n",
			c.GuidedP50MS, c.Best, c.BestP50MS, c.GuidedP99MS, c.BestTail, c.BestP99MS)
		fmt.Fprintf(&b, "  - name: cell%d busy %v rate %g\n", i+1, busy, c.Ratio)
		fmt.Fprintf(&b, "    cmdline: workload=phased fill=random ws=%dK hot=%dK pace=%d\n",
			s.Guest.WorkingSet*4, s.Guest.Hot*4, max(int(pace+0.5), 1))
		fmt.Fprintf(&b, "    busy: %v\n    cool: %v\n    tag: cool\n    memory: %dK\n", busy,
			s.Guest.Calm, s.Guest.Pages*4)
		policies = addNew(addNew(policies, c.Best), c.BestTail)
	}
	guided, _, _ := strings.Cut(s.Orders[s.Guided], ", ")
	policies = addNew(policies, guided)
	limit := time.Duration(cells[0].LimitMS * float64(time.Millisecond))
	b.WriteString("policies:\n")
	for _, p := range policies { // one may have several parameters, with commas between them
		fmt.Fprintf(&b, "  - %s\n", strconv.Quote(p))
	}
	fmt.Fprintf(&b, "guidance: [\"off\", %s]\n", s.guidance())
	fmt.Fprintf(&b, "rates: [%dbit]\ndowntime_limit: %v\ncompress: none\n",
		s.Setting.BitsPerSecond, limit)
	if _, order, found := strings.Cut(s.Orders[s.Guided], ", defer "); found {
		maxDefer, _, _ := strings.Cut(order, " then")
		fmt.Fprintf(&b, "max_defer: %s\n", maxDefer)
	}
	b.WriteString("repetitions: 10\n")
	_, err = io.WriteString(w, b.String())
	return err
}

// guidance is that of the guided row.
func (s MapSummary) guidance() string {
	for _, word := range []string{"switchover", "suspend", "start"} {
		if strings.Contains(s.Orders[s.Guided], "guidance "+word) {
			return word
		}
	}
	return "switchover"
}
