package bench

import (
	"fmt"
	"slices"
	"time"

	"taskguide/bench/figure"
	"taskguide/bench/peer/qemu"
	"taskguide/bench/trial"
	"taskguide/migration"
)

// peer is a VMM and a way of migrating.
type peer struct {
	name     string
	guidance migration.Guidance
	channels int
	compress migration.Compress
	untold   bool // the VMM does not know the link's rate
	qemu     *qemu.Migration
	limits   []time.Duration // downtime limits to try
}

// Downtime limits: defaultLimit is that of QEMU and of ours.
const (
	defaultLimit = migration.DefaultDowntimeLimit
	leastLimit   = 30 * time.Millisecond
)

func peerList(at Setting) []peer {
	sweep := []time.Duration{leastLimit, 100 * time.Millisecond, defaultLimit, time.Second}
	if at.Size == Quick {
		sweep = []time.Duration{leastLimit, defaultLimit}
	}
	once := []time.Duration{defaultLimit}
	all := []peer{
		{name: "vmm, unguided", guidance: migration.GuidanceOff, limits: sweep},
		{name: "vmm, guided", guidance: migration.GuidanceSwitchover, limits: sweep},
		{
			name: "vmm, zstd, unguided", guidance: migration.GuidanceOff,
			compress: migration.CompressZstd, limits: once,
		},
		{
			name: "vmm, zstd, guided", guidance: migration.GuidanceSwitchover,
			compress: migration.CompressZstd, limits: once,
		},
		{
			name: "vmm, 1 channel, raw, unguided", guidance: migration.GuidanceOff, channels: 1,
			compress: migration.CompressNone, limits: once,
		},
		{
			name: "vmm, 1 channel, raw, guided", guidance: migration.GuidanceSwitchover,
			channels: 1, compress: migration.CompressNone, limits: once,
		},
	}
	if at.BitsPerSecond > 0 {
		all = append(all, peer{
			name: "vmm, rate not told, unguided", guidance: migration.GuidanceOff, untold: true,
			limits: once,
		})
	}
	for _, p := range qemuPeers {
		if !at.can(p.way) {
			continue
		}
		limits := once
		if p.way == (qemu.Migration{}) {
			limits = sweep
		}
		all = append(all, peer{name: p.name, qemu: &p.way, limits: limits})
	}
	return all
}

// qemuPeers are QEMU's rows. Those that not every QEMU can do come last.
var qemuPeers = []struct {
	name string
	way  qemu.Migration
}{
	customPeers["qemu"], customPeers["qemu-multifd"], customPeers["qemu-zstd"],
	customPeers["qemu-auto-converge"], customPeers["qemu-postcopy"],
	customPeers["qemu-multifd-zero"], customPeers["qemu-multifd-legacy-zero"],
}

// wayOf returns the way of the row of that name.
func wayOf(name string) (way qemu.Migration) {
	for _, p := range customPeers {
		if p.name == name {
			way = p.way
		}
	}
	return way
}

// lackingPeers says which rows a QEMU has not, or "".
func lackingPeers(at Setting) string {
	var ways []qemu.Migration
	for _, p := range qemuPeers {
		ways = append(ways, p.way)
	}
	return at.lacks(ways...)
}

// postCopyText says what a row of post-copy means.
const postCopyText = "With post-copy, QEMU runs the guest at the destination after one round, " +
	"whatever the limit, and fetches what is missing. Its downtime ends when the devices' state " +
	"was sent, before most of RAM: the guest then stands still at each page that it has to wait " +
	"for. Only the silences show that, and the guest's own gap, if it is known. Its total time " +
	"ends when all pages are there."

// zeroPagesText says what the rows of zero pages mean.
const zeroPagesText = "“Zero pages” are looked for in multifd's channels, or, if “legacy”, by " +
	"the thread that feeds them. The other rows of multifd have QEMU's default."

// waysText says what the rows of some ways mean.
func waysText(ways []qemu.Way) []string {
	var all []string
	if slices.Contains(ways, qemu.PostCopy) {
		all = append(all, postCopyText)
	}
	if slices.Contains(ways, qemu.ZeroPages) {
		all = append(all, zeroPagesText)
	}
	return all
}

// unlikeText says how the VMMs' own limits differ.
const unlikeText = "QEMU sends its stop-and-copy at full speed, which favours it, and its " +
	"multifd counts bytes before it compresses them, which does the opposite."

// downtimesText says what the downtimes are.
const downtimesText = "The downtimes are each VMM's own account and not quite comparable: QEMU's " +
	"ends when the source has sent everything, ours when the destination reports that the vCPUs " +
	"run."

func peers() Experiment {
	return Experiment{
		Name: "peers", Title: "Beside QEMU",
		Summary: "QEMU plain, multifd, zstd, auto-converge and post-copy, on the same guest and " +
			"link, and its downtime limit swept",
		Source: "the thesis' comparison of stop rules, with the VMM that most of the world runs",
		Blocks: peersBlocks, Report: peersReport, SharedLink: true,
		Budget: 29 * time.Minute,
	}
}

