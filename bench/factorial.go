package bench

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"taskguide/bench/figure"
	"taskguide/bench/stats"
	"taskguide/bench/trial"
	"taskguide/migration"
	registry "taskguide/migration/policy"
)

// factorial compares every combination of its factors' levels.
type factorial struct {
	programs []namedGuest
	policies []string
	guidance []string
	trackers []string        // may be none, if the tracker is not varied
	rates    []int64         // of the link, in bit/s; may be none
	rtts     []time.Duration // that a relay adds; may be none
	peers    []string        // names of customPeers
	shadows  []string        // policies that are asked in each trial and not obeyed
	lacks    string          // says what the peers cannot do
	against  string          // a level; empty for the first of the first factor that has several
	params   migration.Params
}

// namedGuest is a level of the factor program.
type namedGuest struct {
	name                    string
	guest                   trial.Guest
	beatsBefore, beatsAfter int
}

// comparable are the factors by whose levels ratios are made.
func (f factorial) comparable() []levels {
	return []levels{
		{"policy", slices.Concat(f.policies, f.peers)}, {"guidance", f.guidance},
		{"tracker", f.trackers}, {"rate", f.rateNames()}, {"rtt", rttTexts(f.rtts)},
		{"program", f.programNames()},
	}
}

func (f factorial) programNames() []string {
	var names []string
	for _, p := range f.programs {
		names = append(names, p.name)
	}
	return names
}

func (f factorial) rateNames() []string {
	var names []string
	for _, r := range f.rates {
		names = append(names, rateText(r))
	}
	return names
}

// base is the factor by which ratios are made, and the level that others are compared with. It
// returns false if there is nothing to compare.
func (f factorial) base() (factor, level string, ok bool) {
	for _, l := range f.comparable() {
		switch {
		case len(l.values) < 2:
		case f.against == "":
			return l.factor, l.values[0], true
		case slices.Contains(l.values, f.against):
			return l.factor, f.against, true
		}
	}
	return "", "", false
}

// check refuses a level to compare with that is none of the run's, or the only one of its factor.
func (f factorial) check() error {
	if _, _, ok := f.base(); ok || f.against == "" {
		return nil
	}
	var all []string
	for _, l := range f.comparable() {
		if len(l.values) > 1 {
			all = append(all, l.values...)
		}
	}
	if len(all) == 0 {
		return fmt.Errorf("--%s %s: there is nothing to compare: each factor has one level",
			ByAgainst, f.against)
	}
	return fmt.Errorf("--%s: %q is no level that this run compares: use one of %s",
		ByAgainst, f.against, strings.Join(all, ", "))
}

// specs returns a trial of each combination.
func (f factorial) specs() []trial.Spec {
	trackers := f.trackers
	if len(trackers) == 0 {
		trackers = []string{""}
	}
	var all []trial.Spec
	for _, prog := range f.programs {
		for _, w := range f.paths() {
			for _, p := range f.policies {
				for _, g := range f.guidance {
					for _, t := range trackers {
						all = append(all, f.over(w, f.spec(prog, p, g, t)))
					}
				}
			}
			for _, p := range f.peers {
				all = append(all, f.over(w, f.peer(prog, p)))
			}
		}
	}
	return all
}

// path is what moves go over.
type path struct {
	rate int64 // in bit/s; 0 is that of the parameters
	rtt  time.Duration
}

// paths are every rate with every round trip.
func (f factorial) paths() []path {
	rates, rtts := f.rates, f.rtts
	if len(rates) == 0 {
		rates = []int64{0}
	}
	if len(rtts) == 0 {
		rtts = []time.Duration{0}
	}
	var all []path
	for _, r := range rates {
		for _, t := range rtts {
			all = append(all, path{r, t})
		}
	}
	return all
}

// over lets a trial go over a path, and names what of it is varied.
func (f factorial) over(w path, s trial.Spec) trial.Spec {
	if w.rate > 0 {
		s.Params.BitsPerSecond = w.rate
	}
	if len(f.rates) > 1 {
		s.ID += "/" + rateText(w.rate)
		s.Factors["rate"] = rateText(w.rate)
	}
	s.RTT = w.rtt
	if len(f.rtts) > 1 {
		return atRTT(s, w.rtt)
	}
	return s
}

