package process

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// FileError says in our own words why a file that the user named cannot be read. It returns nil for
// nil.
func FileError(err error) error {
	var path *fs.PathError
	if !errors.As(err, &path) {
		return err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return said{path.Path + ": there is no such file", err}
	case errors.Is(err, fs.ErrPermission):
		return said{path.Path + ": no permission to read it", err}
	case errors.Is(err, unix.EISDIR):
		return said{path.Path + ": it is a directory: name a file in it", err}
	}
	return err
}

// NewFileError says in our own words why a file that the user named cannot be written. It returns
// nil for nil.
func NewFileError(err error) error {
	var path *fs.PathError
	if !errors.As(err, &path) {
		return err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return said{path.Path + ": its folder is not there: make it first", err}
	case errors.Is(err, fs.ErrPermission):
		return said{path.Path + ": no permission to write it: choose another file", err}
	case errors.Is(err, unix.ELOOP):
		return said{path.Path + ": it is a symbolic link: give the path that it leads to", err}
	case errors.Is(err, unix.ENOTDIR):
		return said{path.Path + ": a part of its path is no folder: choose another file", err}
	case errors.Is(err, unix.EISDIR):
		return said{path.Path + ": it is a directory: name a file in it", err}
	}
	return err
}

// said is an error with our own text.
type said struct {
	text  string
	cause error
}

func (e said) Error() string { return e.text }
func (e said) Unwrap() error { return e.cause }
