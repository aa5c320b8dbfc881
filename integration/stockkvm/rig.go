package stockkvm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Rig is what all hosts of one run share: the packages, the agent and the programs
// that go into the initramfs.
type Rig struct {
	Packages Packages
	Dir      string // scratch space of this run
	Module   string // root of the Go module under test
	agent    string
}

// NewRig returns a rig that can build the project's tests and programs, and whose agent is built
// from its sources. dir is scratch space that the caller removes.
func NewRig(ctx context.Context, dir string) (*Rig, error) {
	module, err := moduleRoot(ctx)
	if err != nil {
		return nil, err
	}
	r, err := NewRigOf(ctx, dir, "")
	if err != nil {
		return nil, err
	}
	r.Module = module
	r.agent, err = r.Build(ctx, "./integration/stockkvm/cmd/stockkvm")
	return r, err
}

// NewRigOf returns a rig that needs no sources. program is the agent, which is the program stockkvm
// itself. NewRigOf fetches the packages, or finds them in the cache.
func NewRigOf(ctx context.Context, dir, program string) (*Rig, error) {
	if _, err := qemuBinary(); err != nil {
		return nil, err
	}
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	packages, err := FetchPackages(ctx, filepath.Join(cache, "stockkvm"))
	if err != nil {
		return nil, err
	}
	return &Rig{Packages: packages, Dir: dir, agent: program}, nil
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if mod == "" || mod == os.DevNull {
		return "", fmt.Errorf("not inside the project: run from its folder")
	}
	return filepath.Dir(mod), nil
}

// Build builds a static program, as make builds vmm, and returns its path.
func (r *Rig) Build(ctx context.Context, pkg string) (string, error) {
	target := filepath.Join(r.Dir, "bin", filepath.Base(pkg))
	return target, r.goTool(ctx, "build", "-buildvcs=false", "-trimpath", "-o", target, pkg)
}

func (r *Rig) goTool(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = r.Module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// Initramfs writes an initramfs with the given files and returns its path. The host loads the
// kernel modules that it always needs, and the named ones.
func (r *Rig) Initramfs(name string, files []File, modules ...string) (string, error) {
	tree, err := hostTree(r.Packages, r.agent, files, modules)
	if err != nil {
		return "", err
	}
	target := filepath.Join(r.Dir, name+".cpio")
	f, err := os.Create(target)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := writeInitramfs(f, tree); err != nil {
		return "", err
	}
	return target, f.Close()
}

// HostConfig returns the configuration of a host with its own folder in the rig's scratch space.
func (r *Rig) HostConfig(name, initramfs string) (HostConfig, error) {
	dir := filepath.Join(r.Dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return HostConfig{}, err
	}
	return HostConfig{Kernel: r.Packages.Kernel, Initramfs: initramfs, Dir: dir}, nil
}
