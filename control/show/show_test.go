package show

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"github.com/vbauerster/mpb/v8"

	"taskguide/control"
	"taskguide/control/text"
	"taskguide/migration"
)

func script() []control.Event {
	round := func(n int, phase migration.Phase, dirty int64) migration.Notice {
		open := n != 2
		r := &migration.Round{
			N: n, Phase: phase, DirtyPages: dirty,
			SentPages: dirty / 2, ZeroPages: dirty / 4, SkippedPages: dirty / 4,
			BytesWire: dirty / 2 * 4096, MS: 530.4,
			DirtyPagesPerS: 16384.7, BytesPerS: 125e6, GateOpen: open,
		}
		return migration.Notice{
			Kind: migration.NoticeRound, Phase: phase, GateOpen: open, Round: r,
		}
	}
	phase := func(p migration.Phase) migration.Notice {
		return migration.Notice{Kind: migration.NoticePhase, Phase: p}
	}
	var out []control.Event
	for _, e := range []migration.Notice{
		phase(migration.PhaseSetup), phase(migration.PhasePreCopy),
		{
			Kind: migration.NoticeProgress, Phase: migration.PhasePreCopy,
			Progress: &migration.Progress{Round: 1, RoundPages: 131072, DonePages: 4096},
		},
		round(1, migration.PhasePreCopy, 131072),
		phase(migration.PhaseSuspended), phase(migration.PhaseSuspended),
		phase(migration.PhasePreCopy),
		round(2, migration.PhasePreCopy, 16384),
		phase(migration.PhaseHeld), phase(migration.PhaseStopCopy),
		{Kind: migration.NoticeStandstill, Standstill: &migration.Standstill{
			AtMS: 1000, MS: 1001, Why: "no dirty page left",
			Ended: "taken back after 1s: the last pages were not through",
		}},
		phase(migration.PhasePreCopy), phase(migration.PhaseStopCopy),
		round(3, migration.PhaseStopCopy, 48),
		{Kind: migration.NoticeDone, Phase: migration.PhaseDone, Report: &migration.Report{}},
	} {
		out = append(out, control.FromMigration(1, e))
	}
	return out
}

const scriptLines = `
round   dirty    sent    zero skipped     wire    time    rate/s dirty/s gate
    1 131,072  65,536  32,768  32,768  256 MiB  530 ms 1.00 Gbit  16,384 open
suspended: the gate has closed, no page is sent until it opens
    2  16,384   8,192   4,096   4,096 32.0 MiB  530 ms 1.00 Gbit  16,384 closed
held: converged, stop-and-copy waits for the gate
taken back after 1s: the last pages were not through
  the guest stood still for 1.00 s and runs on
 stop      48      24      12      12 96.0 KiB  530 ms 1.00 Gbit  16,384 open
`

// requireColumns: what people see fits a terminal that nobody made wider.
func requireColumns(t *testing.T, shown string) {
	t.Helper()
	for line := range strings.Lines(shown) {
		require.LessOrEqual(t, utf8.RuneCountInString(strings.TrimRight(line, "\n")), text.Columns,
			line)
	}
}

func TestPlain(t *testing.T) {
	var out bytes.Buffer
	p := NewPlain(&out)
	for _, e := range script() {
		p.Event(e)
	}
	p.Close()
	require.Equal(t, scriptLines, "\n"+out.String())
	requireColumns(t, out.String())
}

// TestLive: whatever the bar draws and removes, the lines of the plain form remain, whole and in
// order.
func TestLive(t *testing.T) {
	var out bytes.Buffer
	p := newLive(mpb.New(mpb.WithOutput(&out), mpb.WithAutoRefresh()), time.Now)
	for _, e := range script() {
		p.Event(e)
	}
	require.Equal(t, "done, round 1", p.left())
	p.Close()
	rest := out.String()
	for line := range strings.Lines(strings.TrimPrefix(scriptLines, "\n")) {
		_, after, found := strings.Cut(rest, line)
		require.True(t, found, "%q is missing in %q", line, rest)
		rest = after
	}
	require.True(t, strings.HasSuffix(rest, "\x1b[J"), "the bar is erased at the end: %q", rest)
}

