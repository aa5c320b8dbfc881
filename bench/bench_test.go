package bench

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/bench/sim"
	"taskguide/bench/trial"
	"taskguide/migration"
)

// requireNamesDiffer: two trials of one name would be one, in results and for --resume.
func requireNamesDiffer(t *testing.T, plan []trial.Spec) {
	t.Helper()
	ids := map[string]bool{}
	for _, s := range plan {
		require.False(t, ids[s.ID], "%s is there twice", s.ID)
		ids[s.ID] = true
	}
}

func TestPlans(t *testing.T) {
	for _, e := range Experiments() {
		for _, size := range []Size{Quick, Full} {
			plan := e.Plan(at(size), 1)
			require.NotEmpty(t, plan, e.Name)
			requireNamesDiffer(t, plan)
			for _, s := range plan {
				require.NotEmpty(t, s.Factors, s.ID)
				require.GreaterOrEqual(t, s.Offset, 0.0)
				require.Less(t, s.Offset, 1.0)
				p := s.Params
				p.Destination = "tcp:127.0.0.1:1"
				if s.QEMU == nil && s.Baseline == "" {
					_, err := p.WithDefaults()
					require.NoError(t, err, s.ID)
				}
			}
		}
	}
}

func TestPlanDependsOnSeedAlone(t *testing.T) {
	e := tagging()
	require.Equal(t, e.Plan(at(Full), 7), e.Plan(at(Full), 7))
	require.NotEqual(t, e.Plan(at(Full), 7), e.Plan(at(Full), 8))
	require.ElementsMatch(t, e.Plan(at(Full), 7), e.Plan(at(Full), 8))
}

// A run that ends early must have tried all configurations equally often.
func TestPlanIsInBlocks(t *testing.T) {
	e := tagging()
	configurations := len(e.Blocks(at(Full))[0])
	plan := e.Plan(at(Full), 3)
	shuffled := false
	for at := 0; at < len(plan); at += configurations {
		seen := map[string]bool{}
		for _, s := range plan[at : at+configurations] {
			seen[strings.Split(s.ID, "@")[0]] = true
			require.Equal(t, plan[at].Offset, s.Offset)
		}
		require.Len(t, seen, configurations)
		shuffled = shuffled ||
			strings.Split(plan[at].ID, "@")[0] != strings.Split(plan[0].ID, "@")[0]
	}
	require.True(t, shuffled, "all blocks are in the same order")
}

// fake is a runner that makes results up.
type fake struct {
	ran  []string
	fail map[string]bool
	then func(n int) // called after the n-th trial
}

func (f *fake) Run(_ context.Context, s trial.Spec) trial.Result {
	f.ran = append(f.ran, s.ID)
	r := made(s)
	if f.fail[s.ID] {
		r = trial.Result{Spec: s, Error: "the guest did not boot"}
	}
	if f.then != nil {
		f.then(len(f.ran))
	}
	return r
}

