package integration

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/control"
	"taskguide/guestkernel/heartbeat"
	"taskguide/migration"
	"taskguide/tagging"
	"taskguide/tagging/abi"
)

// link is fast enough to send the guest's working set within one of its segments.
const link = "500Mbit"

// TestGuidedModes moves a tagged guest in every mode and by every rule, each time requested when
// the gate closes.
func TestGuidedModes(t *testing.T) {
	for name, mode := range map[string]struct {
		guidance migration.Guidance
		atExit   bool
	}{
		"suspend":                    {migration.GuidanceSuspend, false},
		"suspend, switch at exit":    {migration.GuidanceSuspend, true},
		"switchover":                 {migration.GuidanceSwitchover, false},
		"switchover, switch at exit": {migration.GuidanceSwitchover, true},
		"start":                      {migration.GuidanceStart, false},
	} {
		t.Run(name, func(t *testing.T) {
			v := newBox(t).travel(1, phased(1, "busy=400ms cool=800ms tag=cool")...)
			for _, rule := range []migration.Rule{migration.RuleDowntime, migration.RuleXen} {
				args := []string{
					"--guidance", string(mode.guidance), "--rule", string(rule), "--bandwidth",
					link,
				}
				if mode.atExit {
					args = append(args, "--switch-at-exit")
				} else {
					args = append(args, "--switch-at-exit=false")
				}
				v.awaitTag(exited)
				r := v.move(args...)
				require.Equal(t, mode.guidance, r.Guidance)
				require.Equal(t, rule, r.Rule)
				require.False(t, r.Forced)
				require.Empty(t, warnings(r))
				if !mode.atExit {
					require.NotContains(t, r.SwitchoverReason, "EXIT")
				}
				if holdsSwitchover(mode.guidance) {
					requireInside(v, tagging.All, r)
				}
				t.Logf("%s: waited %.0f ms, suspended %.0f ms (%d), %d rounds, %d pages in "+
					"stop-and-copy, inside %v: %s", rule,
					r.WaitedMS, r.SuspendedMS, r.Suspensions, len(r.Rounds), r.PagesStopCopy,
					v.inside(v.hops), r.SwitchoverReason)
			}
			v.carriesOn()
		})
	}
}

// warnings leaves out the one that depends on how busy the host is: greetings that take long.
func warnings(r migration.Report) []string {
	return slices.DeleteFunc(slices.Clone(r.Warnings), func(w string) bool {
		return strings.HasSuffix(w, "see downtime_fixed")
	})
}

// TestTagWays: a guest may also tag by a page in its RAM or in the tag device, or by I/O port, and
// continues to do so after its move.
func TestTagWays(t *testing.T) {
	for _, way := range []string{"fast", "device", "port"} {
		t.Run(way, func(t *testing.T) {
			v := newBox(t).travel(1, phased(1, "busy=400ms cool=1200ms tag="+way)...)
			for _, guidance := range []migration.Guidance{
				migration.GuidanceSwitchover, migration.GuidanceSuspend,
			} {
				r := v.move("--guidance", string(guidance), "--bandwidth", link)
				require.Equal(t, guidance, r.Guidance)
				require.False(t, r.Forced)
				requireInside(v, tagging.All, r)
				info := v.tags()
				require.Zero(t, info.GuestErrors)
				require.Len(t, info.Tasks, 1)
				require.Equal(t, way != "port", info.Tasks[0].Fast)
				require.Equal(t, way == "fast", info.Page != 0)
				require.Equal(t, way == "device", info.DevicePages == 1)
				require.Equal(t, way == "device", info.Tasks[0].Name == "phased")
			}
			v.carriesOn()
		})
	}
}

