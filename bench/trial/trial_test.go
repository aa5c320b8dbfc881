package trial

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/control"
	"taskguide/guestkernel/heartbeat"
	"taskguide/migration"
	"taskguide/tagging"
)

func TestCmdline(t *testing.T) {
	g := Guest{
		Program: "workload=kv ws=64M", Busy: time.Second, Cool: 1500 * time.Microsecond,
		Tag: TagCool,
	}
	require.Equal(t, "workload=kv ws=64M busy=1000000us cool=1500us tag=cool", g.Cmdline())
	g.Seed = 3
	require.Equal(t, "workload=kv ws=64M busy=1000000us cool=1500us tag=cool seed=3", g.Cmdline())
	require.Equal(t, "workload=idle", Guest{Program: "workload=idle"}.Cmdline())
}

func TestParseStat(t *testing.T) {
	s, err := parseStat("cpu  10 20 30 400 50 6 7 8 0 0")
	require.NoError(t, err)
	require.Equal(t, stat{busy: 10 + 20 + 30 + 6 + 7, used: 10 + 20 + 30, stolen: 8}, s)
	for _, line := range []string{
		"", "cpu 1 2 3", "intr 1 2 3 4 5 6 7 8 9", "cpu 1 2 3 x 5 6 7 8",
	} {
		_, err := parseStat(line)
		require.Error(t, err, line)
	}
}

func TestParseThreadStat(t *testing.T) {
	ticks, err := parseThreadStat("123 (vcpu 0) x) R 1 2 3 4 5 6 7 8 9 10 250 17 0 0 20 0 9 0 1 2")
	require.NoError(t, err)
	require.EqualValues(t, 267, ticks)
	for _, line := range []string{"", "1 (a) R 1 2", "1 (a) R 1 2 3 4 5 6 7 8 9 10 -1 17 0"} {
		_, err := parseThreadStat(line)
		require.Error(t, err, line)
	}
}

func TestVCPUThreadsAreKnownByName(t *testing.T) {
	for _, name := range []string{"vcpu 0\n", "vcpu 12\n", "CPU 0/KVM\n"} {
		require.True(t, vcpuNames.MatchString(name), name)
	}
	for _, name := range []string{"vmm\n", "qemu-system-x86\n", "my vcpu 0\n", "CPU 0/TCG\n"} {
		require.False(t, vcpuNames.MatchString(name), name)
	}
	_, err := vcpuThreads(os.Getpid())
	require.ErrorContains(t, err, "named as a vCPU's")
}

func beat(task, second int, writes uint64, gap time.Duration) heartbeat.Beat {
	return heartbeat.Beat{
		Task: task, Elapsed: time.Duration(second) * time.Second, Writes: writes, Gap: gap,
		Fields: map[string]string{},
	}
}

// Beats 0, 1 and 2 come before the request, 3 while the guest is still at the source, 4 is the
// first after the move.
func TestReadBeats(t *testing.T) {
	us := time.Microsecond
	beats := []heartbeat.Beat{
		beat(0, 1, 1000, 900*us), beat(0, 2, 2000, 100*us), beat(0, 3, 3000, 50*us),
		beat(0, 4, 3900, 300*us), beat(0, 5, 4400, 20_000*us), beat(0, 6, 5400, 70_000*us),
	}
	r := Result{
		Spec:   Spec{Guest: Guest{Busy: time.Second}, BeatsBefore: 2},
		Report: migration.Report{TotalMS: 1020},
	}
	r.readBeats(beats, span{asked: 3, moved: 4})
	require.InDelta(t, 20, r.GapMS, 1e-9, "neither the beats before nor those long after")
	require.InDelta(t, 0.05, r.GapBeforeMS, 1e-9)
	require.InDelta(t, 1000, r.Work.BeforePerS, 1e-9)
	require.InDelta(t, 700, r.Work.DuringPerS, 1e-9)
	require.InDelta(t, 1000, r.Work.AfterPerS, 1e-9)
	// In 2 s it did 1400 of 2000 writes: 600 ms of work are missing, 20 ms of them downtime, the
	// rest in 1 s of pre-copy.
	require.InDelta(t, 600, r.Work.LostMS, 1e-9)
	require.InDelta(t, 0.58, r.Work.Brownout, 1e-9)
}