// peer is a trial of QEMU, which nothing guides.
func (f factorial) peer(prog namedGuest, name string) trial.Spec {
	s := f.spec(prog, registry.Default, string(migration.GuidanceOff), "")
	s.ID = prog.name + "/" + name
	s.Factors["policy"] = name
	way := wayOf(name)
	s.QEMU = &way
	return s
}

func (f factorial) spec(prog namedGuest, policy, guidance, tracker string) trial.Spec {
	s := trial.Spec{
		ID:      strings.Join([]string{prog.name, policy, guidance}, "/"),
		Factors: map[string]string{"program": prog.name, "policy": policy, "guidance": guidance},
		Guest:   prog.guest, Params: f.params,
		BeatsBefore: prog.beatsBefore, BeatsAfter: prog.beatsAfter,
	}
	if tracker != "" {
		s.ID += "/" + tracker
		s.Factors["tracker"] = tracker
		s.Guest.Tracker = tracker
	}
	s.Params.Rule, s.Params.Guidance = migration.Rule(policy), migration.Guidance(guidance)
	s.Params.Shadow = shadowsOf(f.shadows, policy)
	return s
}

// policies is the experiment whose factors are all given on the command line, or else are all that
// there are.
func policies() Experiment {
	return Experiment{
		Name: "policies", Title: "Stop rules side by side",
		Summary: "every policy, guided and not, on the programs of tagging; each factor may be " +
			"given",
		Source: "the authors of each policy, which docs/policies.md cites",
		Blocks: func(at Setting) [][]trial.Spec {
			f := at.factorial()
			return repeat(at.times(1, 10), append(f.specs(), f.contests(at.Size)...))
		},
		Report: func(at Setting, results []trial.Result) Findings {
			return at.factorial().report(at, results)
		},
		Base: func(at Setting) (string, string, bool) { return at.factorial().base() },
		Factors: append(
			[]string{
				ByPolicies, ByGuidance, ByPrograms, ByTracker, ByRTT, ByAgainst, ByShadowPrograms,
			},
			byMachine...),
		Budget: 139 * time.Minute,
	}
}

// factorial is what experiment policies compares in a setting.
func (at Setting) factorial() factorial {
	f := factorial{
		policies: at.Factors.Policies, guidance: at.Factors.Guidance, trackers: at.Factors.Trackers,
		against: at.Factors.Against, rtts: at.Factors.RTTs,
		params: migration.Params{
			// MaxDefer is the default, as in moves that the simulator was compared with.
			DowntimeLimit: limitOf(at.Size), BitsPerSecond: at.rate(),
		},
	}
	if len(f.policies) == 0 {
		f.policies = registry.Names()
	}
	f.shadows = at.Factors.shadows(f.policies)
	if len(f.guidance) == 0 {
		f.guidance = words([]migration.Guidance{
			migration.GuidanceOff, migration.GuidanceSwitchover,
		})
	}
	chosen := at.programs()
	if at.Size == Quick && len(at.Factors.Programs) == 0 {
		chosen = chosen[2:] // kv and phased, to save time
	}
	for _, p := range chosen {
		f.programs = append(f.programs,
			namedGuest{
				name: p.name, guest: guestOf(p, at.Size, trial.TagCool),
				beatsAfter: beatsFor(p, at.Size),
			})
	}
	return f
}

// label names a combination without its program.
func (f factorial) label(factors map[string]string) string {
	name := factors["policy"] + ", " + factors["guidance"]
	if len(f.trackers) > 0 {
		name += ", " + factors["tracker"]
	}
	if len(f.rates) > 1 {
		name += ", " + factors["rate"]
	}
	if len(f.rtts) > 1 {
		name += ", RTT " + factors["rtt"]
	}
	return name
}

// colour is the name by which figures colour a combination: guidance if that is varied, since rows
// stand together by policy, or else the first factor that is. QEMU, which is not guided, has its
// own.
func (f factorial) colour(factors map[string]string) string {
	if slices.Contains(f.peers, factors["policy"]) {
		return factors["policy"]
	}
	for _, l := range []levels{
		{"guidance", f.guidance}, {"policy", f.policies}, {"tracker", f.trackers},
		{"rate", f.rateNames()}, {"rtt", rttTexts(f.rtts)},
	} {
		if len(l.values) > 1 {
			return factors[l.factor]
		}
	}
	return factors["guidance"]
}