// TestGateFollowsAllTasks uses two tasks whose segments overlap, and two whose segments never do.
func TestGateFollowsAllTasks(t *testing.T) {
	t.Run("overlapping", func(t *testing.T) {
		v := newBox(t).travel(2, phased(2, "tasks=2 step=out busy=300ms cool=900ms tag=cool")...)
		for _, guidance := range []migration.Guidance{
			migration.GuidanceSwitchover, migration.GuidanceSuspend,
		} {
			r := v.move("--guidance", string(guidance), "--gate", "all", "--bandwidth", "1Gbit",
				"--downtime-limit", "3s")
			require.False(t, r.Forced)
			requireInside(v, tagging.All, r)
		}
		v.carriesOn()
	})
	t.Run("apart", func(t *testing.T) {
		// A vCPU leaves the one segment before it enters the other, so that no host, however busy,
		// makes them overlap.
		v := &traveller{box: newBox(t), tasks: 2}
		loop := slices.Concat(
			store(abi.MMIOBase+abi.RegEnter, 1), store(abi.MMIOBase+abi.RegExit, 1),
			store(abi.MMIOBase+abi.RegEnter, 2), store(abi.MMIOBase+abi.RegExit, 2))
		v.here = v.run(&v.guest, "host-0", tiny(v.kernel(
			store(abi.MMIOBase+abi.RegRegister, 1), store(abi.MMIOBase+abi.RegRegister, 2),
			loop, []byte{0xeb, byte(-len(loop) - 2)}))...) // jmp loop
		v.here.awaitState(control.StateRunning)
		v.until("both are registered", func() bool { return len(v.tags().Tasks) == 2 })
		r, stderr := v.fails("--gate", "all", "--max-defer", "1s", "--on-timeout", "cancel")
		require.Equal(t, migration.StatusCancelled, r.Status)
		require.Contains(t, stderr, "held back by the gate for too long")
	})
	t.Run("any", func(t *testing.T) {
		v := newBox(t).travel(2, phased(2, "tasks=2 step=out busy=3s cool=1s tag=cool")...)
		r := v.move("--guidance", "suspend", "--gate", "any", "--bandwidth", "1Gbit",
			"--downtime-limit", "3s")
		require.False(t, r.Forced)
		requireInside(v, tagging.Any, r)
		v.carriesOn()
	})
}

// heldMS is how long, in ms, a closed gate held a migration back in total.
func heldMS(r migration.Report) float64 { return r.WaitedMS + r.SuspendedMS }

// TestMaxDefer: if the gate never opens, the operator's choice decides what happens, in every mode.
func TestMaxDefer(t *testing.T) {
	modes := []migration.Guidance{
		migration.GuidanceStart, migration.GuidanceSuspend, migration.GuidanceSwitchover,
	}
	v := newBox(t).travel(1, phased(1, "busy=60m cool=1s tag=cool")...)
	for _, guidance := range modes {
		r, stderr := v.fails("--guidance", string(guidance), "--max-defer", "300ms", "--on-timeout",
			"cancel", "--bandwidth", link, "--downtime-limit", "3s") // content on any host
		require.Equal(t, migration.StatusCancelled, r.Status, "%+v", r)
		require.False(t, r.Forced)
		require.Contains(t, r.Error, "held back by the gate for too long")
		require.Contains(t, stderr, r.Error)
		require.GreaterOrEqual(t, heldMS(r), 300.)
		if waitsToStart(guidance) {
			require.Empty(t, r.Rounds)
		}
		var vm control.VM
		require.NoError(t, json.Unmarshal([]byte(v.ok("status", v.here.name, "--json")), &vm))
		require.False(t, vm.DirtyLogging)
		require.Equal(t, control.StateRunning, vm.State)
		require.Equal(t, migration.StatusCancelled, vm.Migration.Status)
		require.Zero(t, v.tags().Epoch)
	}
	v.carriesOn()
	for _, guidance := range modes {
		r := v.move("--guidance", string(guidance), "--max-defer", "300ms", "--on-timeout", "force",
			"--bandwidth", link, "--downtime-limit", "3s")
		require.Equal(t, guidance, r.Guidance)
		require.True(t, r.Forced)
		require.Contains(t, r.SwitchoverReason, "forced after 300ms: ")
		require.GreaterOrEqual(t, heldMS(r), 300.)
		require.Len(t, warnings(r), 1)
		// The guest can tell that the migration ignored its tags. Other tests rely on that.
		require.Equal(t, []string{"0"}, v.inside(v.hops))
	}
	// A rule that never converges runs more rounds while it is held.
	r := v.move("--rule", "xen", "--max-defer", "3s", "--bandwidth", link)
	require.True(t, r.Forced)
	require.True(t, slices.ContainsFunc(r.Rounds, func(r migration.Round) bool {
		return r.Phase == migration.PhaseHeld
	}))
	v.carriesOn()
}

