package bench

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/bench/trial"
	"taskguide/migration"
)

// TestShadowsOf: the others are asked, but none that learns nothing so or costs CPU time.
func TestShadowsOf(t *testing.T) {
	all := []string{"xen", "qemu:limit=1s,skip=on", "cycle", "exec:/mine", "stall"}
	require.Equal(t, "qemu:limit=1s,skip=on,stall", shadowsOf(all, "xen"))
	require.Equal(t, "xen,qemu:limit=1s,skip=on,stall", shadowsOf(all, "exec:/mine"))
	many := make([]string, 2*migration.MaxShadows)
	for i := range many {
		many[i] = fmt.Sprintf("qemu:limit=%ds", i+1)
	}
	require.Equal(t, strings.Join(many[:migration.MaxShadows], ","), shadowsOf(many, "xen"))
	for _, s := range policies().Plan(given(Factors{Policies: all[:1]}), 1) {
		require.Empty(t, s.Params.Shadow)
	}
	for _, s := range policies().Plan(at(Full), 1) {
		if s.Contest != nil {
			require.Empty(t, s.Contest.Cells[0].Params.Shadow)
			continue
		}
		require.NotContains(t, s.Params.Shadow, string(s.Params.Rule))
		p := s.Params
		p.Destination = "tcp:127.0.0.1:1"
		_, err := p.WithDefaults()
		require.NoError(t, err)
	}
}

// shadowing is a trial whose switchover began after 900 ms, with what two shadows said.
func shadowing(stall ...migration.Decision) trial.Result {
	return trial.Result{Report: migration.Report{
		TotalMS: 1000, DowntimeMS: 100, Shadows: []migration.Shadow{
			{Policy: "stall", Decisions: stall},
			{Policy: "ramp", Decisions: []migration.Decision{
				{AtMS: 100, Action: "wait"}, {AtMS: 200, Action: "switchover"},
				{AtMS: 300, Action: "continue"}, {AtMS: 400, Action: "switchover"},
			}},
		},
	}}
}

// TestShadowsAreCompared: the first switchover counts, earlier or later, and none is counted apart.
func TestShadowsAreCompared(t *testing.T) {
	results := []trial.Result{
		shadowing(), shadowing(migration.Decision{AtMS: 950, Action: "switchover"}),
	}
	require.Equal(t, []shadowed{
		{policy: "stall", trials: 2, never: 1, earlier: []float64{-50}},
		{policy: "ramp", trials: 2, earlier: []float64{700, 700}},
	}, shadowedBy(results))

	var f factorial
	sections := f.shadowSection([]group{{
		factors: map[string]string{"policy": "xen", "guidance": "off"}, results: results,
	}})
	require.Len(t, sections, 1)
	require.Equal(t, [][]string{
		{"xen, off", "stall", "2", "1", "-50.0 ms", "-50.0 ms", "-50.0 ms"},
		{"xen, off", "ramp", "2", "0", "700.0 ms", "700.0 ms", "700.0 ms"},
	}, sections[0].Tables[0].Rows)
	require.Empty(t, f.shadowSection([]group{{results: []trial.Result{{}}}}))
}