func TestLiveLine(t *testing.T) {
	now := time.Unix(1e9, 0)
	p := newLive(mpb.New(mpb.WithOutput(nil)), func() time.Time { return now })
	progress := func(done int64, open bool) {
		p.Event(control.Event{
			Time: now, Kind: "progress", Phase: migration.PhasePreCopy, GateOpen: &open,
			Progress: &migration.Progress{
				Round: 7, RoundPages: 1000, DonePages: done, BytesPerS: 125e6, BytesWire: 3 << 20,
				WaitedMS: 1200, SuspendedMS: 2, DeferredMS: 61_200,
			},
		})
	}
	require.Equal(t, "setup", p.left())
	require.Equal(t, "  0 bit/s  0 B  0s", p.right())
	progress(0, true)
	now = now.Add(10 * time.Second)
	progress(500, true)
	require.Equal(t, "pre-copy, round 7", p.left())
	require.Equal(t, "  1.00 Gbit/s  3.00 MiB  10s, ~10s left", p.right())
	now = now.Add(time.Minute)
	progress(600, false)
	require.Equal(t, "  1.00 Gbit/s  gate closed  deferred 1m1s  1m10s", p.right())
	p.Close()
}

// screen keeps what the bar's goroutine draws, for the test to look at meanwhile.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// TestLiveLineFits, with its bar, in the widest case of each form.
func TestLiveLineFits(t *testing.T) {
	for _, open := range []bool{true, false} {
		var out screen
		begin := time.Now()
		p := newLive(mpb.New(mpb.WithOutput(&out), mpb.WithAutoRefresh(), mpb.WithWidth(200)),
			func() time.Time { return begin.Add(59*time.Minute + 59*time.Second) })
		p.begun = begin
		phase := migration.PhaseSuspended
		if open {
			phase = migration.PhaseStopCopy
		}
		for i := range 2 {
			p.Event(control.Event{
				Time: begin.Add(time.Duration(i) * time.Hour), Kind: "progress", Phase: phase,
				GateOpen: &open,
				Progress: &migration.Progress{
					Round: 12, RoundPages: 1000, DonePages: int64(500 * i), BytesPerS: 12.5e6,
					BytesWire: 1023 << 20, DeferredMS: 59*60_000 + 59_000,
				},
			})
		}
		for !strings.Contains(out.String(), "round 12") {
			p.bars.Write(nil) // draws
		}
		p.Close()
		line := out.String()
		line = line[strings.LastIndex(line, string(phase)):]
		line, _, _ = strings.Cut(line, "\n")
		require.Contains(t, line, "100 Mbit/s")
		require.Contains(t, line, "59m59s")
		requireColumns(t, line)
	}
}

func TestOutcome(t *testing.T) {
	yes := true
	var out bytes.Buffer
	Outcome(&out, migration.Report{
		Status: migration.StatusCompleted, Destination: "tcp:b:4444",
		Guidance: migration.GuidanceSuspend,
		TotalMS:  2531, SetupMS: 3.1, DowntimeMS: 2.13, WaitedMS: 900,
		Suspensions: 2, SuspendedMS: 400, DeferredMS: 1500, Forced: true,
		SwitchoverReason: "fits the limit", RAMBytes: 512 << 20, BytesWire: 301 << 20,
		BytesPages: 1200 << 20,
		PagesSent:  147000, PagesZero: 110000, PagesStopCopy: 120, Verified: &yes,
		Warnings:    []string{"take care"},
		Downtime:    migration.DowntimeParts{PauseMS: 0.1, PagesMS: 1.2, VerifyMS: 178},
		Standstills: []migration.Standstill{{MS: 1001}, {MS: 20}, {MS: 2.13}},
		Rounds:      make([]migration.Round, 4),
		DowntimeFixed: migration.DowntimeFixed{
			LimitMS: 300, SubtractedMS: 61.4, Source: "3 round trips as long as the greeting",
		},
	})
	require.Equal(t, `completed: the guest runs at tcp:b:4444
  rounds      4; switched over: fits the limit
  pages       147,000 with content, 110,000 zero, 120 in stop-and-copy
  bytes       301 MiB on the wire for 1.17 GiB of pages; RAM 512 MiB
  total time  2.53 s, of it setup 3.1 ms
  downtime    2.1 ms: pause 100 us, harvest 0.0 ms, pages 1.2 ms (beside: save
              0.0 ms), verify 178 ms, load 0.0 ms, run 0.0 ms, unexplained 0.0
              ms
  limit       300 ms, of it 61.4 ms not for pages: 3 round trips as long as the
              greeting
  taken back  2 switchovers; the guest stood still for at most 1.00 s
  guidance    suspend, waited 900 ms, suspended 2 times for 400 ms, deferred by
              1.50 s in all, forced at the end
  verified    yes: all of RAM and the machine's state are equal on both sides
  warning     take care
`, out.String())
}

