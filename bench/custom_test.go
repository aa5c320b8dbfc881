package bench

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/bench/peer/qemu"
	"taskguide/bench/trial"
	"taskguide/migration"
)

// small is a file with one guest.
const small = "guests: [{name: a, cmdline: workload=idle}]\n"

func decode(text string) (Custom, error) { return decodeCustom(strings.NewReader(text)) }

// TestCustomFile: each key of a file has its effect on the trials.
func TestCustomFile(t *testing.T) {
	c, err := decode(`
title: Mine
guests:
  - name: own
    kernel: vmlinux
    initrd: initrd.img
    cmdline: console=ttyS0 quiet
    disks: [root.img]
    memory: 2G
    cpus: 4
    ready: "login:"
  - {name: kv, cmdline: workload=kv, busy: 4s, cool: 500ms, tag: fast}
policies: [downtime, "qemu:limit=100ms"]
guidance: ["off", suspend]
trackers: [ring, auto]
rates: [1Gbit, 2.5Gbit]
rtts: [0ms, 20ms]
offsets: [0, 0.25]
repetitions: 3
against: off
downtime_limit: 100ms
max_defer: 5s
compress: none
channels: 2
limit: 5h
`)
	require.NoError(t, err)
	e := c.Experiment()
	require.Equal(t, "Mine", e.Title)
	require.Equal(t, 5*time.Hour, e.budget(Full))
	plan := e.Plan(at(Full), 1)
	require.Len(t, plan, 2*2*2*2*2*2*2*3)
	ids := map[string]trial.Spec{}
	for _, s := range plan {
		require.NotContains(t, ids, s.ID)
		ids[s.ID] = s
	}
	require.Contains(t, ids, "own/downtime/off/ring/1.00 Gbit/s@00")
	own := ids["own/qemu:limit=100ms/suspend/ring/2.50 Gbit/s/20ms@03"]
	require.Equal(t, 20*time.Millisecond, own.RTT)
	require.Equal(t, trial.Guest{
		Program: "console=ttyS0 quiet", Kernel: "vmlinux", Initrd: "initrd.img", Seed: 4,
		Disks: []string{"root.img"}, MemoryBytes: 2 << 30, CPUs: 4, Ready: "login:",
		Tracker: "ring",
	}, own.Guest)
	require.Equal(t, "console=ttyS0 quiet", own.Guest.Cmdline(), "it is told nothing else")
	require.InDelta(t, 0.25, own.Offset, 0)
	require.Equal(t, migration.Params{
		Rule: "qemu:limit=100ms", Guidance: migration.GuidanceSuspend, BitsPerSecond: 25e8,
		DowntimeLimit: 100 * time.Millisecond, MaxDefer: 5 * time.Second, Channels: 2,
		Compress: migration.CompressNone,
	}, own.Params)
	require.Equal(t, "workload=kv busy=4000000us cool=500000us tag=fast seed=1",
		ids["kv/downtime/off/auto/1.00 Gbit/s@00"].Guest.Cmdline())
	require.NotEmpty(t, e.Report(at(Full), resultsOf(e, at(Full))).Headlines)
}

// TestCustomDefaults: a file may be as short as a guest. JSON is a file, too.
func TestCustomDefaults(t *testing.T) {
	c, err := decode(small)
	require.NoError(t, err)
	same, err := decode(`{"guests": [{"name": "a", "cmdline": "workload=idle"}]}`)
	require.NoError(t, err)
	require.Equal(t, c, same)
	plan := c.Experiment().Plan(at(Full), 1)
	require.Len(t, plan, 2*6, "guided and not")
	require.EqualValues(t, 256<<20, plan[0].Guest.MemoryBytes)
	require.EqualValues(t, linkRate, plan[0].Params.BitsPerSecond)
	require.Zero(t, plan[0].Guest.Dots)
}

