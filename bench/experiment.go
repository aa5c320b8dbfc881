package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"taskguide/bench/peer/qemu"
	"taskguide/bench/shard"
	"taskguide/bench/trial"
	"taskguide/control/units"
)

// Size says how long an experiment may take.
type Size string

// The sizes.
const (
	Quick Size = "quick" // under 3 minutes: a check that everything works
	Full  Size = "full"  // under 20 minutes: results to quote
)

// Setting is the conditions under which an experiment is run.
type Setting struct {
	Size Size
	// BitsPerSecond is the rate of the link between network namespaces, in bit/s. 0 is the
	// loopback, where the engine limits itself.
	BitsPerSecond int64
	// QEMU is the version of the QEMU to compare with, or empty if there is none.
	QEMU string
	// Ways are what that QEMU can do, beside what all can.
	Ways []qemu.Way
	// Before tells whether there is another vmm to compare with, usually an earlier build.
	Before bool
	// Factors are what is compared, where the user says it.
	Factors Factors
	// Shard is the part of the trials that is run.
	Shard shard.Shard
	// Tail is how far the simulator's tail can be trusted, by another run; nil if nobody said.
	Tail *Tail
}

// rate is the link's rate, in bit/s, in experiments that do not vary it.
func (at Setting) rate() int64 {
	if at.BitsPerSecond > 0 {
		return at.BitsPerSecond
	}
	return linkRate
}

// rateName is rate for people.
func (at Setting) rateName() string { return units.BitRate(float64(at.rate()) / 8) }

// Programs are the paths of the programs that trials start. An empty path means that there is none,
// except for QEMU: it means the installed one.
type Programs struct {
	VMM    string
	Before string // another vmm, usually an earlier build
	QEMU   string
}

// Here returns the setting of a run on this host.
func Here(size Size, p Programs) Setting {
	at := Setting{Size: size, QEMU: qemuVersion(p.QEMU), Before: p.Before != ""}
	if at.QEMU == "" {
		return at
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	// A QEMU that does not answer has none, and its trials will say why.
	at.Ways, _ = qemu.Ways(ctx, p.QEMU)
	return at
}

// can tells whether the QEMU to compare with can move a guest in a way.
func (at Setting) can(m qemu.Migration) bool {
	return at.QEMU != "" && (m.Needs() == "" || slices.Contains(at.Ways, m.Needs()))
}

// lacks says what the QEMU to compare with cannot do of what some migrations need, or "".
func (at Setting) lacks(migrations ...qemu.Migration) string {
	var missing []string
	for _, way := range qemu.AllWays {
		if slices.ContainsFunc(migrations, func(m qemu.Migration) bool {
			return m.Needs() == way && !at.can(m)
		}) {
			missing = append(missing, string(way))
		}
	}
	if at.QEMU == "" || len(missing) == 0 {
		return ""
	}
	return "This QEMU has no " + strings.Join(missing, ", no ") + "."
}

// peerNames says, for a table's caption, which rows are of other VMMs.
func (at Setting) peerNames() string {
	if at.QEMU == "" {
		return "no QEMU"
	}
	return "QEMU " + at.QEMU
}

// Experiment is a set of trials and an analysis of their results.
type Experiment struct {
	Name    string
	Title   string
	Summary string // what varies, in a line
	Source  string // where the idea comes from, in a line

	// Blocks returns the trials. Each block holds one trial of every configuration that is
	// compared. So drift over hours (other users, temperature) affects all of them alike, and an
	// experiment that ends early has some results of each.
	Blocks func(Setting) [][]trial.Spec
	// Report says what the results mean.
	Report func(Setting, []trial.Result) Findings

	// Base names the factor, and its level, that summaries compare with. nil: they do not.
	Base func(Setting) (factor, level string, ok bool)

	// Factors are those that users may give, by the names of their flags. Every experiment takes
	// the number of repetitions.
	Factors []string

	// Custom is the file that describes the experiment; nil for those of this program.
	Custom *Custom

	// SharedLink asks for a link between network namespaces if one can be built, because VMMs' own
	// limits differ.
	SharedLink bool
	// NeedsBefore is set for experiments that make no sense without another vmm.
	NeedsBefore bool
	// Budget is how long a full run may take, without the report. 0 is the time that all others may
	// take.
	Budget time.Duration
	// LoopbackOnly is set for experiments that vary the rate themselves or need the highest rate.
	LoopbackOnly bool
}

// Experiments lists all experiments, in the best order for reading.
func Experiments() []Experiment {
	return []Experiment{
		tagging(), policies(), validity(), interrupt(), sweep(), overhead(), peers(), Speed(),
		disk(), card(), declared(), moves(), before(), simulated(),
	}
}

// Find returns the experiment of that name, or an error that lists the names.
func Find(name string) (Experiment, error) {
	var names []string
	for _, e := range Experiments() {
		if e.Name == name {
			return e, nil
		}
		names = append(names, e.Name)
	}
	return Experiment{}, fmt.Errorf("no experiment is called %q: there are %v", name, names)
}

// ExperimentOf returns the experiment of a run.
func ExperimentOf(run Run) (Experiment, error) {
	if run.Custom != nil {
		return run.Custom.Experiment(), nil
	}
	return Find(run.Experiment)
}

// against is an Experiment's Base that is always the same.
func against(factor, level string) func(Setting) (string, string, bool) {
	return func(Setting) (string, string, bool) { return factor, level, true }
}

// Uses tells whether a change of the setting changes what is run.
func (e Experiment) Uses(change func(*Setting)) bool {
	without := Setting{Size: Quick}
	with := without
	change(&with)
	return len(e.Plan(with, 0)) != len(e.Plan(without, 0))
}

// Plan puts the trials in the order in which they are run: it shuffles the blocks, and the trials
// within each. The order depends only on the seed.
func (e Experiment) Plan(at Setting, seed uint64) []trial.Spec {
	blocks := ofShard(at.Shard, e.Blocks(at))
	r := rand.New(rand.NewPCG(seed, 0))
	r.Shuffle(len(blocks), func(i, j int) { blocks[i], blocks[j] = blocks[j], blocks[i] })
	var plan []trial.Spec
	for _, b := range blocks {
		b = slices.Clone(b)
		for i := range b {
			b[i].Guest = at.Factors.machine(b[i].Guest)
		}
		r.Shuffle(len(b), func(i, j int) { b[i], b[j] = b[j], b[i] })
		plan = append(plan, b...)
	}
	return plan
}

// repeat makes n blocks of the configurations. Block i requests its migrations at the i-th of n
// points that divide the cycle evenly, and its guests have the i-th data.
func repeat(n int, configurations []trial.Spec) [][]trial.Spec {
	blocks := make([][]trial.Spec, n)
	for i := range blocks {
		for _, s := range configurations {
			s.ID = fmt.Sprintf("%s@%02d", s.ID, i)
			s.Offset = (float64(i) + 0.5) / float64(n)
			s.Guest.Seed = i + 1
			s.Guest.CPUs = max(1, s.Guest.CPUs)
			blocks[i] = append(blocks[i], s)
		}
	}
	return blocks
}
