package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"taskguide/bench/peer/qemu"
	"taskguide/bench/trial"
	"taskguide/control/text"
	"taskguide/migration"
)

// planned are made results of the trials of a plan that are wanted.
func planned(e Experiment, size Size, want func(trial.Spec) bool) []trial.Result {
	var results []trial.Result
	for _, s := range e.Plan(at(size), 1) {
		if want(s) {
			results = append(results, made(s))
		}
	}
	return results
}

// If a run was stopped after a trial of one program with true tags and a trial of another without
// tags, there is nothing to compare.
func TestNoHeadlineFromUnlikePrograms(t *testing.T) {
	results := planned(validity(), Quick, func(s trial.Spec) bool {
		return s.ID == "matmul/cool@00" || s.ID == "phased/none@01"
	})
	require.Len(t, results, 2)
	require.Empty(t, validityReport(at(Quick), results).Headlines)
	results = planned(tagging(), Quick, func(s trial.Spec) bool {
		return s.ID == "matmul/xen/off@00" || s.ID == "phased/xen/switchover@00"
	})
	require.Len(t, results, 2)
	f := taggingReport(at(Quick), results)
	require.Empty(t, f.Headlines)
	require.Empty(t, f.Lead.Rows)
}

// A headline over all programs counts only blocks that have all of them on both sides.
func TestPooledHeadlineNeedsWholeBlocks(t *testing.T) {
	incomplete := func(s trial.Spec) bool {
		f := s.Factors
		return f["program"] != "kv" || f["tags"] != "cool" || strings.HasSuffix(s.ID, "@02")
	}
	results := planned(validity(), Full, incomplete)
	for i := range results {
		r := &results[i]
		r.Report.DowntimeMS = 1000 // in the other blocks nothing is gained
		if strings.HasSuffix(r.Spec.ID, "@02") && r.Spec.Factors["tags"] == "cool" {
			r.Report.DowntimeMS = 100
		}
	}
	lines := validityReport(at(Full), results).Headlines
	require.Contains(
		t,
		lines,
		"all programs with true tags: mean downtime 0.10× (n=4) of what it is untagged.",
	)

	none := planned(
		validity(),
		Full,
		func(s trial.Spec) bool { return s.Factors["program"] != "kv" },
	)
	for _, line := range validityReport(at(Full), none).Headlines {
		require.NotContains(t, line, allPrograms)
	}
}

// Differences between programs and between moments of the request are on both sides of a pair, so
// they do not widen the interval.
func TestRatiosArePaired(t *testing.T) {
	results := planned(
		tagging(),
		Full,
		func(s trial.Spec) bool { return s.Factors["rule"] == "xen" },
	)
	for i := range results {
		r := &results[i]
		r.Report.TotalMS = 1000 * float64(len(r.Spec.Factors["program"])) * (1 + 5*r.Spec.Offset)
	}
	require.Contains(t, taggingReport(at(Full), results).Headlines[1], "1.00× [1.00×, 1.00×]")
}

// A quick run must be in the same regime as a full one, or its headline is about something else.
func TestQuickRunsKeepTheRegime(t *testing.T) {
	type regime struct{ busy, limit, cool float64 }
	of := func(size Size) map[string]regime {
		found := map[string]regime{}
		for _, s := range tagging().Plan(at(size), 1) {
			if s.Factors["policy"] != off.name {
				continue
			}
			ws := int64(0)
			_, after, ok := strings.Cut(s.Guest.Program, "ws=")
			require.True(t, ok, s.Guest.Program)
			_, err := fmt.Sscanf(after, "%dM", &ws)
			require.NoError(t, err, s.Guest.Program)
			sending := float64(ws<<20) * 8 / float64(s.Params.BitsPerSecond)
			found[s.Factors["program"]+" "+s.Factors["rule"]] = regime{
				s.Guest.Busy.Seconds() / sending,
				s.Params.DowntimeLimit.Seconds() / sending,
				s.Guest.Cool.Seconds() / sending,
			}
		}
		return found
	}
	full, quick := of(Full), of(Quick)
	require.Len(t, full, len(rules)*len(programs))
	require.Equal(t, full, quick)
	for name, r := range full {
		require.Less(t, r.limit, 1.0, "%s: all that it writes fits the downtime limit", name)
	}
}

