package bench

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"taskguide/bench/trial"
	"taskguide/control/text"
	"taskguide/dirtylog"
	"taskguide/migration"
	registry "taskguide/migration/policy"
)

// Factors are levels that a run compares instead of those that its experiment would. What is left
// out is as the experiment has it.
type Factors struct {
	Policies []string        `json:"policies,omitempty"` // as registry.Parse reads them
	Guidance []string        `json:"guidance,omitempty"`
	Programs []string        `json:"programs,omitempty"`
	Trackers []string        `json:"trackers,omitempty"` // kinds of dirty log
	RTTs     []time.Duration `json:"rtts_ns,omitempty"`  // round trips that a relay adds
	Encoding []string        `json:"encoding,omitempty"` // of pages: migration.Compress
	// Repetitions is the number of blocks: trials of each configuration.
	Repetitions int `json:"repetitions,omitempty"`
	// Against is the level that others are compared with.
	Against string `json:"against,omitempty"`
	// ShadowPrograms has the programs among Policies asked in the moves of the others, too, at the
	// price of the CPU time that they take there.
	ShadowPrograms bool `json:"shadow_programs,omitempty"`

	// Kernel, MemoryBytes and CPUs are of every guest, instead of the experiment's own.
	Kernel      string `json:"kernel,omitempty"`
	MemoryBytes int64  `json:"memory_bytes,omitempty"`
	CPUs        int    `json:"cpus,omitempty"`
}

// The factors, by the names of their flags.
const (
	ByPolicies       = "policies"
	ByGuidance       = "guidance"
	ByPrograms       = "programs"
	ByTracker        = "tracker"
	ByRTT            = "rtt"
	ByCompress       = "compress"
	ByRepetitions    = "repetitions"
	ByAgainst        = "against"
	ByShadowPrograms = "shadow-programs"
	ByKernel         = "kernel"
	ByMemory         = "memory"
	ByCPUs           = "cpus"
)

// byMachine are the factors of experiments whose guests may be any that run their programs.
var byMachine = []string{ByKernel, ByMemory, ByCPUs}

// mostRepetitions bounds what a mistyped number can ask for.
const mostRepetitions = 10000

// GuidanceNames are the levels of the factor guidance.
func GuidanceNames() []string {
	return words([]migration.Guidance{
		migration.GuidanceSwitchover, migration.GuidanceSuspend, migration.GuidanceStart,
		migration.GuidanceOff,
	})
}

// ProgramNames are the levels of the factor programs.
func ProgramNames() []string { return Setting{}.programLevels().values }

// TrackerNames are the levels of the factor tracker.
func TrackerNames() []string {
	return words(append([]dirtylog.Kind{dirtylog.Auto}, dirtylog.Kinds...))
}

// CompressNames are the levels of the factor compress.
func CompressNames() []string {
	return words([]migration.Compress{
		migration.CompressNone, migration.CompressZstd, migration.CompressAuto,
	})
}

// given lists the factors that are not left out.
func (f Factors) given() []string {
	var all []string
	add := func(name string, is bool) {
		if is {
			all = append(all, name)
		}
	}
	add(ByPolicies, len(f.Policies) > 0)
	add(ByGuidance, len(f.Guidance) > 0)
	add(ByPrograms, len(f.Programs) > 0)
	add(ByTracker, len(f.Trackers) > 0)
	add(ByRTT, len(f.RTTs) > 0)
	add(ByCompress, len(f.Encoding) > 0)
	add(ByRepetitions, f.Repetitions != 0)
	add(ByAgainst, f.Against != "")
	add(ByShadowPrograms, f.ShadowPrograms)
	add(ByKernel, f.Kernel != "")
	add(ByMemory, f.MemoryBytes != 0)
	add(ByCPUs, f.CPUs != 0)
	return all
}

// Takes tells whether an experiment's trials, or its report, depend on a factor.
func (e Experiment) Takes(factor string) bool {
	return factor == ByRepetitions || slices.Contains(e.Factors, factor)
}

