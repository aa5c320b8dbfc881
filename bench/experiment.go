package bench

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"taskguide/bench/trial"
	"taskguide/control/units"
)

// Size says how long an experiment may take.
type Size string

// The sizes.
const (
	Quick Size = "quick" // under 3 minutes: whether all is well
	Full  Size = "full"  // under 20 minutes: to be quoted
)

// Setting is under which circumstances an experiment is run.
type Setting struct {
	Size Size
	// BitsPerSecond is the rate of the link between network namespaces; 0 is the loopback, where the engine limits itself.
	BitsPerSecond int64
	QEMU          bool // is installed, so that there is something to compare with
}

// rate is that of the link in experiments that do not vary it, in bit/s.
func (at Setting) rate() int64 {
	if at.BitsPerSecond > 0 {
		return at.BitsPerSecond
	}
	return linkRate
}

// rateName is rate for people.
func (at Setting) rateName() string { return units.BitRate(float64(at.rate()) / 8) }

// Here is the setting of a run on this host.
func Here(size Size) Setting { return Setting{Size: size, QEMU: qemuVersion() != ""} }

// Experiment is a set of trials and what they are to show.
type Experiment struct {
	Name    string
	Title   string
	Summary string // what is varied, in a line
	Source  string // where the idea comes from, in a line

	// Blocks returns the trials. Each block holds one trial of every configuration that is compared, so that whatever
	// drifts in the course of hours (other users, temperature) is the same for all of them, and so that an
	// experiment that ends early has something of everything.
	Blocks func(Setting) [][]trial.Spec
	// Report says what the results mean.
	Report func(Setting, []trial.Result) Findings

	// SharedLink asks for a link between network namespaces if one can be built, for the sake of VMMs whose own limits differ.
	SharedLink bool
	// LoopbackOnly experiments vary the rate themselves, or want as much of it as there is.
	LoopbackOnly bool
}

// Experiments lists all, in the order in which they are best read.
func Experiments() []Experiment {
	return []Experiment{tagging(), validity(), interrupt(), sweep(), overhead(), peers(), Speed()}
}

// Find returns the experiment of that name.
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

// Plan puts the trials in the order in which they are run: the blocks shuffled, and the trials within each. The order
// depends on the seed alone.
func (e Experiment) Plan(at Setting, seed uint64) []trial.Spec {
	blocks := e.Blocks(at)
	r := rand.New(rand.NewPCG(seed, 0))
	r.Shuffle(len(blocks), func(i, j int) { blocks[i], blocks[j] = blocks[j], blocks[i] })
	var plan []trial.Spec
	for _, b := range blocks {
		b = slices.Clone(b)
		r.Shuffle(len(b), func(i, j int) { b[i], b[j] = b[j], b[i] })
		plan = append(plan, b...)
	}
	return plan
}

// repeat makes n blocks of the configurations; the i-th asks for its migrations at the i-th of n points that divide the
// cycle evenly, of guests whose data are the i-th.
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