// TestParts: the parts that are shown add up to the downtime, whether or not the destination says
// how long it worked.
func TestParts(t *testing.T) {
	load, run := 0.3, 0.2
	d := migration.DowntimeParts{
		ExitMS: 9, PauseMS: 1, QuiesceMS: 2, HarvestMS: 3, PagesMS: 4, SaveMS: 4.5, SyncMS: 0.5,
		SettleMS: 1, LoadMS: 0.8, RunMS: 0.6,
	}
	require.Equal(t, "exit 9.0 ms, pause 1.0 ms, quiesce 2.0 ms, harvest 3.0 ms, pages 4.0 ms "+
		"(beside: save 4.5 ms, sync 500 us), settle 1.0 ms, load 800 us, run 600 us, "+
		"unexplained 0.0 ms", parts(d))
	d.LoadThereMS, d.RunThereMS, d.WayMS, d.UnexplainedMS = &load, &run, 0.6, 0.3
	require.Equal(t, "exit 9.0 ms, pause 1.0 ms, quiesce 2.0 ms, harvest 3.0 ms, pages 4.0 ms "+
		"(beside: save 4.5 ms, sync 500 us), settle 1.0 ms, load there 300 us, run there 200 us, "+
		"way 600 us, unexplained 300 us", parts(d))
	require.InDelta(t, d.LoadMS+d.RunMS, load+run+d.WayMS+d.UnexplainedMS, 1e-9)
}

func TestShadow(t *testing.T) {
	require.Equal(t, "xen: would still go on", shadow(migration.Shadow{Policy: "xen", Asked: 3}))
	require.Equal(t, "exec:p: has not answered", shadow(migration.Shadow{Policy: "exec:p"}))
	require.Equal(t, "exec:p: died", shadow(migration.Shadow{Policy: "exec:p", Error: "died"}))
	require.Equal(t, "xen: switchover after 20.0 ms, round 2, with 1,000 pages left: fits",
		shadow(migration.Shadow{Policy: "xen", Asked: 2, Decisions: []migration.Decision{
			{Action: "continue"},
			{AtMS: 20, Round: 2, Remaining: 1000, Action: "switchover", Reason: "fits"},
		}}))
}

func TestVerified(t *testing.T) {
	yes, no := true, false
	require.Contains(t, Verified(nil, 7), "not asked for")
	require.Contains(t, Verified(&no, 7), "NO")
	require.Contains(t, Verified(&yes, 0), "yes: all of RAM and")
	require.Contains(t, Verified(&yes, 7), "all of RAM but the 7 pages that the guest declared,")
}

func TestVM(t *testing.T) {
	var out bytes.Buffer
	VM(&out, control.VM{Name: "web1", PID: 9, State: control.StateRunning, MemoryBytes: 512 << 20,
		CPUs: 2, UptimeMS: 61499,
		Migration: &control.MigrationSummary{
			Status: migration.StatusFailed, Destination: "tcp:b:1", Error: "no route",
		}})
	require.Equal(t, `name       web1
state      running
process    9, up 1m1s
memory     512 MiB
vCPUs      2
migration  to tcp:b:1: failed: no route
`, out.String())
	out.Reset()
	VM(&out, control.VM{Name: "web1", Migration: &control.MigrationSummary{
		Status: migration.StatusFailed, Destination: "tcp:b:1",
		Error: strings.Repeat("no way ", 20),
	}})
	requireColumns(t, out.String())
	out.Reset()
	require.NoError(t, VMs(&out, []control.VM{
		{Name: "in", State: control.StateIncoming, PID: 3},
		{Name: "web1", State: control.StatePaused, PID: 9, MemoryBytes: 1 << 30, CPUs: 1},
	}))
	require.Equal(t, `NAME  STATE     MEMORY    CPUS  PID  UPTIME
in    incoming  -         -     3    0s
web1  paused    1.00 GiB  1     9    0s
`, out.String())
}

