package bench

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBuildOfChangedSources: two builds of changed sources are not one build.
func TestBuildOfChangedSources(t *testing.T) {
	program := filepath.Join(t.TempDir(), "vmm")
	name := func(revision, text string) string {
		require.NoError(t, os.WriteFile(program, []byte(text), 0o600))
		return buildName(revision, program)
	}
	require.Equal(t, "abc", name("abc", "one"))
	require.Regexp(t, `^abc\+[0-9a-f]{12}$`, name("abc+", "one"))
	require.Equal(t, name("abc+", "one"), name("abc+", "one"))
	require.NotEqual(t, name("abc+", "one"), name("abc+", "two"))
	require.Equal(t, "abc+", buildName("abc+", ""), "there is no program at this host")
}
