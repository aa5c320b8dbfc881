package version

import (
	"encoding/json"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/transport"
	"taskguide/vmm/state"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

func stamped(version string, settings ...string) *debug.BuildInfo {
	b := &debug.BuildInfo{Main: debug.Module{Path: "taskguide", Version: version}}
	for i := 0; i < len(settings); i += 2 {
		b.Settings = append(b.Settings, debug.BuildSetting{Key: settings[i], Value: settings[i+1]})
	}
	return b
}

func TestOf(t *testing.T) {
	tagged := of(stamped("v0.1.0", "vcs.revision", commit, "vcs.modified", "false",
		"vcs.time", "2026-11-20T12:00:00+02:00"), "")
	require.Equal(t, "v0.1.0", tagged.Version)
	require.Equal(t, commit, tagged.Revision)
	require.False(t, tagged.Modified)
	require.Equal(t, "2026-11-20T10:00:00Z", tagged.CommitTime)
	require.Equal(t, "v0.1.0 (0123456789ab)", tagged.Short())

	dirty := of(stamped("v0.1.1-0.20261120100000-0123456789ab+dirty", "vcs.revision", commit,
		"vcs.modified", "true", "vcs.time", "once"), "")
	require.True(t, dirty.Modified)
	require.Empty(t, dirty.CommitTime)
	require.Equal(t, dirty.Version, dirty.Short(), "it names the commit itself")

	for _, unknown := range []string{"", "(devel)"} {
		info := of(stamped(unknown), "")
		require.Equal(t, "devel", info.Version)
		require.Equal(t, "devel", info.Short())
		require.Equal(t, "v0.2.0", of(stamped(unknown), "v0.2.0").Version)
	}
	require.Equal(t, "v0.2.0 (0123, modified)",
		Info{Version: "v0.2.0", Revision: "0123", Modified: true}.Short())
}

// TestHere: Info matches the protocol and the machines of this build.
func TestHere(t *testing.T) {
	m := Machine{Configuration: 2, State: 2, Sections: []state.Range{
		{Name: "regs", Oldest: 2, Version: 3}, {Name: "extra", Version: 1, Optional: true},
	}}
	info := Here(m)
	require.EqualValues(t, transport.LowestVersion, info.Protocol.Lowest)
	require.EqualValues(t, transport.Version, info.Protocol.Highest)
	require.Equal(t, transport.Spoken().Features.Bits(), info.Protocol.Features)
	require.NotEmpty(t, info.Protocol.Features)
	require.Equal(t, m, info.Machine)
	require.NotEmpty(t, info.Go)
	require.NotEmpty(t, info.Version)
}

// TestNothingIsNull: a reader of the JSON need not distinguish an empty list from null.
func TestNothingIsNull(t *testing.T) {
	b, err := json.Marshal(Here(Machine{}))
	require.NoError(t, err)
	require.NotContains(t, string(b), "null")
	require.Contains(t, string(b), `"sections":[]`)
	var again Info
	require.NoError(t, json.Unmarshal(b, &again))
	require.Equal(t, Here(Machine{}), again)
}
