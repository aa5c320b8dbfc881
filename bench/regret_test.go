package bench

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/bench/trial"
)

// TestContests: each program is recorded once in a block, and every cell of it is simulated.
func TestContests(t *testing.T) {
	s := given(Factors{Programs: []string{"kv", "sort"}, Trackers: []string{"ring", "auto"}})
	plan := policies().Plan(s, 1)
	recordings := filter(resultsOf(policies(), s), func(r trial.Result) bool {
		return r.Spec.Contest != nil
	})
	require.Len(t, recordings, 2*2*10, "programs, trackers, blocks")
	require.Len(t, plan, len(recordings)*(1+6*2))
	for _, r := range recordings {
		require.Len(t, r.Spec.Contest.Cells, 6*2)
		require.NotNil(t, r.Spec.Record)
		for _, c := range r.Spec.Contest.Cells {
			require.Equal(t, r.Spec.Guest.Tracker, c.Factors["tracker"])
			require.True(t, strings.HasPrefix(r.Spec.ID, c.Factors["program"]+"/recording/"))
		}
	}
	require.Empty(t, filter(resultsOf(tagging(), at(Full)), func(r trial.Result) bool {
		return r.Spec.Contest != nil
	}))
}

// standings are results of one cell, whose simulated downtimes are those.
func standings(factors map[string]string, downs ...float64) trial.Result {
	s := trial.Standing{Factors: factors}
	for _, d := range downs {
		s.Moves = append(s.Moves, trial.Simulation{
			DowntimeMS: d, TotalMS: 800, OracleDowntimeMS: 2, OracleTotalMS: 1000,
		})
	}
	return trial.Result{Contest: []trial.Standing{s}, Spec: trial.Spec{Contest: &trial.Contest{}}}
}

// TestStandings: blocks are pooled, regret is move by move, and a move that failed is no figure.
func TestStandings(t *testing.T) {
	f := map[string]string{"policy": "xen"}
	fails := standings(f, 5)
	fails.Contest[0].Moves[0].Error = "never"
	all := standingsOf([]trial.Result{standings(f, 3, 4), standings(f, 12), fails, {Error: "void"}})
	require.Equal(t, []standing{{
		Factors: f, Moves: 4, Moved: 3, Error: "never", DowntimeP50: 4, TotalP50: 800, Judged: 3,
		RegretDowntimeP50: 2, RegretTotalP50: -200,
	}}, all)
	early, covered := standings(f, 1, 1, 3), standings(f, 1)
	early.Contest[0].Extrapolated = "nobody compared it"
	all = standingsOf([]trial.Result{early, covered})
	require.InDelta(t, -1, all[0].RegretDowntimeP50, 1e-9, "better than the oracle")
	require.Equal(t, "nobody compared it", all[0].Extrapolated, "one block is enough")
	many := make([]float64, 400)
	for i := range many {
		many[i] = float64(i)
	}
	s := standingsOf([]trial.Result{standings(f, many...)})[0]
	require.InDelta(t, 359, s.DowntimeP90.Value, 1e-9)
	require.InDelta(t, 395, s.DowntimeP99.Value, 1e-9)
}