func TestDebug(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, Debug(&out, control.Debug{VCPUs: []control.VCPUDebug{
		{ID: 0, MPState: "halted", RIP: 0x81000000, LVTT: 0x400ec, IRR: []int{5, 236}, Exits: 7},
		{ID: 1, Error: "it is held"},
	}, Console: control.ConsoleDebug{Printed: 9, Written: 6, Lost: 2}}))
	lines := strings.Split(out.String(), "\n")
	require.Equal(t, []string{"VCPU", "STATE", "RIP", "LVTT", "TSC-DEADLINE", "TSC", "IRR", "ISR",
		"EXITS"},
		strings.Fields(lines[0]))
	require.Equal(t, []string{
		"0", "halted", "0x81000000", "0x400ec", "0x0", "0x0", "0x05,0xec", "-", "7",
	}, strings.Fields(lines[1]))
	require.Equal(t, "1     it is held", lines[2])
	require.Equal(t, "console: 9 bytes printed, 6 written, 2 lost, 1 waiting", lines[4])
	requireColumns(t, out.String())

	// A busy guest's data is too wide for one line.
	out.Reset()
	require.NoError(t, Debug(&out, control.Debug{VCPUs: []control.VCPUDebug{
		{ID: 0, MPState: "running", RIP: 0xffffffff81000000, TSC: 1 << 50, TSCDeadline: 1 << 50},
		{ID: 1, Error: "it is held"},
	}}))
	require.Contains(t, out.String(), "VCPU: 0\n  STATE         running\n")
	require.Contains(t, out.String(), "VCPU: 1\n  STATE         it is held\n")
	requireColumns(t, out.String())
}

// TestDebugDevices: a device without a driver has one line, others one for each queue in use.
func TestDebugDevices(t *testing.T) {
	var out bytes.Buffer
	busy := control.QueueDebug{Size: 128, Ready: true, Available: 65535, Used: 65530, InFlight: 5}
	const why = "queue 1: the driver broke the rules of the queue: " +
		"3221225472 bytes at 0xffffffffffffffff, outside of RAM"
	require.NoError(t, debugDevices(&out, []control.DeviceDebug{
		{Name: "rng", State: "unused", Queues: []control.QueueDebug{{Size: 64}}},
		{Name: "net0", State: "working", Queues: []control.QueueDebug{busy, busy}},
		{Name: "balloon", State: "broken", Broken: why, Queues: []control.QueueDebug{{}, busy}},
	}))
	require.Equal(t, `DEVICE   STATE    QUEUE  SIZE  AVAILABLE  USED   IN-FLIGHT
rng      unused   -      -     -          -      -
net0     working  0      128   65535      65530  5
net0     working  1      128   65535      65530  5
balloon  broken   1      128   65535      65530  5
balloon is broken: queue 1: the driver broke the rules of the queue: 3221225472
                   bytes at 0xffffffffffffffff, outside of RAM
`, out.String())
}

// TestShort: no count is wider than its column, and none loses more than its fourth digit.
func TestShort(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0", 48: "48", 131072: "131,072", 999_999: "999,999", 1_000_000: "1.00M",
		1_048_576: "1.05M", 9_996_000: "10.0M", 99_960_000: "100M", 268_435_456: "268M",
		999_600_000: "1.00G", 2_500_000_000: "2.50G", 123_000_000_000: "123G",
	} {
		require.Equal(t, want, short(n))
		require.LessOrEqual(t, len(want), 7)
	}
}

// TestOnce: a thing that happened once is not "1 times".
func TestOnce(t *testing.T) {
	r := migration.Report{Guidance: migration.GuidanceSuspend, Suspensions: 1, SuspendedMS: 400,
		DeferredMS: 400}
	require.Equal(t, "suspend, suspended 1 time for 400 ms", guidance(r))
	require.Contains(t, takenBack(make([]migration.Standstill, 1)), "1 switchover;")
}

func TestCount(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000", -100: "-100",
	} {
		require.Equal(t, want, Count(n))
	}
}