// The words over a table come from the same trials as the table.
func TestInterruptCountsWhereGuestsWereStopped(t *testing.T) {
	results := planned(interrupt(), Full, func(trial.Spec) bool { return true })
	forcedOnes := 0
	for i := range results {
		r := &results[i]
		if r.Spec.Factors["policy"] == suspend.name && i%3 == 0 {
			r.Report.Forced, r.Moved = true, &trial.Moved{Inside: "0", Phase: "busy"}
			forcedOnes++
		}
	}
	require.Positive(t, forcedOnes)
	text := strings.Join(interruptReport(at(Full), results).Sections[0].Text, "\n")
	require.Contains(
		t,
		text,
		fmt.Sprintf(
			"Suspend: of 30 migrations %d were forced; "+
				"of 30 guests that tell, %d were stopped outside of a segment.",
			forcedOnes,
			forcedOnes,
		),
	)
	require.Contains(
		t,
		text,
		"Switchover: of 30 migrations 0 were forced; "+
			"of 30 guests that tell, 0 were stopped outside of a segment.",
	)
}

// The timeline shows the trial that its caption names, even if the first half of the cycle differs
// from the rest.
func TestTimelineIsNearestToTheMedian(t *testing.T) {
	results := planned(tagging(), Full, func(s trial.Spec) bool {
		return s.Factors["program"] == "kv" && s.Factors["rule"] == "xen" &&
			s.Factors["policy"] == off.name
	})
	require.Len(t, results, 6)
	for i := range results {
		r := &results[i]
		r.Report.DowntimeMS = 225
		if r.Spec.Offset < 0.3 {
			r.Report.DowntimeMS = 7.6
		}
	}
	s := timelineSection(results, []string{off.name})
	require.Len(t, s.Figures, 1)
	require.Contains(t, s.Figures[0].Caption, "downtime 225 ms, where the median of 6 is 225 ms")
}

func TestBanners(t *testing.T) {
	quiet := planned(tagging(), Quick, func(trial.Spec) bool { return true })
	run := Run{Size: Full, Trials: len(quiet), Host: Environment{CPUs: 2}}
	require.Empty(t, banners(run, quiet))

	run.Size = Quick
	require.Equal(t, "QUICK", banners(run, quiet)[0].Kind)

	run.Size = Full
	require.Equal(
		t,
		fmt.Sprintf("PARTIAL: 5 of %d trials have a result, 0 are void, %d were not run; "+
			"--resume goes on", len(quiet), len(quiet)-5),
		banners(run, quiet[:5])[0].String(),
	)
	void := append([]trial.Result{}, quiet...)
	void[3].Error = "the guest did not boot"
	require.Equal(
		t,
		fmt.Sprintf("PARTIAL: %d of %d trials have a result, 1 are void, 0 were not run; "+
			"--resume goes on", len(quiet)-1, len(quiet)),
		banners(run, void)[0].String(),
	)

	noisy := append([]trial.Result{}, quiet...)
	noisy[0].Noise.BusyCPUs = 1.9
	noisy[1].Noise.During = &trial.NoiseDuring{OthersCPUs: 0.1, OthersPeakCPUs: 0.9}
	require.Equal(
		t,
		fmt.Sprintf("NOISY: in 2 of %d trials others took up to 1.9 of 2 CPUs; "+
			"--resume --repeat-noisy runs those trials again", len(quiet)),
		banners(run, noisy)[0].String(),
	)
	var said strings.Builder
	fault(&said, quiet[2])
	require.Empty(t, said.String())
	fault(&said, noisy[1])
	require.Contains(t, said.String(), "NOISY: others took 0.9 CPUs")
}

// Banners stand in the report, in its JSON and on the terminal.
func TestBannersAreSeen(t *testing.T) {
	o := newOrder(tagging())
	dir := t.TempDir()
	store, err := Create(
		dir,
		Run{
			Experiment: o.Experiment.Name,
			Size:       o.Size,
			Seed:       o.Seed,
			Trials:     32,
			Host:       Environment{QEMU: "7.2"},
		},
	)
	require.NoError(t, err)
	require.NoError(t, store.Add(made(o.Experiment.Plan(o.Setting, o.Seed)[0])))
	require.NoError(t, store.Close())
	page, err := WriteReport(dir)
	require.NoError(t, err)
	html, err := os.ReadFile(page)
	require.NoError(t, err)
	summary, err := os.ReadFile(filepath.Join(dir, summaryFile))
	require.NoError(t, err)
	var terminal bytes.Buffer
	require.NoError(t, PrintHeadlines(&terminal, dir))
	for _, kind := range []string{"QUICK", "PARTIAL"} {
		require.True(t, bytes.Contains(html, []byte("<strong>"+kind+"</strong>")), kind)
		require.Contains(t, string(summary), `"kind": "`+kind+`"`)
		require.Contains(t, terminal.String(), kind+": ")
	}
}

