package bench

import (
	"fmt"
	"io"
	"slices"
	"time"

	"taskguide/bench/figure"
	"taskguide/bench/peer/qemu"
	"taskguide/bench/stats"
	"taskguide/bench/trial"
	"taskguide/control/text"
	"taskguide/control/units"
	"taskguide/migration"
)

// scenario is a guest that is moved in several ways.
type scenario struct {
	name    string
	about   string
	guest   trial.Guest
	bits    int64 // the engine's limit; 0 for none
	rounds  int   // most rounds, 0 for no limit
	ways    []way
	targets []target
	show    []metric
}

// way is a way to move a guest in a scenario.
type way struct {
	name     string
	params   migration.Params
	qemu     *qemu.Migration
	baseline trial.Baseline
	unready  bool // RAM is not preallocated
	before   bool // by the other vmm
}

// has tells whether a way is possible in this setting.
func (at Setting) has(w way) bool {
	return (w.qemu == nil || at.QEMU != "") && (!w.before || at.Before)
}

// target is a ratio to reach.
type target struct {
	m       metric
	of      string   // a way
	against []string // the best of these ways that were measured
	atMost  float64
}

var (
	wayPlain  = way{name: "vmm"}
	wayBefore = way{name: "vmm before", before: true}
	wayOne    = way{name: "vmm, 1 channel, none", params: migration.Params{
		Channels: 1, Compress: migration.CompressNone,
	}}
	wayTwo = way{name: "vmm, 2 channels, none", params: migration.Params{
		Channels: 2, Compress: migration.CompressNone,
	}}
	wayFour = way{name: "vmm, 4 channels, none", params: migration.Params{
		Channels: 4, Compress: migration.CompressNone,
	}}
	wayNone  = way{name: "vmm, none", params: migration.Params{Compress: migration.CompressNone}}
	wayZstd  = way{name: "vmm, zstd", params: migration.Params{Compress: migration.CompressZstd}}
	wayDelta = way{name: "vmm, none, delta", params: migration.Params{
		Compress: migration.CompressNone, Delta: true,
	}}
	wayTCP     = way{name: "raw TCP", baseline: trial.BaselineTCP}
	wayMemcpy  = way{name: "memcpy", baseline: trial.BaselineMemcpy}
	wayQEMU    = way{name: "QEMU", qemu: &qemu.Migration{}}
	wayMultifd = way{name: "QEMU, multifd 2", qemu: &qemu.Migration{Channels: 2}}
	wayXBZRLE  = way{name: "QEMU, xbzrle", qemu: &qemu.Migration{Delta: true}}
)

var anyQEMU = []string{wayQEMU.name, wayMultifd.name}

// resent is the cost on the wire of a page that was sent before.
var resent = metric{"bytes a page sent again", "bytes_resent_page", count,
	func(r trial.Result) (float64, bool) {
		if len(r.Report.Rounds) < 2 || r.Report.PagesStopCopy == trial.Unknown {
			return 0, false
		}
		var bytes, pages int64
		for _, round := range r.Report.Rounds[1:] {
			bytes, pages = bytes+round.BytesWire, pages+round.SentPages
		}
		return float64(bytes) / float64(max(1, pages)), pages > 0
	}}

// wireRate is the throughput on the wire.
var wireRate = metric{"throughput", "bytes_per_s", units.BitRate,
	func(r trial.Result) (float64, bool) {
		n := wireBytes(r)
		return float64(n) / r.Report.TotalMS * 1000, n != trial.Unknown && r.Report.TotalMS > 0
	}}

var speedMetrics = []metric{total, wireRate, downtime, gap, brownout, cpuTime, cpuEngine}

// scenarios are the compared scenarios. Sizes are smaller in a quick run.
func scenarios(size Size) []scenario { return append(byMemory(size), byLink()...) }

