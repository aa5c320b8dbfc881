package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/control"
	"taskguide/guestkernel/heartbeat"
	"taskguide/integration/need"
	"taskguide/migration"
	"taskguide/tagging"
)

// busy is a guest that verifies and rewrites its memory all the time, on two vCPUs.
var busy = []string{
	"--memory", "64M", "--cpus", "2", "--cmdline",
	"workload=phased ws=8M hot=1M busy=1s cool=0 fill=random",
}

func requireVerified(t *testing.T, r migration.Report) {
	t.Helper()
	require.NotNil(t, r.Verified)
	require.True(t, *r.Verified)
	require.Empty(t, r.Error)
	require.NotEmpty(t, r.SwitchoverReason)
	require.Positive(t, r.DowntimeMS)
	require.Greater(t, r.TotalMS, r.DowntimeMS)
}

// TestMigrateWhileInputArrives: if the guest's serial port has input all the time, its state must
// still be equal on both sides, including interrupts.
func TestMigrateWhileInputArrives(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	b.runWithInput(g, "vm0", endless("y\n"), "--memory", "64M", "--cmdline", "workload=echo")
	require.NoError(t, g.WaitText(b.ctx, "echo: y\necho: y"))
	for hop := range 4 {
		// Each destination has its own input, which follows the input that moved with the guest.
		name := fmt.Sprintf("vm%d", hop+1)
		p := b.runWithInput(g, name, endless("y\n"), "--incoming", b.unix(name))
		p.await("listening", func(vm control.VM) bool { return vm.Incoming != "" })
		requireVerified(t, b.migrate(fmt.Sprintf("vm%d", hop), p.vm().Incoming, "--verify"))
	}
}

// endless is a reader that repeats a text for ever.
type endless string

func (e endless) Read(p []byte) (int, error) {
	n := 0
	for n+len(e) <= len(p) {
		n += copy(p[n:], e)
	}
	return n, nil
}

func TestMigrate(t *testing.T) {
	for _, addr := range []string{"tcp:127.0.0.1:0", "tcp:[::1]:0", "unix"} {
		t.Run(addr, func(t *testing.T) {
			if addr == "tcp:[::1]:0" {
				requireIPv6(t)
			}
			b := newBox(t)
			if addr == "unix" {
				addr = b.unix("in")
			}
			g := &guest{}
			source := b.run(g, "source", busy...)
			g.alive(b, 2)
			destination, to := b.incoming(g, "destination", addr)
			requireVerified(t, b.migrate("source", to, "--verify"))
			require.Equal(t, 0, source.wait())
			require.Contains(t, source.stderr.String(), "moved to "+to)
			require.NoFileExists(t, b.path("source.sock"))
			destination.awaitState(control.StateRunning)
			require.Equal(t, 2, destination.vm().CPUs, "the source's configuration decides")
			g.alive(b, 4)
		})
	}
}

// requireIPv6 skips the test if the kernel has no IPv6. With IPv6 but without its loopback, the
// test fails.
func requireIPv6(t *testing.T) {
	if _, err := os.Stat("/proc/net/if_inet6"); err != nil {
		need.Skip(t, "this kernel has no IPv6")
	}
}

// TestMovedStatus: a supervisor that restarts what exited with 0 can tell a moved VM from a stopped
// one.
func TestMovedStatus(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	source := b.run(g, "source", append(slices.Clone(idle), "--moved-status", "75")...)
	g.alive(b, 1)
	client, err := control.NewClient(b.path("source.sock"))
	require.NoError(t, err)
	defer client.Close()
	events, err := client.Events(b.ctx)
	require.NoError(t, err)
	defer events.Close()
	_, to := b.incoming(g, "destination", b.unix("in"))
	b.ok("migrate", "source", to, "--standstill-limit", "0")
	require.Equal(t, 75, source.wait())
	var last control.Event
	for {
		e, err := events.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		if e.Kind == control.EventState {
			last = e
		}
	}
	require.Equal(t, control.StateMoved, last.State)
	require.Equal(t, control.EndMoved, last.Ending)
}

