package show

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vbauerster/mpb/v8"

	"taskguide/control"
	"taskguide/migration"
)

func script() []control.Event {
	round := func(n int, phase migration.Phase, dirty int64) migration.Event {
		return migration.Event{Kind: migration.EventRound, Phase: phase, GateOpen: n != 2, Round: &migration.Round{
			N: n, Phase: phase, DirtyPages: dirty, SentPages: dirty / 2, ZeroPages: dirty / 4, SkippedPages: dirty / 4,
			BytesWire: dirty / 2 * 4096, MS: 530.4, DirtyPagesPerS: 16384.7, BytesPerS: 125e6, GateOpen: n != 2,
		}}
	}
	phase := func(p migration.Phase) migration.Event { return migration.Event{Kind: migration.EventPhase, Phase: p} }
	var out []control.Event
	for _, e := range []migration.Event{
		phase(migration.PhaseSetup), phase(migration.PhasePreCopy),
		{Kind: migration.EventProgress, Phase: migration.PhasePreCopy, Progress: &migration.Progress{Round: 1, RoundPages: 131072, DonePages: 4096}},
		round(1, migration.PhasePreCopy, 131072),
		phase(migration.PhaseSuspended), phase(migration.PhaseSuspended), phase(migration.PhasePreCopy),
		round(2, migration.PhasePreCopy, 16384),
		phase(migration.PhaseHeld), phase(migration.PhaseStopCopy),
		round(3, migration.PhaseStopCopy, 48),
		{Kind: migration.EventDone, Phase: migration.PhaseDone, Report: &migration.Report{}},
	} {
		out = append(out, control.FromMigration(1, e))
	}
	return out
}

const scriptLines = `
round  dirty pages         sent         zero    skipped       wire      time          rate  dirtied/s  gate
    1      131,072       65,536       32,768     32,768    256 MiB    530 ms   1.00 Gbit/s     16,384  open
suspended: the gate has closed, no page is sent until it opens
    2       16,384        8,192        4,096      4,096   32.0 MiB    530 ms   1.00 Gbit/s     16,384  closed
held: converged, stop-and-copy waits for the gate
 stop           48           24           12         12   96.0 KiB    530 ms   1.00 Gbit/s     16,384  open
`

func TestPlain(t *testing.T) {
	var out bytes.Buffer
	p := NewPlain(&out)
	for _, e := range script() {
		p.Event(e)
	}
	p.Close()
	require.Equal(t, scriptLines, "\n"+out.String())
}

// TestLive: whatever the bar draws and removes, the lines of the plain form remain, whole and in order.
func TestLive(t *testing.T) {
	var out bytes.Buffer
	p := newLive(mpb.New(mpb.WithOutput(&out), mpb.WithAutoRefresh(), mpb.WithWidth(120)))
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
	p := newLive(mpb.New(mpb.WithOutput(nil)))
	closed := false
	p.Event(control.Event{Kind: "progress", Phase: migration.PhaseHeld, GateOpen: &closed, Progress: &migration.Progress{
		Round: 7, RoundPages: 10, DonePages: 5, BytesPerS: 125e6, BytesWire: 3 << 20, WaitedMS: 1200, SuspendedMS: 2,
	}})
	require.Equal(t, "held, round 7", p.left())
	require.Equal(t, "  1.00 Gbit/s  3.00 MiB  gate closed  waited 1.20 s  suspended 2.0 ms", p.right())
	p.Close()
}

func TestOutcome(t *testing.T) {
	yes := true
	var out bytes.Buffer
	Outcome(&out, migration.Report{
		Status: migration.StatusCompleted, Destination: "tcp:b:4444", Guidance: migration.GuidanceSuspend,
		TotalMS: 2531, SetupMS: 3.1, DowntimeMS: 2.13, WaitedMS: 900, Suspensions: 2, SuspendedMS: 400, Forced: true,
		SwitchoverReason: "fits the limit", RAMBytes: 512 << 20, BytesWire: 301 << 20, BytesPages: 1200 << 20,
		PagesSent: 147000, PagesZero: 110000, PagesStopCopy: 120, Verified: &yes, Warnings: []string{"take care"},
		Downtime: migration.DowntimeParts{PauseMS: 0.1, PagesMS: 1.2},
		Rounds:   make([]migration.Round, 4),
	})
	require.Equal(t, `completed: the guest runs at tcp:b:4444
  rounds      4; switched over: fits the limit
  pages       147,000 with content, 110,000 zero, 120 in stop-and-copy
  bytes       301 MiB on the wire for 1.17 GiB of pages; RAM 512 MiB
  total time  2.53 s, of it setup 3.1 ms
  downtime    2.1 ms: pause 100 us, harvest 0.0 ms, pages 1.2 ms, save 0.0 ms, load 0.0 ms, run 0.0 ms
  guidance    suspend, waited 900 ms, suspended 2 times for 400 ms, forced at the end
  verified    yes: all of RAM and the machine's state are equal on both sides
  warning     take care
`, out.String())
}

func TestVerified(t *testing.T) {
	no := false
	require.Contains(t, Verified(nil), "not asked for")
	require.Contains(t, Verified(&no), "NO")
}

func TestVM(t *testing.T) {
	var out bytes.Buffer
	VM(&out, control.VM{Name: "web1", PID: 9, State: control.StateRunning, MemoryBytes: 512 << 20, CPUs: 2, UptimeMS: 61499,
		Migration: &control.MigrationSummary{Status: migration.StatusFailed, Destination: "tcp:b:1", Error: "no route"}})
	require.Equal(t, `name       web1
state      running
process    9, up 1m1s
memory     512 MiB
vCPUs      2
migration  to tcp:b:1: failed: no route
`, out.String())
	out.Reset()
	require.NoError(t, VMs(&out, []control.VM{{Name: "in", State: control.StateIncoming, PID: 3}, {Name: "web1", State: control.StatePaused, PID: 9, MemoryBytes: 1 << 30, CPUs: 1}}))
	require.Equal(t, `NAME  STATE     MEMORY    CPUS  PID  UPTIME
in    incoming  -         -     3    0s
web1  paused    1.00 GiB  1     9    0s
`, out.String())
}

func TestCount(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000", -100: "-100"} {
		require.Equal(t, want, Count(n))
	}
}
