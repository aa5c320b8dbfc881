package integration

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/control"
	"taskguide/migration"
	"taskguide/tagging"
)

// phased is a guest of tasks that alternate between rewriting 16 MiB and rewriting 256 KiB. It is
// small, so that migrations are quick.
func phased(cpus int, options string) []string {
	return []string{
		"--memory", fmt.Sprintf("%dM", 16+16*cpus), "--cpus", strconv.Itoa(cpus),
		"--cmdline", "workload=phased ws=16M hot=256K " + options,
	}
}

// traveller is a guest that moves from host to host.
type traveller struct {
	*box
	guest
	tasks int
	here  *process
	hops  int
	// timed says that the test looks at downtimes, which --verify would lengthen.
	timed bool

	// The next host is started in advance, and stays if a migration fails.
	next *process
	to   string
}

// travel starts a guest with that number of tasks and waits until all of them are at work, and
// registered if they tag.
func (b *box) travel(tasks int, args ...string) *traveller {
	b.t.Helper()
	v := &traveller{box: b, tasks: tasks}
	v.here = b.run(&v.guest, "host-0", args...)
	for task := range tasks {
		require.NoError(b.t, v.WaitText(b.ctx, fmt.Sprintf("hb task=%d ", task)))
	}
	// If the first pass takes long, the guest prints heartbeats before its task registers.
	if strings.Contains(strings.Join(args, " "), "tag=") {
		for len(v.tags().Tasks) < tasks {
			time.Sleep(5 * time.Millisecond)
		}
	}
	return v
}

// order makes a vmm migrate to the next host.
func (v *traveller) order(args ...string) []string {
	v.t.Helper()
	if v.next == nil {
		v.next, v.to = v.incoming(&v.guest, fmt.Sprintf("host-%d", v.hops+1), "tcp:127.0.0.1:0")
	}
	order := []string{"migrate", v.here.name, v.to, "--compress", "none"}
	if !v.timed {
		order = append(order, "--verify")
	}
	if !slices.Contains(args, "--max-defer") {
		// On a busy host, a guest may take long to be where it is waited for.
		order = append(order, "--max-defer", "5m")
	}
	order = append(order, "--standstill-limit", "0") // and a switchover may take long
	return append(order, args...)
}

// move migrates the guest to the next host, where each of its tasks must notice the move once.
func (v *traveller) move(args ...string) migration.Report {
	v.t.Helper()
	order := v.order(args...)
	report := v.migrate(v.here.name, v.to, order[3:]...)
	v.arrive()
	requireConsistent(v, report)
	return report
}

// arrive does what follows once the guest runs at the next host.
func (v *traveller) arrive() {
	v.t.Helper()
	require.Equal(v.t, 0, v.here.wait(), "%s", v.here.stderr)
	v.here, v.next = v.next, nil
	v.hops++
	tags := v.tags()
	require.EqualValues(v.t, v.hops, tags.Epoch)
	require.Equal(v.t, tagging.StateNone, tags.State,
		"the guest could think that it is still migrated")
	v.here.awaitState(control.StateRunning)
	v.here.untouched()
	if len(tags.Tasks) > 0 {
		v.inside(v.hops)
	}
	require.Empty(v.t, v.Corrupt())
}

// carriesOn requires that the guest is well after all its moves, and that its counters never went
// backwards.
func (v *traveller) carriesOn() {
	v.t.Helper()
	requireMonotonic(v.t, v.alive(v.box, v.tasks), v.tasks)
}

