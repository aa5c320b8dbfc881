//go:build stockkvm

package stockkvm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/guestkernel/heartbeat"
	"taskguide/migration"
	"taskguide/vmm/cpu"
)

// startPair boots two hosts with vmm in them.
func startPair(t *testing.T, change func(host int, cfg *HostConfig)) *Pair {
	t.Helper()
	rig, err := NewRig(t.Context(), t.TempDir())
	require.NoError(t, err)
	vmm, err := rig.Build(t.Context(), "./cmd/vmm")
	require.NoError(t, err)
	initramfs, err := rig.Initramfs("pair", []File{{Source: vmm, Target: "/bin/vmm"}})
	require.NoError(t, err)
	p, err := rig.StartPair(t.Context(), initramfs, change)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

// traveller is a guest that moves between the hosts of a pair. Every move makes another vmm run,
// with another name.
type traveller struct {
	t    *testing.T
	pair *Pair
	hop  int
	run  *vmmRun
	left []*vmmRun // the runs that it moved away from
}

// vmmRun is a vmm run inside.
type vmmRun struct {
	job     *Job
	console heartbeat.Log
	stderr  heartbeat.Log // only as a buffer that a test can wait for
}

func (v *traveller) start(ctx context.Context, host int, args ...string) *vmmRun {
	v.t.Helper()
	r := &vmmRun{}
	var err error
	r.job, err = v.pair.Hosts[host].Start(Command{
		Argv:   append([]string{"vmm", "run"}, args...),
		Stdout: &r.console, Stderr: &r.stderr,
	})
	require.NoError(v.t, err)
	return r
}

func name(hop int) string { return fmt.Sprintf("guest-%d", hop) }

// at is the address on which a host of a pair awaits guests. Nobody else is on the network between
// them, so plain text is good enough.
func at(p *Pair, host int) string { return fmt.Sprintf("tcp:%s:7000", p.Address(host)) }

// boot starts the guest on host 0 and waits until it is at work.
func boot(ctx context.Context, t *testing.T, p *Pair, cmdline string) *traveller {
	t.Helper()
	v := &traveller{t: t, pair: p}
	t.Cleanup(v.explain)
	ctx, cancel := context.WithTimeout(ctx, stepPatience)
	defer cancel()
	v.run = v.start(ctx, 0, "--name", name(0), "--memory", "32M", "--cmdline", cmdline)
	_, err := v.run.console.WaitBeats(ctx, 0)
	require.NoError(t, err, v.run.stderr.String())
	return v
}

// explain logs, after a failure, what the guest and the hosts were doing: a guest that hangs, a VMM
// that hangs, a rig that lost its output, and a machine too busy to be in time look the same from
// outside. Counters that grow from one look to the next tell the last of these from the others. It
// ends the VMMs.
func (v *traveller) explain() {
	if !v.t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	const ask = `looks() {
			for n in $(vmm list | awk 'NR > 1 {print $1}'); do vmm status $n; vmm debug $n; done
			for p in $(pidof vmm); do cat /proc/$p/io; for t in /proc/$p/task/*; do
			echo $t $(cat $t/comm $t/wchan $t/syscall; cut -d' ' -f3,14,15 $t/stat); done; done
		}
		cat /proc/uptime /proc/loadavg; looks; sleep 3; looks; kill -USR1 1
		for p in $(pidof vmm); do kill -QUIT $p; done; sleep 2; dmesg | tail -n 20`
	printed := len(v.run.console.String())
	for i, h := range v.pair.Hosts {
		out, err := h.Run(ctx, "sh", "-c", ask)
		v.t.Logf("host %d: %v\n%s%s", i, err, out.Stdout, out.Stderr)
		v.t.Logf("its console:\n%s", h.Console())
	}
	text := v.run.console.String()
	v.t.Logf("%s printed %d bytes more meanwhile; in all: %s", name(v.hop), len(text)-printed, text)
	v.t.Logf("and logged: %s", v.run.stderr.String())
}

// awaitUp waits until a vmm run on a host has its control socket.
func (v *traveller) awaitUp(ctx context.Context, host, hop int) {
	v.t.Helper()
	for {
		out, err := v.pair.Hosts[host].Run(ctx, "vmm", "status", name(hop), "--json")
		require.NoError(v.t, err)
		// A VM that is still starting does not listen yet.
		if out.Exit.Code == 0 && !strings.Contains(out.Stdout, `"state": "starting"`) {
			return
		}
	}
}

// migrate runs vmm migrate and returns its report and its other output.
func (v *traveller) migrate(
	ctx context.Context, from, to int, args ...string,
) (migration.Report, Output) {
	v.t.Helper()
	argv := []string{"vmm", "migrate", name(v.hop), at(v.pair, to), "--insecure", "--json"}
	argv = append(argv, args...)
	for lost := false; ; lost = true {
		out, err := v.pair.Hosts[from].Run(ctx, argv...)
		require.NoError(v.t, err)
		// On a host that starves, vmm migrate may lose sight of the VM's process. Then it has no
		// report; a migration that failed has one.
		if out.Stdout == "" && (strings.Contains(out.Stderr, "it may be stopped (kill -CONT") ||
			lost && strings.Contains(out.Stderr, "is under way")) {
			continue
		}
		var report migration.Report
		require.NoError(v.t, json.Unmarshal([]byte(out.Stdout), &report), "%+v", out)
		return report, out
	}
}

// step is what a guest saw of one migration: how far its clocks advanced between its last heartbeat
// before and its first one after, and how far the outside wall clock did.
type step struct {
	report        migration.Report
	inside        string // see movedInside
	gap           time.Duration
	wall          float64 // ms, by the arrival of the heartbeats
	tsc, kvmclock float64 // ms, by the guest's reading
}

// stepPatience is how long one step of a test on two hosts may take: a boot, a move, a few lines of
// output. On a machine with ten times as much to do as it has CPUs, a line of output takes seconds
// and a move half a minute. A limit for the whole test would then take slowness for a hang, and not
// say where it hangs.
const stepPatience = 6 * time.Minute

// hopOver moves the guest to the other host and waits until it is at work there.
func (v *traveller) hopOver(ctx context.Context, args ...string) step {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, stepPatience)
	defer cancel()
	from, to := v.hop%2, (v.hop+1)%2
	next := v.start(ctx, to, "--name", name(v.hop+1), "--insecure", "--incoming", at(v.pair, to))
	v.awaitUp(ctx, to, v.hop+1)
	// A busy machine below the hosts may let any time pass, so no standstill is too long.
	report, out := v.migrate(ctx, from, to, append(args, "--verify", "--standstill-limit", "0")...)
	require.Zero(v.t, out.Exit.Code, "%s %s", out.Stderr, v.run.stderr.String())
	require.Equal(v.t, migration.StatusCompleted, report.Status)
	require.NotNil(v.t, report.Verified)
	require.True(v.t, *report.Verified)

	exit, err := v.run.job.Wait(ctx)
	require.NoError(v.t, err)
	require.Zero(v.t, exit.Code, "the source of a VM that moved away ends well: %s",
		v.run.stderr.String())
	before := v.run.console.Beats()
	after, err := next.console.WaitBeats(ctx, 2) // one may be late, see aheadOfWall
	require.NoError(v.t, err, next.stderr.String())
	last, first := before[len(before)-1], after[0]
	require.GreaterOrEqual(v.t, first.Writes, last.Writes, "the guest's counters go on")
	v.left = append(v.left, v.run)
	v.hop, v.run = v.hop+1, next
	return step{
		report: report, gap: first.Gap,
		wall:     float64(first.At.Sub(last.At)) / float64(time.Millisecond),
		tsc:      delta(v.t, last, first, "tsc_ms"),
		kvmclock: delta(v.t, last, first, "kvmclock_ms"),
	}
}