// levels are the factors of the combinations, without the program.
func (f factorial) levels() []levels {
	guidance := f.guidance
	if off := string(migration.GuidanceOff); len(f.peers) > 0 && !slices.Contains(guidance, off) {
		guidance = append(slices.Clone(guidance), off)
	}
	all := []levels{
		{"policy", slices.Concat(f.policies, f.peers)}, {"guidance", guidance},
	}
	if len(f.trackers) > 0 {
		all = append(all, levels{"tracker", f.trackers})
	}
	if len(f.rates) > 1 {
		all = append(all, levels{"rate", f.rateNames()})
	}
	if len(f.rtts) > 1 {
		all = append(all, levels{"rtt", rttTexts(f.rtts)})
	}
	return all
}

func (f factorial) report(at Setting, results []trial.Result) Findings {
	by := f.levels()
	pooled := groupBy(results, by...)
	groups := groupBy(results, append([]levels{{"program", f.programNames()}}, by...)...)
	var columns []string
	for _, l := range by {
		columns = append(columns, l.factor)
	}
	withProgram := append([]string{"program"}, columns...)
	findings := Findings{Headlines: f.headlines(groups, pooled), Lead: f.lead(pooled, columns)}
	findings.Sections = []Section{
		{
			Title: "How long the guest stands still",
			Text: append([]string{
				"Each point is one migration of a fresh guest, all with the same tags, data and " +
					"moments of request. “off” ignores the tags. " + f.linkText(at),
			}, peersText(f.peers)...),
			Figures: f.strips(groups, "downtime", downtime),
			Tables:  f.ratioTables(groups, withProgram),
		},
		{
			Title:   "The price: time and pages",
			Figures: f.strips(groups, "total", total),
		},
		{
			Title: "All indicators",
			Text:  f.gapText(results),
			Tables: []Table{
				tableOf("Medians with 95 % intervals", groups, withProgram, f.indicators()...),
			},
		},
	}
	findings.Sections = append(findings.Sections, f.regret(at, groups, results)...)
	findings.Sections = append(findings.Sections, f.shadowSection(pooled)...)
	var serving []group
	for _, g := range groups {
		if len(g.values(p999)) > 0 {
			serving = append(serving, g)
		}
	}
	if len(serving) > 0 {
		findings.Sections = append(findings.Sections, Section{
			Title: "What users of the service notice",
			Tables: []Table{tableOf("Latency of requests in the worst second around the move; "+
				"medians with 95 % intervals", serving, withProgram, p999Calm,
				worstCalm, p99, p999, worst)},
		})
	}
	return findings
}

// indicators are the columns of the table of all. Guests print dots where QEMU has rows, so there
// are silences.
func (f factorial) indicators() []metric {
	all := []metric{downtime, stopCopy, gap}
	if len(f.peers) > 0 {
		all = append(all, silenceRounds, silenceSwitch)
	}
	return append(all, total, waited, pages, rounds, forced)
}

// gapText says what the guest's own gap is worth where QEMU has rows, and what the silences are.
func (f factorial) gapText(results []trial.Result) []string {
	if len(f.peers) == 0 {
		return nil
	}
	return []string{gapText(results) + " " + silenceText}
}

// linkText says what is between the two ends.
func (f factorial) linkText(at Setting) string {
	sentences := []string{f.rateText(at), wayText(f.rtts), f.lacks}
	return strings.Join(slices.DeleteFunc(sentences, func(s string) bool { return s == "" }), " ")
}

// rateText says how fast the link is.
func (f factorial) rateText(at Setting) string {
	switch len(f.rates) {
	case 0:
		return "The link has " + at.rateName() + "."
	case 1:
		return "The link has " + rateText(f.rates[0]) + "."
	}
	return "The rate of the link is varied."
}

// counterpart returns the group with the level that others are compared with, as counterpartOf
// does.
func (f factorial) counterpart(g group, groups []group) (group, bool) {
	factor, level, ok := f.base()
	if !ok {
		return group{}, false
	}
	return counterpartOf(g, groups, factor, level)
}

