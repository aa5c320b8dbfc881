package bench

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"time"

	"taskguide/bench/trial"
)

// writeCSVs writes the tables for other programs; docs/bench-columns.md explains their columns.
func writeCSVs(dir string, results []trial.Result) error {
	for name, table := range map[string]func([]trial.Result) [][]string{
		trialsFile: trialRows, roundsFile: roundRows, eventsFile: eventRows,
	} {
		var b bytes.Buffer
		w := csv.NewWriter(&b)
		_ = w.WriteAll(table(results)) // to memory
		if err := os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// trialColumns are the columns of trials.csv between the factors and the indicators.
var trialColumns = []string{
	"block_seed", "rtt_ms", "offset", "offset_hit", "gate_open", "moved_inside", "moved_phase",
	"status", "switchover_reason", "load1", "busy_cpus", "stolen_before_cpus", "others_cpus",
	"others_peak_cpus", "stolen_cpus", "stolen_peak_cpus", "noisy",
}

// trialRows has a row for each trial.
func trialRows(results []trial.Result) [][]string {
	factors := factorNames(results)
	head := slices.Concat([]string{"id", "error"}, factors, trialColumns)
	for _, m := range allMetrics {
		head = append(head, m.key)
	}
	rows := [][]string{head}
	for _, r := range results {
		rows = append(rows, trialRow(r, factors))
	}
	return rows
}

func trialRow(r trial.Result, factors []string) []string {
	row := append([]string{r.Spec.ID, r.Error}, factorsOf(r, factors)...)
	moved := trial.Moved{}
	if r.Moved != nil {
		moved = *r.Moved
	}
	row = append(row, strconv.Itoa(r.Spec.Guest.Seed), rttMS(r), decimal(r.Spec.Offset),
		decimal(r.Request.Offset), fmt.Sprint(r.Request.GateOpen), moved.Inside, moved.Phase,
		string(r.Report.Status), string(r.Report.SwitchoverReason),
		decimal(r.Noise.Load1), decimal(r.Noise.BusyCPUs), decimal(r.Noise.StolenCPUs))
	during := []string{"", "", "", ""}
	if d := r.Noise.During; d != nil {
		during = []string{
			decimal(d.OthersCPUs), decimal(d.OthersPeakCPUs), decimal(d.StolenCPUs),
			decimal(d.StolenPeakCPUs),
		}
	}
	row = append(append(row, during...), fmt.Sprint(r.Noise.Noisy()))
	for _, m := range allMetrics {
		v, ok := m.of(r)
		if !ok || r.Error != "" {
			row = append(row, "")
			continue
		}
		row = append(row, decimal(v))
	}
	return row
}

// rttMS is the round trip that a relay added, in ms.
func rttMS(r trial.Result) string {
	return decimal(float64(r.Spec.RTT) / float64(time.Millisecond))
}

// roundColumns are the columns of rounds.csv behind the factors. They are the report's.
var roundColumns = []string{
	"n", "phase", "dirty_pages", "sent_pages", "zero_pages", "skipped_pages", "delta_pages",
	"hole_pages", "declared_pages", "bytes_wire", "ms", "dirty_pages_per_s", "bytes_per_s",
	"gate_open",
}

// roundRows has a row for each round of each trial that is not void. QEMU tells how many rounds
// there were, and nothing else of them: they have no number, and no row.
func roundRows(results []trial.Result) [][]string {
	factors := factorNames(results)
	rows := [][]string{slices.Concat([]string{"id"}, factors, roundColumns)}
	for _, r := range valid(results) {
		trialOf := append([]string{r.Spec.ID}, factorsOf(r, factors)...)
		for _, round := range r.Report.Rounds {
			if round.N == 0 {
				continue
			}
			rows = append(rows, slices.Concat(trialOf, []string{
				strconv.Itoa(round.N), string(round.Phase), whole(round.DirtyPages),
				whole(round.SentPages), whole(round.ZeroPages), whole(round.SkippedPages),
				whole(round.DeltaPages), whole(round.HolePages), whole(round.DeclaredPages),
				whole(round.BytesWire), decimal(round.MS), decimal(round.DirtyPagesPerS),
				decimal(round.BytesPerS), fmt.Sprint(round.GateOpen),
			}))
		}
	}
	return rows
}

// eventColumns are the columns of events.csv behind the factors.
var eventColumns = []string{"ms", "kind", "phase", "inside", "round", "wire_bytes"}

// eventRows has a row for each event of each trial that is not void, in order.
func eventRows(results []trial.Result) [][]string {
	factors := factorNames(results)
	rows := [][]string{slices.Concat([]string{"id"}, factors, eventColumns)}
	for _, r := range valid(results) {
		trialOf := append([]string{r.Spec.ID}, factorsOf(r, factors)...)
		for _, m := range r.Marks {
			inside, round, bytes := "", "", ""
			if m.Inside != nil {
				inside = fmt.Sprint(*m.Inside)
			}
			if m.Round > 0 {
				round = strconv.Itoa(m.Round)
			}
			if m.WireBytes > 0 {
				bytes = whole(m.WireBytes)
			}
			rows = append(rows, slices.Concat(trialOf, []string{
				decimal(m.MS), m.Kind, string(m.Phase), inside, round, bytes,
			}))
		}
	}
	return rows
}

func factorsOf(r trial.Result, names []string) []string {
	var values []string
	for _, f := range names {
		values = append(values, r.Spec.Factors[f])
	}
	return values
}

func whole[T ~int | ~int64 | ~uint64](v T) string { return fmt.Sprint(v) }

// decimal writes whole numbers with all of their digits, and others with nine.
func decimal(v float64) string {
	const exact = 1 << 53 // a float64 holds all whole numbers up to that
	if v == float64(int64(v)) && v < exact && v > -exact {
		return strconv.FormatInt(int64(v), 10)
	}
	return strconv.FormatFloat(v, 'g', 9, 64)
}

func factorNames(results []trial.Result) []string {
	var names []string
	for _, r := range results {
		for f := range r.Spec.Factors {
			if !slices.Contains(names, f) {
				names = append(names, f)
			}
		}
	}
	sort.Strings(names)
	return names
}
