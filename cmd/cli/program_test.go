package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFindProgram: the program beside this one goes before the one on the PATH.
func TestFindProgram(t *testing.T) {
	const name = "program-of-a-test"
	make := func(dir string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, nil, 0o755))
		t.Cleanup(func() { os.Remove(path) })
		return path
	}
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	_, err := FindProgram(name)
	require.ErrorContains(t, err, "nor on the PATH")
	onPath := make(dir)
	path, err := FindProgram(name)
	require.NoError(t, err)
	require.Equal(t, onPath, path)

	self, err := os.Executable()
	require.NoError(t, err)
	beside := make(filepath.Dir(self))
	path, err = FindProgram(name)
	require.NoError(t, err)
	require.Equal(t, beside, path)
}
