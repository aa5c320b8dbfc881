package bench

import (
	"fmt"
	"time"

	"taskguide/bench/figure"
	"taskguide/bench/trial"
	"taskguide/migration"
)

func overhead() Experiment {
	return Experiment{
		Name: "overhead", Title: "What it costs when nothing is gained",
		Summary: "the speed of programs that tag often, and what pre-copy slows down",
		Source:  "the thesis' discussion of overhead",
		Blocks:  overheadBlocks, Report: overheadReport, LoopbackOnly: true,
	}
}

var (
	overheadTags = levels{
		"tags", []string{string(trial.TagNone), string(trial.TagCool), string(trial.TagFast)},
	}
	overheadLengths = levels{"segment", []string{"100 ms", "10 ms", "1 ms"}}
	brownoutWays    = levels{"engine", []string{
		"1 channel", "2 channels", "4 channels", "1 channel, 5 Gbit/s", "1 channel, zstd",
	}}
)

func overheadBlocks(at Setting) [][]trial.Spec {
	return append(repeat(at.times(2, 10), tagCosts()),
		repeat(at.times(1, 6), brownouts(at.Size))...)
}

func tagCosts() []trial.Spec {
	lengths := []time.Duration{100 * time.Millisecond, 10 * time.Millisecond, time.Millisecond}
	var all []trial.Spec
	for i, name := range overheadLengths.values {
		for _, tag := range overheadTags.values {
			all = append(all, trial.Spec{
				ID:      fmt.Sprintf("tags/%s/%s", name, tag),
				Factors: map[string]string{"part": "tags", "segment": name, "tags": tag},
				Guest: trial.Guest{
					Program: "workload=phased ws=8M hot=0 watch=0", Busy: lengths[i],
					Cool: lengths[i], Tag: trial.Tag(tag), MemoryBytes: 32 << 20, CPUs: 1,
				},
				Params:      migration.Params{Guidance: migration.GuidanceOff},
				BeatsBefore: 2,
			})
		}
	}
	return all
}

// brownouts have much to send, so that pre-copy is long enough for a heartbeat once a second to
// show its effect.
func brownouts(size Size) []trial.Spec {
	filled, memory := "2G", int64(2304<<20)
	if size == Quick {
		filled, memory = "768M", 1<<30
	}
	var all []trial.Spec
	for i, name := range brownoutWays.values {
		params := migration.Params{
			Guidance: migration.GuidanceOff, Channels: []int{1, 2, 4, 1, 1}[i],
			Compress: migration.CompressNone,
		}
		switch i {
		case 3:
			params.BitsPerSecond = 5e9
		case 4:
			params.Compress = migration.CompressZstd
		}
		all = append(all, trial.Spec{
			ID:      "brownout/" + name,
			Factors: map[string]string{"part": "brownout", "engine": name},
			Guest: trial.Guest{
				Program: "workload=phased ws=" + filled + " hot=32M fill=random", Cool: time.Second,
				Tag: trial.TagNone, MemoryBytes: memory, CPUs: 1, Prefault: true,
			},
			Params:      params,
			BeatsBefore: 2, BeatsAfter: 2,
		})
	}
	return all
}

func overheadReport(_ Setting, results []trial.Result) Findings {
	tags := groupBy(results, levels{"part", []string{"tags"}}, overheadLengths, overheadTags)
	engines := groupBy(results, levels{"part", []string{"brownout"}}, brownoutWays)
	cost := Table{
		Caption: "Speed of the tagged program against the untagged one: 1 is no cost",
		Head:    []string{"segment", "tags", "speed"},
	}
	var f Findings
	for _, g := range tags {
		base, ok := find(tags,
			map[string]string{"segment": g.factors["segment"], "tags": string(trial.TagNone)})
		if !ok || g.is("tags", string(trial.TagNone)) {
			continue
		}
		r := ratio(g, base, speed)
		cost.Rows = append(cost.Rows, []string{g.factors["segment"], g.factors["tags"], r})
		f.Headlines = append(f.Headlines,
			fmt.Sprintf("A program with segments of %s, tagged by %s: %s of its untagged speed.",
				g.factors["segment"], describeWay(g.factors["tags"]), r))
	}
	f.Sections = []Section{
		{
			Title: "Tags while nobody migrates",
			Text: []string{
				"The program writes for a while and waits for as long, and tags the waiting. Its " +
					"speed is what it writes in a second; only the length of the phases differs. " +
					"A tag that is a store to the tag port leaves the VM, one in the tag page " +
					"does not.",
			},
			Figures: []NamedFigure{{
				"overhead-speed", "Speed of the program by length of its phases and way to tag.",
				figure.Strip("Speed while nobody migrates", "pages written per second",
					speedSamples(tags)),
			}},
			Tables: []Table{cost, tableOf("Pages written per second before any migration; "+
				"medians with 95 % intervals",
				tags, []string{"segment", "tags"}, speed)},
		},
		{
			Title: "Brownout: the guest while pre-copy runs",
			Text: []string{
				"The guest has 2 GiB of incompressible pages (768 MiB in a quick run) and " +
					"rewrites 32 MiB of them without a pause. Brownout is the part of its speed " +
					"that it loses while pre-copy runs, its gap left out: every first write to a " +
					"page in a round is trapped for the dirty log, and the engine's threads take " +
					"processors from it. Its sending and receiving sides both run on this host; " +
					"between two hosts each has its own.",
			},
			Figures: []NamedFigure{{
				"overhead-brownout",
				"Speed that the guest loses while pre-copy runs, by what the engine does.",
				figure.LinearStrip("Brownout while pre-copy runs", "speed lost (%)",
					brownoutSamples(engines)),
			}},
			Tables: []Table{tableOf("Medians with 95 % intervals", engines,
				[]string{"engine"}, brownout, total, downtime, gap, cpuEngine)},
		},
	}
	return f
}

func speedSamples(groups []group) []figure.Sample {
	var samples []figure.Sample
	for _, g := range groups {
		tags := g.factors["tags"]
		samples = append(samples, figure.Sample{
			Group: g.factors["segment"], Label: "tags " + tags, Colour: colourOfTags(tags),
			Values: g.values(speed),
		})
	}
	return samples
}

func brownoutSamples(groups []group) []figure.Sample {
	var samples []figure.Sample
	for _, g := range groups {
		s := figure.Sample{Label: g.factors["engine"], Colour: g.factors["engine"]}
		for _, v := range g.values(brownout) {
			s.Values = append(s.Values, 100*v)
		}
		samples = append(samples, s)
	}
	return samples
}

// colourOfTags is the name of a colour. Here a true tag guides nothing, and only the way to set it
// differs.
// differs.
func colourOfTags(tag string) string {
	if tag == string(trial.TagCool) {
		return "port"
	}
	return tag
}

func describeWay(tag string) string {
	return map[string]string{"cool": "stores to the tag port", "fast": "the tag page"}[tag]
}