// besideText names the level that g is compared with, and its guidance if QEMU's moves stand beside
// guided ones.
func besideText(level string, g, base group) string {
	guidance := base.factors["guidance"]
	if g.ofPeer() && !base.ofPeer() && !g.is("guidance", guidance) {
		return level + ", " + guidance
	}
	return level
}

// stoodText compares how long guests stood still. QEMU's downtime is another account than ours.
func stoodText(g, base group) string {
	if g.ofPeer() || base.ofPeer() {
		return standstillText(g, base)
	}
	return fmt.Sprintf("mean downtime %s, at the worst %s against %s", meanRatio(g, base, downtime),
		downtime.write(stats.Max(g.values(downtime))),
		downtime.write(stats.Max(base.values(downtime))))
}

// headlines compares over all programs, or, if the programs are what is compared, one by one.
func (f factorial) headlines(groups, pooled []group) []string {
	factor, level, ok := f.base()
	if !ok {
		return nil
	}
	if factor == "program" {
		pooled = groups
	}
	var lines []string
	for _, g := range pooled {
		base, ok := f.counterpart(g, pooled)
		if !ok {
			continue
		}
		name, over := f.label(g.factors), ""
		if factor == "program" {
			name = g.factors["program"] + ", " + name
			g, base = matched(g, base)
			ok = len(g.results) > 0
		} else {
			if len(f.programs) > 1 {
				over = " over all programs"
			}
			g, base, ok = matchedOverAll(g, base, f.programNames())
		}
		if !ok {
			continue
		}
		lines = append(lines, fmt.Sprintf("%s against %s%s: %s; mean total time %s.", name,
			besideText(level, g, base), over, stoodText(g, base), meanRatio(g, base, total)))
	}
	return lines
}

// lead shows each combination over all programs.
func (f factorial) lead(pooled []group, columns []string) Table {
	t := Table{
		Caption: "Over all programs: median downtime with its 95 % interval, the worst " +
			"one, and the median total time",
		Head: append(slices.Clone(columns), "n", "downtime", "worst", "total time"),
	}
	if len(f.peers) > 0 {
		t.Caption += "; QEMU's downtime is its own account, and ends when all is sent"
	}
	for _, g := range pooled {
		var row []string
		for _, c := range columns {
			row = append(row, g.factors[c])
		}
		t.Rows = append(t.Rows, append(row, fmt.Sprint(len(g.results)), g.median(downtime),
			downtime.write(stats.Max(g.values(downtime))), g.median(total)))
	}
	return t
}

// ratioTables has a row for each combination that has a counterpart.
func (f factorial) ratioTables(groups []group, columns []string) []Table {
	_, level, ok := f.base()
	if !ok {
		return nil
	}
	t := Table{
		Caption: "Against " + level + ", in pairs of the same program, data and moment: below 1 " +
			"is less",
		Head: append(slices.Clone(columns), "median downtime", "mean downtime", "worst downtime",
			"pages in stop-and-copy", "mean total time"),
	}
	for _, g := range groups {
		base, ok := f.counterpart(g, groups)
		if !ok {
			continue
		}
		var row []string
		for _, c := range columns {
			row = append(row, g.factors[c])
		}
		t.Rows = append(t.Rows, append(row, ratio(g, base, downtime), meanRatio(g, base, downtime),
			worstRatio(g, base, downtime), meanRatio(g, base, stopCopy),
			meanRatio(g, base, total)))
	}
	return []Table{t}
}

// strips has a figure for each program.
func (f factorial) strips(groups []group, name string, m metric) []NamedFigure {
	var figures []NamedFigure
	for _, prog := range f.programNames() {
		var samples []figure.Sample
		for _, g := range groups {
			if g.is("program", prog) {
				policy := g.factors["policy"]
				samples = append(samples, figure.Sample{
					Group: policy, Label: strings.TrimPrefix(f.label(g.factors), policy+", "),
					Colour: f.colour(g.factors), Values: g.values(m),
				})
			}
		}
		if len(samples) > 0 {
			figures = append(figures, NamedFigure{
				name + "-" + fileName(prog),
				capital(m.name) + " of " + prog + " by policy and guidance, every trial a point.",
				figure.Strip(prog+": "+m.name, m.name+" in ms", samples),
			})
		}
	}
	return figures
}
