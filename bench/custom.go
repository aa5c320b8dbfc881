package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"taskguide/bench/peer/qemu"
	"taskguide/bench/stats"
	"taskguide/bench/trial"
	"taskguide/control/units"
	"taskguide/migration"
	registry "taskguide/migration/policy"
)

// Custom is an experiment that a file describes; docs/bench.md documents it. A run keeps it, so
// that its report needs no file.
type Custom struct {
	Title  string        `yaml:"title" json:"title"`
	Guests []CustomGuest `yaml:"guests" json:"guests"`

	Policies []string `yaml:"policies" json:"policies"`
	Guidance []string `yaml:"guidance" json:"guidance"`
	Trackers []string `yaml:"trackers" json:"trackers,omitempty"`
	Rates    []rate   `yaml:"rates" json:"rates_bits_per_second"`
	RTTs     []span   `yaml:"rtts" json:"rtts_ns,omitempty"` // round trips that a relay adds
	Peers    []string `yaml:"peers" json:"peers,omitempty"`
	Against  string   `yaml:"against" json:"against,omitempty"`

	// Offsets are points of the cycle; none divides it evenly by the repetitions.
	Offsets     []float64 `yaml:"offsets" json:"offsets,omitempty"`
	Repetitions int       `yaml:"repetitions" json:"repetitions"`

	DowntimeLimit span   `yaml:"downtime_limit" json:"downtime_limit_ns,omitempty"`
	MaxDefer      span   `yaml:"max_defer" json:"max_defer_ns,omitempty"`
	Compress      string `yaml:"compress" json:"compress,omitempty"`
	Channels      int    `yaml:"channels" json:"channels,omitempty"`
	Limit         span   `yaml:"limit" json:"limit_ns,omitempty"` // of the run
}

// CustomGuest is a level of the factor program.
type CustomGuest struct {
	Name    string   `yaml:"name" json:"name"`
	Kernel  string   `yaml:"kernel" json:"kernel,omitempty"`
	Initrd  string   `yaml:"initrd" json:"initrd,omitempty"`
	Cmdline string   `yaml:"cmdline" json:"cmdline"`
	Disks   []string `yaml:"disks" json:"disks,omitempty"`
	Memory  size     `yaml:"memory" json:"memory_bytes"`
	CPUs    int      `yaml:"cpus" json:"cpus"`
	// Busy, Cool and Tag are of the embedded guest's programs.
	Busy span   `yaml:"busy" json:"busy_ns,omitempty"`
	Cool span   `yaml:"cool" json:"cool_ns,omitempty"`
	Tag  string `yaml:"tag" json:"tag,omitempty"`
	// Dots is no key: guests print dots if the file has peers. A run keeps it, so that the report
	// of an older one expects none.
	Dots span `yaml:"-" json:"dots_ns,omitempty"`
	// Ready is what a guest without heartbeats prints once it may be moved.
	Ready string `yaml:"ready" json:"ready,omitempty"`
}

// customName is the name of all experiments of files, in run.json.
const customName = "custom"

// Bounds of what a file asks for.
const (
	mostTrials    = 100_000
	leastMemory   = 1 << 20
	mostMemory    = 1 << 44
	mostCPUs      = 255
	longestPeriod = 24 * time.Hour
)

// The ways of QEMU that a file may name.
var customPeers = map[string]struct {
	name string
	way  qemu.Migration
}{
	"qemu":         {"QEMU", qemu.Migration{}},
	"qemu-multifd": {"QEMU, multifd", qemu.Migration{Channels: 2}},
	"qemu-zstd": {
		"QEMU, multifd zstd", qemu.Migration{Channels: 2, Compression: qemu.Zstd},
	},
	"qemu-xbzrle":        {"QEMU, xbzrle", qemu.Migration{Delta: true}},
	"qemu-postcopy":      {"QEMU, post-copy", qemu.Migration{PostCopy: true}},
	"qemu-auto-converge": {"QEMU, auto-converge", qemu.Migration{AutoConverge: true}},
	"qemu-multifd-zero": {
		"QEMU, multifd zero pages", qemu.Migration{Channels: 2, ZeroPages: qemu.InChannels},
	},
	"qemu-multifd-legacy-zero": {
		"QEMU, multifd legacy zero pages",
		qemu.Migration{Channels: 2, ZeroPages: qemu.InFeeder},
	},
}

