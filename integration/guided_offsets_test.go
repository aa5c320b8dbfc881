//go:build guidance

package integration

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration"
	"taskguide/tagging"
	"taskguide/transport"
)

const (
	// One cycle of the guest below.
	cycle   = 2 * time.Second
	offsets = 10
	// firstOffset is after the EXIT. Only few offsets make an unguided migration run out of rounds
	// in a busy phase: those that leave about 0.7 s of the segment, enough for round 1 and half of
	// the small ones. With this one, the seventh offset is in the middle of them.
	firstOffset = 50 * time.Millisecond
	// improvement is how many times fewer pages a guided migration must leave to its stop-and-copy,
	// in the worst case.
	improvement = 10
)

// variant is one way to migrate the guest.
type variant struct {
	name string
	args []string
	// asserted says that it must reach the improvement. The downtime rule accepts as many pages as
	// fit its limit.
	asserted bool
}

var variants = []variant{
	{"xen, off", []string{"--rule", "xen", "--guidance", "off"}, false}, // the baseline
	// Only its beginning is guided: it may leave the segment before the rule is satisfied, and then
	// ends anywhere.
	{"xen, start", []string{"--rule", "xen", "--guidance", "start"}, false},
	{"xen, suspend", []string{"--rule", "xen", "--guidance", "suspend"}, true},
	{
		"xen, suspend, at exit",
		[]string{"--rule", "xen", "--guidance", "suspend", "--switch-at-exit"}, true,
	},
	{
		"xen, switchover",
		[]string{"--rule", "xen", "--guidance", "switchover", "--switch-at-exit=false"}, true,
	},
	{"xen, switchover, at exit", []string{"--rule", "xen", "--guidance", "switchover"}, true},
	{"downtime, off", []string{"--guidance", "off"}, false},
	{"downtime, start", []string{"--guidance", "start"}, false},
	{"downtime, suspend", []string{"--guidance", "suspend"}, false},
	{"downtime, switchover", []string{"--guidance", "switchover"}, false},
	{
		"downtime 10ms, switchover",
		[]string{"--guidance", "switchover", "--downtime-limit", "10ms"}, true,
	},
}

// TestOffsets migrates one guest in each way at ten points in time, evenly spread over its cycle of
// a busy and a cool second, at 1 Gbit/s, and compares how many pages are left to stop-and-copy.
func TestOffsets(t *testing.T) {
	b := patientBox(t)
	v := b.travel(1, "--memory", "128M", "--cmdline",
		"workload=phased ws=64M hot=1M busy=1s cool=1s tag=cool")
	v.timed = true
	reports := map[string][]migration.Report{}
	insides := map[string][]string{}
	for _, way := range variants {
		for i := range offsets {
			offset := firstOffset + time.Duration(i)*cycle/offsets
			v.awaitTag(exited)
			time.Sleep(offset)
			r := v.move(append([]string{"--bandwidth", "1Gbit"}, way.args...)...)
			require.False(t, r.Forced)
			reports[way.name] = append(reports[way.name], r)
			insides[way.name] = append(insides[way.name], v.inside(v.hops)...)
			t.Logf("%s: %s", way.name, account(offset, r))
			if holdsSwitchover(r.Guidance) {
				requireInside(v, tagging.All, r)
			}
		}
	}
	v.carriesOn()
	t.Log("\n" + table(reports, insides))
	if path := os.Getenv("GUIDANCE_TABLE"); path != "" {
		require.NoError(t, os.WriteFile(path, []byte(table(reports, insides)), 0o644))
	}
	baseline := worst(reports[variants[0].name], stopCopyPages)
	require.Greater(t, baseline, 8192.,
		"the baseline was never caught in a busy phase: there is nothing to compare with")
	for _, way := range variants {
		if way.asserted && worst(reports[way.name], stopCopyPages)*improvement > baseline {
			t.Errorf("%s: stop-and-copy of up to %.0f pages, the baseline's of up to %.0f",
				way.name,
				worst(reports[way.name], stopCopyPages), baseline)
		}
	}
}

// patientBox is a box for tests of many minutes.
func patientBox(t *testing.T) *box {
	t.Helper()
	b := newBox(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	t.Cleanup(cancel)
	b.ctx = ctx
	return b
}

// TestLongSuspension: a connection outlives any wait for the gate, before the first page and
// between two pages.
func TestLongSuspension(t *testing.T) {
	const closed = transport.IdleTimeout + 5*time.Second
	options := fmt.Sprintf("busy=%dms cool=4s tag=cool", closed.Milliseconds())
	v := patientBox(t).travel(1, phased(1, options)...)
	v.awaitSide(false)
	// A segment is a little too short for all pages.
	r := v.move("--guidance", "suspend", "--switch-at-exit", "--bandwidth", "30Mbit",
		"--downtime-limit", "1s", "--max-defer", "10m")
	require.False(t, r.Forced)
	require.Positive(t, r.Suspensions)
	require.Greater(t, r.SuspendedMS, float64(transport.IdleTimeout.Milliseconds()))
	requireInside(v, tagging.All, r)
	v.carriesOn()
}

// account describes one migration in a line.
func account(offset time.Duration, r migration.Report) string {
	open := &strings.Builder{}
	for _, round := range r.Rounds {
		if round.GateOpen {
			open.WriteByte('o')
		} else {
			open.WriteByte('c')
		}
	}
	d := r.Downtime
	return fmt.Sprintf("%v after EXIT: %d pages, downtime %.1f ms (pause %.1f, harvest %.1f, "+
		"pages %.1f, save %.1f, load %.1f, run %.1f), total %.0f ms, waited %.0f ms, suspended "+
		"%.0f ms, gate by round %s: %s",
		offset, r.PagesStopCopy, r.DowntimeMS, d.PauseMS, d.HarvestMS, d.PagesMS, d.SaveMS,
		d.LoadMS, d.RunMS, r.TotalMS, r.WaitedMS, r.SuspendedMS, open, r.SwitchoverReason)
}

func stopCopyPages(r migration.Report) float64 { return float64(r.PagesStopCopy) }

func downtime(r migration.Report) float64 { return r.DowntimeMS }

func sorted(reports []migration.Report, what func(migration.Report) float64) []float64 {
	var values []float64
	for _, r := range reports {
		values = append(values, what(r))
	}
	slices.Sort(values)
	return values
}

func worst(reports []migration.Report, what func(migration.Report) float64) float64 {
	return slices.Max(sorted(reports, what))
}

func median(reports []migration.Report, what func(migration.Report) float64) float64 {
	s := sorted(reports, what)
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

func table(reports map[string][]migration.Report, insides map[string][]string) string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w,
		"RULE, GUIDANCE\tPAGES MEDIAN\tWORST\tDOWNTIME MS MEDIAN\tWORST\tTOTAL MS MEDIAN\tBYTES "+
			"MB MEDIAN\tOUTSIDE")
	total := func(r migration.Report) float64 { return r.TotalMS }
	wire := func(r migration.Report) float64 { return float64(r.BytesWire) / 1e6 }
	for _, way := range variants {
		outside := 0
		for _, inside := range insides[way.name] {
			if inside == "0" {
				outside++
			}
		}
		rs := reports[way.name]
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.1f\t%.1f\t%.0f\t%.0f\t%d\n", way.name,
			median(rs, stopCopyPages), worst(rs, stopCopyPages),
			median(rs, downtime), worst(rs, downtime), median(rs, total), median(rs, wire), outside)
	}
	w.Flush()
	return out.String()
}
