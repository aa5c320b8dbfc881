package bench

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/bench/trial"
	"taskguide/migration"
)

// This test goes the whole way: the real program moves real guests, and the report shows them.
func TestExperimentEndToEnd(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "vmm")
	out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary,
		"../cmd/vmm").CombinedOutput()
	require.NoError(t, err, string(out))

	e := tagging()
	all := e.Blocks
	e.Blocks = func(at Setting) [][]trial.Spec {
		return [][]trial.Spec{only(all(at)[0], func(s trial.Spec) bool {
			return s.Factors["program"] == "kv" &&
				s.Factors["rule"] == string(migration.RuleDowntime) &&
				s.Factors["policy"] != start.name
		})}
	}
	dir := filepath.Join(t.TempDir(), "out")
	o := newOrder(e)
	o.Programs.VMM = binary
	page, err := (&Session{Dir: dir, Order: o}).Run(t.Context())
	require.NoError(t, err)
	require.FileExists(t, page)
	run, results, err := Load(dir)
	require.NoError(t, err)
	require.NotEmpty(t, run.Host.KVM)
	require.Len(t, results, 2)
	for _, r := range results {
		require.Empty(t, r.Error)
		require.NotNil(t, r.Latency)
		if r.Spec.Factors["policy"] == switchover.name {
			require.NotNil(t, r.Moved)
			require.Contains(t, []string{"1", "exit"}, r.Moved.Inside)
		}
	}
}

func only(specs []trial.Spec, keep func(trial.Spec) bool) []trial.Spec {
	var kept []trial.Spec
	for _, s := range specs {
		if keep(s) {
			kept = append(kept, s)
		}
	}
	return kept
}