func peersBlocks(at Setting) [][]trial.Spec {
	var all []trial.Spec
	for _, p := range peerList(at) {
		for _, limit := range p.limits {
			rate := at.rate()
			if p.untold {
				rate = 0
			}
			all = append(all, trial.Spec{
				ID:      fmt.Sprintf("%s/%v", p.name, limit),
				Factors: map[string]string{"peer": p.name, "limit": limit.String()},
				Guest: trial.Guest{
					Program: "workload=phased ws=64M hot=1M fill=pattern", Busy: time.Second,
					Cool: time.Second, Tag: trial.TagCool, MemoryBytes: 256 << 20, CPUs: 1,
					Dots: dotInterval,
				},
				Params: migration.Params{
					Guidance: p.guidance, Channels: p.channels, Compress: p.compress,
					DowntimeLimit: limit, BitsPerSecond: rate, MaxDefer: 20 * time.Second,
				},
				QEMU: p.qemu,
			})
		}
	}
	return repeat(at.times(3, 10), all)
}

func peersReport(at Setting, results []trial.Result) Findings {
	names, limits := levels{factor: "peer"}, levels{
		"limit", []string{leastLimit.String(), "100ms", defaultLimit.String(), "1s"},
	}
	for _, p := range peerList(at) {
		names.values = append(names.values, p.name)
	}
	groups := groupBy(results, names, limits)
	atDefault := groupBy(filter(results, func(r trial.Result) bool {
		return r.Spec.Factors["limit"] == defaultLimit.String()
	}), names)
	f := Findings{Headlines: peerHeadlines(groups)}
	f.Sections = []Section{
		{
			Title: "All indicators at the default limit",
			Text: []string{
				linkText(at) + " The program's pages compress, which vmm finds out for itself " +
					"after a while; “zstd” is told to compress from the beginning, and “raw” " +
					"does without, and with one connection, as plain QEMU does. The same guest, " +
					"the same downtime limit of 300 ms. " + downtimesText + " " +
					gapText(results) + " QEMU does not tell how many pages its stop-and-copy " +
					"had. " +
					silenceText,
			},
			Figures: []NamedFigure{
				{
					"peers-gap", "The guest's own gap around the move, by VMM.",
					figure.Strip("The guest's own gap", "gap in ms", samplesBy(atDefault, gap)),
				},
				{"peers-total", "Total time, by VMM.", figure.Strip("Total time",
					"total time in ms", samplesBy(atDefault, total))},
			},
			Tables: []Table{tableOf(
				medians(at), atDefault, []string{"peer"}, gap, silenceRounds, silenceSwitch,
				downtime, total, wire, pages, rounds, cpuEngine,
			)},
		},
		{
			Title: "The downtime limit swept",
			Text: []string{"A smaller limit makes a migration wait for a calmer moment by its " +
				"own measurements; guidance knows of one."},
			Tables: []Table{tableOf(
				medians(at), groups, []string{"peer", "limit"}, gap, downtime, total, pages,
			)},
		},
	}
	f.Sections[0].Text = append(f.Sections[0].Text, waysText(at.Ways)...)
	if lacks := lackingPeers(at); lacks != "" {
		f.Sections[0].Text = append(f.Sections[0].Text, lacks)
	}
	if at.QEMU == "" {
		f.Sections[0].Text = append(f.Sections[0].Text,
			"QEMU was not installed where this was run ("+qemu.Binary+" of the package "+
				"qemu-system-x86).")
	}
	return f
}

// medians is the caption of a table with QEMU in it.
func medians(at Setting) string {
	return "Medians with 95 % intervals (" + at.peerNames() + ")"
}

// linkText says whether all VMMs had the same link.
func linkText(at Setting) string {
	if at.BitsPerSecond > 0 {
		return "All go over one link, shaped to " + at.rateName() +
			" by the kernel, which also counts what they send. vmm is told that rate " +
			"(--bandwidth), but for the row that says it is not. QEMU is not: its own limit is " +
			"none in its stop-and-copy, and counts multifd's bytes before they are compressed."
	}
	return "Without a link between network namespaces, which takes root, each VMM limits " +
		"itself to " + at.rateName() + ", and not alike: " + unlikeText
}

// peersText says what figures of QEMU are worth beside ours in an experiment of a file, whose moves
// go over the loopback.
func peersText(names []string) []string {
	if len(names) == 0 {
		return nil
	}
	var ways []qemu.Way
	for _, name := range names {
		ways = append(ways, wayOf(name).Needs())
	}
	return append([]string{
		"All go over the loopback, where each VMM limits itself to the rate of the link, and not " +
			"alike: " + unlikeText + " " + downtimesText + " So headlines with QEMU compare the " +
			"guest's own gaps, or the silences of its console. Nothing guides QEMU: guided moves " +
			"are compared with it all the same, and its own with unguided ones if there are any.",
	}, waysText(ways)...)
}

func samplesBy(groups []group, m metric) []figure.Sample {
	var samples []figure.Sample
	for _, g := range groups {
		samples = append(samples,
			figure.Sample{Label: g.factors["peer"], Colour: g.factors["peer"], Values: g.values(m)})
	}
	return samples
}

// peerHeadlines compares guided migrations with each of QEMU's at the default limit, compressed
// with compressed, and with plain QEMU at the least limit that was tried, which is QEMU's best.
func peerHeadlines(groups []group) []string {
	var lines []string
	for _, g := range groups {
		q, limit := g.results[0].Spec.QEMU, g.factors["limit"]
		if q == nil || limit != defaultLimit.String() && limit != leastLimit.String() {
			continue
		}
		name := "vmm, guided"
		if q.Compression == qemu.Zstd {
			name = "vmm, zstd, guided"
		}
		if ours, ok := find(groups, map[string]string{"peer": name, "limit": limit}); ok {
			lines = append(lines, fmt.Sprintf("%s, against %s, limit %s: %s, the total time %s.",
				name, g.factors["peer"], limit, standstillText(ours, g), ratio(ours, g, total)))
		}
	}
	return lines
}