// TestUncountedMoves: a move that the policy did not lead has no figure, one without the oracle's
// beside it no regret, and the report says so.
func TestUncountedMoves(t *testing.T) {
	f := map[string]string{"program": "kv", "policy": "exec:mine", "guidance": "off"}
	some := standings(f, 5, 6, 70, 80)
	moves := some.Contest[0].Moves
	moves[1].Error, moves[2].Error = "it died", "it hung"
	moves[3].OracleDowntimeMS, moves[3].OracleTotalMS = 0, 0
	s := standingsOf([]trial.Result{some})[0]
	require.Equal(t, []int{4, 2, 1}, []int{s.Moves, s.Moved, s.Judged})
	require.InDelta(t, 42.5, s.DowntimeP50, 1e-9)
	require.InDelta(t, 3, s.RegretDowntimeP50, 1e-9)
	require.InDelta(t, -200, s.RegretTotalP50, 1e-9)
	section := factorial{}.regret(Setting{}, nil, []trial.Result{some})[0]
	text := strings.Join(section.Text, "\n")
	require.Contains(t, text, "kv, exec:mine, off: 2 of 4 simulated moves do not count, the first "+
		"because: it died.")
	require.Contains(t, text, "kv, exec:mine, off: regret leaves out 1 of 2 moves")

	moves[0].OracleDowntimeMS = 0
	row := standingsOf([]trial.Result{some})[0].cells(false)
	require.Equal(t, []string{"2 of 4", "42.5", "–", "800.0", "–"}, row)
	require.Empty(t, factorial{}.uncounted(standingsOf([]trial.Result{standings(f, 5)})))
}

// TestRegretSection: real and simulated moves of each cell, with a mark where nothing covers them.
func TestRegretSection(t *testing.T) {
	s := given(Factors{
		Policies: []string{"xen", "qemu"}, Programs: []string{"kv"}, Repetitions: 10,
	})
	section := regretOf(t, s)
	require.Len(t, section.Tables, 2)
	require.Equal(t, "10", section.Tables[0].Rows[0][2])
	head, rows := section.Tables[1].Head, section.Tables[1].Rows
	require.Len(t, rows, 4)
	require.Equal(t, []string{"kv", "xen, off", "400"}, rows[0][:3])
	require.Equal(t, "-100.0 *", rows[0][6])
	require.NotContains(t, head, "downtime p99")
	text := strings.Join(section.Text, "\n")
	require.Contains(t, text, "Each cell has 10 real moves.")
	require.Contains(t, text, "* are extrapolated: nobody compared it.")
	require.Contains(t, text, "no columns p90 and p99: nobody named a run")

	s.Tail = &Tail{dir: "m", cells: []tailCell{{"downtime, off", 4, 5}, {"downtime, on", 4, 5}}}
	section = regretOf(t, s)
	require.Equal(t, "downtime p99", section.Tables[1].Head[8])
	require.Regexp(t, `^\d+\.\d \[.*\] \*$`, section.Tables[1].Rows[0][8])
	require.Contains(t, strings.Join(section.Text, "\n"), "within 1.5 times: downtime, off 4.0")

	s.Factors.Repetitions = 2
	require.Contains(t, strings.Join(regretOf(t, s).Text, "\n"), "Fewer than 10 are not")
}

func regretOf(t *testing.T, at Setting) Section {
	t.Helper()
	for _, s := range policies().Report(at, resultsOf(policies(), at)).Sections {
		if s.Title == "Regret against the oracle" {
			return s
		}
	}
	require.Fail(t, "no section on regret")
	return Section{}
}

// movesRun makes a run of experiment moves up whose simulated downtimes are real ones times by.
func movesRun(size Size, by float64) []trial.Result {
	var all []trial.Result
	for _, r := range resultsOf(moves(), Setting{Size: size}) {
		for i := range r.Moves {
			r.Moves[i].DowntimeMS = float64(10 + i%7)
		}
		for i := range r.Contest {
			for k := range r.Contest[i].Moves {
				r.Contest[i].Moves[k].DowntimeMS = by * float64(10+k%7)
			}
		}
		all = append(all, r)
	}
	return all
}