// TestPausedGuestIsNotWaitedFor: a guest that its user paused before a closed gate cannot open it.
func TestPausedGuestIsNotWaitedFor(t *testing.T) {
	v := newBox(t).travel(1, phased(1, "busy=60m cool=1s tag=cool")...)
	v.ok("pause", v.here.name)
	for _, guidance := range []migration.Guidance{
		migration.GuidanceSwitchover, migration.GuidanceSuspend, migration.GuidanceStart,
	} {
		order := v.order("--guidance", string(guidance), "--max-defer", "1h")
		r := v.migrate(v.here.name, v.to, order[3:]...)
		requireVerified(t, r)
		require.Zero(t, heldMS(r))
		require.Len(t, warnings(r), 1)
		require.Contains(t, warnings(r)[0], "paused before a closed gate")
		require.Equal(t, 0, v.here.wait())
		v.next.awaitState(control.StatePaused)
		v.here, v.next = v.next, nil
		v.hops++
	}
	v.ok("resume", v.here.name)
	require.Equal(t, []string{"0"}, v.inside(v.hops))
	v.carriesOn()
}

// TestNobodyToAsk: the rule alone decides about a guest without tasks, and the report says so.
func TestNobodyToAsk(t *testing.T) {
	v := newBox(t).travel(1, phased(1, "busy=400ms cool=400ms")...)
	require.Contains(t, v.ok("tags", v.here.name), "no task is registered")
	for _, guidance := range []migration.Guidance{
		migration.GuidanceSwitchover, migration.GuidanceSuspend, migration.GuidanceStart,
	} {
		r := v.move("--guidance", string(guidance), "--bandwidth", link)
		require.Equal(t, migration.GuidanceNone, r.Guidance)
		require.Len(t, warnings(r), 1)
		require.Contains(t, warnings(r)[0], "no task in the guest takes part in guidance")
	}
	r := v.move("--guidance", "off", "--bandwidth", link)
	require.Equal(t, migration.GuidanceOff, r.Guidance)
	require.Empty(t, warnings(r))
	order := v.order("--bandwidth", link)
	require.Contains(t, v.ok(order...), "no task in the guest takes part in guidance")
	v.arrive()
	v.carriesOn()
}

// TestCooperativeGuest: a guest that reads STATE brings its segment forward when a migration waits
// for it, and otherwise keeps to its own phases.
func TestCooperativeGuest(t *testing.T) {
	// Its own phases are too long for any test.
	v := newBox(t).travel(1, phased(1, "busy=60m cool=1s tag=cool coop=1")...)
	for _, args := range [][]string{
		// The guest is asked once the policy is content, and its working set takes 268 ms. The
		// default limit has 150 at the least, where a busy host takes long to answer.
		{"--guidance", "switchover", "--bandwidth", link, "--downtime-limit", "3s"},
		{"--guidance", "start", "--bandwidth", link, "--downtime-limit", "3s"},
		// One segment is too short for all pages, so the guest is asked once more, in state
		// suspended. The move takes more than a second of the guest's EXIT, so that a heartbeat
		// becomes due within the tag.
		{
			"--guidance", "suspend", "--switch-at-exit", "--bandwidth", "50Mbit",
			"--downtime-limit", "3s",
		},
	} {
		v.awaitSide(false)
		r := v.move(args...)
		suspends := r.Guidance == migration.GuidanceSuspend
		for tries := 1; suspends && r.Suspensions == 0 && tries < 5; tries++ {
			v.awaitSide(false) // all went within one segment: its vCPU had no processor for long
			r = v.move(args...)
		}
		if suspends {
			require.Positive(t, r.Suspensions, "%+v", r)
		}
		require.False(t, r.Forced)
		t.Logf("%s: waited %.0f ms, suspended %.0f ms, down %.0f ms", r.Guidance, r.WaitedMS,
			r.SuspendedMS, r.DowntimeMS)
		require.Positive(t, r.WaitedMS, "%+v", r)
		if holdsSwitchover(r.Guidance) {
			requireInside(v, tagging.All, r)
		}
	}
	// Without a migration it stays busy. If it were still asked, almost all heartbeats would fall
	// into a segment.
	beats := v.alive(v.box, 2)
	for !busyBeat(beats[len(beats)-1]) || !busyBeat(beats[len(beats)-2]) {
		beats = v.alive(v.box, 1)
	}
	requireMonotonic(t, beats, 1)
}

