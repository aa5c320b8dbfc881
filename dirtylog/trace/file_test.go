package trace

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFile: a trace gets a folder that is new or empty, and takes with it only what it has made.
func TestFile(t *testing.T) {
	for name, old := range map[string]bool{"new": false, "empty": true} {
		folder := filepath.Join(t.TempDir(), name)
		if old {
			require.NoError(t, os.Mkdir(folder, 0o777))
		}
		f, err := Create(folder)
		require.NoError(t, err)
		require.Equal(t, filepath.Join(folder, FileName), f.Name())
		_, err = Create(folder)
		require.ErrorContains(t, err, "is not empty")
		f.Remove()
		require.NoFileExists(t, f.Name())
		if old {
			require.DirExists(t, folder)
		} else {
			require.NoDirExists(t, folder)
		}
	}
	_, err := Create(filepath.Join(t.TempDir(), "no", "folder"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestFileIsFlushed: what was flushed can be read before the end, and the closed file is whole.
func TestFileIsFlushed(t *testing.T) {
	f, err := Create(t.TempDir())
	require.NoError(t, err)
	header := Header{Trace: Version, Pages: 8, PageBytes: 4096, IntervalUS: 1000}
	require.NoError(t, f.Begin(header))
	require.NoError(t, f.Contents(Contents{Populated: &Set{}, Zero: &Set{}}))
	require.NoError(t, f.Flush())
	read := func() (*Reader, error) {
		file, err := os.Open(f.Name())
		require.NoError(t, err)
		t.Cleanup(func() { file.Close() })
		return NewReader(file)
	}
	r, err := read()
	require.NoError(t, err)
	require.Equal(t, 8, r.Header.Pages)
	require.NoError(t, f.Record(Record{AtUS: 5, End: &End{Why: "over"}}))
	require.NoError(t, f.Close())
	r, err = read()
	require.NoError(t, err)
	record, err := r.Next()
	require.NoError(t, err)
	require.Equal(t, "over", record.End.Why)
}
