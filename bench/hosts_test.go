package bench

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/bench/remote"
	"taskguide/bench/shard"
	"taskguide/bench/trial"
)

func twoHosts(t *testing.T) TwoHosts {
	t.Helper()
	var h TwoHosts
	var err error
	h.Source, err = remote.ParseTarget("ssh:me@a")
	require.NoError(t, err)
	h.Destination, err = remote.ParseTarget("ssh:b,address=10.0.0.2")
	require.NoError(t, err)
	return h
}

func runHosts(t *testing.T) *RunHosts {
	return &RunHosts{
		Source:      RunHost{SSH: twoHosts(t).Source.String()},
		Destination: RunHost{SSH: twoHosts(t).Destination.String()},
		Clocks:      trial.Clocks{AheadMS: 0.25, WithinMS: 0.5},
	}
}

// TestSameHosts: a run goes on between the hosts at which it began, and in the same way.
func TestSameHosts(t *testing.T) {
	h := twoHosts(t)
	require.NoError(t, sameHosts(nil, TwoHosts{}))
	require.NoError(t, sameHosts(runHosts(t), h))
	require.ErrorIs(t, sameHosts(nil, h), errOtherHosts)
	require.ErrorIs(t, sameHosts(runHosts(t), TwoHosts{}), errOtherHosts)
	require.ErrorIs(t, sameHosts(runHosts(t), TwoHosts{Source: h.Source, Destination: h.Source}),
		errOtherHosts)
	plain := h
	plain.Insecure = true
	require.ErrorIs(t, sameHosts(runHosts(t), plain), errOtherHosts)
	require.ErrorIs(t, sameHosts(runHosts(t), TwoHosts{h.Destination, h.Source, false}),
		errOtherHosts)
}

// TestCheckHosts: an experiment that needs one host says why it is none of two.
func TestCheckHosts(t *testing.T) {
	for name, why := range map[string]string{
		"tagging": "", "policies": "", "interrupt": "", "validity": "",
		"simulated": "a relay", "sweep": "loopback of one host",
		"speed": "a baseline", "disk": "common store", "card": "a network",
		"moves": "back and forth",
	} {
		e, err := Find(name)
		require.NoError(t, err)
		err = e.CheckHosts(Setting{Size: Quick})
		if why == "" {
			require.NoError(t, err, name)
		} else {
			require.ErrorContains(t, err, why, name)
			require.ErrorContains(t, err, "--source and --destination", name)
		}
	}
	c := Custom{Guests: []CustomGuest{
		{Name: "g", Cmdline: "workload=phased", Disks: []string{"d"}},
	}}
	c.defaults()
	require.ErrorContains(t, c.Experiment().CheckHosts(Setting{Size: Full}), "common store")
}

// TestClocksAreTold: the report, its text and its banner have the difference of the clocks.
func TestClocksAreTold(t *testing.T) {
	e := tagging()
	results := resultsOf(e, at(Quick))
	run := Run{Experiment: e.Name, Size: Quick, Trials: len(results), Hosts: runHosts(t)}
	told := func() string {
		findings := e.Report(at(Quick), results)
		p := pageOf(e, run, results, findings)
		_, page, err := render(p, HTML)
		require.NoError(t, err)
		require.Contains(t, string(page), "is ahead by 0.250 ms (within 0.500 ms)")
		require.Contains(t, string(page), "from ssh:me@a to ssh:b,address=10.0.0.2, over TLS")
		require.Contains(t, p.Command, " --source ssh:me@a --destination ssh:b,address=10.0.0.2 ")
		file := filepath.Join(t.TempDir(), textFile)
		s := summaryOf(e, run, results, findings)
		require.NoError(t, writeText(file, s, results, findings))
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		return strings.Join(strings.Fields(string(b)), " ")
	}
	require.Contains(t, told(), "ahead by 0.250 ms (within 0.500 ms)")
	results[1].Clocks = &trial.Clocks{AheadMS: 0.1, WithinMS: 0.1}
	results[2].Clocks = &trial.Clocks{AheadMS: -1.4, WithinMS: 0.5}
	require.Contains(t, told(), "in trials by at most -1.400 ms (within 0.500 ms)")
	require.NotContains(t, told(), "CLOCKS", "it may be below 1 ms")
	results[3].Clocks = &trial.Clocks{AheadMS: -1.6, WithinMS: 0.5}
	require.Contains(t, told(), "CLOCKS: the destination's clock is ahead by up to -1.600 ms")
	results[3].Error = "void"
	require.NotContains(t, told(), "CLOCKS", "void trials do not count")
}

// TestCertainClocksAreNotHidden: what counts for the banner is how much clocks differ at least.
func TestCertainClocksAreNotHidden(t *testing.T) {
	sure := trial.Result{Clocks: &trial.Clocks{AheadMS: 1.5, WithinMS: 0.1}}
	vague := trial.Result{Clocks: &trial.Clocks{AheadMS: -2, WithinMS: 1.5}}
	for _, results := range [][]trial.Result{{sure, vague}, {vague, {}, sure}} {
		b, differ := clocksBanner(results)
		require.True(t, differ)
		require.Contains(t, b.Text, "1.500 ms (within 0.100 ms)")
		require.Contains(t, clocksText(*runHosts(t), results), "at most -2.000 ms")
	}
	_, differ := clocksBanner([]trial.Result{vague})
	require.False(t, differ)
}