// TestReportFields: every field is always there, because scripts rely on that.
func TestReportFields(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	b.run(g, "source", idle...)
	g.alive(b, 1)
	_, to := b.incoming(g, "destination", b.unix("in"))
	out := b.ok("migrate", "source", to, "--json", "--standstill-limit", "0")
	var report map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &report))
	for _, field := range []string{
		"status", "error", "rule", "guidance", "total_ms", "setup_ms", "downtime_ms",
		"waited_ms", "suspended_ms", "deferred_ms", "suspensions",
		"switchover_reason", "ram_bytes", "bytes_wire", "bytes_pages", "pages_sent", "pages_zero",
		"pages_stopcopy", "verified", "rounds",
	} {
		require.Contains(t, report, field)
	}
	require.Nil(t, report["verified"], "not asked for")
	rounds := report["rounds"].([]any)
	require.NotEmpty(t, rounds)
	for _, field := range []string{
		"n", "phase", "dirty_pages", "sent_pages", "zero_pages", "skipped_pages", "bytes_wire",
		"ms", "dirty_pages_per_s", "bytes_per_s", "gate_open",
	} {
		require.Contains(t, rounds[0], field)
	}
}

func TestPlainOutput(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	b.run(g, "source", idle...)
	g.alive(b, 1)
	_, to := b.incoming(g, "destination", b.unix("in"))
	out := b.ok("migrate", "source", to, "--verify", "--standstill-limit", "0")
	require.Contains(t, out, "round   dirty")
	require.Contains(t, out, " stop ")
	require.Contains(t, out, "completed: the guest runs at "+to)
	require.Contains(t, out, "verified    yes")
	require.NotContains(t, out, "\x1b", "no escape sequences in a pipe")
}

// TestPausedGuestStaysPaused: a machine paused by its user moves and stays paused.
func TestPausedGuestStaysPaused(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	source := b.run(g, "source", busy...)
	g.alive(b, 1)
	b.ok("pause", "source")
	destination, to := b.incoming(g, "destination", b.unix("in"))
	requireVerified(t, b.migrate("source", to, "--verify"))
	require.Equal(t, 0, source.wait())
	destination.awaitState(control.StatePaused)
	b.ok("resume", "destination")
	g.alive(b, 4)
}

// TestDestinationFlagsAreIgnored: a destination's flags about the machine have no effect, and it
// says so.
func TestDestinationFlagsAreIgnored(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	b.run(g, "source", idle...)
	g.alive(b, 1)
	destination, to := b.incoming(g, "destination", b.unix("in"), "--memory", "1G", "--cpus", "4")
	b.migrate("source", to)
	destination.awaitState(control.StateRunning)
	vm := destination.vm()
	require.EqualValues(t, 32<<20, vm.MemoryBytes)
	require.Equal(t, 1, vm.CPUs)
	require.Contains(t, destination.stderr.String(),
		"--memory, --cpus: no effect: the guest that arrives brings its own")
}

// slow is a rate limit at which the guest's memory takes far longer than any test waits.
const slow = "1Mbit"

// TestCancel cancels a migration in every possible way. The guest can still move to the same
// destination afterwards.
func TestCancel(t *testing.T) {
	for name, cancel := range map[string]func(b *box, migrate *os.Process){
		"vmm cancel": func(b *box, _ *os.Process) { b.ok("cancel", "source") },
		"Ctrl-C": func(b *box, m *os.Process) {
			require.NoError(b.t, m.Signal(syscall.SIGINT))
		},
		"DELETE": func(b *box, _ *os.Process) {
			c, err := control.NewClient(b.path("source.sock"))
			require.NoError(b.t, err)
			defer c.Close()
			r, err := c.CancelMigration(b.ctx)
			require.NoError(b.t, err)
			require.Equal(b.t, migration.StatusCancelled, r.Status)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			g := &guest{}
			source := b.run(g, "source", busy...)
			g.alive(b, 1)
			_, to := b.incoming(&guest{}, "destination", b.unix("in"))
			cmd, wait := b.background("migrate", "source", to, "--bandwidth", slow)
			source.migrating()
			require.True(t, source.vm().DirtyLogging)
			require.Contains(t, b.refused(1, "migrate", "source", to), "under way")
			require.Contains(t, b.refused(1, "pause", "source"), "under way")

			cancel(b, cmd.Process)
			r := wait()
			require.Equal(t, 1, r.status)
			require.Contains(t, r.stderr, "cancelled")
			require.Contains(t, r.stderr, "the guest still runs here")
			require.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)
			source.untouched()
			require.Contains(t, b.refused(1, "cancel", "source"), "no migration")
			g.alive(b, 2)
			requireVerified(t, b.migrate("source", to, "--verify"))
			require.Equal(t, 0, source.wait())
		})
	}
}

