package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// BenchProgram is the program behind vmm bench.
const BenchProgram = "vmm-bench"

// VMMVariable is the environment variable by which vmm bench tells vmm-bench which vmm started it.
const VMMVariable = "VMM_BENCH_VMM"

// FindProgram returns the path of another program of this project: the one beside this program's
// own file, because these are of one build, or else the one on the PATH.
func FindProgram(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program's own file: %w", err)
	}
	beside := filepath.Join(filepath.Dir(self), name)
	if path, err := exec.LookPath(beside); err == nil {
		return path, nil
	}
	path, err := exec.LookPath(name)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return "", fmt.Errorf("%s is neither beside this program, as %s, nor on the PATH: "+
			"make build and make install make it", name, beside)
	}
	return path, nil
}
