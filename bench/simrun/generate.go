package simrun

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"taskguide/bench/sim"
	"taskguide/dirtylog/trace"
)

// Generate writes a synthetic trace into a folder, which must be new or empty, as vmm trace writes
// a recorded one. It returns the trace's file.
func Generate(folder, version string, g sim.Synthetic) (name string, err error) {
	err = os.Mkdir(folder, 0o777)
	made := err == nil
	if errors.Is(err, fs.ErrExist) {
		var inside []os.DirEntry
		if inside, err = os.ReadDir(folder); err == nil && len(inside) > 0 {
			err = fmt.Errorf("%s is not empty: name another folder", folder)
		}
	}
	if err != nil {
		return "", err
	}
	name = filepath.Join(folder, traceName)
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if err != nil {
		return "", err
	}
	buffer := bufio.NewWriterSize(f, 1<<20)
	w := trace.NewWriter(buffer)
	err = g.Generate(version, w)
	err = errors.Join(err, w.Close(), buffer.Flush(), f.Close())
	if err != nil {
		_ = os.Remove(name)
		if made {
			_ = os.Remove(folder)
		}
	}
	return name, err
}