// made is a plausible result, the same for the same spec.
func made(s trial.Spec) trial.Result {
	r := rand.New(rand.NewPCG(uint64(len(s.ID)), uint64(1000*s.Offset)))
	if s.Contest != nil {
		return trial.Result{Spec: s, Contest: madeContest(*s.Contest, r)}
	}
	yes, no := true, false
	result := trial.Result{
		Spec: s, GapMS: 5 + r.ExpFloat64(), GapBeforeMS: 1,
		Moved:   &trial.Moved{Inside: "1", Phase: "cool"},
		Latency: &trial.Latency{Around: trial.Percentiles{P50: 1, P99: 2, P999: 3000, Max: 4000}},
		Work: trial.Work{
			BeforePerS: 1000 + 100*r.Float64(), DuringPerS: 900, LostMS: 10, Brownout: 0.1,
		},
		Disk: &trial.Disk{BytesPerS: 1e8, P50: 50, P99: 500},
		CPU:  trial.CPU{Source: 0.2, Destination: 0.1, Guest: 0.05},
		Report: migration.Report{
			Status: migration.StatusCompleted, TotalMS: 900 + 100*r.Float64(),
			DowntimeMS: 1 + 50*r.ExpFloat64(), PagesStopCopy: int64(r.IntN(5000)), PagesSent: 20000,
			BytesWire: 9e7, Rounds: []migration.Round{
				{
					N: 1, Phase: migration.PhasePreCopy, MS: 500, BytesWire: 8e7, SentPages: 19000,
					DirtyPagesPerS: 5000,
				},
				{
					N: 2, Phase: migration.PhasePreCopy, MS: 100, BytesWire: 1e6, SentPages: 900,
					DirtyPagesPerS: 100,
				},
				{N: 3, Phase: migration.PhaseStopCopy, MS: 10, BytesWire: 1e5, SentPages: 100},
			},
		},
		Marks: []trial.Mark{
			{MS: -50, Kind: "tag", Inside: &no},
			{MS: 0, Kind: "phase", Phase: migration.PhasePreCopy},
			{MS: 100, Kind: "progress", WireBytes: 1e7},
			{MS: 500, Kind: "round", Round: 1},
			{MS: 550, Kind: "phase", Phase: migration.PhaseHeld},
			{MS: 560, Kind: "tag", Inside: &yes},
			{MS: 600, Kind: "round", Round: 2},
			{MS: 610, Kind: "phase", Phase: migration.PhaseStopCopy},
			{MS: 620, Kind: "round", Round: 3},
		},
	}
	if s.QEMU != nil {
		result.GapMS += result.Report.DowntimeMS // by a clock that goes on
	}
	if s.Record != nil {
		result.Simulated = &trial.Simulated{
			Move:   sim.Move{DowntimeMS: 1 + 50*r.ExpFloat64(), TotalMS: 900},
			Oracle: sim.Move{DowntimeMS: 1, TotalMS: 1000},
		}
	}
	for range s.Moves {
		result.Moves = append(result.Moves, trial.Move{
			GapMS: 5 + r.ExpFloat64(), GapBeforeMS: 1, DowntimeMS: 3, TotalMS: 900,
		})
	}
	return result
}

// madeContest has a simulation for each moment of each cell.
func madeContest(c trial.Contest, r *rand.Rand) []trial.Standing {
	var all []trial.Standing
	for _, cell := range c.Cells {
		s := trial.Standing{Factors: cell.Factors, Extrapolated: "nobody compared it"}
		for range c.Moments {
			s.Moves = append(s.Moves, trial.Simulation{
				DowntimeMS: 3 + r.ExpFloat64(), TotalMS: 900, OracleDowntimeMS: 2,
				OracleTotalMS: 1000,
			})
		}
		all = append(all, s)
	}
	return all
}

func newOrder(e Experiment) Order {
	return Order{Experiment: e, Setting: at(Quick), Seed: 5, Progress: NewPlain(io.Discard)}
}

// at is a setting that is the same wherever the tests run.
func at(size Size) Setting { return Setting{Size: size, QEMU: "10.0"} }

func newStore(t *testing.T, o Order) (*Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	s, err := Create(dir, Run{
		Experiment: o.Experiment.Name, Size: o.Size, Seed: o.Seed, Host: Environment{QEMU: "7.2"},
		Factors: o.Factors,
	})
	require.NoError(t, err)
	return s, dir
}

func TestInterruptedRunIsResumed(t *testing.T) {
	o := newOrder(tagging())
	plan := o.Experiment.Plan(o.Setting, o.Seed)
	store, dir := newStore(t, o)
	ctx, cancel := context.WithCancel(t.Context())
	first := &fake{then: func(n int) {
		if n == 5 {
			cancel()
		}
	}}
	_, err := execute(ctx, o, first, nil, store)
	require.ErrorIs(t, err, ErrInterrupted)
	require.NoError(t, store.Close())

	store, run, done, err := Resume(dir, Resumption{})
	require.NoError(t, err)
	require.Equal(t, o.Seed, run.Seed)
	require.Len(t, done, 4, "the trial that was interrupted is not a result")
	second := &fake{}
	all, err := execute(t.Context(), o, second, done, store)
	require.NoError(t, err)
	require.NoError(t, store.Close())
	require.Len(t, all, len(plan))
	var ids []string
	for _, s := range plan {
		ids = append(ids, s.ID)
	}
	require.Equal(t, ids[4:], second.ran)

	_, stored, err := Load(dir)
	require.NoError(t, err)
	require.Equal(t, all, stored)
}

func TestVoidTrialIsRepeatedWhenResumed(t *testing.T) {
	o := newOrder(tagging())
	store, _ := newStore(t, o)
	defer store.Close()
	void := o.Experiment.Plan(o.Setting, o.Seed)[3].ID
	all, err := execute(t.Context(), o, &fake{fail: map[string]bool{void: true}}, nil, store)
	require.NoError(t, err)
	again := &fake{}
	all, err = execute(t.Context(), o, again, all, store)
	require.NoError(t, err)
	require.Equal(t, []string{void}, again.ran)
	require.Empty(t, filter(latest(all), func(r trial.Result) bool { return r.Error != "" }))
}