// noisyOnce disturbs the first trial, once.
type noisyOnce struct{ fake }

func (n *noisyOnce) Run(ctx context.Context, s trial.Spec) trial.Result {
	r := n.fake.Run(ctx, s)
	if len(n.ran) == 1 {
		r.Noise.During = &trial.NoiseDuring{OthersCPUs: 1.5, OthersPeakCPUs: 1.9}
	}
	return r
}

func TestNoisyTrialsAreRepeated(t *testing.T) {
	o := newOrder(tagging())
	store, dir := newStore(t, o)
	site := &noisyOnce{}
	results, err := execute(t.Context(), o, site, nil, store)
	require.NoError(t, err)
	first := site.ran[0]

	// If it is resumed as it is, nothing is left to do.
	again := &fake{}
	results, err = execute(t.Context(), o, again, results, store)
	require.NoError(t, err)
	require.Empty(t, again.ran)

	o.RepeatNoisy, o.Progress = true, NewPlain(io.Discard)
	results, err = execute(t.Context(), o, again, results, store)
	require.NoError(t, err)
	require.Equal(t, []string{first}, again.ran)
	require.NoError(t, store.Close())

	// The new result counts, unless it is void: then the trial still has the other one.
	void := results[len(results)-1]
	void.Error = "no /dev/kvm"
	require.Equal(t, latest(results), latest(append(slices.Clone(results), void)))
	require.Equal(t, void, latest([]trial.Result{void, void})[0])

	for _, r := range latest(results) {
		require.False(t, r.Noise.Noisy(), r.Spec.ID)
	}
	_, kept, err := Load(dir)
	require.NoError(t, err)
	require.Len(t, kept, len(results), "the disturbed one is kept, too")
}

// TestWrittenFits: text about experiments and trials fits a terminal.
func TestWrittenFits(t *testing.T) {
	var out strings.Builder
	for _, e := range Experiments() {
		e.announce(Setting{Size: Full, Before: e.NeedsBefore}, at(Quick)).Write(&out)
		p := NewPlain(&out)
		p.Begin(999, time.Now().Add(59*time.Minute+59*time.Second))
		for _, s := range e.Plan(Setting{Size: Full, QEMU: "10.0", Before: true}, 0) {
			p.Trial(trial.Result{Spec: s, GapMS: 9999, Report: migration.Report{
				DowntimeMS: 9999, TotalMS: 9999,
			}})
		}
	}
	p := NewPlain(&out)
	p.Begin(1, time.Now())
	p.Trial(trial.Result{Spec: trial.Spec{ID: "one"}, Error: strings.Repeat("no link ", 20)})
	for line := range strings.Lines(out.String()) {
		require.LessOrEqual(t, utf8.RuneCountInString(line), text.Columns+1, line)
	}
	require.True(t, strings.HasPrefix(out.String(), "tagging    "))
	require.True(t, strings.Contains(out.String(), "\n        FAILED: no link no link"))
}

func TestCut(t *testing.T) {
	require.Equal(t, "0.25×/off", cut("0.25×/off", 9))
	require.Equal(t, "0.25×/o…", cut("0.25×/off", 8))
}

// A run does what was announced.
func TestAnnouncements(t *testing.T) {
	for _, e := range Experiments() {
		with := Setting{Size: Full, QEMU: "10.0", Ways: qemu.AllWays}
		without := Setting{Size: Full}
		a := e.announce(with, at(Quick))
		require.Equal(t, len(e.Plan(with, 1)), a.Full.Trials, e.Name)
		require.Equal(t, len(e.Plan(at(Quick), 1)), a.Quick.Trials, e.Name)
		require.GreaterOrEqual(t, a.Full.Limit(), budgets[Full])
		if missing := len(e.Plan(with, 1)) - len(e.Plan(without, 1)); missing > 0 {
			notes := strings.Join(e.announce(without, at(Quick)).Notes, "\n")
			require.Contains(t, notes, fmt.Sprintf("%d trials fewer", missing), e.Name)
		}
	}
}