// byMemory are the scenarios that differ in how the guest uses its memory.
func byMemory(size Size) []scenario {
	big, filled := int64(2<<30), "1G"
	if size == Quick {
		big, filled = 768<<20, "384M"
	}
	spin := trial.Guest{
		Program: "workload=phased ws=" + filled + " hot=64K fill=random", Cool: time.Second,
		MemoryBytes: big, Prefault: true,
	}
	idle := trial.Guest{Program: "workload=idle", MemoryBytes: big, Prefault: true}
	busy := trial.Guest{
		Program: "workload=phased ws=64M fill=random", Busy: time.Second, MemoryBytes: 512 << 20,
		Prefault: true,
	}
	cool := trial.Guest{
		Program: "workload=phased ws=64M hot=1M fill=random", Cool: time.Second,
		MemoryBytes: 512 << 20, Prefault: true,
	}
	notReady := func(w way) way { w.name += ", RAM not preallocated"; w.unready = true; return w }
	coldQEMU, coldMultifd, cold := notReady(wayQEMU), notReady(wayMultifd), notReady(wayPlain)
	return []scenario{
		{
			"full", filled + " of incompressible pages in " + units.Bytes(big) +
				", the guest spinning, RAM preallocated", spin, 0, 0,
			[]way{
				wayPlain, wayOne, wayTwo, wayFour, wayZstd, wayTCP, wayMemcpy, wayQEMU, wayMultifd,
			},
			[]target{
				{total, wayPlain.name, anyQEMU, 0.6},
				{total, wayPlain.name, []string{wayTCP.name}, 1.3},
			},
			speedMetrics,
		},
		{
			"idle", "an idle guest of " + units.Bytes(big), idle, 0, 0,
			[]way{wayPlain, cold, wayQEMU, wayMultifd, coldQEMU, coldMultifd},
			[]target{
				{total, wayPlain.name, anyQEMU, 0.5},
				{total, cold.name, []string{coldQEMU.name, coldMultifd.name}, 0.2},
			},
			[]metric{total, downtime, wire, cpuTime, cpuEngine},
		},
		{
			"busy", "64 MiB of 512 MiB rewritten all the time at full speed", busy, 0, 0,
			[]way{wayPlain, wayOne, wayTwo, wayQEMU, wayMultifd},
			[]target{{total, wayPlain.name, anyQEMU, 0.5}, {gap, wayPlain.name, anyQEMU, 0.5}},
			speedMetrics,
		},
		{
			"cool", "1 MiB of 512 MiB rewritten: a cool phase", cool, 0, 0,
			[]way{wayPlain, wayQEMU, wayMultifd},
			[]target{{gap, wayPlain.name, anyQEMU, 0.4}}, speedMetrics,
		},
	}
}

// byLink are the scenarios that differ in the link's capacity, and in what need not be sent.
func byLink() []scenario {
	pattern := trial.Guest{
		Program: "workload=phased ws=24M hot=64K fill=pattern", Cool: time.Second,
		MemoryBytes: 96 << 20,
	}
	sparse := trial.Guest{
		Program: "workload=phased ws=16M fill=zero", Busy: time.Second, MemoryBytes: 64 << 20,
	}
	return []scenario{
		{
			"slow link", "24 MiB of pages with a pattern, at 100 Mbit/s", pattern, 100e6, 0,
			[]way{wayPlain, wayNone, wayZstd, wayQEMU},
			[]target{{total, wayPlain.name, []string{wayNone.name}, 1.0 / 3}},
			[]metric{total, wireRate, wire, downtime, gap, cpuTime},
		},
		{
			"fast link", "24 MiB of pages with a pattern, over the loopback", pattern, 0, 0,
			[]way{wayPlain, wayNone, wayZstd},
			[]target{{total, wayPlain.name, []string{wayNone.name, wayZstd.name}, 1.1}},
			[]metric{total, wireRate, wire, downtime, gap, cpuTime},
		},
		{
			"delta",
			"16 MiB where a few words of each page change all the time, at 1 Gbit/s; ours for " +
				"8 rounds, QEMU until its rule is content",
			sparse, 1e9, 8,
			[]way{wayNone, wayDelta, wayZstd, wayXBZRLE},
			[]target{{resent, wayDelta.name, []string{wayNone.name}, 0.2}},
			[]metric{total, wire, resent, pages, downtime, gap, cpuTime},
		},
	}
}

// Speed is the comparison that vmm bench speed runs.
func Speed() Experiment {
	return Experiment{
		Name: "speed", Title: "The copy loop against the wire, memory, and QEMU",
		Summary: "ours by channels and encodings, raw TCP, memcpy and QEMU, in one run",
		Source:  "what a migration could take at best",
		Blocks:  speedBlocks, Report: speedReport, LoopbackOnly: true, Budget: 29 * time.Minute,
	}
}

func speedBlocks(at Setting) [][]trial.Spec {
	return repeat(at.times(1, 6), specsOf(at, speedScenarios(at.Size)))
}

// speedScenarios are the scenarios of the copy loop, and of its cost to the guest.
func speedScenarios(size Size) []scenario {
	return append(scenarios(size), silenceScenarios(size)...)
}

// specsOf returns one trial for each possible way of each scenario.
func specsOf(at Setting, scenarios []scenario) []trial.Spec {
	var all []trial.Spec
	for _, s := range scenarios {
		for _, w := range s.ways {
			if at.has(w) {
				all = append(all, s.spec(w))
			}
		}
	}
	return all
}

func (s scenario) spec(w way) trial.Spec {
	spec := trial.Spec{
		ID: s.name + "/" + w.name, Factors: map[string]string{"scenario": s.name, "way": w.name},
		Guest: s.guest, Params: w.params, QEMU: w.qemu, Baseline: w.baseline, Before: w.before,
		BeatsBefore: 1,
	}
	spec.Guest.Prefault = s.guest.Prefault && !w.unready
	spec.Params.Guidance = migration.GuidanceOff
	spec.Params.BitsPerSecond, spec.Params.MaxRounds = s.bits, s.rounds
	if w.baseline != "" {
		spec.BaselineBytes = s.guest.MemoryBytes / 2 // what the guest has filled
	}
	return spec
}

