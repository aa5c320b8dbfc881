package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/bench/shard"
	"taskguide/bench/trial"
)

// TestShardsMakeTheWhole: each trial is in exactly one shard, with all of its block.
func TestShardsMakeTheWhole(t *testing.T) {
	for _, e := range Experiments() {
		blocks := e.Blocks(at(Full))
		for _, n := range []int{1, 2, len(blocks)} {
			var all []trial.Spec
			for i := range n {
				s := at(Full)
				s.Shard = shard.Shard{Index: i + 1, Of: n}
				require.NoError(t, e.CheckShard(s))
				// The shards' seeds differ, as they may.
				part := e.Plan(s, uint64(i))
				require.NotEmpty(t, part)
				whole := 0
				for j, b := range blocks {
					if j%n == i {
						whole += len(b)
					}
				}
				require.Len(t, part, whole)
				all = append(all, part...)
			}
			require.ElementsMatch(t, e.Plan(at(Full), 9), all, "%s, %d shards", e.Name, n)
		}
		s := at(Full)
		s.Shard = shard.Shard{Index: 1, Of: len(blocks) + 1}
		require.ErrorContains(t, e.CheckShard(s), fmt.Sprintf("has %d blocks", len(blocks)))
	}
}

// runShard runs a part of tagging with made-up results.
func runShard(t *testing.T, index, of int, change func(*Run)) (dir string) {
	t.Helper()
	s := shard.Shard{Index: index, Of: of}
	o := newOrder(tagging())
	o.Shard, o.Seed = s, uint64(s.Index)
	plan := o.Experiment.Plan(o.Setting, o.Seed)
	run := Run{
		Experiment: "tagging", Size: Quick, Seed: o.Seed, Trials: len(plan), Shard: s,
		Host: Environment{QEMU: "7.2", VMM: "abc", CPU: fmt.Sprint("cpu ", s.Index)},
	}
	if change != nil {
		change(&run)
	}
	dir = filepath.Join(t.TempDir(), "out")
	store, err := Create(dir, run)
	require.NoError(t, err)
	_, err = execute(t.Context(), o, &fake{}, nil, store)
	require.NoError(t, err)
	require.NoError(t, store.Close())
	return dir
}

// TestJoinedShards: shards together are as good as a run in one piece; one that is missing shows.
func TestJoinedShards(t *testing.T) {
	dirs := []string{runShard(t, 1, 2, nil), runShard(t, 2, 2, nil)}
	out := filepath.Join(t.TempDir(), "joined")
	require.NoError(t, Join(out, dirs))
	_, err := WriteReport(out)
	require.NoError(t, err)
	run, results, err := Load(out)
	require.NoError(t, err)
	plan := tagging().Plan(at(Quick), 1)
	require.Len(t, results, len(plan))
	require.Equal(t, len(plan), run.Trials)
	require.Len(t, run.Parts, 2)
	require.Equal(t, "cpu 2", run.Parts[1].Host.CPU)
	require.Contains(t, parts(run), "joined from 2 of 2 shards, on hosts of 2 kinds")
	whole, err := json.Marshal(ratiosAgainst(configurations(resultsOf(tagging(), at(Quick))),
		"policy", off.name))
	require.NoError(t, err)
	joined, err := json.Marshal(ratiosAgainst(configurations(results), "policy", off.name))
	require.NoError(t, err)
	require.JSONEq(t, string(whole), string(joined))
	require.NotContains(t, readFile(t, out, textFile), "PARTIAL")
	// Its trials are of two hosts, so none is run again on a third one, or on the other.
	for i := range results {
		results[i].Noise.During = &trial.NoiseDuring{OthersCPUs: 1.5, OthersPeakCPUs: 1.9}
	}
	require.Contains(t, fmt.Sprint(banners(run, results)), "resume the parts with --repeat-noisy")
	_, err = (&Session{Dir: out, Order: newOrder(tagging()), Resume: true}).Run(t.Context())
	require.ErrorIs(t, err, errWhole)

	half := filepath.Join(t.TempDir(), "half")
	require.NoError(t, Join(half, dirs[1:]))
	_, err = WriteReport(half)
	require.NoError(t, err)
	require.Contains(t, readFile(t, half, textFile), "PARTIAL: 16 of 32 trials")
	require.NotContains(t, readFile(t, half, textFile), "--resume")
	require.ErrorIs(t, Join(out, dirs), ErrExists)
}