// TestPhasesOfFiles: a program's own phases are known as keys are, because offsets are points of
// them.
func TestPhasesOfFiles(t *testing.T) {
	guest := func(text string) trial.Guest {
		c, err := decode("guests: [{name: a, " + text + "}]\n")
		require.NoError(t, err)
		return c.Experiment().Plan(at(Full), 1)[0].Guest
	}
	for _, program := range []string{"phased", "matmul", "sort", "kv", "heap"} {
		g := guest("cmdline: workload=idle workload=" + program)
		require.Equal(t, 2*time.Second, g.Cycle(), program)
		require.Contains(t, g.Cmdline(), " busy=1000000us cool=1000000us tag=cool")
	}
	require.Equal(t, 3*time.Second, guest("cmdline: workload=kv, busy: 3s").Cycle())
	require.Zero(t, guest("cmdline: workload=kv workload=idle").Cycle())
	require.Zero(t, guest("kernel: k, cmdline: workload=kv").Cycle(), "it may be another's")

	_, err := decode("guests: [{name: a, cmdline: workload=kv}]\noffsets: [0.5]\n")
	require.NoError(t, err)
	_, err = decode("guests: [{name: a, kernel: k, ready: x, cmdline: busy=1}]\noffsets: [0.5]\n")
	require.NoError(t, err, "a part of a second")
	_, err = decode(small + "offsets: [0.5]\n")
	require.ErrorContains(t, err, "offsets: guest a has no phases")
	for text, word := range map[string]string{
		"cmdline: workload=kv busy=4s cool=1s": "busy=4s",
		"kernel: k, cmdline: x cool=1s":        "cool=1s",
	} {
		_, err = decode("guests: [{name: a, " + text + "}]\n")
		require.ErrorContains(t, err, `cmdline: "`+word+`": give busy and cool as keys`)
	}
}

// TestSecondsOfOwnKernels: a kernel with heartbeats is watched for long enough to know its speed.
func TestSecondsOfOwnKernels(t *testing.T) {
	for text, beats := range map[string]int{
		"cmdline: workload=idle": 0, "kernel: k, ready: x": 0, "kernel: k": ownBeats,
	} {
		c, err := decode("guests: [{name: a, " + text + "}]\n")
		require.NoError(t, err)
		s := c.Experiment().Plan(at(Full), 1)[0]
		require.Equal(t, beats, s.BeatsBefore, text)
		require.Equal(t, beats, s.BeatsAfter, text)
	}
}

// TestCustomPeers: QEMU has rows of its own, which nothing guides, where it is there.
func TestCustomPeers(t *testing.T) {
	c, err := decode(small + "peers: [qemu, qemu-zstd]\nguidance: [switchover]\nagainst: QEMU\n")
	require.NoError(t, err)
	require.True(t, c.NeedsQEMU())
	e := c.Experiment()
	peers := filter(resultsOf(e, at(Full)), func(r trial.Result) bool { return r.Spec.QEMU != nil })
	require.Len(t, peers, 2*6)
	require.Len(t, e.Plan(Setting{Size: Full}, 1), 6)
	f := e.Report(at(Full), resultsOf(e, at(Full)))
	require.Len(t, f.Lead.Rows, 3)
	require.Contains(t, f.Lead.Caption, "QEMU's downtime is its own account")
	require.Contains(t, f.Sections[2].Tables[0].Head, silenceSwitch.name)
	words := strings.Join(f.Sections[0].Text, " ")
	require.Contains(t, words, "at full speed, which favours it")
	require.Contains(t, words, "QEMU's ends when the source has sent everything")

	for _, s := range e.Plan(at(Full), 1) {
		require.Equal(t, dotInterval, s.Guest.Dots, "without dots there is no silence")
	}
	kept, err := json.Marshal(c)
	require.NoError(t, err)
	var again Custom
	require.NoError(t, json.Unmarshal(kept, &again))
	require.Equal(t, e.Plan(at(Full), 1), again.Experiment().Plan(at(Full), 1))
}

