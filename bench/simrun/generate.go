package simrun

import (
	"errors"

	"taskguide/bench/sim"
	"taskguide/dirtylog/trace"
)

// Generate writes a synthetic trace into a folder, which must be new or empty, as vmm trace writes
// a recorded one. It returns the trace's file.
func Generate(folder, version string, g sim.Synthetic) (name string, err error) {
	f, err := trace.Create(folder)
	if err != nil {
		return "", err
	}
	if err = errors.Join(g.Generate(version, f), f.Close()); err != nil {
		f.Remove()
	}
	return f.Name(), err
}