func TestReadBeatsOfSeveralTasks(t *testing.T) {
	ms := time.Millisecond
	beats := []heartbeat.Beat{
		beat(0, 1, 0, 0), beat(1, 1, 0, 0), beat(0, 2, 10, 1*ms), beat(1, 2, 10, 2*ms),
		beat(1, 3, 20, 9*ms), beat(0, 3, 20, 7*ms),
	}
	r := Result{Spec: Spec{Guest: Guest{Busy: time.Second}}}
	s := span{asked: 4, moved: 4}
	require.True(t, allComplete(byTask(beats, s), 1))
	require.False(t, allComplete(byTask(beats[:5], s), 1), "task 0 has not been heard of since")
	r.readBeats(beats, s)
	require.InDelta(t, 9, r.GapMS, 1e-9)
	require.InDelta(t, 2, r.GapBeforeMS, 1e-9)
	require.InDelta(t, 20, r.Work.BeforePerS, 1e-9)
}

func TestWorkOfAProgramWithPhasesIsNotCompared(t *testing.T) {
	beats := []heartbeat.Beat{beat(0, 1, 0, 0), beat(0, 2, 10, 0), beat(0, 3, 10, 0)}
	r := Result{Spec: Spec{Guest: Guest{Busy: time.Second, Cool: time.Second}}}
	r.readBeats(beats, span{asked: 2, moved: 2})
	require.Zero(t, r.Work)
}

func TestLatency(t *testing.T) {
	with := func(second int, p999 string) heartbeat.Beat {
		b := beat(0, second, 0, 0)
		b.Fields = map[string]string{"p50_us": "1.5", "p99_us": "2", "p999_us": p999, "max_us": "9"}
		return b
	}
	r := Result{}
	r.readBeats([]heartbeat.Beat{
		with(1, "5"), with(2, "3"), with(3, "40"), with(4, "70"), with(5, "900"),
	},
		span{asked: 2, moved: 2})
	require.NotNil(t, r.Latency)
	require.InDelta(t, 5, r.Latency.Before.P999, 0)
	require.InDelta(t, 70, r.Latency.Around.P999, 0,
		"the second after the move counts, later ones do not")
	require.InDelta(t, 1.5, r.Latency.Around.P50, 0)
}

// What a guest prints while it fills its memory is not part of its run: nothing is measured by it,
// and its cycle begins later.
func TestPreparationIsNotTheRun(t *testing.T) {
	var log heartbeat.Log
	line := func(ms int, phase string) {
		fmt.Fprintf(&log, "hb task=0 ms=%d passes=0 writes=%d gap_us=1 phase=%s\n", ms, ms, phase)
	}
	line(1000, "prepare")
	line(2000, "prepare")
	line(3300, "busy")
	beats, err := awaitRunning(t.Context(), &log, 0)
	require.NoError(t, err)
	require.Len(t, beats, 1)
	require.Equal(t, 3300*time.Millisecond, beats[0].Elapsed)
	require.Len(t, log.Beats(), 3, "the log itself is left alone")
	go line(4300, "busy")
	beats, err = awaitRunning(t.Context(), &log, 1)
	require.NoError(t, err)
	require.Len(t, beats, 2)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = awaitRunning(ended, &log, 2)
	require.ErrorIs(t, err, context.Canceled)
}

func TestParseMoved(t *testing.T) {
	require.Equal(t, &Moved{Inside: "exit", Phase: "busy"},
		parseMoved("hb task=0\r\nmoved task=0 epoch=1 inside=exit ms=4711 phase=busy\r\nhb"))
	require.Nil(t, parseMoved("hb task=0 moved"))
}