// TestGuidedBesideQEMU: nothing guides QEMU, so its moves stand beside guided ones, too, but never
// beside themselves.
func TestGuidedBesideQEMU(t *testing.T) {
	for _, test := range []struct{ file, headline, policy, guidance, against string }{
		{
			"guidance: [switchover]\nagainst: QEMU\n", "downtime, switchover against QEMU: ",
			"downtime", "switchover", "off",
		},
		{
			"guidance: [suspend, switchover]\n", "QEMU, off against downtime, switchover: ",
			"QEMU", "off", "switchover",
		},
		{
			"guidance: [\"off\", switchover]\n", "QEMU, off against downtime: ", "QEMU", "off", "",
		},
	} {
		c, err := decode(small + "peers: [qemu]\n" + test.file)
		require.NoError(t, err)
		e := c.Experiment()
		results := resultsOf(e, at(Full))
		f := e.Report(at(Full), results)
		require.Condition(t, func() bool {
			return slices.ContainsFunc(f.Headlines, func(line string) bool {
				return strings.HasPrefix(line, test.headline)
			})
		}, "%s: %q", test.headline, f.Headlines)
		require.Len(t, f.Sections[0].Tables[0].Rows, len(f.Headlines))
		run := Run{Host: Environment{QEMU: "10.0"}, Custom: &c}
		require.True(t, slices.ContainsFunc(summaryOf(e, run, results, f).Ratios,
			func(r summaryRatio) bool {
				return r.Factors["policy"] == test.policy && r.Pairs == c.Repetitions &&
					r.Factors["guidance"] == test.guidance && r.Metric == downtime.key &&
					r.AgainstGuidance == test.against
			}), test.headline)
	}
	c, err := decode(small + "peers: [qemu]\nagainst: switchover\n")
	require.NoError(t, err)
	e := c.Experiment()
	f := e.Report(at(Full), resultsOf(e, at(Full)))
	require.Len(t, f.Headlines, 1)
	require.Contains(t, f.Headlines[0], "downtime, off against switchover: mean downtime ")
	c, err = decode(small + "policies: [downtime, xen]\n")
	require.NoError(t, err)
	e = c.Experiment()
	results := filter(resultsOf(e, at(Full)), func(r trial.Result) bool {
		return r.Spec.Factors["policy"] == "xen" || r.Spec.Factors["guidance"] == "off"
	})
	f = e.Report(at(Full), results)
	require.Len(t, f.Headlines, 1, "a guided move of ours needs a guided one")
	require.Contains(t, f.Headlines[0], "xen, off against downtime: ")
}

// TestStandstillBesideQEMU: on whichever side QEMU is, a headline does not compare its downtime.
func TestStandstillBesideQEMU(t *testing.T) {
	for against, want := range map[string]string{
		"downtime": "QEMU, off against downtime: the guest's own gap is not known, because its " +
			"clock stood still in QEMU's downtime; the silence of its console at the switch is " +
			"10.0× [10.0×, 10.0×]; mean total time ",
		"QEMU": "downtime, off against QEMU: the guest's own gap is not known, because its clock " +
			"stood still in QEMU's downtime; the silence of its console at the switch is 0.10× " +
			"[0.10×, 0.10×]; mean total time ",
	} {
		c, err := decode(small + "peers: [qemu]\nguidance: [\"off\"]\nagainst: " + against + "\n" +
			"repetitions: 6\n")
		require.NoError(t, err)
		e := c.Experiment()
		f := e.Report(at(Full), withQEMUsGap(e, 3))
		require.Len(t, f.Headlines, 1)
		require.Contains(t, f.Headlines[0], want)
		require.Contains(t, f.Sections[2].Text[0], "which prints a dot every millisecond")
		f = e.Report(at(Full), withQEMUsGap(e, 297))
		require.Contains(t, f.Headlines[0], ": the guest's own gap is ")
		require.NotContains(t, f.Headlines[0], "not known")
	}
}

// TestWaysOfQEMU: a row that the QEMU cannot do is left out, and the report says so.
func TestWaysOfQEMU(t *testing.T) {
	c, err := decode(small + "peers: [qemu-postcopy, qemu-auto-converge, qemu-multifd-zero]\n" +
		"guidance: [\"off\"]\nrepetitions: 1\n")
	require.NoError(t, err)
	for _, test := range []struct {
		ways  []qemu.Way
		more  int
		lacks string
	}{
		{qemu.AllWays, 3, ""},
		{qemu.AllWays[:2], 2, "This QEMU has no multifd zero pages."},
		{nil, 0, "This QEMU has no post-copy, no auto-converge, no multifd zero pages."},
	} {
		setting := Setting{Size: Full, QEMU: "some", Ways: test.ways}
		for _, e := range []Experiment{c.Experiment(), peers()} {
			var results []trial.Result
			needy := map[qemu.Way]bool{}
			for _, s := range e.Plan(setting, 1) {
				results = append(results, made(s))
				if s.QEMU != nil && s.QEMU.Needs() != "" {
					needy[s.QEMU.Needs()] = true
				}
			}
			require.Len(t, needy, test.more, e.Name)
			words := strings.Join(e.Report(setting, results).Sections[0].Text, " ")
			require.Contains(t, words, test.lacks)
			require.Equal(t, test.lacks != "", strings.Contains(words, "This QEMU has no"))
			require.Equal(t, test.more > 0, strings.Contains(words, "With post-copy, QEMU"))
		}
	}
	require.Empty(t, Setting{}.lacks(qemu.Migration{PostCopy: true}), "there is no QEMU at all")
	run := Run{Host: Environment{QEMU: "some"}, Ways: qemu.AllWays}
	require.Equal(t, qemu.AllWays, run.setting().Ways, "a report needs no QEMU")
}