func busyBeat(b heartbeat.Beat) bool { return b.Fields["phase"] == "busy" }

// TestGapOfAMoveAtExit: a guest that is moved while its EXIT is answered counts the move among its
// gaps. Its segments are the busy phases, so that there is much to send then. A round may also end
// inside a segment, and then the migration does not need the EXIT. In that case, the guest is moved
// again.
func TestGapOfAMoveAtExit(t *testing.T) {
	v := newBox(t).travel(1, phased(1, "busy=400ms cool=400ms fill=random tag=busy")...)
	v.timed = true
	var (
		r      migration.Report
		before int // beats before the move
	)
	for !strings.Contains(r.SwitchoverReason, "EXIT") {
		v.awaitTag(func(t tagging.Transition) bool { return t.Event == tagging.Entered })
		before = len(v.Beats())
		r = v.move("--guidance", "switchover", "--rule", "downtime", "--bandwidth", "200Mbit",
			"--downtime-limit", "5s")
	}
	require.Positive(t, r.PagesStopCopy)
	longest := 0.0 // microseconds
	for _, beat := range v.alive(v.box, 2)[before:] {
		gap, ok := beat.Float("gap_us")
		require.True(t, ok)
		longest = max(longest, gap)
	}
	// No vCPU runs while pages are sent (the state is saved at the same time) and the state is
	// loaded. Before and after that, some may.
	d := r.Downtime
	require.GreaterOrEqual(t, longest/1000, d.HarvestMS+d.PagesMS+d.LoadMS)
	v.carriesOn()
}

// TestSuspendedIsSilent: no page is sent while the gate is closed, and a migration can be
// cancelled.
func TestSuspendedIsSilent(t *testing.T) {
	// The guest leaves its segment as soon as it sees that the migration has begun.
	v := &traveller{box: newBox(t), tasks: 1}
	v.here = v.run(&v.guest, "host-0", tiny(v.kernel(
		untidy, store(abi.MMIOBase+abi.RegEnter, 1),
		awaitState(tagging.StatePreCopy), store(abi.MMIOBase+abi.RegExit, 1),
		awaitState(tagging.StateNone), out(0x3f8, 'N'), forever))...)
	v.here.awaitState(control.StateRunning)
	v.awaitSide(true)
	_, wait := v.background(v.order("--guidance", "suspend", "--bandwidth", slow, "--json")...)
	client := v.here.client()
	suspended := func() migration.Report {
		for {
			r, err := client.Migration(v.ctx)
			if err == nil && r.Phase == migration.PhaseSuspended {
				return r
			}
			require.NoError(t, v.ctx.Err(), "%+v %v", r, err)
			time.Sleep(10 * time.Millisecond)
		}
	}
	before := suspended()
	// Nothing can prove silence. At 1 Mbit/s, this second would carry 125 thousand bytes of pages.
	time.Sleep(time.Second)
	after := suspended()
	require.Less(t, after.BytesWire-before.BytesWire, int64(1000), "keep-alives, but no page")
	require.True(t, v.here.vm().DirtyLogging)
	require.Equal(t, tagging.StateSuspended, v.tags().State)

	v.ok("cancel", v.here.name)
	r := wait()
	require.Equal(t, 1, r.status)
	report := decodeReport(v.box, r.stdout)
	require.Equal(t, migration.StatusCancelled, report.Status)
	require.Equal(t, 1, report.Suspensions)
	require.GreaterOrEqual(t, report.SuspendedMS, 1000.)
	v.here.untouched()
	require.Equal(t, tagging.StateNone, v.tags().State)
	require.NoError(t, v.WaitText(v.ctx, "N"), "it goes on, and knows")
}