// TestVoidTrialsComeLast: trials that fail each time take their turn from nobody when a run is
// resumed, not even from one another.
func TestVoidTrialsComeLast(t *testing.T) {
	o := newOrder(tagging())
	store, _ := newStore(t, o)
	defer store.Close()
	var ids, void []string
	for _, s := range o.Experiment.Plan(o.Setting, o.Seed) {
		ids = append(ids, s.ID)
	}
	fails := map[string]bool{}
	for i := range mostFailures + 1 {
		void = append(void, ids[2*i])
		fails[ids[2*i]] = true
	}
	const ran = 2*mostFailures + 1
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first := &fake{fail: fails, then: func(n int) {
		if n > ran {
			cancel()
		}
	}}
	all, err := execute(ctx, o, first, nil, store)
	require.ErrorIs(t, err, ErrInterrupted)
	require.Len(t, all, ran)

	second := &fake{fail: fails}
	all, err = execute(t.Context(), o, second, all, store)
	require.ErrorIs(t, err, ErrFailing)
	require.Equal(t, append(slices.Clone(ids[ran:]), void[:mostFailures]...), second.ran)
	third := &fake{fail: fails}
	_, err = execute(t.Context(), o, third, all, store)
	require.ErrorIs(t, err, ErrFailing)
	require.Equal(t, void[mostFailures], third.ran[0])
}

func TestRunThatOnlyFailsEnds(t *testing.T) {
	o := newOrder(tagging())
	store, _ := newStore(t, o)
	defer store.Close()
	f := &fake{fail: map[string]bool{}}
	for _, s := range o.Experiment.Plan(o.Setting, o.Seed) {
		f.fail[s.ID] = true
	}
	_, err := execute(t.Context(), o, f, nil, store)
	require.ErrorIs(t, err, ErrFailing)
	require.ErrorContains(t, err, "did not boot")
	require.Len(t, f.ran, mostFailures)
}

func TestRunKeepsToItsTime(t *testing.T) {
	o := newOrder(tagging())
	o.Budget = time.Nanosecond
	store, _ := newStore(t, o)
	defer store.Close()
	f := &fake{}
	_, err := execute(t.Context(), o, f, nil, store)
	require.ErrorIs(t, err, ErrTimeUp, "which is no success")
	require.ErrorContains(t, err, "0 of")
	require.Empty(t, f.ran)
}

func TestStoreRefusesToMixRuns(t *testing.T) {
	o := newOrder(tagging())
	store, dir := newStore(t, o)
	require.NoError(t, store.Close())
	_, err := Create(dir, Run{})
	require.ErrorIs(t, err, ErrExists)
	_, err = (&Session{Dir: dir, Order: newOrder(interrupt()), Resume: true}).Run(t.Context())
	require.ErrorContains(t, err, "results of tagging")
	_, _, _, err = Resume(t.TempDir(), Resumption{})
	require.ErrorIs(t, err, ErrNoRun)
}

// A folder with somebody's files is refused, and stays as it was. What a run that could not begin
// leaves is no obstacle.
func TestStoreNeedsAnEmptyFolder(t *testing.T) {
	dir := t.TempDir()
	paper := filepath.Join(dir, "paper.tex")
	require.NoError(t, os.WriteFile(paper, nil, 0o600))
	_, err := Create(dir, Run{})
	require.ErrorIs(t, err, ErrNotEmpty)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.NoError(t, os.Remove(paper))

	raw := filepath.Join(dir, rawFile)
	require.NoError(t, os.WriteFile(raw, []byte("{}\n"), 0o600))
	_, err = Create(dir, Run{})
	require.ErrorIs(t, err, ErrNotEmpty, "results without a run")
	require.NoError(t, os.WriteFile(raw, nil, 0o600))
	store, err := Create(dir, Run{})
	require.NoError(t, err)
	require.NoError(t, store.Close())
}

// Two runs that write to one file would destroy each other's lines.
func TestStoreIsForOneRunAtATime(t *testing.T) {
	store, dir := newStore(t, newOrder(tagging()))
	_, _, _, err := Resume(dir, Resumption{})
	require.ErrorIs(t, err, ErrInUse)
	_, err = Create(dir, Run{Seed: 1})
	require.ErrorIs(t, err, ErrInUse)
	require.NoError(t, store.Close())
	store, run, _, err := Resume(dir, Resumption{Host: Environment{Kernel: "another"}})
	require.NoError(t, err)
	require.NoError(t, store.Close())
	require.Len(t, run.Resumed, 1)
	run, _, err = Load(dir)
	require.NoError(t, err)
	require.Equal(t, "another", run.Resumed[0].Host.Kernel)
	require.Contains(t, resumptions(run), "on another host")
}

