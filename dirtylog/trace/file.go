package trace

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// FileName is the file of a trace in its folder.
const FileName = "trace.json.gz"

// File is a trace on its way to a file. It is a Sink.
type File struct {
	*Writer
	file   *os.File
	buffer *bufio.Writer
	folder string // that was made for it; empty: it was there before
}

// Create makes the file of a trace in a folder that is new or empty.
func Create(folder string) (*File, error) {
	err := os.Mkdir(folder, 0o777)
	made := err == nil
	if errors.Is(err, fs.ErrExist) {
		var inside []os.DirEntry
		if inside, err = os.ReadDir(folder); err == nil && len(inside) > 0 {
			err = fmt.Errorf("%s is not empty: name another folder", folder)
		}
	}
	if err != nil {
		return nil, err
	}
	name := filepath.Join(folder, FileName)
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if err != nil {
		return nil, err
	}
	buffer := bufio.NewWriterSize(file, 1<<20)
	f := &File{Writer: NewWriter(buffer), file: file, buffer: buffer}
	if made {
		f.folder = folder
	}
	return f, nil
}

// Name is the file's path.
func (f *File) Name() string { return f.file.Name() }

// Flush puts what there is into the file.
func (f *File) Flush() error { return errors.Join(f.Writer.Flush(), f.buffer.Flush()) }

// Close ends the file.
func (f *File) Close() error {
	return errors.Join(f.Writer.Close(), f.buffer.Flush(), f.file.Close())
}

// Remove removes a file that is not worth keeping, and the folder that was made for it. It may be
// closed already.
func (f *File) Remove() {
	_ = f.file.Close()
	_ = os.Remove(f.file.Name())
	if f.folder != "" {
		_ = os.Remove(f.folder)
	}
}