// TestShardsOverSSH: parts between two hosts and parts at one do not make a whole, nor do parts
// over TLS and in plain text.
func TestShardsOverSSH(t *testing.T) {
	first := Run{Experiment: "tagging", Shard: shard.Shard{Index: 1, Of: 2}, Started: time.Now()}
	second := first
	second.Shard.Index, second.Hosts = 2, runHosts(t)
	require.ErrorIs(t, joins(first, second, map[int]bool{1: true}), errOtherRun)
	first.Hosts = runHosts(t)
	require.NoError(t, joins(first, second, map[int]bool{1: true}))
	second.Hosts.Insecure = !first.Hosts.Insecure
	require.ErrorIs(t, joins(first, second, map[int]bool{1: true}), errOtherRun)
}

// TestOtherDestinationIsMixed: a run that went on to another destination has a banner, as one that
// went on from another source.
func TestOtherDestinationIsMixed(t *testing.T) {
	now := runHosts(t)
	now.Destination.Environment = Environment{VMM: "def", CPU: "cpu 2", Kernel: "6.2"}
	run := Run{Size: Full, Hosts: runHosts(t), Resumed: []Resumption{
		{Hosts: runHosts(t)},
		{}, // by an older build
	}}
	require.Empty(t, banners(run, nil))
	require.NotContains(t, resumptions(run), "destination")

	run.Resumed = append(run.Resumed, Resumption{Hosts: now})
	how := "resumed at the destination with vmm def, on another host or kernel (cpu 2, Linux 6.2)" +
		": the figures are not of one build and the same files on one host"
	require.Equal(t, []Banner{{"MIXED", how}}, banners(run, nil))
	require.Contains(t, resumptions(run),
		" to another destination, or one with other versions (cpu 2, Linux 6.2, vmm def, ")

	whole := Run{Size: Full, Hosts: runHosts(t), Parts: []Part{{
		Shard: shard.Shard{Index: 2, Of: 2}, Hosts: runHosts(t), Resumed: run.Resumed,
	}}}
	require.Equal(t, []Banner{{"MIXED", "part 2/2 " + how}}, banners(whole, nil))
}

// joinedPairs joins shards that went from one source to those destinations.
func joinedPairs(t *testing.T, destinations ...RunHost) (Run, []trial.Result) {
	t.Helper()
	var dirs []string
	for i, d := range destinations {
		dirs = append(dirs, runShard(t, i+1, len(destinations), func(r *Run) {
			r.Host.CPU = "cpu of sources"
			r.Hosts = &RunHosts{
				Source: RunHost{"ssh:a", r.Host}, Destination: d,
				Clocks: trial.Clocks{AheadMS: -3 * float64(i), WithinMS: 0.5},
			}
		}))
	}
	out := filepath.Join(t.TempDir(), "joined")
	require.NoError(t, Join(out, dirs))
	run, results, err := Load(out)
	require.NoError(t, err)
	return run, results
}

// TestJoinedPairsOfHosts: a whole tells of the hosts of all its parts.
func TestJoinedPairsOfHosts(t *testing.T) {
	b := RunHost{SSH: "ssh:b", Environment: Environment{CPU: "cpu of b"}}
	c := RunHost{SSH: "ssh:c", Environment: Environment{CPU: "cpu of c"}}
	fact := func(name string, run Run, results []trial.Result) string {
		for _, f := range facts(run, results) {
			if f[0] == name {
				return f[1]
			}
		}
		return ""
	}
	const clocks = "in the part where it differs most, the destination's clock is ahead by " +
		"-3.000 ms (within 0.500 ms)"

	run, results := joinedPairs(t, b, b)
	require.Contains(t, parts(run), "all on pairs of hosts of one kind")
	require.Contains(t, commandOf(run), " --source ssh:a --destination ssh:b ")
	require.True(t, strings.HasSuffix(fact("link", run, results), "from ssh:a to ssh:b, over TLS"))
	require.NotContains(t, fact("destination", run, results), "other")
	require.Equal(t, clocks, fact("clocks", run, results))

	run, results = joinedPairs(t, b, c)
	require.Equal(t, "ssh:c", run.Parts[1].Hosts.Destination.SSH)
	require.Contains(t, parts(run), "on pairs of hosts of 2 kinds: run.json has them")
	require.Contains(t, commandOf(run), " --source SOURCE --destination DESTINATION ")
	const other = "; and 1 other, in run.json"
	require.True(t, strings.HasSuffix(fact("link", run, results),
		"from ssh:a to ssh:b, over TLS"+other))
	require.Contains(t, fact("destination", run, results), "cpu of b")
	require.True(t, strings.HasSuffix(fact("destination", run, results), other))

	dir := t.TempDir()
	require.NoError(t, writeText(filepath.Join(dir, textFile), summary{Run: run}, results,
		Findings{}))
	told := strings.Join(strings.Fields(readFile(t, dir, textFile)), " ")
	require.Contains(t, told, "over TLS"+other+"; "+clocks)
}

// TestCertificates: each host gets a folder of its own, and one host as both gets one.
func TestCertificates(t *testing.T) {
	bin := t.TempDir()
	vmm := filepath.Join(bin, "vmm")
	require.NoError(t, os.WriteFile(vmm, []byte("#!/bin/sh\necho \"$@\" >"+bin+"/said\n"), 0o755))
	h := twoHosts(t)
	said := func() string {
		require.NoError(t, h.makeCertificates(t.Context(), vmm, "/d"))
		b, err := os.ReadFile(filepath.Join(bin, "said"))
		require.NoError(t, err)
		return string(b)
	}
	require.Equal(t, "tls init /d/tls --host a --host 10.0.0.2\n", said())
	h.Destination = h.Source
	require.Equal(t, "tls init /d/tls --host a\n", said())
	require.NoError(t, os.WriteFile(vmm, []byte("#!/bin/sh\necho no >&2; exit 1\n"), 0o755))
	require.ErrorContains(t, h.makeCertificates(t.Context(), vmm, "/d"), "no")
	h.Insecure = true
	require.NoError(t, h.makeCertificates(t.Context(), vmm, "/d"))
}
