package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"taskguide/bench"
	"taskguide/cmd/cli"
	"taskguide/control/version"
)

// findVMM returns the path of the vmm that trials run: the one that started this program, or else
// one beside it, or one on the PATH.
func findVMM() (string, error) {
	if path := os.Getenv(cli.VMMVariable); path != "" {
		return path, nil
	}
	path, err := cli.FindProgram("vmm")
	if err != nil {
		return "", err
	}
	return path, nil
}

// errOtherBuild is of a vmm that is not of this program's build: what a run says of the revision
// that it measured would be wrong.
var errOtherBuild = errors.New("use programs of one build: make build makes both")

// checkBuild refuses a vmm of another build.
func checkBuild(vmm string) error {
	out, err := exec.Command(vmm, "version", "--json").Output()
	if err != nil {
		return fmt.Errorf("ask %s for its version: %w", vmm, err)
	}
	var its version.Info
	if err := json.Unmarshal(out, &its); err != nil {
		return fmt.Errorf("ask %s for its version: %w", vmm, err)
	}
	if ours := version.Here(version.Machine{}); build(its) != build(ours) {
		return fmt.Errorf("%s is of build %s, and %s of %s: %w",
			filepath.Base(vmm), build(its), program, build(ours), errOtherBuild)
	}
	return nil
}

// program is this program's name.
const program = "vmm-bench"

// build names a build.
func build(i version.Info) string {
	return bench.Build{Version: i.Version, Revision: i.Revision, Modified: i.Modified}.String()
}