// awaitSide waits until task 0 is inside a segment, or outside of any.
func (v *traveller) awaitSide(inside bool) {
	v.t.Helper()
	client := v.here.client()
	for {
		info, err := client.Tags(v.ctx)
		require.NoError(v.t, err)
		if len(info.Tasks) > 0 && info.Tasks[0].Inside == inside {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// fails orders a migration that must fail, and returns its report and the line that says why.
func (v *traveller) fails(args ...string) (migration.Report, string) {
	v.t.Helper()
	order := append(v.order(args...), "--json")
	r := v.vmm(order...)
	require.Equal(v.t, 1, r.status, "%s%s", r.stdout, r.stderr)
	require.Equal(v.t, 1, strings.Count(r.stderr, "\n"), r.stderr)
	require.Contains(v.t, r.stderr, "the guest still runs here")
	v.here.untouched()
	require.Equal(v.t, control.StateIncoming, v.next.vm().State)
	return decodeReport(v.box, r.stdout), r.stderr
}

func decodeReport(b *box, text string) migration.Report {
	b.t.Helper()
	var report migration.Report
	require.NoError(b.t, json.Unmarshal([]byte(text), &report), text)
	return report
}

// tags returns the state of the tag port at the guest's present host.
func (v *traveller) tags() tagging.Info {
	v.t.Helper()
	var info tagging.Info
	require.NoError(v.t, json.Unmarshal([]byte(v.ok("tags", v.here.name, "--json")), &info))
	return info
}

// awaitTag waits until a transition of the guest's tags fits.
func (v *traveller) awaitTag(what func(tagging.Transition) bool) {
	v.t.Helper()
	events, err := v.here.client().TagEvents(v.ctx)
	require.NoError(v.t, err)
	defer events.Close()
	for {
		e, err := events.Next()
		require.NoError(v.t, err)
		if e.Tag != nil && what(*e.Tag) {
			return
		}
	}
}

func exited(t tagging.Transition) bool { return t.Event == tagging.Exited }

// inside returns, for each task, where the move with that number happened: in a segment (1, or
// right at a tag: enter, exit), or outside (0). It waits until all tasks have said so.
func (v *traveller) inside(epoch int) []string {
	v.t.Helper()
	for {
		found, all := v.insideSoFar(epoch)
		if all {
			return found
		}
		require.NoError(v.t, v.ctx.Err(),
			"moved for the %d. time, and not all of %d tasks noticed: %s", epoch, v.tasks,
			v.String())
		time.Sleep(5 * time.Millisecond)
	}
}

func (v *traveller) insideSoFar(epoch int) (found []string, all bool) {
	v.t.Helper()
	found = make([]string, v.tasks)
	for line := range strings.Lines(v.String()) {
		fields, ok := strings.CutPrefix(line, "moved ")
		if !ok || !strings.HasSuffix(line, "\n") {
			continue
		}
		moved := map[string]string{}
		for _, field := range strings.Fields(fields) {
			key, value, _ := strings.Cut(field, "=")
			moved[key] = value
		}
		if moved["epoch"] != strconv.Itoa(epoch) {
			continue
		}
		task, err := strconv.Atoi(moved["task"])
		require.NoError(v.t, err, line)
		require.Less(v.t, task, v.tasks, line)
		require.Empty(v.t, found[task], "task %d says twice that it moved: %s", task, v.String())
		require.Contains(v.t, []string{"0", "1", "enter", "exit"}, moved["inside"], line)
		found[task] = moved["inside"]
	}
	return found, !slices.Contains(found, "")
}

// holdsSwitchover tells whether a closed gate holds the stop-and-copy back in that mode.
func holdsSwitchover(g migration.Guidance) bool {
	return g == migration.GuidanceSuspend || g == migration.GuidanceSwitchover
}

// waitsToStart tells whether a migration in that mode begins only at an open gate.
func waitsToStart(g migration.Guidance) bool {
	return g == migration.GuidanceSuspend || g == migration.GuidanceStart
}

// requireConsistent requires that a completed migration's report contradicts neither itself nor its
// mode.
func requireConsistent(v *traveller, r migration.Report) {
	v.t.Helper()
	text, err := json.MarshalIndent(r, "", " ")
	require.NoError(v.t, err)
	if !v.timed {
		requireVerified(v.t, r)
	}
	require.LessOrEqual(v.t, r.WaitedMS+r.SuspendedMS, r.DeferredMS+0.01, "%s", text)
	require.LessOrEqual(v.t, r.DeferredMS, r.TotalMS, "%s", text)
	require.Equal(v.t, r.Suspensions > 0, r.SuspendedMS > 0, "%s", text)
	if r.Guidance != migration.GuidanceSuspend {
		require.Zero(v.t, r.Suspensions, "%s", text)
	}
	if r.Guidance == migration.GuidanceOff || r.Guidance == migration.GuidanceNone {
		require.Zero(v.t, r.DeferredMS, "%s", text)
	}
	require.Equal(v.t, r.Forced, strings.HasPrefix(r.SwitchoverReason, "forced after "), "%s", text)

	var sent, zero int64
	var heldRoundsMS, lastHeldMS float64
	for i, round := range r.Rounds {
		require.Equal(v.t, i+1, round.N, "%s", text)
		require.Equal(v.t, i == len(r.Rounds)-1, round.Phase == migration.PhaseStopCopy,
			"one stop-and-copy, at the end: %s", text)
		if round.Phase == migration.PhaseHeld {
			heldRoundsMS += round.MS
			lastHeldMS = round.MS
		}
		sent += round.SentPages
		zero += round.ZeroPages
	}
	if r.Forced {
		// The round in which patience ended is completed after that time.
		heldRoundsMS -= lastHeldMS
	}
	require.LessOrEqual(v.t, heldRoundsMS, r.DeferredMS, "held rounds count, too: %s", text)
	require.Equal(v.t, r.PagesSent, sent, "%s", text)
	require.Equal(v.t, r.PagesZero, zero, "%s", text)
	last := r.Rounds[len(r.Rounds)-1]
	require.Equal(v.t, r.PagesStopCopy, last.DirtyPages, "%s", text)
	require.Equal(v.t, last.DirtyPages, last.SentPages+last.ZeroPages, "nothing may be left: %s",
		text)
	if !r.Forced {
		requireObeyed(v, r, string(text))
	}
}

// requireObeyed requires that a migration that was not forced did nothing that the closed gate
// forbids.
func requireObeyed(v *traveller, r migration.Report, text string) {
	v.t.Helper()
	if waitsToStart(r.Guidance) {
		// The gate may close again between the wait's end and the first round.
		require.True(v.t, r.Rounds[0].GateOpen || r.Rounds[0].SentPages == 0 ||
			r.Guidance == migration.GuidanceStart, text)
	}
	if r.Guidance == migration.GuidanceSuspend {
		for _, round := range r.Rounds {
			require.True(v.t, round.GateOpen || round.SentPages == 0,
				"round %d sent pages at a closed gate: %s", round.N, text)
		}
	}
	if holdsSwitchover(r.Guidance) {
		require.True(v.t, r.Rounds[len(r.Rounds)-1].GateOpen, "stop-and-copy at a closed gate: %s",
			text)
	}
}

// requireInside requires that the last move met all tasks in their segments, or at least one under
// tagging.Any.
func requireInside(v *traveller, gate tagging.Quorum, r migration.Report) {
	v.t.Helper()
	inside := v.inside(v.hops)
	if gate == tagging.Any {
		require.True(v.t, slices.ContainsFunc(inside, func(s string) bool { return s != "0" }),
			"%v: %+v", inside, r)
		return
	}
	require.NotContains(v.t, inside, "0", "%+v", r)
}
