package bench

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/bench/trial"
	"taskguide/migration"
)

// given is a setting with factors.
func given(f Factors) Setting {
	s := at(Full)
	s.Factors = f
	return s
}

// TestFactorsThatAreTakenMatter: an experiment takes a factor exactly if its trials, or its report,
// depend on it.
func TestFactorsThatAreTakenMatter(t *testing.T) {
	for name, f := range map[string]Factors{
		ByPolicies:    {Policies: []string{"qemu"}},
		ByGuidance:    {Guidance: []string{"suspend"}},
		ByPrograms:    {Programs: []string{"kv"}},
		ByTracker:     {Trackers: []string{"ring"}},
		ByRTT:         {RTTs: []time.Duration{time.Millisecond}},
		ByCompress:    {Encoding: []string{"zstd"}},
		ByRepetitions: {Repetitions: 7},
		ByAgainst:     {Against: "xen"},
		ByKernel:      {Kernel: "/k"},
		ByMemory:      {MemoryBytes: 1 << 30},
		ByCPUs:        {CPUs: 2},
	} {
		require.Equal(t, []string{name}, f.given())
		for _, e := range Experiments() {
			plain, with := at(Quick), given(f)
			with.Size = Quick
			changed := !samePlans(e.Plan(plain, 1), e.Plan(with, 1))
			requireNamesDiffer(t, e.Plan(with, 1))
			if name == ByAgainst && !changed {
				changed = !slices.Equal(e.Report(plain, resultsOf(e, plain)).Headlines,
					e.Report(with, resultsOf(e, with)).Headlines)
			}
			if slices.Contains(byMachine, name) && !e.Takes(name) {
				changed = false // any guest can be another, but not where QEMU or RAM is compared
			}
			require.Equal(t, changed, e.Takes(name), "%s --%s", e.Name, name)
			err := e.CheckFactors(with)
			if changed {
				require.NoError(t, err, "%s --%s", e.Name, name)
			} else {
				require.EqualError(t, err, "--"+name+": no effect on "+e.Name+": leave it out")
			}
		}
	}
}

// TestFactorsAreDocumented: the manual's table of flags has each experiment that takes one.
func TestFactorsAreDocumented(t *testing.T) {
	manual, err := os.ReadFile("../docs/bench.md")
	require.NoError(t, err)
	documented, taken := map[string][]string{}, map[string][]string{}
	row := regexp.MustCompile("(?m)^\\| (`--[^|]*`) \\|[^|]*\\| ([^|]*) \\|$")
	experiment := regexp.MustCompile("`([a-z]+)`")
	for _, m := range row.FindAllStringSubmatch(string(manual), -1) {
		for _, flag := range regexp.MustCompile("`--([a-z-]+)`").FindAllStringSubmatch(m[1], -1) {
			for _, name := range experiment.FindAllStringSubmatch(m[2], -1) {
				documented[flag[1]] = append(documented[flag[1]], name[1])
			}
		}
	}
	for _, e := range Experiments() {
		for _, flag := range e.Factors {
			taken[flag] = append(taken[flag], e.Name)
		}
	}
	for _, lists := range []map[string][]string{documented, taken} {
		for _, names := range lists {
			slices.Sort(names)
		}
	}
	require.Equal(t, taken, documented)
}

func samePlans(a, b []trial.Spec) bool {
	return slices.EqualFunc(a, b, func(x, y trial.Spec) bool {
		return fingerprint(x) == fingerprint(y)
	})
}

func resultsOf(e Experiment, at Setting) []trial.Result {
	var all []trial.Result
	for _, s := range e.Plan(at, 1) {
		all = append(all, made(s))
	}
	return all
}

// TestRoundTripsAreCompared: each is a level, and a single one is no factor.
func TestRoundTripsAreCompared(t *testing.T) {
	s := given(Factors{
		Policies: []string{"xen"}, Guidance: []string{"off"}, Programs: []string{"kv"},
		RTTs: []time.Duration{0, 20 * time.Millisecond}, Repetitions: 2, Against: "20ms",
	})
	e := policies()
	require.NoError(t, e.CheckFactors(s))
	trips := map[string]time.Duration{}
	for _, spec := range e.Plan(s, 1) {
		if spec.Contest == nil {
			trips[spec.ID] = spec.RTT
		}
	}
	require.Equal(t, map[string]time.Duration{
		"kv/xen/off@00": 0, "kv/xen/off@01": 0,
		"kv/xen/off/20ms@00": 20 * time.Millisecond, "kv/xen/off/20ms@01": 20 * time.Millisecond,
	}, trips)
	f := e.Report(s, resultsOf(e, s))
	require.Contains(t, strings.Join(f.Headlines, "\n"), "xen, off, RTT 0 against 20ms")
	require.Contains(t, f.Sections[0].Text[0], "A relay adds a round trip of 20ms.")
	require.Equal(t, "rtt", f.Lead.Head[2])

	s.Factors.RTTs, s.Factors.Against = s.Factors.RTTs[1:], ""
	first := e.Blocks(s)[0][0]
	require.Equal(t, 20*time.Millisecond, first.RTT)
	require.NotContains(t, first.Factors, "rtt")
	require.Equal(t, "20", trialRow(made(first), nil)[3], "rtt_ms")
}