// CheckFactors refuses levels that nobody knows, and factors without an effect on the experiment.
// Its errors begin with the flag's name.
func (e Experiment) CheckFactors(at Setting) error {
	f := at.Factors
	for _, name := range f.given() {
		if !e.Takes(name) {
			return fmt.Errorf("--%s: no effect on %s: leave it out", name, e.Name)
		}
	}
	if f.Repetitions < 0 || f.Repetitions > mostRepetitions {
		return fmt.Errorf("--%s %d: use 1 to %d", ByRepetitions, f.Repetitions, mostRepetitions)
	}
	if c := e.Custom; c != nil && f.Repetitions > 0 {
		again := *c
		if again.Repetitions = f.Repetitions; again.trials() > mostTrials {
			return fmt.Errorf("--%s %d: too many trials: ask for at most %d", ByRepetitions,
				f.Repetitions, mostTrials)
		}
	}
	if f.CPUs < 0 || f.CPUs > mostCPUs {
		return fmt.Errorf("--%s %d: use 1 to %d", ByCPUs, f.CPUs, mostCPUs)
	}
	for _, p := range f.Policies {
		if _, err := registry.Parse(p); err != nil {
			return fmt.Errorf("--%s: %w", ByPolicies, err)
		}
	}
	for _, l := range []struct {
		name         string
		given, known []string
	}{
		{ByPolicies, f.Policies, nil},
		{ByGuidance, f.Guidance, GuidanceNames()},
		{ByPrograms, f.Programs, ProgramNames()},
		{ByTracker, f.Trackers, TrackerNames()},
		{ByCompress, f.Encoding, CompressNames()},
	} {
		if err := checkLevels(l.given, l.known); err != nil {
			return fmt.Errorf("--%s: %w", l.name, err)
		}
	}
	if err := checkRTTs(f.RTTs); err != nil {
		return fmt.Errorf("--%s: %w", ByRTT, err)
	}
	if err := f.checkShadowPrograms(); err != nil {
		return fmt.Errorf("--%s: %w", ByShadowPrograms, err)
	}
	if e.Takes(ByAgainst) {
		return at.factorial().check()
	}
	return nil
}

// checkLevels refuses levels that are given twice, or are not known; nil knows all.
func checkLevels(given, known []string) error {
	for i, v := range given {
		switch {
		case slices.Contains(given[:i], v):
			return fmt.Errorf("%q is there twice", v)
		case known != nil && !slices.Contains(known, v):
			return fmt.Errorf("%q is unknown: use some of %s", v, strings.Join(known, ", "))
		}
	}
	return nil
}

// flags writes the factors as they are typed.
func (f Factors) flags() string {
	var b strings.Builder
	for _, l := range []struct {
		name   string
		values []string
	}{
		{ByPolicies, f.Policies}, {ByGuidance, f.Guidance}, {ByPrograms, f.Programs},
		{ByTracker, f.Trackers}, {ByRTT, rttTexts(f.RTTs)},
		{ByCompress, f.Encoding},
	} {
		if len(l.values) > 0 {
			fmt.Fprintf(&b, " --%s %s", l.name, text.ShellWord(strings.Join(l.values, ",")))
		}
	}
	if f.Against != "" {
		fmt.Fprintf(&b, " --%s %s", ByAgainst, text.ShellWord(f.Against))
	}
	if f.ShadowPrograms {
		b.WriteString(" --" + ByShadowPrograms)
	}
	if f.Repetitions > 0 {
		fmt.Fprintf(&b, " -n %d", f.Repetitions)
	}
	return b.String() + f.machineFlags()
}

// machineFlags writes the factors of every guest's machine as they are typed.
func (f Factors) machineFlags() string {
	var b strings.Builder
	if f.Kernel != "" {
		fmt.Fprintf(&b, " --%s %s", ByKernel, text.ShellWord(f.Kernel))
	}
	if f.MemoryBytes > 0 {
		fmt.Fprintf(&b, " --%s %d", ByMemory, f.MemoryBytes)
	}
	if f.CPUs > 0 {
		fmt.Fprintf(&b, " --%s %d", ByCPUs, f.CPUs)
	}
	return b.String()
}

// machine makes a guest the one that was asked for. Each vCPU runs a task with a working set of its
// own, so that RAM grows with them where nobody says how much there is.
func (f Factors) machine(g trial.Guest) trial.Guest {
	if f.Kernel != "" {
		g.Kernel = f.Kernel
	}
	if f.CPUs > 0 {
		g.MemoryBytes *= int64(f.CPUs)
		g.CPUs = f.CPUs
	}
	if f.MemoryBytes > 0 {
		g.MemoryBytes = f.MemoryBytes
	}
	return g
}

// times is the number of blocks: the one that was asked for, or else that of the size.
func (at Setting) times(quick, full int) int {
	switch {
	case at.Factors.Repetitions > 0:
		return at.Factors.Repetitions
	case at.Size == Quick:
		return quick
	}
	return full
}

// programs are those that were asked for, or else all.
func (at Setting) programs() []program {
	if len(at.Factors.Programs) == 0 {
		return programs
	}
	var some []program
	for _, name := range at.Factors.Programs {
		for _, p := range programs {
			if p.name == name {
				some = append(some, p)
			}
		}
	}
	return some
}

func (at Setting) programLevels() levels {
	l := levels{factor: "program"}
	for _, p := range at.programs() {
		l.values = append(l.values, p.name)
	}
	return l
}