// Results of another version's plan under the same names must not be mixed with ours or explained
// in our words.
func TestResultsOfOtherPlansAreRefused(t *testing.T) {
	o := newOrder(tagging())
	store, dir := newStore(t, o)
	changed := o.Experiment.Plan(o.Setting, o.Seed)[0]
	changed.Guest.Busy += time.Second
	require.NoError(t, store.Add(made(changed)))
	require.NoError(t, store.Close())
	before, err := os.ReadFile(filepath.Join(dir, runFile))
	require.NoError(t, err)
	_, err = (&Session{Dir: dir, Order: o, Resume: true}).Run(t.Context())
	require.ErrorIs(t, err, ErrOtherPlan)
	after, err := os.ReadFile(filepath.Join(dir, runFile))
	require.NoError(t, err)
	require.Equal(t, string(before), string(after), "a run that did not go on has not been resumed")
	_, err = WriteReport(dir)
	require.ErrorIs(t, err, ErrOtherPlan)
}

// A run that cannot start leaves no folder that would block the next try.
func TestFailedStartLeavesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	o := newOrder(tagging())
	o.BitsPerSecond = -1 // no link has a negative rate
	_, err := (&Session{Dir: dir, Order: o}).Run(t.Context())
	require.ErrorContains(t, err, "carries nothing")
	require.NoDirExists(t, dir)
}

// The rate of the link changes the trials and the words of experiments that depend on it.
func TestRateOfTheLink(t *testing.T) {
	half := Setting{Size: Full, BitsPerSecond: linkRate / 2}
	require.Equal(t, 2*interruptAt(at(Full)).need(), interruptAt(half).need())
	for _, e := range []Experiment{tagging(), validity(), interrupt(), peers()} {
		for _, s := range e.Plan(half, 1) {
			if s.Factors["peer"] != "vmm, rate not told, unguided" {
				require.EqualValues(t, linkRate/2, s.Params.BitsPerSecond, s.ID)
			}
		}
	}
	require.Contains(t, interruptReport(half, nil).Sections[0].Text[0], "500 Mbit/s")
}

// A power failure in the middle of a write leaves half a line, which must spoil neither the lines
// before it nor the lines after it.
func TestStoreSurvivesHalfALine(t *testing.T) {
	o := newOrder(tagging())
	store, dir := newStore(t, o)
	plan := o.Experiment.Plan(o.Setting, o.Seed)
	require.NoError(t, store.Add(made(plan[0])))
	require.NoError(t, store.Close())
	raw := filepath.Join(dir, rawFile)
	b, err := os.ReadFile(raw)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(raw, append(b, b[:len(b)-1]...), 0o644))

	store, _, done, err := Resume(dir, Resumption{})
	require.NoError(t, err)
	require.Len(t, done, 1)
	// Shorter than what it takes the place of.
	require.NoError(t, store.Add(trial.Result{Spec: trial.Spec{ID: plan[1].ID}}))
	require.NoError(t, store.Close())
	_, done, err = Load(dir)
	require.NoError(t, err)
	require.Len(t, done, 2)
	b, err = os.ReadFile(raw)
	require.NoError(t, err)
	require.True(t, bytes.HasSuffix(b, []byte("}\n")), "other programs read this file, too")
	require.Equal(t, plan[1].ID, done[1].Spec.ID)

	require.NoError(t, os.WriteFile(raw, []byte("{}\nnonsense\n"), 0o644))
	_, _, err = Load(dir)
	require.ErrorContains(t, err, "line 2")
}