func delta(t *testing.T, last, first heartbeat.Beat, field string) float64 {
	t.Helper()
	a, ok := last.Float(field)
	require.True(t, ok, "%s in %v", field, last.Fields)
	b, ok := first.Float(field)
	require.True(t, ok, "%s in %v", field, first.Fields)
	return b - a
}

const moves = 10

// movedInside waits until the guest has noticed its last move and returns whether that happened in
// a segment of its task, in the guest's words: 0, 1, or the name of the tag.
func (v *traveller) movedInside(ctx context.Context) string {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, stepPatience)
	defer cancel()
	prefix := fmt.Sprintf("moved task=0 epoch=%d inside=", v.hop)
	line, err := v.run.console.WaitLine(ctx, prefix)
	require.NoError(v.t, err)
	inside, _, _ := strings.Cut(strings.TrimPrefix(line, prefix), " ")
	return inside
}

// guessKHz is a bad guess at the TSC of hosts here: below what one has measured by more than KVM
// takes for the same frequency, and by less than the kernel believes to be a fault of its own.
func guessKHz(t *testing.T) int {
	t.Helper()
	rig, err := NewRig(t.Context(), t.TempDir())
	require.NoError(t, err)
	initramfs, err := rig.Initramfs("measured", nil)
	require.NoError(t, err)
	cfg, err := rig.HostConfig("measured", initramfs)
	require.NoError(t, err)
	h, err := StartHost(t.Context(), cfg)
	require.NoError(t, err)
	defer h.Close()
	require.NotZero(t, h.Hello().TSCKHz)
	return h.Hello().TSCKHz / 1000 * 995
}

