package bench

import (
	"fmt"

	"taskguide/bench/figure"
	"taskguide/bench/peer/qemu"
	"taskguide/bench/trial"
	"taskguide/control/units"
	"taskguide/migration"
)

func disk() Experiment {
	return Experiment{
		Name: "disk", Title: "A disk, beside QEMU",
		Summary: "throughput and latency of a virtio disk, and what a busy one costs in downtime",
		Source:  "the project's own: the guests of the thesis have no devices",
		Blocks:  diskBlocks, Report: diskReport, LoopbackOnly: true,
	}
}

const (
	diskVMM  = "vmm"
	diskQEMU = "QEMU"
	diskIdle = "none"
	// diskBytes is more than the guest uses.
	diskBytes = 64 << 20
)

func card() Experiment {
	return Experiment{
		Name: "card", Title: "A network card, beside QEMU",
		Summary: "round trips of a virtio card on a socket, and what a busy one costs in downtime",
		Source:  "the project's own: the guests of the thesis have no devices",
		Blocks:  cardBlocks, Report: cardReport, LoopbackOnly: true,
	}
}

var cardLoads = []diskLoad{
	{diskIdle, "workload=idle spin=1"},
	{"frames, 1 at a time", "workload=net depth=1"},
	{"frames, 16 at a time", "workload=net depth=16"},
}

// diskLoad is what the guest does with its disk or card.
type diskLoad struct{ name, program string }

var diskLoads = []diskLoad{
	{diskIdle, "workload=idle spin=1"},
	{"read 4K, 1 at a time", diskProgram("block=4K depth=1 writes=0")},
	{"write 4K, 1 at a time", diskProgram("block=4K depth=1 writes=100")},
	{"read 4K, 16 at a time", diskProgram("block=4K depth=16 writes=0")},
	{"write 4K, 16 at a time", diskProgram("block=4K depth=16 writes=100")},
	{"read 256K, 4 at a time", diskProgram("block=256K depth=4 writes=0")},
	{"write 256K, 4 at a time", diskProgram("block=256K depth=4 writes=100")},
}

func diskProgram(load string) string { return "workload=disk ws=32M " + load }

var diskPeers = levels{"vmm", []string{diskVMM, diskQEMU}}

func levelsOf(loads []diskLoad) levels {
	l := levels{factor: "load"}
	for _, load := range loads {
		l.values = append(l.values, load.name)
	}
	return l
}

var (
	diskRate = metric{"throughput of data", "disk_bytes_per_s",
		func(v float64) string { return units.Bytes(int64(v)) + "/s" },
		diskOf(func(d trial.Disk) float64 { return d.BytesPerS })}
	diskP50 = metric{"p50 of requests", "disk_p50_ms", units.Milliseconds,
		diskOf(func(d trial.Disk) float64 { return d.P50 / 1000 })}
	diskP99 = metric{"p99 of requests", "disk_p99_ms", units.Milliseconds,
		diskOf(func(d trial.Disk) float64 { return d.P99 / 1000 })}
)

func diskOf(f func(trial.Disk) float64) func(trial.Result) (float64, bool) {
	return func(r trial.Result) (float64, bool) {
		if r.Disk == nil {
			return 0, false
		}
		return f(*r.Disk), true
	}
}

func diskBlocks(at Setting) [][]trial.Spec {
	return deviceBlocks(at, diskLoads, trial.Guest{DiskBytes: diskBytes})
}

func cardBlocks(at Setting) [][]trial.Spec {
	return deviceBlocks(at, cardLoads, trial.Guest{Card: true})
}

func deviceBlocks(at Setting, loads []diskLoad, g trial.Guest) [][]trial.Spec {
	g.MemoryBytes, g.CPUs = 64<<20, 1
	var all []trial.Spec
	for _, name := range diskPeers.values {
		var peer *qemu.Migration
		if name == diskQEMU {
			if peer = (&qemu.Migration{}); at.QEMU == "" {
				continue
			}
		}
		for _, load := range loads {
			g.Program = load.program
			all = append(all, trial.Spec{
				ID:          name + "/" + load.name,
				Factors:     map[string]string{diskPeers.factor: name, "load": load.name},
				Guest:       g,
				Params:      migration.Params{Guidance: migration.GuidanceOff},
				QEMU:        peer,
				BeatsBefore: map[Size]int{Quick: 1, Full: 3}[at.Size],
			})
		}
	}
	return repeat(at.times(1, 6), all)
}

func diskReport(at Setting, results []trial.Result) Findings {
	return deviceReport(at, diskLoads, results,
		"The guest drives a virtio disk from CPL 3, polls for answers and verifies what it "+
			"reads. vmm has the disk with cache=auto, QEMU with cache=none, aio=native and a "+
			"thread of its own (iothread). Both write the same kind of file past the host's "+
			"page cache, where the file system lets them.")
}

func cardReport(at Setting, results []trial.Result) Findings {
	return deviceReport(at, cardLoads, results,
		"The guest drives a virtio network card from CPL 3, polls, and verifies the frames that "+
			"come back. Both VMMs have the card on the same stream socket (QEMU: -netdev "+
			"stream), and the bench sends each frame back.")
}

func deviceReport(at Setting, loads []diskLoad, results []trial.Result, how string) Findings {
	groups := groupBy(results, levelsOf(loads), diskPeers)
	shown := []metric{diskRate, diskP50, diskP99, downtime, gap}
	beside := Table{
		Caption: "vmm divided by QEMU, from trials of the same blocks", Head: []string{"load"},
	}
	for _, m := range shown {
		beside.Head = append(beside.Head, m.name)
	}
	var f Findings
	for _, load := range loads {
		ours, ok := find(groups, map[string]string{"load": load.name, diskPeers.factor: diskVMM})
		theirs, both := find(groups,
			map[string]string{"load": load.name, diskPeers.factor: diskQEMU})
		if !ok || !both {
			continue
		}
		row := []string{load.name}
		for _, m := range shown {
			row = append(row, ratio(ours, theirs, m))
		}
		beside.Rows = append(beside.Rows, row)
		if load.name != diskIdle {
			f.Headlines = append(f.Headlines, fmt.Sprintf(
				"%s: throughput %s that of QEMU, latency (p50) %s.", load.name, row[1], row[2]))
		}
	}
	f.Sections = []Section{{
		Title: "Throughput and latency, and downtime under that load",
		Text: []string{
			how + " Load “none” is a guest that leaves its device alone: what the others " +
				"take more of is the cost of a busy one. The downtimes are each VMM's own " +
				"account. " + gapText(results),
		},
		Figures: []NamedFigure{{
			"device-gap", "The guest's own gap, by VMM.",
			figure.Strip("The guest's own gap", "gap in ms", diskGaps(groups)),
		}},
		Tables: []Table{tableOf(medians(at), groups, []string{"load", diskPeers.factor},
			append(shown, gapBefore)...)},
	}}
	if len(beside.Rows) > 0 {
		f.Sections[0].Tables = append(f.Sections[0].Tables, beside)
	}
	return f
}

func diskGaps(groups []group) []figure.Sample {
	var samples []figure.Sample
	for _, g := range groups {
		vmm := g.factors[diskPeers.factor]
		samples = append(samples, figure.Sample{
			Label: vmm + ", " + g.factors["load"], Colour: vmm, Values: g.values(gap),
		})
	}
	return samples
}