// For every experiment, all files exist and are well formed, and the page loads nothing from
// elsewhere.
func TestReports(t *testing.T) {
	for _, e := range Experiments() {
		t.Run(e.Name, func(t *testing.T) {
			t.Parallel()
			o := newOrder(e)
			store, dir := newStore(t, o)
			plan := e.Plan(at(Quick), o.Seed)
			void := slices.IndexFunc(plan, func(s trial.Spec) bool { return s.Contest == nil })
			fails := map[string]bool{plan[void].ID: true}
			results, err := execute(t.Context(), o, &fake{fail: fails},
				nil, store)
			require.NoError(t, err)
			require.NoError(t, store.Close())
			path, err := WriteReport(dir)
			require.NoError(t, err)
			html, err := os.ReadFile(path)
			require.NoError(t, err)
			page := string(html)
			require.Contains(t, page, e.Title)
			require.Contains(t, page, "the guest did not boot")
			require.NotContains(t, page, "NaN")
			for _, resource := range []string{"<script", "<link", "src=", "@import", "url("} {
				require.NotContains(t, page, resource)
			}
			checkPictures(t, dir, page)
			checkLinks(t, dir, page)
			checkNumbers(t, dir, len(withoutContests(results)))
		})
	}
}

func checkPictures(t *testing.T, dir, page string) {
	t.Helper()
	pictures, err := filepath.Glob(filepath.Join(dir, "*.png"))
	require.NoError(t, err)
	require.NotEmpty(t, pictures)
	for _, p := range pictures {
		b, err := os.ReadFile(p)
		require.NoError(t, err)
		_, err = png.Decode(bytes.NewReader(b))
		require.NoError(t, err, p)
		name := strings.TrimSuffix(filepath.Base(p), ".png")
		require.Contains(t, page, `<figure id="`+name+`"><div class="scroll"><svg`)
		b, err = os.ReadFile(filepath.Join(dir, name+".svg"))
		require.NoError(t, err)
		require.NoError(t, wellFormed(b), name)
	}
}

// checkLinks: what the page links to is beside it.
func checkLinks(t *testing.T, dir, page string) {
	t.Helper()
	links := regexp.MustCompile(`href="([^"]*)"`).FindAllStringSubmatch(page, -1)
	beside := []string{rawFile, trialsFile, roundsFile, eventsFile, summaryFile, runFile}
	if _, err := os.Stat(filepath.Join(dir, movesFile)); err == nil {
		beside = append(beside, movesFile)
	}
	require.Len(t, links, len(beside))
	for _, l := range links {
		require.Contains(t, beside, l[1])
		require.FileExists(t, filepath.Join(dir, l[1]))
	}
}

func wellFormed(b []byte) error {
	d := xml.NewDecoder(bytes.NewReader(b))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func checkNumbers(t *testing.T, dir string, trials int) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, trialsFile))
	require.NoError(t, err)
	rows, err := csv.NewReader(bytes.NewReader(b)).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 1+trials)
	b, err = os.ReadFile(filepath.Join(dir, summaryFile))
	require.NoError(t, err)
	var s summary
	require.NoError(t, json.Unmarshal(b, &s))
	require.Len(t, s.Failures, 1)
	n := 0
	for _, g := range s.Groups {
		n += g.Metrics[total.key].N
	}
	require.Equal(t, trials-1, n, "every trial that is not void is in exactly one group")
}

func TestHeadlineOfTagging(t *testing.T) {
	var results []trial.Result
	for _, s := range tagging().Plan(at(Full), 1) {
		r := made(s)
		r.Report.DowntimeMS = 40
		if s.Factors["policy"] == switchover.name {
			r.Report.DowntimeMS = 4
		}
		results = append(results, r)
	}
	f := taggingReport(at(Full), results)
	require.Len(t, f.Headlines, 2*len(rules), "the gain and the price under each rule")
	xen := slices.Index(rules, migration.RuleXen)
	require.Equal(t, "Rule xen, all programs: "+
		"guided migrations stop the guest for 4.0 ms in the mean, "+
		"unguided ones for 40.0 ms, 0.10× [0.10×, 0.10×]; at the worst 4.0 ms against 40.0 ms.",
		f.Headlines[2*xen])
	require.Contains(t, f.Headlines[2*xen+1], "Rule xen, all programs: for that they take ")
	require.Len(t, f.Lead.Rows, 4*len(rules), "four programs under each rule")
	row := []string{"matmul", "xen", "40.0 ms → 4.0 ms (0.10× [0.10×, 0.10×])"}
	require.Equal(t, row, f.Lead.Rows[xen][:3])
	for _, row := range f.Lead.Rows {
		require.Len(t, row, len(f.Lead.Head))
	}
}

