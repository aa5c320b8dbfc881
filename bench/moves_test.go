package bench

import (
	"encoding/csv"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/bench/trial"
)

// movesMade runs the experiment on made-up moves: the gap of the i-th of a guidance is i ms, of
// "off" ten times that.
func movesMade(at Setting) []trial.Result {
	var results []trial.Result
	n := map[string]int{}
	for _, s := range moves().Plan(at, 1) {
		r := made(s)
		for i := range r.Moves {
			g := s.Factors["guidance"]
			n[g]++
			r.Moves[i].GapMS = float64(n[g])
			if g == "off" {
				r.Moves[i].GapMS *= 10
			}
		}
		results = append(results, r)
	}
	return results
}

// TestMovesPlan: each way has at least 500 moves, with a fresh guest every 50, and what is compared
// begins with the same data and waits.
func TestMovesPlan(t *testing.T) {
	n := map[string]int{}
	for _, block := range moves().Blocks(at(Full)) {
		for _, s := range block {
			if s.Contest != nil {
				require.Equal(t, block[0].Guest, s.Guest)
				require.Len(t, s.Contest.Cells, 2)
				continue
			}
			require.Equal(t, 50, s.Moves)
			require.Equal(t, block[0].Guest.Seed, s.Guest.Seed)
			require.Equal(t, trial.TagCool, s.Guest.Tag)
			n[s.Factors["guidance"]] += s.Moves
		}
	}
	require.Equal(t, map[string]int{"off": 500, "switchover": 500}, n)
}

// TestMovesOfAnotherMachine: all guests are of the machine that was asked for, the recorded ones,
// too. Several tasks keep step, so that they are in their segments together.
func TestMovesOfAnotherMachine(t *testing.T) {
	s := given(Factors{Kernel: "/k", CPUs: 2})
	require.NoError(t, moves().CheckFactors(s))
	plan := moves().Plan(s, 1)
	require.Len(t, plan, 3*10)
	for _, spec := range plan {
		require.Equal(t, "/k", spec.Guest.Kernel)
		require.Equal(t, 2, spec.Guest.CPUs)
		require.EqualValues(t, 2*64<<20, spec.Guest.MemoryBytes)
		require.Contains(t, spec.Guest.Cmdline(), " step=in ")
	}
	for _, spec := range moves().Plan(given(Factors{MemoryBytes: 1 << 30, CPUs: 1}), 1) {
		require.EqualValues(t, 1<<30, spec.Guest.MemoryBytes)
		require.NotContains(t, spec.Guest.Cmdline(), "step=")
	}
}

// TestMovesTail: the tail is that of all guests' moves together, by guidance.
func TestMovesTail(t *testing.T) {
	results := movesMade(at(Full))
	f := movesReport(at(Full), results)
	require.Equal(t, []string{
		"downtime, unguided: the guest's gap in 500 moves: p50 2.50 s [2.28 s, 2.73 s], " +
			"p99 4.95 s [4.90 s, 5.00 s], longest 5.00 s.",
		"downtime, guided (switchover): the guest's gap in 500 moves: p50 250 ms [228 ms, " +
			"273 ms], p99 495 ms [490 ms, 500 ms], longest 500 ms.",
	}, f.Headlines)
	require.Len(t, f.Sections[0].Tables[0].Rows, 2)
	s := summarizeMoves(results)
	require.Len(t, s, 2)
	require.Equal(t, 4950.0, s[0].P99.Value)
	require.Equal(t, 500, s[1].Moves)
}

// TestFewMovesHaveNoTail: from a quick run no p99 can be had, and it says so.
func TestFewMovesHaveNoTail(t *testing.T) {
	results := movesMade(at(Quick))
	f := movesReport(at(Quick), results)
	require.Len(t, f.Headlines, 2)
	for _, line := range f.Headlines {
		require.Contains(t, line, "p99 none (n=6, needs 368)")
	}
	for _, row := range f.Sections[0].Tables[0].Rows {
		require.Equal(t, "none (n=6, needs 368)", row[4])
	}
	b, err := json.Marshal(summarizeMoves(results)[0])
	require.NoError(t, err)
	require.Contains(t, string(b), `"gap_ms_p99":null`)
	require.NotContains(t, string(b), `"gap_ms_p50":null`)
}

// TestMovesFile: moves.csv has a line for each move of a valid trial, and other experiments none.
func TestMovesFile(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, writeMoves(dir, []trial.Result{{}}))
	require.NoFileExists(t, filepath.Join(dir, movesFile))
	results := withoutContests(movesMade(at(Quick)))
	results[0].Error = "void"
	require.NoError(t, writeMoves(dir, results))
	b, err := os.ReadFile(filepath.Join(dir, movesFile))
	require.NoError(t, err)
	rows, err := csv.NewReader(strings.NewReader(string(b))).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 1+6)
	require.Equal(t, []string{"id", "move", "guidance", "policy", "waited_ms", "gap_ms"},
		rows[0][:6])
	require.Equal(t, results[1].Spec.ID, rows[1][0])
	require.Equal(t, "1", rows[1][1])
}

// TestMovesFitACalm: the link takes a working set in much less than a calm phase. Otherwise moves
// without guidance go on for minutes, and guided ones end as badly as others.
func TestMovesFitACalm(t *testing.T) {
	for _, size := range []Size{Quick, Full} {
		g := movesGuest(at(size))
		set := regexp.MustCompile(`ws=(\d+)M`).FindStringSubmatch(g.Program)
		require.NotNil(t, set, g.Program)
		mib, err := strconv.Atoi(set[1])
		require.NoError(t, err)
		takes := float64(mib<<20) * 8 / linkRate
		require.Less(t, 1.5*takes, g.Cool.Seconds(), "%s: %s", size, g.Program)
	}
}