// TestTail: columns of the tail need both cells, enough moves, and agreement within 1.5 times.
func TestTail(t *testing.T) {
	for _, c := range []struct {
		size Size
		by   float64
		want string // empty where it agrees
	}{
		{Full, 1, ""}, {Full, 1.5, ""}, {Full, 1 / 1.5, ""},
		{Full, 1.51, "downtime, off: p99 of the downtime is 16.0 ms, and simulated 24.2 ms"},
		{Full, 0.66, "simulated 10.6 ms"},
		{Quick, 1, "6 real moves, and a p99 takes 368"},
	} {
		tail := tailOf(Setting{Size: c.size}, movesRun(c.size, c.by))
		ok, text := tail.trusted()
		require.Equal(t, c.want == "", ok, "%v: %s", c, text)
		require.Contains(t, text, c.want)
	}
	stuck := movesRun(Full, 1)
	for _, r := range stuck {
		for i := range r.Contest {
			r.Contest[i].Moves[0].Error = "never converges"
		}
	}
	trusted, text := tailOf(Setting{Size: Full}, stuck).trusted()
	require.False(t, trusted)
	require.Contains(t, text, "simulated moves do not count: never converges")
	one := movesRun(Full, 1)
	one = filter(one, func(r trial.Result) bool { return r.Spec.Factors["guidance"] != "off" })
	_, text = tailOf(Setting{Size: Full}, one).trusted()
	require.Contains(t, text, "1 cells of real moves: two are needed")
	unrecorded := withoutContests(movesRun(Full, 1))
	_, text = tailOf(Setting{Size: Full}, unrecorded).trusted()
	require.Contains(t, text, "0 simulated moves, and a p99 takes 368")
	require.False(t, tailCell{}.agrees(), "nothing was measured")
	ok, _ := (*Tail)(nil).trusted()
	require.False(t, ok)
}

// TestTailOfAnotherMachine: the tail of other guests says nothing of those of a report.
func TestTailOfAnotherMachine(t *testing.T) {
	require.Nil(t, (*Tail)(nil).of(Factors{CPUs: 2}))
	tail := tailOf(Setting{Size: Full}, movesRun(Full, 1))
	require.Same(t, tail, tail.of(Factors{Policies: []string{"xen"}}))
	ok, text := tail.of(Factors{CPUs: 2}).trusted()
	require.False(t, ok)
	require.Contains(t, text, "its guests are of another machine (the experiment's) than those of "+
		"this report (--cpus 2)")
	ok, _ = tail.trusted()
	require.True(t, ok, "for others it stays what it is")

	o := newOrder(moves())
	o.Factors.MemoryBytes = 1 << 30
	store, dir := newStore(t, o)
	_, err := execute(t.Context(), o, &fake{}, nil, store)
	require.NoError(t, err)
	require.NoError(t, store.Close())
	tail, err = TailFrom(dir)
	require.NoError(t, err)
	require.Same(t, tail, tail.of(Factors{MemoryBytes: 1 << 30}))
	_, text = tail.of(Factors{}).trusted()
	require.Contains(t, text, "(--memory 1073741824) than those of this report (the experiment's)")

	o = newOrder(policies())
	store, other := newStore(t, o)
	_, err = execute(t.Context(), o, &fake{}, nil, store)
	require.NoError(t, err)
	require.NoError(t, store.Close())
	page, err := WriteReportWith(other, Markdown, tail)
	require.NoError(t, err)
	require.Contains(t, readFile(t, other, filepath.Base(page)), "another machine")
}

// TestTailFrom refuses other runs, and does not trust one that is not to be quoted.
func TestTailFrom(t *testing.T) {
	o := newOrder(moves())
	store, dir := newStore(t, o)
	_, err := execute(t.Context(), o, &fake{}, nil, store)
	require.NoError(t, err)
	require.NoError(t, store.Close())
	tail, err := TailFrom(dir)
	require.NoError(t, err)
	_, text := tail.trusted()
	require.Contains(t, text, dir+" (revision ")
	require.Contains(t, text, "QUICK")
	_, err = WriteReportWith(dir, HTML, tail)
	require.ErrorIs(t, err, ErrNoTail, "a run of moves has no such columns")

	other, dir := newStore(t, newOrder(tagging()))
	require.NoError(t, other.Close())
	_, err = TailFrom(dir)
	require.ErrorContains(t, err, "a run of tagging, not of moves")
}