// TestWrongCustomFiles: an error names the line, or else the key.
func TestWrongCustomFiles(t *testing.T) {
	guest := func(rest string) string {
		return "guests: [{name: a, cmdline: workload=idle, " + rest + "}]\n"
	}
	for text, want := range map[string]string{
		"":                                        "it is empty",
		small + strings.Repeat("\n", mostOfFile):  "it is longer than",
		"guests: []\n":                            "guests: there is none",
		small + "\npolicy: xen\n":                 `line 3: unknown key "policy"`,
		guest("vcpus: 2"):                         `line 1: unknown key "vcpus"`,
		small + "guests: []\n":                    "already defined at line 1",
		"guests:\n - {name: a, memory: much}":     `line 2: size "much": no number`,
		small + "rates: [1G]":                     `line 2: rate "1G"`,
		small + "rates: [0]":                      `line 2: rate "0": use more than 0`,
		small + "rates: [[1]]":                    "line 2: ",
		small + "rtts: [5s]":                      "rtts: 5s: use 0 to 2s",
		small + "rtts: [1ms, 1000us]":             `rtts: "1ms" is there twice`,
		small + "max_defer: 3":                    `line 2: duration "3": no unit`,
		small + "repetitions: many":               "line 2: unexpected !!str `many`",
		small + "repetitions: -1":                 "repetitions: -1: use 1 to",
		small + "repetitions: 10001":              "repetitions: 10001: use 1 to",
		small + "offsets: [1]":                    "offsets: 1: use 0 and more",
		small + "offsets: [.nan]":                 "offsets: NaN: use 0 and more",
		small + "policies: [best]":                `policies: "best" is unknown`,
		small + "policies: [xen, xen]":            `policies: "xen" is there twice`,
		small + "guidance: [on]":                  `guidance: "on" is unknown`,
		small + "peers: [xen]":                    `peers: "xen" is unknown: use some of qemu, `,
		small + "compress: gzip":                  "gzip",
		small + "channels: 99":                    "channels",
		small + "against: ring":                   `against: "ring" is no level`,
		small + "peers: [qemu]\ntrackers: [ring]": "peers: QEMU knows no trackers",
		small + "---\n" + small:                   "something behind the experiment",
		small + small:                             "already defined",
		guest("tag: hot"):                         `guests, number 1: tag: "hot" is unknown`,
		guest("memory: 1K"):                       "guests, number 1: memory: 1024 bytes",
		guest("cpus: 256"):                        "cpus: 256: use 1 to 255",
		guest("initrd: f"):                        "initrd: it needs a kernel",
		guest("ready: x"):                         "ready: the embedded guest has heartbeats",
		guest("kernel: k, ready: x, tag: cool"):   "of guests with heartbeats",
		guest("kernel: k") + "peers: [qemu]":      "guest a has a kernel, a disk or no heartbeats",
		"guests: [{name: a}]":                     "cmdline: say what the embedded guest does",
		"guests: [{name: a/b, cmdline: x}]":       `name: "a/b": use a name of one line without`,
		"guests: [{name: a, cmdline: x}, {name: a, cmdline: x}]": `guests: "a" is there twice`,
		"guests: 3": "line 1: unexpected !!int `3`",
		small + "repetitions: 10000\noffsets: [0, 0.1, 0.2, 0.3, 0.4, 0.5]\n": "too many trials",
	} {
		_, err := decode(text)
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), "\n", text)
		require.NotContains(t, err.Error(), "bench.", text)
	}
}