// resumedBy makes a run one that went on there.
func resumedBy(e Environment) func(*Run) {
	return func(r *Run) { r.Resumed = append(r.Resumed, Resumption{Host: e}) }
}

// TestPartResumedElsewhere: a whole says so of its parts.
func TestPartResumedElsewhere(t *testing.T) {
	elsewhere := Environment{VMM: "abc", QEMU: "7.2", CPU: "cpu 9", Kernel: "6.1"}
	out := filepath.Join(t.TempDir(), "joined")
	require.NoError(t, Join(out, []string{
		runShard(t, 1, 2, nil), runShard(t, 2, 2, resumedBy(elsewhere)),
	}))
	run, results, err := Load(out)
	require.NoError(t, err)
	require.Equal(t, elsewhere, run.Parts[1].Resumed[0].Host)
	require.Empty(t, run.Parts[0].Resumed)
	require.Contains(t, parts(run), "on hosts of 3 kinds")
	require.Contains(t, banners(run, results), Banner{"MIXED", "part 2/2 resumed on another host " +
		"or kernel (cpu 9, Linux 6.1): the figures are not of one build and the same files on " +
		"one host"})
}

// TestFoldersThatDoNotJoin: results that do not belong together are never mixed.
func TestFoldersThatDoNotJoin(t *testing.T) {
	first := runShard(t, 1, 2, nil)
	whole, _ := ran(t, tagging())
	for _, c := range []struct {
		second string
		want   error
	}{
		{first, errSameShard},
		{whole, errNotAShard},
		{runShard(t, 2, 3, nil), errOtherRun},
		{runShard(t, 2, 2, func(r *Run) { r.Size = Full }), errOtherRun},
		{runShard(t, 2, 2, func(r *Run) { r.Factors.Repetitions = 2 }), errOtherRun},
		{runShard(t, 2, 2, func(r *Run) { r.Factors.ShadowPrograms = true }), errOtherRun},
		{runShard(t, 2, 2, func(r *Run) { r.BitsPerSecond = 1 }), errOtherRun},
		{runShard(t, 2, 2, func(r *Run) { r.Custom = &Custom{} }), errOtherRun},
		{runShard(t, 2, 2, func(r *Run) { r.Host.VMM = "def" }), errOtherVMM},
		{runShard(t, 2, 2, func(r *Run) { r.Host.QEMU = "10" }), errOtherVMM},
		{runShard(t, 2, 2, func(r *Run) { r.Host.Before = "v1" }), errOtherVMM},
		{runShard(t, 2, 2, resumedBy(Environment{VMM: "def", QEMU: "7.2"})), errOtherVMM},
		{runShard(t, 2, 2, resumedBy(Environment{VMM: "abc", QEMU: "10"})), errOtherVMM},
		{t.TempDir(), ErrNoRun},
	} {
		out := filepath.Join(t.TempDir(), "joined")
		err := Join(out, []string{first, c.second})
		require.ErrorIs(t, err, c.want)
		require.ErrorContains(t, err, c.second)
		require.NoDirExists(t, out)
	}
	// The first one has results of two builds itself.
	mixed := runShard(t, 1, 2, resumedBy(Environment{VMM: "def", QEMU: "7.2"}))
	require.ErrorIs(t, Join(filepath.Join(t.TempDir(), "j"), []string{mixed}), errOtherVMM)
	// Results of another version's plan.
	strange := runShard(t, 2, 2, nil)
	raw := filepath.Join(strange, rawFile)
	require.NoError(t, os.WriteFile(raw, []byte(`{"spec":{"id":"matmul/xen/off@01"}}`+"\n"), 0o600))
	require.ErrorIs(t, Join(filepath.Join(t.TempDir(), "j"), []string{first, strange}),
		ErrOtherPlan)
	require.Error(t, Join("nowhere", nil))
}

// TestShardIsKept: a shard that is resumed is still that shard, and its own report warns.
func TestShardIsKept(t *testing.T) {
	run, results, err := Load(runShard(t, 2, 2, nil))
	require.NoError(t, err)
	alone := Banner{"PARTIAL", "part 2 of 2 alone: join it with the others"}
	require.Contains(t, banners(run, results), alone)
	whole := run
	whole.Shard = shard.Shard{Index: 1, Of: 1}
	for _, b := range banners(whole, results) {
		require.NotEqual(t, alone.Kind, b.Kind)
	}
	require.Equal(t, shard.Shard{Index: 2, Of: 2}, run.setting().Shard)
	require.Contains(t, commandOf(run), " --shard 2/2 ")
}
