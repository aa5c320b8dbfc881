package bench

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"taskguide/bench/peer/qemu"
)

// totalMemory is the host's memory in bytes, or 0 if it is not known.
func totalMemory() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}

// qemuVersion is the version of a QEMU program, or of the installed one if program is empty. It is
// empty if there is none.
func qemuVersion(program string) string {
	out, err := exec.Command(cmp.Or(program, qemu.Binary), "--version").Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	_, version, _ := strings.Cut(line, "version ")
	return version
}

// hashDigits is how many digits of a file's hash name a build.
const hashDigits = 12

// buildOf names the build of another vmm, or is empty if program is. The hash of its file is a part
// of the name, because two builds of changed sources print the same version.
func buildOf(program string) (string, error) {
	if program == "" {
		return "", nil
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return "", fmt.Errorf("look for the vmm to compare with: %w", err)
	}
	hash, err := hashOf(path)
	if err != nil {
		return "", fmt.Errorf("read the vmm to compare with: %w", err)
	}
	return versionOf(path) + ", SHA-256 " + hash[:hashDigits], nil
}

func hashOf(file string) (string, error) { return hashUntil(context.Background(), file) }

// hashUntil gives up when ctx ends: a disk may take minutes to read.
func hashUntil(ctx context.Context, file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, stoppable{ctx, f}); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// stoppable is a reader that ends with ctx.
type stoppable struct {
	ctx context.Context
	io.Reader
}

// Read implements [io.Reader].
func (s stoppable) Read(b []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.Reader.Read(b)
}

// versionOf is the version that a vmm prints, and its revision. A build from before that command
// prints none.
func versionOf(program string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var its Build
	out, err := exec.CommandContext(ctx, program, "version", "--json").Output()
	if err != nil || json.Unmarshal(out, &its) != nil || its.Version == "" {
		return "of unknown version"
	}
	return its.String()
}

// Build is which build a program is. Its keys are those of vmm version --json.
type Build struct {
	Version, Revision string
	Modified          bool
}

// String names the build.
func (b Build) String() string {
	name := b.Version
	if b.Revision != "" {
		name += " " + b.Revision
	}
	if b.Modified {
		name += "+"
	}
	return name
}