func TestWrongFactorsAreRefused(t *testing.T) {
	for want, f := range map[string]Factors{
		`--policies: "best" is unknown: use one of downtime, `: {Policies: []string{"best"}},
		`--policies: "qemu" is there twice`: {
			Policies: []string{"qemu", "xen", "qemu"},
		},
		`--guidance: "on" is unknown: use some of switchover, `: {Guidance: []string{"on"}},
		`--programs: "sleep" is unknown: use some of matmul, `:  {Programs: []string{"sleep"}},
		`--tracker: "magic" is unknown: use some of auto, `:     {Trackers: []string{"magic"}},
		"--rtt: 2.000000001s: use 0 to 2s": {
			RTTs: []time.Duration{2*time.Second + 1},
		},
		`--rtt: "0" is there twice`:     {RTTs: []time.Duration{0, 0}},
		"--repetitions -1: use 1 to":    {Repetitions: -1},
		"--repetitions 10001: use 1 to": {Repetitions: 10001},
		`"ring" is no level that this run compares: use one of downtime, `: {
			Against: "ring",
		},
		`--against: "qemu" is no level that this run compares: use one of off, switch`: {
			Policies: []string{"qemu"}, Against: "qemu",
		},
		"--against kv: there is nothing to compare": {
			Policies: []string{"qemu"}, Guidance: []string{"off"}, Programs: []string{"kv"},
			Against: "kv",
		},
	} {
		err := policies().CheckFactors(given(f))
		require.ErrorContains(t, err, want)
	}
}

// TestOwnPolicyIsCompared: a program's policy is a level as others are.
func TestOwnPolicyIsCompared(t *testing.T) {
	const own = "exec:/opt/mine"
	s := given(Factors{
		Policies: []string{"downtime", own}, Guidance: []string{"off"},
		Programs: []string{"kv", "sort"}, Trackers: []string{"ring"}, Repetitions: 4,
	})
	require.NoError(t, policies().CheckFactors(s))
	plan := policies().Plan(s, 1)
	require.Len(t, plan, 2*2*4+2*4, "with a recording of each program in each block")
	seen := map[string]int{}
	for _, spec := range plan {
		if spec.Contest != nil {
			require.Equal(t, migration.Rule(own), spec.Contest.Cells[1].Params.Rule)
			continue
		}
		require.Equal(t, migration.Rule(spec.Factors["policy"]), spec.Params.Rule)
		require.Equal(t, migration.GuidanceOff, spec.Params.Guidance)
		require.Equal(t, "ring", spec.Guest.Tracker)
		seen[string(spec.Params.Rule)]++
	}
	require.Equal(t, map[string]int{"downtime": 8, own: 8}, seen)
}

// TestAgainstAnyLevel: ratios are over pairs, against the level that was named, whatever its
// factor.
func TestAgainstAnyLevel(t *testing.T) {
	// What a trial's downtime and total time are made of. Programs and moments differ by far more
	// than what is compared, and cancel out in pairs only.
	level := map[string]float64{
		"downtime": 1, "xen": 4, "qemu": 8, "off": 1, "switchover": 0.25, "kv": 1000, "sort": 10,
	}
	for against, want := range map[string]string{
		"":     "xen, off against downtime over all programs: mean downtime 4.00× [4.00×,",
		"xen":  "qemu, off against xen over all programs: mean downtime 2.00× [2.00×, 2.00×]",
		"off":  "qemu, switchover against off over all programs: mean downtime 0.25× [",
		"sort": "kv, qemu, off against sort: mean downtime 100× [",
	} {
		s := given(Factors{
			Policies: []string{"downtime", "xen", "qemu"}, Programs: []string{"kv", "sort"},
			Repetitions: 6, Against: against,
		})
		e := policies()
		require.NoError(t, e.CheckFactors(s))
		results := resultsOf(e, s)
		for i := range results {
			r := &results[i]
			r.Report.DowntimeMS = 1 + 9*r.Spec.Offset
			for _, value := range r.Spec.Factors {
				r.Report.DowntimeMS *= level[value]
			}
		}
		f := e.Report(s, results)
		require.Condition(t, func() bool {
			return slices.ContainsFunc(f.Headlines, func(line string) bool {
				return strings.HasPrefix(line, want)
			})
		}, "%s: %q", against, f.Headlines)
		require.Len(t, f.Lead.Rows, 3*2)
		require.NotEmpty(t, f.Sections[0].Tables[0].Rows)
	}
}