// TestClocksAfterABadGuess: KVM of the first host was loaded while its kernel had but a guess at
// the TSC, and still gives new vCPUs that frequency, without a ratio. A guest that comes back to it
// must not get the host's uptime into its kvmclock.
func TestClocksAfterABadGuess(t *testing.T) {
	guess := guessKHz(t)
	p := startPair(t, func(host int, cfg *HostConfig) {
		if host == 0 {
			cfg.Append = append(cfg.Append, fmt.Sprintf("tsc_early_khz=%d", guess))
		}
	})
	hello := p.Hosts[0].Hello()
	require.Greater(t, hello.TSCKHz, guess+guess/1000, "its kernel has measured better")
	t.Logf("KVM was loaded with %d kHz, and the kernel has %d", hello.LoadedKHz, hello.TSCKHz)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	_, err := p.SetClocks(ctx)
	require.NoError(t, err)
	v := boot(ctx, t, p, "workload=phased ws=1M hot=64K busy=500ms cool=500ms fill=random tag=cool")
	_, err = v.run.console.WaitBeats(ctx, 3)
	require.NoError(t, err)
	for range 2 {
		v.hopOver(ctx, "--guidance", "off")
	}
	_, err = v.run.console.WaitBeats(ctx, 3)
	require.NoError(t, err)
	runs := append(v.left, v.run)
	requireNoJump(t, runs, apart(ctx, t, p))
	requireClocksStayTogether(t, runs, wander(p))
}

// wander is the part by which kvmclock may run faster or slower than the TSC on one of the hosts.
// KVM gives it the pace of what it was loaded with if the processor does not promise a constant
// TSC, as these do not.
func wander(p *Pair) float64 {
	most := 0.0
	for _, h := range p.Hosts {
		is := float64(h.Hello().TSCKHz)
		most = max(most, math.Abs(float64(h.Hello().LoadedKHz)-is)/is)
	}
	return most
}

// TestTenMovesBetweenTwoHosts moves a guest back and forth, every second time guided by
// its tags.
func TestTenMovesBetweenTwoHosts(t *testing.T) {
	p := startPair(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute)
	defer cancel()
	differ, err := p.SetClocks(ctx)
	require.NoError(t, err)
	v := boot(ctx, t, p, "workload=phased ws=1M hot=64K busy=500ms cool=500ms fill=random tag=cool")
	first, err := v.run.console.WaitBeats(ctx, 3)
	require.NoError(t, err)
	var steps []step
	for i := range moves {
		guidance := []string{"off", "switchover", "off", "suspend", "off", "start"}[i%6]
		s := v.hopOver(ctx, "--guidance", guidance, "--on-timeout", "cancel", "--max-defer", "4m")
		s.inside = v.movedInside(ctx)
		if guidance == "switchover" || guidance == "suspend" {
			require.NotEqual(t, "0", s.inside, "switched over outside of a segment: %+v", s)
		}
		steps = append(steps, s)
	}
	t.Logf("the hosts' wall clocks differ by at most %v, their TSCs run at %d and %d kHz\n%s",
		differ.Round(time.Microsecond), p.Hosts[0].Hello().TSCKHz, p.Hosts[1].Hello().TSCKHz,
		table(steps))
	last, err := v.run.console.WaitBeats(ctx, 3)
	require.NoError(t, err)
	runs := append(v.left, v.run)
	requireTimeGoesOn(t, steps, first, last)
	requireNoJump(t, runs, apart(ctx, t, p))
	requireClocksStayTogether(t, runs, wander(p))
}

