package show

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/control/version"
	"taskguide/vmm/state"
)

func TestVersion(t *testing.T) {
	v := version.Info{
		Version: "v0.1.0", Revision: "0123456789abcdef0123456789abcdef01234567",
		CommitTime: "2026-11-20T10:00:00Z", Modified: true, Go: "go1.26.0", Platform: "linux/amd64",
		Protocol: version.Protocol{Lowest: 2, Highest: 3, Features: []int{0, 33}},
		Machine: version.Machine{Configuration: 2, State: 2, Sections: []state.Range{
			{Name: "regs", Oldest: 1, Version: 2}, {Name: "serial", Oldest: 1, Version: 1},
			{Name: "extra", Oldest: 1, Version: 1, Optional: true},
			{Name: "a-longer", Oldest: 1, Version: 1}, {Name: "b-longer", Oldest: 1, Version: 1},
			{Name: "n9", Oldest: 1, Version: 1}, {Name: "n10", Oldest: 1, Version: 1},
			{Name: "n11", Oldest: 1, Version: 1}, {Name: "n12", Oldest: 1, Version: 2},
			{Name: "pic0", Oldest: 1, Version: 1}, {Name: "pic2", Oldest: 1, Version: 1},
		}},
	}
	var out strings.Builder
	Version(&out, v)
	require.Equal(t, `version        v0.1.0
revision       0123456789abcdef0123456789abcdef01234567 of 2026-11-20T10:00:00Z,
               modified
go             go1.26.0, linux/amd64
protocol       2 to 3; features: 0, 33
configuration  2
state          2; sections: regs 1 to 2, serial 1, extra 1 (optional),
               a-longer 1, b-longer 1, n9 to n11 1, n12 1 to 2, pic0 1, pic2 1
`, out.String())
	requireColumns(t, out.String())

	out.Reset()
	Version(&out, version.Info{Version: "devel", Protocol: version.Protocol{Lowest: 2, Highest: 2}})
	require.Contains(t, out.String(), "revision       unknown\n")
	require.Contains(t, out.String(), "protocol       2; features: none\n")
}