func TestUntilOffset(t *testing.T) {
	begin := time.Unix(100, 0)
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	require.Equal(t, 250*time.Millisecond, untilOffset(at(4500), begin, 0.375, 2*time.Second))
	require.Equal(t, 2*time.Second-250*time.Millisecond,
		untilOffset(at(5000), begin, 0.375, 2*time.Second))
	require.Zero(t, untilOffset(at(5000), begin, 0.375, 0))
}

func TestCycleBeginsASecondBeforeTheFirstBeat(t *testing.T) {
	now := time.Unix(50, 0)
	first, last := beat(0, 2, 0, 0), beat(0, 5, 0, 0)
	last.At = now
	require.Equal(t, now.Add(-4*time.Second),
		cycleAt([]heartbeat.Beat{first, beat(1, 1, 0, 0), last}))
}

func tagEvent(at time.Time, event tagging.Change, depth uint32) control.Event {
	return control.Event{Time: at, Kind: control.EventTag, Tag: &tagging.Transition{
		Time: at, Event: event, Depth: depth,
	}}
}

func TestFollowerFindsThePointOfTheCycle(t *testing.T) {
	for _, c := range []struct {
		tag         Tag
		event       tagging.Change
		other       tagging.Change
		depth, back uint32
	}{{TagCool, tagging.Exited, tagging.Entered, 0, 1},
		{TagBusy, tagging.Entered, tagging.Exited, 1, 0}} {
		synctest.Test(t, func(t *testing.T) {
			f := &follower{
				guest:   Guest{Tag: c.tag, Busy: time.Second, Cool: time.Second},
				changed: make(chan struct{}),
			}
			now := time.Now()
			f.inside = c.back == 1
			f.note(tagEvent(now.Add(-30*time.Millisecond), c.event, c.depth))
			f.note(tagEvent(now.Add(-10*time.Millisecond), c.other, c.back))
			require.Equal(t, now.Add(-30*time.Millisecond), f.busyAt)
			require.NoError(t, f.awaitOffset(t.Context(), 0.5, 100*time.Millisecond))
			r := f.request(100 * time.Millisecond)
			require.Equal(t, "tags", r.Anchor)
			require.InDelta(t, 0.5, r.Offset, 1e-9, c.tag)
			require.InDelta(t, 30, r.PhaseMS, 1e-9, "10 ms before, and 20 ms waited")
			require.Equal(t, c.back == 1, r.GateOpen)
		})
	}
}

func TestFirstCycleBeginsWithTheRegistration(t *testing.T) {
	f := &follower{guest: Guest{Tag: TagCool, Busy: time.Second}, changed: make(chan struct{})}
	begun := time.Now()
	f.note(tagEvent(begun, tagging.Registered, 0))
	require.Equal(t, begun, f.busyAt)
}

func TestMarks(t *testing.T) {
	open := true
	begun := time.Unix(10, 0)
	f := &follower{changed: make(chan struct{})}
	for _, e := range []control.Event{
		tagEvent(begun.Add(-time.Second), tagging.Entered, 1),
		{Time: begun, Kind: control.EventState, State: control.StateRunning},
		{Time: begun.Add(time.Millisecond), Kind: "phase", Phase: migration.PhasePreCopy},
		{Time: begun.Add(2 * time.Millisecond), Kind: "gate", GateOpen: &open},
		{
			Time: begun.Add(3 * time.Millisecond), Kind: "progress",
			Progress: &migration.Progress{BytesWire: 77},
		},
		{Time: begun.Add(4 * time.Millisecond), Kind: "round", Round: &migration.Round{N: 1}},
	} {
		f.note(e)
	}
	require.Equal(t, []Mark{
		{MS: -1000, Kind: "tag", Inside: &open},
		{MS: 1, Kind: "phase", Phase: migration.PhasePreCopy}, {MS: 2, Kind: "gate", Inside: &open},
		{MS: 3, Kind: "progress", WireBytes: 77}, {MS: 4, Kind: "round", Round: 1},
	}, f.marks(begun))
}