func (s scenario) groups(results []trial.Result) []group {
	l := levels{factor: "way"}
	for _, w := range s.ways {
		l.values = append(l.values, w.name)
	}
	return groupBy(results, levels{"scenario", []string{s.name}}, l)
}

func (s scenario) table(at Setting, groups []group) Table {
	return tableOf(s.about+" ("+at.peerNames()+")", groups, []string{"way"}, s.show...)
}

// verdicts compares results with the targets, in one line each.
func (s scenario) verdicts(groups []group) []string {
	var lines []string
	for _, t := range s.targets {
		ours, ok := find(groups, map[string]string{"way": t.of})
		best, okBest := bestOf(groups, t)
		if ok && !okBest && t.clockStood(groups) {
			lines = append(lines, fmt.Sprintf("%s: %s of %s cannot be compared, because the "+
				"guest's clock stood still in QEMU's downtime.", s.name, t.m.name, t.of))
		}
		if !ok || !okBest {
			continue
		}
		paired := pairs(ours, best, t.m)
		r, ok := stats.RatioOf(stats.Median, paired)
		if !ok {
			continue
		}
		interval := fmt.Sprintf("(n=%d)", len(paired))
		if r.CI != nil {
			interval = fmt.Sprintf("[%.2f, %.2f]", r.CI.Low, r.CI.High)
		}
		verdict := "met"
		if r.Value > t.atMost {
			verdict = "missed"
		}
		const verdictText = "%s: %s of %s is %.2f %s of that of %s; target at most %.2f: %s."
		lines = append(lines, fmt.Sprintf(verdictText, s.name, t.m.name, t.of, r.Value, interval,
			best.factors["way"], t.atMost, verdict))
	}
	return lines
}

// clockStood tells whether a target is about the gap, and all gaps to compare with are unknown.
func (t target) clockStood(groups []group) bool {
	return t.m.key == gap.key && slices.ContainsFunc(groups, func(g group) bool {
		return slices.Contains(t.against, g.factors["way"]) && len(g.values(gap)) == 0
	})
}

// bestOf is the way with the least median among those that the target names.
func bestOf(groups []group, t target) (group, bool) {
	var best group
	found := false
	for _, name := range t.against {
		g, ok := find(groups, map[string]string{"way": name})
		if ok && len(g.values(t.m)) > 0 &&
			(!found || stats.Median(g.values(t.m)) < stats.Median(best.values(t.m))) {
			best, found = g, true
		}
	}
	return best, found
}

func speedReport(at Setting, results []trial.Result) Findings {
	var f Findings
	for _, s := range speedScenarios(at.Size) {
		groups := s.groups(results)
		if len(groups) == 0 {
			continue
		}
		f.Headlines = append(f.Headlines, s.verdicts(groups)...)
		var samples []figure.Sample
		for _, g := range groups {
			samples = append(samples, figure.Sample{
				Label: g.factors["way"], Colour: g.factors["way"], Values: g.values(total),
			})
		}
		f.Sections = append(f.Sections, Section{
			Title: capital(s.name),
			Figures: []NamedFigure{{
				"speed-" + fileName(s.name), "Total time: " + s.about + ".",
				figure.Strip(s.name+": total time", "total time in ms", samples),
			}},
			Tables: []Table{s.table(at, groups)},
		})
	}
	if len(f.Sections) > 0 {
		f.Sections[0].Text = speedNotes(at)
		if at.QEMU != "" {
			f.Sections[0].Text = append(f.Sections[0].Text, gapText(results))
		}
	}
	return f
}

func speedNotes(at Setting) []string {
	notes := []string{
		"Raw TCP and memcpy move as many bytes as the guest has filled, from one buffer of that " +
			"size to another, while the same guest runs. CPU is that of both processes from the " +
			"request to the end; the guest's share, which is taken off in the last column, is " +
			"that of the source's vCPU threads, to 10 ms.",
	}
	if at.QEMU == "" {
		notes = append(notes,
			"QEMU was not installed where this was run ("+qemu.Binary+" of the package "+
				"qemu-system-x86), so that there is nothing to compare with.")
	}
	return notes
}

// PrintSpeed writes the tables of a run of Speed as text.
func PrintSpeed(w io.Writer, dir string) error {
	run, results, err := Load(dir)
	if err != nil {
		return err
	}
	f := speedReport(run.setting(), judged(latest(results)))
	for _, s := range f.Sections {
		for _, t := range s.Tables {
			if err := t.print(w); err != nil {
				return err
			}
		}
	}
	for _, n := range speedNotes(run.setting())[1:] {
		text.Hanging(w, "", n)
	}
	return PrintHeadlines(w, dir)
}

func (t Table) print(w io.Writer) error {
	fmt.Fprintln(w)
	text.Hanging(w, "", t.Caption)
	return text.Table(w, t.Head, t.Rows)
}
