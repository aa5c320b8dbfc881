package simrun

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/bench/sim"
	"taskguide/migration/policy"
)

// shipped is the folder of the traces that the project has.
const shipped = "../../examples/traces"

// shippedTrace is an entry of its manifest.
type shippedTrace struct {
	Name, What, How, Host, Revision, SHA256 string
	Bytes                                   int
}

func manifest(t *testing.T) []shippedTrace {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(shipped, "manifest.json"))
	require.NoError(t, err)
	var all []shippedTrace
	require.NoError(t, json.Unmarshal(text, &all))
	return all
}

// TestManifest: it has every trace, and says what is in the files.
func TestManifest(t *testing.T) {
	total := 0
	named := map[string]bool{}
	for _, m := range manifest(t) {
		text, err := readTrace(filepath.Join(shipped, m.Name))
		require.NoError(t, err)
		sum := sha256.Sum256(text)
		require.Equal(t, m.SHA256, hex.EncodeToString(sum[:]), m.Name)
		require.Len(t, text, m.Bytes)
		for _, word := range []string{m.What, m.How, m.Host, m.Revision} {
			require.NotEmpty(t, word, m.Name)
		}
		total += m.Bytes
		named[m.Name] = true
	}
	require.Less(t, total, 2<<20)
	files, err := filepath.Glob(filepath.Join(shipped, "*", "trace.json.gz"))
	require.NoError(t, err)
	require.Len(t, files, len(named))
	for _, f := range files {
		require.True(t, named[filepath.Base(filepath.Dir(f))], f)
	}
}

// TestShippedTraces are simulated, the one of an emulated host on a slow link.
func TestShippedTraces(t *testing.T) {
	for _, m := range manifest(t) {
		t.Run(m.Name, func(t *testing.T) {
			o := order(t, filepath.Join(shipped, m.Name))
			o.Moments = 2
			if m.Name != "linux" {
				o.Subjects[0].Cells[0].Setting.BitsPerSecond = 1e9
			}
			c, err := Run(t.Context(), o, func(int, int) {})
			require.NoError(t, err)
			r := c.Results[0]
			require.Greater(t, r.LengthMS, ms(30*time.Second))
			tasks := 1
			if m.Name == "linux" {
				tasks = 0
			}
			require.Equal(t, tasks, r.Tasks)
			for _, row := range r.Rows {
				require.Positive(t, row.Moved, "%s %s", row.Policy, row.Guidance)
				require.Positive(t, row.DowntimeMS.P50)
			}
			require.NotZero(t, r.Moves[0].Move.PagesSent)
		})
	}
}

// TestDefaultsAreCovered: what vmm bench sim says by default of these traces was compared with real
// moves by this model, as far as pages go as they are.
func TestDefaultsAreCovered(t *testing.T) {
	costs := sim.DefaultCosts()
	costs.Pack = 0 // the trace's
	for _, name := range []string{"phased", "matmul", "sort", "kv"} {
		o := order(t, filepath.Join(shipped, name))
		var err error
		o.Entrants, err = sim.Entrants([]string{"xen", "downtime"},
			[]policy.Guidance{policy.GuidanceOff, policy.GuidanceSwitchover},
			sim.Order{AtExit: true, Gate: sim.All, MaxDefer: time.Minute, OnTimeout: "force"})
		require.NoError(t, err)
		o.Moments, o.WithoutOracle, o.Validations = 1, true, sim.Validations
		o.Subjects[0].Cells[0].Setting = sim.Setting{
			BitsPerSecond: 1e9, RTT: 100 * time.Microsecond, Compress: sim.CompressNone,
			Costs: costs,
		}
		c, err := Run(t.Context(), o, func(int, int) {})
		require.NoError(t, err)
		for _, row := range c.Results[0].Rows {
			require.Empty(t, row.Extrapolated, "%s: %s, %s", name, row.Policy, row.Guidance)
		}
	}
}

// TestPythonReadsShippedTraces: the reader of docs/traces.md reads them.
func TestPythonReadsShippedTraces(t *testing.T) {
	text, err := os.ReadFile("../../docs/traces.md")
	require.NoError(t, err)
	found := regexp.MustCompile("(?s)```python\n(.*?)```").FindSubmatch(text)
	require.NotNil(t, found)
	program := filepath.Join(t.TempDir(), "read.py")
	require.NoError(t, os.WriteFile(program, found[1], 0o600))
	for _, m := range manifest(t) {
		file := filepath.Join(shipped, m.Name, "trace.json.gz")
		out, err := exec.CommandContext(t.Context(), "python3", program, file).CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.True(t, strings.HasPrefix(string(out), "at_ms,pages,again"), "%s", out)
		require.Greater(t, strings.Count(string(out), "\n"), 100)
		requireCutTraceRead(t, program, file)
	}
}

// requireCutTraceRead: of a recorder that was killed, the reader shows what it wrote.
func requireCutTraceRead(t *testing.T, program, file string) {
	t.Helper()
	whole, err := os.ReadFile(file)
	require.NoError(t, err)
	cut := filepath.Join(t.TempDir(), "cut.gz")
	require.NoError(t, os.WriteFile(cut, whole[:2*len(whole)/3], 0o600))
	out, err := exec.CommandContext(t.Context(), "python3", program, cut).CombinedOutput()
	require.Error(t, err)
	require.Greater(t, strings.Count(string(out), "\n"), 50, "%s", out)
	require.True(t, strings.HasSuffix(string(out), "the trace was cut off\n"), "%s", out)
}