// defaults fills in what a file leaves out.
func (c *Custom) defaults() {
	if len(c.Policies) == 0 {
		c.Policies = []string{registry.Default}
	}
	if len(c.Guidance) == 0 {
		c.Guidance = words([]migration.Guidance{
			migration.GuidanceOff, migration.GuidanceSwitchover,
		})
	}
	if len(c.Rates) == 0 {
		c.Rates = []rate{linkRate}
	}
	if c.Repetitions == 0 {
		c.Repetitions = stats.LeastForInterval
	}
	if c.Title == "" {
		c.Title = "An experiment of a file"
	}
	for i := range c.Guests {
		g := &c.Guests[i]
		if g.Memory == 0 {
			g.Memory = 256 << 20
		}
		g.CPUs = max(g.CPUs, 1)
		if g.Kernel == "" {
			c.embedded(g)
		}
	}
}

// ownPhase is how long each phase of the embedded guest lasts where nobody says it.
const ownPhase = span(time.Second)

// phasedPrograms are the embedded guest's programs that have phases.
var phasedPrograms = []string{"phased", "matmul", "sort", "kv", "heap"}

// embedded fills in what a file leaves out of a program of the embedded guest. Its own phases
// become keys, because moments of request are points of the cycle that the keys make.
func (c Custom) embedded(g *CustomGuest) {
	if g.Tag == "" {
		g.Tag = string(trial.TagCool)
	}
	if slices.Contains(phasedPrograms, g.program()) && g.Busy == 0 && g.Cool == 0 {
		g.Busy, g.Cool = ownPhase, ownPhase
	}
	if c.NeedsQEMU() {
		g.Dots = span(dotInterval)
	}
}

// program is the embedded guest's program. The guest takes the last word for it.
func (g CustomGuest) program() (name string) {
	for _, word := range strings.Fields(g.Cmdline) {
		if value, ok := strings.CutPrefix(word, "workload="); ok {
			name = value
		}
	}
	return name
}

// check refuses what makes no sense. Its errors name the key.
func (c Custom) check() error {
	if len(c.Guests) == 0 {
		return errors.New("guests: there is none")
	}
	var names []string
	for i, g := range c.Guests {
		if err := g.check(); err != nil {
			return fmt.Errorf("guests, number %d: %w", i+1, err)
		}
		names = append(names, g.Name)
	}
	for _, p := range c.Policies {
		if _, err := registry.Parse(p); err != nil {
			return fmt.Errorf("policies: %w", err)
		}
		if printable(p) != p {
			return fmt.Errorf("policies: %q: use a path that can be printed", p)
		}
	}
	var rates []string
	for _, r := range c.Rates {
		rates = append(rates, r.String())
	}
	for _, l := range []struct {
		key          string
		given, known []string
	}{
		{"guests", names, nil}, {"policies", c.Policies, nil}, {"rates", rates, nil},
		{"guidance", c.Guidance, GuidanceNames()}, {"trackers", c.Trackers, TrackerNames()},
		{"peers", c.Peers, slices.Sorted(maps.Keys(customPeers))},
	} {
		if err := checkLevels(l.given, l.known); err != nil {
			return fmt.Errorf("%s: %w", l.key, err)
		}
	}
	return c.checkRest()
}

func (c Custom) checkRest() error {
	if printable(c.Title) != c.Title {
		return fmt.Errorf("title: %q: use one line", c.Title)
	}
	for _, o := range c.Offsets {
		if !(o >= 0 && o < 1) {
			return fmt.Errorf("offsets: %v: use 0 and more, and less than 1", o)
		}
	}
	if err := checkRTTs(c.rtts()); err != nil {
		return fmt.Errorf("rtts: %w", err)
	}
	if c.Repetitions < 1 || c.Repetitions > mostRepetitions {
		return fmt.Errorf("repetitions: %d: use 1 to %d", c.Repetitions, mostRepetitions)
	}
	if c.trials() > mostTrials {
		return fmt.Errorf("too many trials: ask for at most %d", mostTrials)
	}
	p := c.params()
	p.Destination = "unix:/"
	if _, err := p.WithDefaults(); err != nil {
		return err
	}
	if err := c.checkPeers(); err != nil {
		return err
	}
	if err := c.checkCycles(); err != nil {
		return err
	}
	if err := c.factorial(Setting{QEMU: "some", Ways: qemu.AllWays}).check(); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "--"))
	}
	return nil
}

