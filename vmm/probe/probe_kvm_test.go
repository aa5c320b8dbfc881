package probe

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/dirtylog"
)

func TestAsk(t *testing.T) {
	h, err := Ask()
	require.NoError(t, err)
	out, err := json.MarshalIndent(h, "", " ")
	require.NoError(t, err)
	t.Logf("%s", out)
	require.Equal(t, 12, h.APIVersion)
	require.Contains(t, h.DirtyTrackers, string(dirtylog.KindGetDirtyLog))
	require.Positive(t, h.TSCKHz)
	require.GreaterOrEqual(t, h.MaxCPUs, 1)
	require.NotEmpty(t, h.Kernel)
	for _, c := range h.Capabilities {
		if c.Required {
			require.Positive(t, c.Value, c.Name)
		}
	}
}