// apart is how many ms earlier host 0 was started than host 1.
func apart(ctx context.Context, t *testing.T, p *Pair) float64 {
	t.Helper()
	var up [2]float64
	for i, h := range p.Hosts {
		out, err := h.Run(ctx, "cat", "/proc/uptime")
		require.NoError(t, err)
		_, err = fmt.Sscan(out.Stdout, &up[i])
		require.NoError(t, err, out.Stdout)
	}
	return 1000 * (up[0] - up[1])
}

// table shows the steps. The differences to the wall include the delay of the serial port and the
// rig, tens of milliseconds either way. Those between the two clocks do not.
func table(steps []step) string {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w,
		"move\tguidance\tin segment\tdowntime ms\tguest's gap ms\twall ms\tTSC ms\tkvmclock "+
			"ms\tTSC-wall\tkvmclock-wall\tTSC-kvmclock\t")
	for i, s := range steps {
		fmt.Fprintf(w, "%d\t%s\t%s\t%.1f\t%.1f\t%.0f\t%.0f\t%.0f\t%+.0f\t%+.0f\t%+.0f\t\n", i+1,
			s.report.Guidance, s.inside,
			s.report.DowntimeMS, float64(s.gap)/1e6, s.wall, s.tsc, s.kvmclock, s.tsc-s.wall,
			s.kvmclock-s.wall, s.tsc-s.kvmclock)
	}
	w.Flush()
	return b.String()
}

// aheadOfWall is how far one of the guest's clocks is ahead of the outside wall clock, in ms, from
// any origin. Heartbeats arrive late, never early, so the promptest of a few counts.
func aheadOfWall(t *testing.T, beats []heartbeat.Beat, field string) float64 {
	t.Helper()
	best := math.Inf(-1)
	for _, b := range beats {
		ms, ok := b.Float(field)
		require.True(t, ok, "%s in %v", field, b.Fields)
		best = max(best, ms-float64(b.At.UnixMicro())/1000)
	}
	return best
}

// requireNoJump requires that no move takes the guest to its host's time. The hosts were started
// apart ms one after the other, so it would jump by that much.
func requireNoJump(t *testing.T, runs []*vmmRun, apart float64) {
	t.Helper()
	require.Greater(t, apart, 1000.0, "started too close together to tell")
	for i := 1; i < len(runs); i++ {
		before := aheadOfWall(t, runs[i-1].console.Beats(), "tsc_ms")
		after := aheadOfWall(t, runs[i].console.Beats(), "tsc_ms")
		require.Less(t, math.Abs(after-before), apart/2, "the jump of move %d", i)
	}
}

// requireTimeGoesOn requires that the guest's clocks advance over the moves by the time that
// passed, including downtime.
func requireTimeGoesOn(t *testing.T, steps []step, first, last []heartbeat.Beat) {
	t.Helper()
	var downtime float64
	for _, s := range steps {
		downtime += s.report.DowntimeMS
	}
	// If the clocks had stood still during downtimes, the sum of all moves would show it.
	for _, field := range []string{"tsc_ms", "kvmclock_ms"} {
		gained := aheadOfWall(t, last, field) - aheadOfWall(t, first, field)
		t.Logf("%s gained %+.0f ms on the wall over %d moves with %.0f ms of downtime", field,
			gained, len(steps), downtime)
		require.Less(t, math.Abs(gained), downtime/2, "%s lost or gained time", field)
	}
}

// requireClocksStayTogether requires that no move separates the guest's TSC from its kvmclock. The
// guest reads kvmclock right after the TSC. On a busy machine it may be delayed in between, and
// this can only make kvmclock later. So of the heartbeats before a move, and of those after it, the
// one with the least difference counts. What a move separates stays apart, but a process may live
// for a single heartbeat, and that one may have been delayed.
//
// The clocks wander apart by themselves where kvmclock has another pace.
func requireClocksStayTogether(t *testing.T, runs []*vmmRun, wander float64) {
	t.Helper()
	beats := runs[len(runs)-1].console.Beats()
	lived, ok := beats[len(beats)-1].Float("tsc_ms")
	require.True(t, ok)
	for i := 1; i < len(runs); i++ {
		require.InDelta(t, aheadOfKvmclock(t, runs[:i]), aheadOfKvmclock(t, runs[i:]),
			5+wander*lived, "move %d parts the TSC from kvmclock", i)
	}
}