// TestCustomPaths: files are found beside the experiment's file, and must be there.
func TestCustomPaths(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "mine.yaml")
	write := func(path, text string) {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o755))
	}
	write(filepath.Join(dir, "k"), "")
	write(filepath.Join(dir, "rule"), "#!/bin/sh\n")
	write(file, "guests: [{name: a, kernel: k, disks: [/dev/null]}]\n"+
		"policies: [xen, \"exec:./rule\"]\nagainst: \"exec:./rule\"\n")
	t.Chdir(t.TempDir())
	c, err := ReadCustom(file)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "k"), c.Guests[0].Kernel)
	require.Equal(t, []string{"/dev/null"}, c.Guests[0].Disks)
	own := "exec:" + filepath.Join(dir, "rule")
	require.Equal(t, []string{"xen", own}, c.Policies)
	require.Equal(t, own, c.Against)

	for _, text := range []string{
		"guests: [{name: a, kernel: missing}]", small + "policies: [\"exec:./missing\"]",
	} {
		write(file, text)
		_, err = ReadCustom(file)
		require.ErrorIs(t, err, os.ErrNotExist)
		require.ErrorContains(t, err, file)
	}
}

// TestTimeOfCustom: a run has the time that its file gives it, however short, or else 30 s for each
// trial, those of peers too.
func TestTimeOfCustom(t *testing.T) {
	budget := func(text string, repetitions int) time.Duration {
		c, err := decode(small + "repetitions: 4\n" + text)
		require.NoError(t, err)
		o := newOrder(c.Experiment())
		o.Size, o.Factors.Repetitions = Full, repetitions
		return o.budget()
	}
	require.Equal(t, 8*generousTrial, budget("", 0))
	require.Equal(t, 12*generousTrial, budget("peers: [qemu]\n", 0))
	require.Equal(t, 20*generousTrial, budget("", 10))
	require.Equal(t, time.Minute, budget("limit: 1m\n", 0))
	require.Equal(t, time.Minute, budget("limit: 1m\n", 10))
	require.Equal(t, 5*time.Hour, budget("limit: 5h\n", 0))
}

// TestFiguresHaveNamesOfTheirOwn: names of guests that differ only in what a file's name leaves out
// do not share a picture.
func TestFiguresHaveNamesOfTheirOwn(t *testing.T) {
	c, err := decode("guests: [{name: a.b, cmdline: workload=idle}, " +
		"{name: ab, cmdline: workload=idle}]\nrepetitions: 1\n")
	require.NoError(t, err)
	o := newOrder(c.Experiment())
	o.Size = Full
	dir := filepath.Join(t.TempDir(), "out")
	store, err := Create(dir, Run{
		Experiment: customName, Size: Full, Seed: o.Seed, Custom: o.Experiment.Custom,
		Host: Environment{QEMU: o.QEMU},
	})
	require.NoError(t, err)
	_, err = execute(t.Context(), o, &fake{}, nil, store)
	require.NoError(t, err)
	require.NoError(t, store.Close())
	_, err = WriteReportAs(dir, Markdown)
	require.NoError(t, err)
	page := readFile(t, dir, "report.md")
	for _, name := range []string{"downtime-ab", "downtime-ab-2", "total-ab", "total-ab-2"} {
		require.Equal(t, 1, strings.Count(page, "]("+name+".svg)"), name)
		require.FileExists(t, filepath.Join(dir, name+".png"))
	}
	require.NotEqual(t, readFile(t, dir, "downtime-ab.svg"), readFile(t, dir, "downtime-ab-2.svg"))

	named := func(names ...string) (s Section) {
		for _, name := range names {
			s.Figures = append(s.Figures, NamedFigure{Name: name})
		}
		return s
	}
	f := Findings{Sections: []Section{named("a", "a"), named("a-2", "a")}}
	f.nameApart()
	require.Equal(t, []Section{named("a", "a-2"), named("a-2-2", "a-3")}, f.Sections)
}

// TestExampleOfCustom: the example is what it says.
func TestExampleOfCustom(t *testing.T) {
	c, err := ReadCustom("../examples/bench/own-policy.yaml")
	require.NoError(t, err)
	plan := c.Experiment().Plan(at(Full), 1)
	require.Len(t, plan, 2*3*2*6)
	c, err = ReadCustom("../examples/bench/map-check.yaml")
	require.NoError(t, err)
	require.Len(t, c.Guests, 6)
}