// The fields of proc_pid_stat(5), with a name that somebody chose to mislead the parser.
func TestParseProcStat(t *testing.T) {
	p, err := parseProcStat("123 (a) R 1 (b) S 77 123 123 0 -1 4194304 5 6 7 8 " +
		"10 20 300 4000 20 0 1 0 100 0 0")
	require.NoError(t, err)
	require.Equal(t, procStat{pid: 123, parent: 77, ticks: 10 + 20 + 300 + 4000}, p)
	for _, bad := range []string{
		"", "1", "1 (x", "x (y) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15", "1 (y) S 1 2",
	} {
		_, err := parseProcStat(bad)
		require.Error(t, err, bad)
	}
}

// Others are all processes except this one and its descendants, waited for or not.
func TestOwnChildrenAreNoNoise(t *testing.T) {
	before, err := usedByTree(os.Getpid())
	require.NoError(t, err)
	cmd := exec.Command("sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
	require.NoError(t, cmd.Run())
	after, err := usedByTree(os.Getpid())
	require.NoError(t, err)
	child := (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	require.Positive(t, child)
	require.GreaterOrEqual(t, after-before, child-0.03, "in ticks of 10 ms")
	_, err = usedByTree(1 << 30)
	require.Error(t, err)
}

func TestNoiseBetweenMoments(t *testing.T) {
	begin := time.Now()
	a := moment{at: begin, stat: stat{used: 1000, stolen: 50}, ours: 3}
	b := moment{at: begin.Add(2 * time.Second), stat: stat{used: 1350, stolen: 70}, ours: 5}
	others, stolen := between(a, b)
	require.InDelta(t, 0.75, others, 1e-9, "3.5 s were used in 2 s, 2 of them ours")
	require.InDelta(t, 0.1, stolen, 1e-9)
	b.failed = true
	others, stolen = between(a, b)
	require.Zero(t, others+stolen)
	quiet := &NoiseDuring{OthersCPUs: 0.2, OthersPeakCPUs: 0.4}
	require.False(t, Noise{BusyCPUs: 0.3, During: quiet}.Noisy())
	for name, n := range map[string]Noise{
		"before":  {BusyCPUs: 0.6},
		"stolen":  {StolenCPUs: 0.6},
		"during":  {During: &NoiseDuring{OthersCPUs: 0.3}},
		"a while": {During: &NoiseDuring{OthersPeakCPUs: 0.6}},
		"below":   {During: &NoiseDuring{StolenPeakCPUs: 0.6}},
	} {
		require.True(t, n.Noisy(), name)
	}
}

// An earlier build refuses parameters that it does not know. So a request leaves out the parameters
// that came after the first comparable version, if they have their defaults.
func TestAnEarlierBuildUnderstandsTheRequest(t *testing.T) {
	known := []string{
		"destination", "tls_dir", "rule", "downtime_limit_ns", "max_rounds", "guidance", "gate",
		"max_defer_ns", "on_timeout", "switch_at_exit", "channels", "bits_per_second", "compress",
		"delta", "verify",
	}
	b, err := json.Marshal(migration.Params{Destination: "tcp:127.0.0.1:1"})
	require.NoError(t, err)
	var sent map[string]any
	require.NoError(t, json.Unmarshal(b, &sent))
	for field := range sent {
		require.Contains(t, known, field)
	}
}

// TestOlderProgramsAreNotTold: a flag is given only to programs that have it.
func TestOlderProgramsAreNotTold(t *testing.T) {
	program := func(help string) string {
		path := filepath.Join(t.TempDir(), "vmm")
		script := "#!/bin/sh\n[ \"$1 $2\" = 'run --help' ] && echo '" + help + "'\n"
		require.NoError(t, os.WriteFile(path, []byte(script), 0o700))
		return path
	}
	ctx := t.Context()
	require.True(t, takes(ctx, program("  --insecure   with --incoming"), insecureFlag))
	require.False(t, takes(ctx, program("  --incoming string"), insecureFlag))
	require.False(t, takes(ctx, "/no/such/program", insecureFlag))
}