// Wrong tags are compared with no tags, trial by trial within a block.
func TestValidityComparesWithinBlocks(t *testing.T) {
	var results []trial.Result
	for _, s := range validity().Plan(at(Full), 1) {
		r := made(s)
		// good in the first half of the cycle, bad in the second
		r.Report.DowntimeMS = 1 + 400*math.Round(s.Offset)
		switch trial.Tag(s.Factors["tags"]) {
		case trial.TagCool:
			r.Report.DowntimeMS = 1
		case trial.TagBusy:
			r.Report.DowntimeMS = 401
		}
		results = append(results, r)
	}
	f := validityReport(at(Full), results)
	require.Contains(t, f.Headlines,
		"kv with true tags: mean downtime 0.005× [0.0028×, 0.02×] of what it is untagged.")
	rows := map[string][]string{}
	for _, row := range f.Sections[0].Tables[0].Rows {
		rows[row[0]+" "+row[1]] = row
	}
	require.Equal(t, "4 of 8", rows["kv true tags"][6])
	require.Equal(t, "8 of 8", rows["kv inverted tags"][6])
	require.Equal(t, "8 of 8", rows["kv random tags"][6])
	require.Equal(t, "32 of 32", rows["all programs inverted tags"][6])
	require.Equal(t, "16 of 32", rows["all programs true tags"][6])
	require.Contains(t, rows["all programs inverted tags"][2], "2.00× [")
	require.True(t, strings.HasPrefix(f.Headlines[0], "all programs with true tags: "))
}

func TestReportOfNothing(t *testing.T) {
	for _, e := range Experiments() {
		store, dir := newStore(t, newOrder(e))
		require.NoError(t, store.Close())
		_, err := WriteReport(dir)
		require.NoError(t, err, e.Name)
	}
}

func TestSpeedSaysWhetherTargetsAreMet(t *testing.T) {
	var results []trial.Result
	for _, s := range Speed().Plan(at(Quick), 1) {
		r := made(s)
		r.Report.TotalMS = map[string]float64{
			wayPlain.name: 100, wayTCP.name: 90, wayQEMU.name: 400, wayMultifd.name: 150,
		}[s.Factors["way"]]
		results = append(results, r)
	}
	// Whether QEMU is installed where this runs or not.
	results = append(results, scenarioResult("full", wayQEMU, 400),
		scenarioResult("full", wayMultifd, 150))
	lines := strings.Join(speedReport(at(Quick), latest(results)).Headlines, "\n")
	require.Contains(t, lines, "full: total time of vmm is 0.67 (n=1) of that of QEMU, multifd 2; "+
		"target at most 0.60: missed.")
	require.Contains(t, lines,
		"full: total time of vmm is 1.11 (n=1) of that of raw TCP; target at most 1.30: met.")
}

func scenarioResult(name string, w way, totalMS float64) trial.Result {
	for _, s := range scenarios(Quick) {
		if s.name == name {
			r := made(repeat(1, []trial.Spec{s.spec(w)})[0][0])
			r.Report.TotalMS = totalMS
			return r
		}
	}
	panic("no scenario " + name)
}

// A terminal, too, gets the notes that come before the first trial, for instance that there is no
// link.
func TestProgressSpeaksBeforeItBegins(t *testing.T) {
	for name, show := range map[string]func(io.Writer) Progress{
		"plain": NewPlain, "live": NewLive,
	} {
		var b bytes.Buffer
		p := show(&b)
		p.Say("going on without a shared link")
		require.Contains(t, b.String(), "without a shared link", name)
	}
}

// The brownout of a migration of a few milliseconds is unknown, because heartbeats come once a
// second.
func TestBrownoutOfShortMigrationsIsUnknown(t *testing.T) {
	r := made(speedBlocks(at(Quick))[0][0])
	r.Report.TotalMS = 900
	_, ok := brownout.of(r)
	require.True(t, ok)
	r.Report.TotalMS = 90
	_, ok = brownout.of(r)
	require.False(t, ok)
}

func TestCellsAreTakenApart(t *testing.T) {
	for cell, want := range map[string][2]string{
		"0.10× [0.05×, 0.20×]": {"0.10×", "[0.05×, 0.20×]"}, "–": {"–", ""},
		"40 ms → 4 ms (0.1× [0×, 1×])": {"40 ms → 4 ms", "(0.1× [0×, 1×])"}, "": {"", ""},
	} {
		require.Equal(t, want, [2]string{valueOf(cell), detailOf(cell)}, cell)
	}
}

func TestNumbersForPeople(t *testing.T) {
	require.Equal(t, "1\u202f234\u202f567", count(1234567))
	require.Equal(t, "12.5", count(12.5))
	require.Equal(t, "0", count(0))
	require.Equal(t, "0.25×", times(0.25))
	require.Equal(t, "123×", times(123.4))
	require.Equal(t, "0.0051×", times(0.00512))
}