// checkCycles refuses points of a cycle for guests that have none.
func (c Custom) checkCycles() error {
	for _, g := range c.Guests {
		if len(c.Offsets) > 0 && g.Ready == "" && g.Busy == 0 && g.Cool == 0 {
			return fmt.Errorf("offsets: guest %s has no phases, and so no points of a cycle: "+
				"leave them out, or give it busy and cool", g.Name)
		}
	}
	return nil
}

// checkPeers refuses guests that QEMU cannot be given alike.
func (c Custom) checkPeers() error {
	if len(c.Peers) == 0 {
		return nil
	}
	if len(c.Trackers) > 0 {
		return errors.New("peers: QEMU knows no trackers: leave out one of both")
	}
	for _, g := range c.Guests {
		if g.Kernel != "" || g.Initrd != "" || len(g.Disks) > 0 || g.Ready != "" {
			return fmt.Errorf("peers: guest %s has a kernel, a disk or no heartbeats: only "+
				"programs of the embedded guest are compared with QEMU", g.Name)
		}
	}
	return nil
}

func (g CustomGuest) check() error {
	switch {
	case g.Name == "" || strings.ContainsAny(g.Name, "/@"), printable(g.Name) != g.Name:
		return fmt.Errorf("name: %q: use a name of one line without '/' and '@'", g.Name)
	case g.Memory < leastMemory || g.Memory > mostMemory:
		return fmt.Errorf("memory: %d bytes: use 1M to 16384G", g.Memory)
	case g.CPUs > mostCPUs:
		return fmt.Errorf("cpus: %d: use 1 to %d", g.CPUs, mostCPUs)
	case g.Busy > span(longestPeriod) || g.Cool > span(longestPeriod):
		return fmt.Errorf("busy, cool: use at most %v", longestPeriod)
	case g.Initrd != "" && g.Kernel == "":
		return errors.New("initrd: it needs a kernel")
	case g.Kernel == "" && g.Ready != "":
		return errors.New("ready: the embedded guest has heartbeats: leave it out")
	case g.Kernel == "" && g.Cmdline == "":
		return errors.New("cmdline: say what the embedded guest does, as in \"workload=phased\"")
	case g.Ready != "" && (g.Busy > 0 || g.Cool > 0 || g.Tag != ""):
		return errors.New("ready: busy, cool and tag are of guests with heartbeats")
	}
	if word := g.phaseWord(); word != "" {
		return fmt.Errorf("cmdline: %q: give busy and cool as keys: moments of request are points "+
			"of the cycle that these make", word)
	}
	tags := []trial.Tag{
		"", trial.TagNone, trial.TagCool, trial.TagBusy, trial.TagRandom, trial.TagFast,
	}
	if !slices.Contains(tags, trial.Tag(g.Tag)) {
		return fmt.Errorf("tag: %q is unknown: use one of none, cool, busy, random, fast", g.Tag)
	}
	return nil
}

// phaseWord is a word of the command line that sets a phase of a guest with heartbeats, or "".
func (g CustomGuest) phaseWord() string {
	for _, word := range strings.Fields(g.Cmdline) {
		key, _, _ := strings.Cut(word, "=")
		if g.Ready == "" && (key == "busy" || key == "cool") {
			return word
		}
	}
	return ""
}

// ownBeats is how many seconds a kernel of the user's own is watched before its move and after it.
const ownBeats = 2

// beats is ownBeats for a kernel of the user's own that prints heartbeats. It may have no cycle to
// wait for, and by its first heartbeat alone nobody knows its speed.
func (g CustomGuest) beats() int {
	if g.Kernel == "" || g.Ready != "" {
		return 0
	}
	return ownBeats
}