// TestCustomIsKept: a report needs no file, and a changed file does not go on.
func TestCustomIsKept(t *testing.T) {
	c, err := decode(small + "peers: []\nrepetitions: 2\n")
	require.NoError(t, err)
	o := newOrder(c.Experiment())
	dir := filepath.Join(t.TempDir(), "out")
	store, err := Create(dir, Run{
		Experiment: customName, Size: Full, Seed: 5, Custom: o.Experiment.Custom, Trials: 4,
	})
	require.NoError(t, err)
	o.Size = Full
	_, err = execute(t.Context(), o, &fake{}, nil, store)
	require.NoError(t, err)
	require.NoError(t, store.Close())
	_, err = WriteReport(dir)
	require.NoError(t, err)
	run, _, err := Load(dir)
	require.NoError(t, err)
	require.NoError(t, sameCustom(run.Custom, &c), "kept and read again")
	c.Title = "another"
	_, err = (&Session{
		Dir: dir, Order: newOrder(c.Experiment()), Resume: true,
	}).Run(t.Context())
	require.ErrorContains(t, err, "its file has changed since")
	_, err = (&Session{Dir: dir, Order: newOrder(tagging()), Resume: true}).Run(t.Context())
	require.ErrorContains(t, err, "results of custom")
}

// TestTooManyTrials: no file has more than are asked for, also if their number is beyond an int.
func TestTooManyTrials(t *testing.T) {
	c, err := decode(small)
	require.NoError(t, err)
	for _, n := range []int{1 << 11, 1 << 13, 1 << 16} {
		many := c
		many.Rates = slices.Repeat(c.Rates, n)
		many.Offsets = slices.Repeat([]float64{0}, n)
		many.Guests = slices.Repeat(c.Guests, n)
		many.Policies = slices.Repeat(c.Policies, n)
		many.Guidance = slices.Repeat(c.Guidance, n)
		require.Equal(t, mostTrials+1, many.trials(), n)
		require.ErrorContains(t, many.checkRest(), "too many trials")
	}
	c.Guests = slices.Repeat(c.Guests, mostTrials/mostRepetitions)
	c.Policies, c.Guidance, c.Rates = c.Policies[:1], c.Guidance[:1], c.Rates[:1]
	at := Setting{Factors: Factors{Repetitions: mostRepetitions}}
	require.NoError(t, c.Experiment().CheckFactors(at))
	c.Guests = append(c.Guests, c.Guests[0])
	require.ErrorContains(t, c.Experiment().CheckFactors(at), "too many trials")
}

// TestNamesArePrintable: names are printed on terminals and in tables.
func TestNamesArePrintable(t *testing.T) {
	for _, text := range []string{
		`guests: [{name: "a\e[2J", cmdline: workload=idle}]`,
		`guests: [{name: "a\nb", cmdline: workload=idle}]`,
		"title: \"x\\n\\n# Fake\"\n" + small,
	} {
		_, err := decode(text)
		require.ErrorContains(t, err, "one line", text)
	}
	_, err := decode(small + `policies: ["exec:/a\e[2J"]`)
	require.ErrorContains(t, err, "can be printed")
}

// FuzzCustom: whatever a file says, it is refused in one line or has a plan of bounded size.
func FuzzCustom(f *testing.F) {
	example, err := os.ReadFile("../examples/bench/own-policy.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(example))
	f.Add(small)
	f.Add("guests: [{name: a, kernel: k, ready: x, disks: [d]}]\nrates: [1]\npeers: [qemu]")
	f.Add("a: &a [*a]")
	f.Add("guests: &g [{name: a, cmdline: x}]\npolicies: *g")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := decode(text)
		if err != nil {
			require.NotContains(t, err.Error(), "\n")
			return
		}
		if c.trials() > 1000 {
			return
		}
		plan := c.Experiment().Plan(Setting{Size: Full}, 1)
		require.Len(t, plan, c.trials())
		for _, s := range plan {
			p := s.Params
			if strings.HasPrefix(string(p.Rule), "exec:") {
				continue // locate makes its path absolute
			}
			p.Destination = "unix:/"
			_, err := p.WithDefaults()
			require.NoError(t, err)
		}
	})
}
