package bench

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/bench/trial"
	"taskguide/migration"
)

// TestShadowsOf: the others are asked, but none that learns nothing so or costs CPU time.
func TestShadowsOf(t *testing.T) {
	all := []string{"xen", "qemu:limit=1s,skip=on", "cycle", "exec:/mine", "stall"}
	shadows := Factors{}.shadows(all)
	require.Equal(t, "qemu:limit=1s,skip=on,stall", shadowsOf(shadows, "xen"))
	require.Equal(t, "xen,qemu:limit=1s,skip=on,stall", shadowsOf(shadows, "exec:/mine"))
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

// withPrograms compares two policies with two programs, which shadow.
func withPrograms() Setting {
	return given(Factors{
		Policies: []string{"xen", "cycle", "exec:/mine", "exec:/other"}, Guidance: []string{"off"},
		Programs: []string{"kv"}, Repetitions: 2, ShadowPrograms: true,
	})
}

// TestProgramsShadow: programs are asked in the moves of all others where the user wants it, and
// nowhere in simulated moves. Orders can name them.
func TestProgramsShadow(t *testing.T) {
	s := withPrograms()
	require.Contains(t, s.Factors.given(), ByShadowPrograms)
	require.NoError(t, policies().CheckFactors(s))
	shadows := map[string]string{}
	for _, spec := range policies().Plan(s, 1) {
		if spec.Contest != nil {
			for _, cell := range spec.Contest.Cells {
				require.Empty(t, cell.Params.Shadow)
			}
			continue
		}
		p := spec.Params
		shadows[string(p.Rule)] = p.Shadow
		p.Destination = "tcp:127.0.0.1:1"
		_, err := p.WithDefaults()
		require.NoError(t, err)
	}
	require.Equal(t, map[string]string{
		"xen":         "exec:/mine,exec:/other",
		"cycle":       "exec:/mine,exec:/other,xen",
		"exec:/mine":  "exec:/other,xen",
		"exec:/other": "exec:/mine,xen",
	}, shadows)

	many := []string{"exec:/mine"}
	for i := range 2 * migration.MaxShadows {
		many = append(many, fmt.Sprintf("qemu:limit=%ds", i+1))
	}
	slices.Reverse(many)
	first := shadowsOf(Factors{ShadowPrograms: true}.shadows(many), many[0])
	require.True(t, strings.HasPrefix(first, "exec:/mine,qemu:"), "a program is not cut off")
	require.Equal(t, migration.MaxShadows, strings.Count(first, ":"))
}

// TestProgramsThatCannotShadow: where the flag would have no effect, it says so.
func TestProgramsThatCannotShadow(t *testing.T) {
	var many []string
	for i := range migration.MaxShadows + 1 {
		many = append(many, fmt.Sprintf("exec:/mine%d", i))
	}
	for _, c := range []struct {
		policies []string
		want     string
	}{
		{nil, "--shadow-programs: no effect: name a program, and another policy"},
		{[]string{"xen", "stall"}, "--shadow-programs: no effect: name a program"},
		{[]string{"exec:/mine"}, "--shadow-programs: no effect: name a program"},
		{[]string{"xen", "exec:/a,b"}, `--shadow-programs: "exec:/a,b": commas separate shadows`},
		{many, "--shadow-programs: 9 programs: a move has at most 8 shadows"},
	} {
		f := Factors{Policies: c.policies, ShadowPrograms: true}
		require.ErrorContains(t, policies().CheckFactors(given(f)), c.want)
		f.ShadowPrograms = false
		require.NoError(t, policies().CheckFactors(given(f)))
	}
	for _, e := range Experiments() {
		if e.Name == policies().Name {
			continue
		}
		require.EqualError(t, e.CheckFactors(given(Factors{ShadowPrograms: true})),
			"--shadow-programs: no effect on "+e.Name+": leave it out")
	}
}

// TestShadowProgramsAreKept: a run that is resumed, or reported once more, has the shadows that it
// began with.
func TestShadowProgramsAreKept(t *testing.T) {
	o := newOrder(policies())
	o.Factors = withPrograms().Factors
	run, results, dir := kept(t, o)
	require.Equal(t, o.Factors, run.setting().Factors)
	require.NoError(t, samePlan(policies().Plan(run.setting(), run.Seed), results))
	require.Contains(t, commandOf(run), " --programs kv --shadow-programs -n 2 ")
	_, err := WriteReport(dir)
	require.NoError(t, err)
}

// shadowing is a trial whose switchover began after 900 ms, with what two shadows said.
func shadowing(stall ...migration.Decision) trial.Result {
	return trial.Result{Report: migration.Report{
		TotalMS: 1000, DowntimeMS: 100, Shadows: []migration.Shadow{
			{Policy: "stall", Asked: 4, Decisions: stall},
			{Policy: "ramp", Asked: 4, Decisions: []migration.Decision{
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
	require.Equal(t, []string{sections[0].Text[0]}, sections[0].Text, "none has failed")
	require.Contains(t, sections[0].Text[0], "is left out, and so are programs.")
	require.Empty(t, f.shadowSection([]group{{results: []trial.Result{{}}}}))
}

// answering is a trial whose switchover began after 900 ms, with what a program said as a shadow.
func answering(s migration.Shadow) trial.Result {
	s.Policy = "exec:/mine"
	return trial.Result{Report: migration.Report{
		TotalMS: 1000, DowntimeMS: 100, Shadows: []migration.Shadow{s},
	}}
}

// TestProgramsFailAsShadows: what a program would have done is not known where it failed, or had no
// answer, before it was content.
func TestProgramsFailAsShadows(t *testing.T) {
	content := []migration.Decision{{AtMS: 700, Action: "switchover"}}
	waits := []migration.Decision{{AtMS: 700, Action: "wait"}}
	results := []trial.Result{
		answering(migration.Shadow{Asked: 3}),
		answering(migration.Shadow{Asked: 3, Decisions: content, Error: "it has ended"}),
		answering(migration.Shadow{Asked: 3, Decisions: waits, Error: "late"}),
		answering(migration.Shadow{}),
	}
	require.Equal(t, []shadowed{{
		policy: "exec:/mine", trials: 2, never: 1, earlier: []float64{200}, unheard: 2, why: "late",
	}}, shadowedBy(results))
	slices.Reverse(results)
	require.Equal(t, "it gave no answer in time", shadowedBy(results)[0].why)

	f := withPrograms().factorial()
	cell := map[string]string{"policy": "xen", "guidance": "off"}
	other := maps.Clone(cell)
	other["policy"] = "cycle"
	sections := f.shadowSection([]group{
		{factors: cell, results: results[:2]}, {factors: other, results: results[2:]},
	})
	require.Len(t, sections, 1)
	require.Equal(t, [][]string{
		{"xen, off", "exec:/mine", "0", "0", "–", "–", "–"},
		{"cycle, off", "exec:/mine", "2", "1", "200.0 ms", "200.0 ms", "200.0 ms"},
	}, sections[0].Tables[0].Rows)
	text := sections[0].Text
	require.Contains(t, text[0], "Programs were asked, too")
	require.NotContains(t, text[0], "so are programs")
	require.Equal(t, []string{"exec:/mine failed as a shadow in 2 of 4 moves, which do not count " +
		"for it: it gave no answer in time."}, text[1:])
}