// trials is how many there are, without those of peers. More than mostTrials count as one more, so
// that no product of a file's numbers is too large for an int.
func (c Custom) trials() int {
	all := 1
	for _, n := range []int{
		len(c.Guests), len(c.Policies), len(c.Guidance), len(c.Rates), max(1, len(c.RTTs)),
		max(1, len(c.Trackers)), max(1, len(c.Offsets)), c.Repetitions,
	} {
		if n > mostTrials {
			return mostTrials + 1
		}
		if all = min(all*n, mostTrials+1); all == 0 {
			return 0
		}
	}
	return all
}

func (c Custom) rtts() []time.Duration {
	var all []time.Duration
	for _, t := range c.RTTs {
		all = append(all, time.Duration(t))
	}
	return all
}

func (c Custom) params() migration.Params {
	return migration.Params{
		DowntimeLimit: time.Duration(c.DowntimeLimit), MaxDefer: time.Duration(c.MaxDefer),
		Compress: migration.Compress(c.Compress), Channels: c.Channels,
	}
}

// factorial is what the file compares. withPeers says whether there is a QEMU.
func (c Custom) factorial(at Setting) factorial {
	f := factorial{
		policies: c.Policies, guidance: c.Guidance, trackers: c.Trackers, against: c.Against,
		rtts: c.rtts(), params: c.params(),
	}
	for _, r := range c.Rates {
		f.rates = append(f.rates, int64(r))
	}
	for _, g := range c.Guests {
		beats := g.beats()
		f.programs = append(f.programs, namedGuest{name: g.Name, guest: trial.Guest{
			Program: g.Cmdline, Busy: time.Duration(g.Busy), Cool: time.Duration(g.Cool),
			Tag: trial.Tag(g.Tag), MemoryBytes: int64(g.Memory), CPUs: g.CPUs,
			Kernel: g.Kernel, Initrd: g.Initrd, Disks: g.Disks, Ready: g.Ready,
			Dots: time.Duration(g.Dots),
		}, beatsBefore: beats, beatsAfter: beats})
	}
	var ways []qemu.Migration
	for _, p := range c.Peers {
		ways = append(ways, customPeers[p].way)
		if at.can(customPeers[p].way) {
			f.peers = append(f.peers, customPeers[p].name)
		}
	}
	f.lacks = at.lacks(ways...)
	return f
}

// Experiment makes the experiment of a file.
func (c Custom) Experiment() Experiment {
	f := c.factorial
	return Experiment{
		Name: customName, Title: c.Title, Summary: "what a file describes",
		Source: "the file that run.json holds",
		Blocks: func(at Setting) [][]trial.Spec {
			n := c.Repetitions
			if at.Factors.Repetitions > 0 {
				n = at.Factors.Repetitions
			}
			return repeatAt(n, c.Offsets, f(at).specs())
		},
		Report: func(at Setting, results []trial.Result) Findings {
			return f(at).report(at, results)
		},
		Budget: time.Duration(c.Limit), // if 0, Order.budget counts the trials
		Base:   func(at Setting) (string, string, bool) { return f(at).base() },
		Custom: &c,
	}
}

// NeedsQEMU tells whether a file compares with QEMU.
func (c Custom) NeedsQEMU() bool { return len(c.Peers) > 0 }

// errOtherFile is of a run that cannot go on.
var errOtherFile = errors.New("it holds results of another experiment: its file has changed " +
	"since, or this version of vmm reads it otherwise")

// sameCustom checks that two files describe the same. nil is an experiment of this program.
func sameCustom(a, b *Custom) error {
	var texts [2]string
	for i, c := range []*Custom{a, b} {
		text, err := json.Marshal(c)
		if err != nil {
			return err
		}
		texts[i] = string(text)
	}
	if texts[0] != texts[1] {
		return errOtherFile
	}
	return nil
}

// repeatAt is repeat with points of the cycle that are given: n blocks for each of them.
func repeatAt(n int, offsets []float64, configurations []trial.Spec) [][]trial.Spec {
	if len(offsets) == 0 {
		return repeat(n, configurations)
	}
	blocks := repeat(n*len(offsets), configurations)
	for i := range blocks {
		for j := range blocks[i] {
			blocks[i][j].Offset = offsets[i%len(offsets)]
		}
	}
	return blocks
}

// rateText writes a rate as a level of the factor rate.
func rateText(bitsPerSecond int64) string { return units.BitRate(float64(bitsPerSecond) / 8) }
