package bench

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/bench/peer/qemu"
	"taskguide/bench/trial"
	"taskguide/migration"
)

// movedByQEMU is a move of QEMU with a gap by the guest's clock and a downtime.
func movedByQEMU(gapMS, downtimeMS float64) trial.Result {
	r := made(trial.Spec{ID: "q", QEMU: &qemu.Migration{}})
	r.GapMS, r.Report.DowntimeMS = gapMS, downtimeMS
	return r
}

// TestClocksThatStoodStill: their figures are left out, and those of all moves of QEMU where most
// of them are.
func TestClocksThatStoodStill(t *testing.T) {
	most := judged([]trial.Result{
		movedByQEMU(3, 290), movedByQEMU(trial.Unknown, 40), movedByQEMU(3, 2),
	})
	for _, r := range most {
		for _, m := range []metric{gap, gapBefore, p99, worstCalm, exits, brownout} {
			_, ok := m.of(r)
			require.False(t, ok, m.key)
		}
		_, ok := downtime.of(r)
		require.True(t, ok)
	}
	given := []trial.Result{movedByQEMU(3, 290), movedByQEMU(297, 290), movedByQEMU(300, 290)}
	for i, r := range judged(given) {
		_, ok := gap.of(r)
		require.Equal(t, i > 0, ok)
	}
	require.InDelta(t, 3, given[0].GapMS, 0, "what was given stays")
	ours := judged([]trial.Result{movedByQEMU(3, 290), made(trial.Spec{ID: "ours"})})[1]
	_, ok := gap.of(ours)
	require.True(t, ok)
}

// withQEMUsGap makes the results of a plan, in which QEMU stops all guests for 290 ms.
func withQEMUsGap(e Experiment, gapMS float64) []trial.Result {
	all := resultsOf(e, at(Full))
	for i := range all {
		r := &all[i]
		r.Silences = &trial.Silences{SwitchMS: 30}
		if r.Spec.QEMU != nil {
			r.GapMS, r.Report.DowntimeMS, r.Silences.SwitchMS = gapMS, 290, 300
		}
	}
	return judged(all)
}

// TestUnknownGapsAreTold: where the gap is not known, headlines say so and compare silences.
func TestUnknownGapsAreTold(t *testing.T) {
	f := peersReport(at(Full), withQEMUsGap(peers(), 3))
	require.NotEmpty(t, f.Headlines)
	for _, line := range f.Headlines {
		require.Contains(t, line, "its clock stood still in QEMU's downtime; the silence of its "+
			"console at the switch is 0.10× [0.10×, 0.10×], the total time ")
	}
	require.Contains(t, f.Sections[0].Text[0], "that clock stood still in the downtime")
	f = peersReport(at(Full), withQEMUsGap(peers(), 297))
	for _, line := range f.Headlines {
		require.Contains(t, line, "the guest's own gap is 0.0")
	}
	require.Contains(t, f.Sections[0].Text[0], "is the same measure for both")

	f = speedReport(at(Full), withQEMUsGap(Speed(), 3))
	require.Contains(t, f.Headlines, "busy: the guest's own gap of vmm cannot be compared, "+
		"because the guest's clock stood still in QEMU's downtime.")
	require.Contains(t, strings.Join(f.Sections[0].Text, " "), "that clock stood still")
	f = speedReport(at(Full), withQEMUsGap(Speed(), 297))
	require.NotContains(t, strings.Join(f.Headlines, " "), "cannot be compared")

	f = diskReport(at(Full), withQEMUsGap(disk(), 3))
	require.Contains(t, f.Sections[0].Text[0], "that clock stood still in the downtime")
}

// TestUnmeasuredIsNoZero: a baseline moves no guest, and QEMU tells only how many rounds it took.
func TestUnmeasuredIsNoZero(t *testing.T) {
	raw := made(trial.Spec{ID: "full/raw TCP@00", Baseline: trial.BaselineTCP})
	raw.GapMS, raw.GapBeforeMS = 0, 0 // as in older results
	table := trialRows([]trial.Result{raw})
	cells := map[string]string{}
	for i, column := range table[0] {
		cells[column] = table[1][i]
	}
	for _, m := range []metric{
		downtime, pages, rounds, gap, gapBefore, waited, suspended, deferred, stops, forced,
	} {
		require.Empty(t, cells[m.key], m.key)
	}
	require.NotEmpty(t, cells[total.key])
	s := summaryOf(Speed(), Run{}, []trial.Result{raw}, Findings{})
	require.NotContains(t, s.Groups[0].Metrics, downtime.key)
	require.Contains(t, s.Groups[0].Metrics, total.key)
	require.Equal(t, "–", cell(downtime, raw))

	moved := movedByQEMU(297, 290)
	moved.Report.Rounds = make([]migration.Round, 7)
	require.Len(t, roundRows([]trial.Result{moved}), 1, "nothing but the head")
	n, ok := rounds.of(moved)
	require.True(t, ok)
	require.InDelta(t, 7, n, 0)
}
