package vmm

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/vmm/state"
)

// TestUnderstood: Understood lists all that this program reads, including the sections of devices.
func TestUnderstood(t *testing.T) {
	f := Understood()
	require.Equal(t, configVersion, f.Configuration)
	require.Equal(t, 2, f.State)
	require.Len(t, f.Sections, len(known(Options{})))
	for _, name := range []string{
		"regs", "clock", "serial", "tags", "acpi", "pci", "rng", "balloon", "blk0", "blk15",
		"net0",
	} {
		require.Contains(t, f.Sections, state.Range{Name: name, Oldest: 1, Version: 1})
	}
	text, err := json.Marshal(f)
	require.NoError(t, err)
	require.Contains(t, string(text), `{"name":"regs","oldest_version":1,"version":1}`)
	older := state.Kind{Name: "any", Version: 3, Oldest: 2, Optional: true}
	want := state.Range{Name: "any", Oldest: 2, Version: 3, Optional: true}
	require.Equal(t, want, older.Range())
}