// aheadOfKvmclock is by how many ms the TSC is ahead in the heartbeat where kvmclock is least late.
func aheadOfKvmclock(t *testing.T, runs []*vmmRun) float64 {
	t.Helper()
	ahead := math.Inf(-1)
	for _, r := range runs {
		for _, b := range r.console.Beats() {
			tsc, ok := b.Float("tsc_ms")
			require.True(t, ok, "%v", b.Fields)
			kvmclock, ok := b.Float("kvmclock_ms")
			require.True(t, ok, "%v", b.Fields)
			ahead = max(ahead, tsc-kvmclock)
		}
	}
	return ahead
}

// TestLesserCPUIsRefused tries to move a guest to a host whose CPU lacks two features.
func TestLesserCPUIsRefused(t *testing.T) {
	p := startPair(t, func(host int, cfg *HostConfig) {
		if host == 1 {
			cfg.CPU = DefaultCPU + ",-avx2,-bmi2"
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*stepPatience)
	defer cancel()
	v := boot(ctx, t, p, "workload=phased ws=1M hot=64K busy=500ms cool=500ms")
	v.start(ctx, 1, "--name", name(1), "--insecure", "--incoming", at(p, 1))
	v.awaitUp(ctx, 1, 1)

	report, out := v.migrate(ctx, 0, 1)
	require.Equal(t, 1, out.Exit.Code)
	require.Equal(t, migration.StatusFailed, report.Status)
	require.Equal(t, 1, strings.Count(out.Stderr, "\n"), out.Stderr)
	for _, feature := range []string{"avx2", "bmi2"} {
		require.Contains(t, out.Stderr, feature)
	}
	require.Zero(t, report.PagesSent+report.PagesZero, "refused before any page is sent")
	t.Log(strings.TrimSpace(out.Stderr))

	beats := len(v.run.console.Beats())
	_, err := v.run.console.WaitBeats(ctx, beats)
	require.NoError(t, err, "the guest runs on at the source")
}

// TestDoctorOnStockKVM shows what vmm doctor says about an emulated host.
func TestDoctorOnStockKVM(t *testing.T) {
	rig, err := NewRig(t.Context(), t.TempDir())
	require.NoError(t, err)
	vmm, err := rig.Build(t.Context(), "./cmd/vmm")
	require.NoError(t, err)
	initramfs, err := rig.Initramfs("doctor", []File{{Source: vmm, Target: "/bin/vmm"}})
	require.NoError(t, err)
	h := bootHost(t, rig, initramfs)
	out, err := h.Run(t.Context(), "vmm", "doctor")
	require.NoError(t, err)
	t.Log("\n" + out.Stdout)
	require.Zero(t, out.Exit.Code, out.Stderr)
	require.Regexp(t, `KVM +amd`, out.Stdout)

	// Its output is a CPU file. vmm/cpu/testdata has one that was recorded in this way.
	out, err = h.Run(t.Context(), "vmm", "doctor", "--cpu")
	require.NoError(t, err)
	t.Log("\n" + out.Stdout)
	require.Zero(t, out.Exit.Code, out.Stderr)
	host, err := cpu.Decode("stock host", []byte(out.Stdout))
	require.NoError(t, err)
	recorded, err := os.ReadFile("../../vmm/cpu/testdata/amd-milan-emulated.json")
	require.NoError(t, err)
	want, err := cpu.Decode("amd-milan-emulated.json", recorded)
	require.NoError(t, err)
	require.NoError(t, cpu.Check(cpu.Guest(want.Leaves), cpu.Guest(host.Leaves)))

	out, err = h.Run(t.Context(), "sh", "-c", "rm /dev/kvm; vmm doctor")
	require.NoError(t, err)
	t.Log("\n" + out.Stdout + out.Stderr)
	require.NotZero(t, out.Exit.Code, "no /dev/kvm")
	require.Contains(t, out.Stdout+out.Stderr, "/dev/kvm")
}