// TestStopDuringMigration: the VM ends, and its migration ends, too.
func TestStopDuringMigration(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	source := b.run(g, "source", busy...)
	g.alive(b, 1)
	destination, to := b.incoming(&guest{}, "destination", b.unix("in"))
	_, wait := b.background("migrate", "source", to, "--bandwidth", slow)
	source.migrating()
	b.ok("stop", "source")
	require.Equal(t, 0, source.wait())
	require.Equal(t, 1, wait().status)
	require.Equal(t, control.StateIncoming, destination.vm().State)
}

// TestGuestEndsDuringMigration: the process exits with the guest's status, and the destination
// keeps nothing of the guest.
func TestGuestEndsDuringMigration(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	// It ends because of the migration: it would be too early or too late at any time of its own.
	source := b.run(g, "source", tiny(b.kernel(untidy, awaitState(tagging.StatePreCopy),
		out(0xf4, 0)))...)
	source.awaitState(control.StateRunning)
	destination, to := b.incoming(&guest{}, "destination", b.unix("in"))
	_, wait := b.background("migrate", "source", to, "--bandwidth", slow, "--compress", "none")
	require.Equal(t, 0, source.wait())
	r := wait()
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "ended")
	require.Equal(t, control.StateIncoming, destination.vm().State)
}

// TestXenRule: a busy guest never converges. The classic rules still end pre-copy, and the report
// says which of them did.
func TestXenRule(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	source := b.run(g, "source", busy...)
	g.alive(b, 2)
	_, to := b.incoming(g, "destination", "tcp:127.0.0.1:0")
	r := b.migrate("source", to, "--rule", "xen", "--bandwidth", "200Mbit", "--verify",
		"--compress", "none")
	requireVerified(t, r)
	require.Equal(t, 0, source.wait())
	require.Equal(t, migration.RuleXen, r.Rule)
	require.LessOrEqual(t, len(r.Rounds), 30, "29 and stop-and-copy")
	require.Greater(t, len(r.Rounds), 2)
	require.Regexp(t, `rounds|RAM|50`, r.SwitchoverReason)
	g.alive(b, 4)
}

// TestBackAndForth moves one guest many times, always busy on two vCPUs, and verifies each move.
// The guest's counters never go backwards, and it finds all its memory unchanged.
func TestBackAndForth(t *testing.T) {
	b := newBox(t)
	moves := moves
	if os.Getenv("TASKGUIDE_LONG") != "" {
		moves *= 10
	}
	g := &guest{}
	here := b.run(g, "host-0", busy...)
	g.alive(b, 1)
	for i := range moves {
		there, to := b.incoming(g, fmt.Sprintf("host-%d", i+1),
			[]string{"tcp:127.0.0.1:0", b.unix("in")}[i%2])
		r := b.migrate(here.name, to, "--verify", "--max-rounds", "3")
		requireVerified(t, r)
		require.Equal(t, 0, here.wait(), "%s", here.stderr)
		require.Empty(t, g.Corrupt())
		here = there
	}
	g.alive(b, 4)
	requireMonotonic(t, g.Beats(), 2)
}

// requireMonotonic requires that the guest's counters never went backwards, for each of its tasks.
func requireMonotonic(t *testing.T, beats []heartbeat.Beat, tasks int) {
	t.Helper()
	last := map[int]heartbeat.Beat{}
	for _, beat := range beats {
		if before, ok := last[beat.Task]; ok {
			require.Greater(t, beat.Elapsed, before.Elapsed)
			require.GreaterOrEqual(t, beat.Passes, before.Passes)
			require.GreaterOrEqual(t, beat.Writes, before.Writes)
		}
		last[beat.Task] = beat
	}
	require.Len(t, last, tasks)
	for _, beat := range last {
		require.Positive(t, beat.Writes)
	}
}
