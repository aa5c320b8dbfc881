package process

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFileErrors: the text of a failed system call names the file and what to do. The cause can
// still be found with errors.Is.
func TestFileErrors(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "none", "file")
	_, errRead := os.ReadFile(dir)
	_, errNone := os.Open(missing)
	refused := &fs.PathError{Op: "open", Path: "/x", Err: fs.ErrPermission}
	full := &fs.PathError{Op: "write", Path: "/x", Err: errors.New("no space")}

	require.EqualError(t, FileError(errRead), dir+": it is a directory: name a file in it")
	require.EqualError(t, FileError(errNone), missing+": there is no such file")
	require.EqualError(t, FileError(refused), "/x: no permission to read it")
	require.EqualError(t, NewFileError(errRead), dir+": it is a directory: name a file in it")
	require.EqualError(t, NewFileError(errNone),
		missing+": its folder is not there: make it first")
	require.EqualError(t, NewFileError(refused),
		"/x: no permission to write it: choose another file")
	for _, say := range []func(error) error{FileError, NewFileError} {
		require.NoError(t, say(nil))
		require.Equal(t, full, say(full))
		require.ErrorIs(t, say(errNone), fs.ErrNotExist)
		require.ErrorIs(t, say(refused), fs.ErrPermission)
	}
}