// TestNothingToCompare: a run of one configuration has a report without ratios.
func TestNothingToCompare(t *testing.T) {
	s := given(Factors{
		Policies: []string{"qemu"}, Guidance: []string{"off"}, Programs: []string{"kv"},
	})
	require.NoError(t, policies().CheckFactors(s))
	f := policies().Report(s, resultsOf(policies(), s))
	require.Empty(t, f.Headlines)
	require.Len(t, f.Lead.Rows, 1)
}

// kept carries out an order with made-up trials, and loads what its folder has then.
func kept(t *testing.T, o Order) (run Run, results []trial.Result, dir string) {
	t.Helper()
	store, dir := newStore(t, o)
	_, err := execute(t.Context(), o, &fake{}, nil, store)
	require.NoError(t, err)
	require.NoError(t, store.Close())
	run, results, err = Load(dir)
	require.NoError(t, err)
	return run, results, dir
}

// TestFactorsAreKept: a run that is resumed, or reported once more, has the factors that it began
// with.
func TestFactorsAreKept(t *testing.T) {
	o := newOrder(policies())
	o.Factors = Factors{
		Policies: []string{"downtime", "xen"}, Programs: []string{"kv"}, Repetitions: 2,
		Against: "xen",
	}
	run, results, dir := kept(t, o)
	require.Equal(t, o.Factors, run.setting().Factors)
	require.Len(t, withoutContests(results), 2*2*2)
	_, err := WriteReport(dir)
	require.NoError(t, err)
	require.Equal(t, "vmm bench run policies --quick --policies downtime,xen --programs kv "+
		"--against xen -n 2 --seed 5", commandOf(run))
}

// TestOtherMachines: every guest is the one that was asked for, with RAM for a task on each vCPU.
func TestOtherMachines(t *testing.T) {
	for _, s := range tagging().Plan(given(Factors{Kernel: "/k", CPUs: 2}), 1) {
		require.Equal(t, "/k", s.Guest.Kernel)
		require.Equal(t, 2, s.Guest.CPUs)
		require.EqualValues(t, 2*96<<20, s.Guest.MemoryBytes)
	}
	f := Factors{CPUs: 2, MemoryBytes: 1 << 30}
	require.EqualValues(t, 1<<30, tagging().Plan(given(f), 1)[0].Guest.MemoryBytes)
	require.ErrorContains(t, tagging().CheckFactors(given(Factors{CPUs: 256})), "--cpus 256: use")
	f = Factors{Kernel: "/k", MemoryBytes: 1 << 30}
	require.NoError(t, simulated().CheckFactors(given(f)))
	for _, s := range simulated().Plan(given(f), 1) {
		require.Equal(t, "/k", s.Guest.Kernel)
		require.EqualValues(t, 1<<30, s.Guest.MemoryBytes)
	}
}

// TestInterruptOfSeveralCPUs: a segment's length is in multiples of what all working sets take, and
// all tasks are in it at the same time.
func TestInterruptOfSeveralCPUs(t *testing.T) {
	e, four := interrupt(), given(Factors{CPUs: 4})
	one := interruptAt(at(Full)).need()
	require.InDelta(t, 4*one.Seconds(), interruptAt(four).need().Seconds(), 0.002)
	for _, s := range e.Plan(four, 1) {
		if s.Factors["segment"] == lengthName(1) {
			require.Equal(t, interruptAt(four).need(), s.Guest.Cool)
		}
		require.Contains(t, s.Guest.Program, " step=in")
	}
	text := interruptReport(four, nil).Sections[0].Text[0]
	require.Contains(t, text, "rewrites 256 MiB, 64 MiB on each of 4 vCPUs at the same time, in ")
	require.Contains(t, text, "takes "+interruptAt(four).need().String()+":")
	require.NotContains(t, e.Plan(at(Full), 1)[0].Guest.Program, "step")
	require.Contains(t, interruptReport(at(Full), nil).Sections[0].Text[0], "rewrites 64 MiB in ")
}

// TestManyTrialsHaveTime: whoever asks for more trials gets the time for them.
func TestManyTrialsHaveTime(t *testing.T) {
	o := newOrder(tagging())
	plain := o.budget()
	o.Factors.Repetitions = 100
	trials := len(o.Experiment.Plan(o.Setting, o.Seed))
	require.Equal(t, max(plain, generousTrial*1600), o.budget())
	require.Equal(t, 1600, trials)
}

// TestEncodingsAreAFactor: a run's command has those that were named, by which shards know each
// other, too, and none but known ones are taken.
func TestEncodingsAreAFactor(t *testing.T) {
	f := Factors{Encoding: []string{"zstd", "auto"}, Repetitions: 1}
	require.Equal(t, " --compress zstd,auto -n 1", f.flags())
	require.NoError(t, simulated().CheckFactors(given(f)))
	for encoding, want := range map[string]string{
		"gzip": `--compress: "gzip" is unknown: use some of none, zstd, auto`,
		"zstd": `--compress: "zstd" is there twice`,
	} {
		f.Encoding = []string{"zstd", encoding}
		require.EqualError(t, simulated().CheckFactors(given(f)), want)
	}
}