// TestTagsCommand checks what vmm tags shows of a guest, at once and as events happen.
func TestTagsCommand(t *testing.T) {
	v := newBox(t).travel(1, phased(1, "busy=200ms cool=200ms tag=cool")...)
	var shown guest
	follow := v.command("tags", v.here.name, "--follow")
	follow.Stdout = &shown.Log
	require.NoError(t, follow.Start())
	require.NoError(t, shown.WaitText(v.ctx, " exit "))
	require.NoError(t, shown.WaitText(v.ctx, " enter "))
	require.Regexp(t, `(?m)\Agate: (open|closed) under all, (open|closed) under any; epoch 0$`,
		v.ok("tags", v.here.name))
	require.Regexp(t, `(?m)^0 +(inside|outside) +[01] +\d+ .* port$`, v.ok("tags", v.here.name))
	v.move("--bandwidth", link)
	require.Contains(t, v.ok("tags", v.here.name), "epoch 1")
	require.NoError(t, follow.Wait())
	require.Regexp(t, `task 0 enter +depth 1  gate: all open, any open`, shown.String())
	require.Regexp(t, `task 0 exit +depth 0  gate: all closed, any closed`, shown.String())
	requireInOrder(t, shown.String(), `VM running`, `migration: pre-copy`,
		`migration: stop-and-copy`, `VM moved`)
}

// TestUnregister: a task that ends no longer takes part.
func TestUnregister(t *testing.T) {
	b := newBox(t)
	// On a busy host, a guest may end before anybody follows it. Then the next one lives longer.
	var r result
	for secs := 4; !strings.Contains(r.stdout, "task 0 enter"); secs *= 2 {
		options := fmt.Sprintf("busy=100ms cool=100ms tag=cool secs=%d", secs)
		p := b.run(&guest{}, "vm", phased(1, options)...)
		p.awaitState(control.StateRunning) // before, nobody can follow it
		_, follow := b.background("tags", "vm", "--follow")
		require.Equal(t, 0, p.wait())
		r = follow()
	}
	require.Equal(t, result{0, r.stdout, ""}, r)
	requireInOrder(t, r.stdout, `task 0 enter +depth 1`, `task 0 unregister +depth 0`)
}

// requireInOrder requires that lines of text match these patterns in order. Other lines may be
// between them.
func requireInOrder(t *testing.T, text string, patterns ...string) {
	t.Helper()
	lines := slices.Collect(strings.Lines(text))
	for _, p := range patterns {
		at := slices.IndexFunc(lines, regexp.MustCompile(p).MatchString)
		require.GreaterOrEqual(t, at, 0, "%q is missing, or not in its place: %s", p, text)
		lines = lines[at+1:]
	}
}

// TestPoliciesMove: a guest moves under each of the policies that the tests above leave out, inside
// its segment.
func TestPoliciesMove(t *testing.T) {
	v := newBox(t).travel(1, phased(1, "busy=400ms cool=400ms tag=cool")...)
	for rule, given := range map[migration.Rule]string{
		"qemu": "qemu", "ramp": "ramp:delay=1s", "stall": "stall:window=1s",
		"cycle": "cycle:interval=50ms,samples=16",
	} {
		r := v.move("--policy", given, "--bandwidth", link)
		require.Equal(t, rule, r.Rule)
		require.Equal(t, given, r.Policy)
		require.False(t, r.Forced)
		require.Empty(t, warnings(r))
		requireInside(v, tagging.All, r)
		require.Equal(t, rule == "cycle", r.Samples > 0)
		t.Logf("%s: %d rounds, %d pages in stop-and-copy: %s", given, len(r.Rounds),
			r.PagesStopCopy, r.SwitchoverReason)
	}
	v.carriesOn()
}
