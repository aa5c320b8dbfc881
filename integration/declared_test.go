package integration

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/dirtylog"
)

// TestDeclaredGarbageStaysBehind moves a guest of two vCPUs that declares the garbage of its heaps,
// again and again, with each dirty log. The guest verifies what it takes back, writes and drops,
// and --verify proves all that is not declared.
func TestDeclaredGarbageStaysBehind(t *testing.T) {
	for _, tracker := range []dirtylog.Kind{
		dirtylog.KindGetDirtyLog, dirtylog.KindManualProtect, dirtylog.KindRing,
	} {
		t.Run(string(tracker), func(t *testing.T) {
			b := newBox(t)
			g := &guest{}
			log := []string{"--dirty-log", string(tracker)}
			here := b.run(g, "host-0", append(log[:2:2], "--memory", "64M", "--cpus", "2",
				"--cmdline", "workload=heap ws=20M busy=1s cool=0 fill=random seed=7")...)
			require.NoError(t, g.WaitText(b.ctx, "phase=busy"))
			for hop, order := range [][]string{
				{"--max-rounds", "3", "--delta", "--channels", "3"},
				{"--max-rounds", "3", "--compress", "zstd"},
				{"--rule", "xen"},
			} {
				name := fmt.Sprintf("host-%d", hop+1)
				there, to := b.incoming(g, name, b.unix(name), log...)
				r := b.migrate(here.name, to, append(order, "--verify")...)
				requireVerified(t, r)
				require.Positive(t, r.PagesNotSent.Declared)
				require.Positive(t, r.PagesDeclared)
				require.Equal(t, 0, here.wait(), "%s", here.stderr)
				here = there
			}
			g.alive(b, 2)
			require.Empty(t, g.Corrupt())
		})
	}
}
