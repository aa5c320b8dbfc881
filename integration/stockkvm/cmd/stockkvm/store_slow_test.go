//go:build stockkvm

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSharedStoreLocksBetweenHosts: one host reads what the other wrote, and cannot get a lock that
// the other holds.
func TestSharedStoreLocksBetweenHosts(t *testing.T) {
	lock := filepath.Join(t.TempDir(), "lock")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", lock, "./testdata/lock")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	scripts, err := filepath.Abs("testdata/lock")
	require.NoError(t, err)
	r := command(t, "pair", "--shared-store", "--timeout", "4m", "--file", lock+"=/bin/lock",
		"--file", "a:"+scripts+"/a.sh=/run.sh", "--file", "b:"+scripts+"/b.sh=/run.sh",
		"--", "sh", "/run.sh", "--", "sh", "/run.sh")
	require.NoError(t, r.cmd.Start())
	require.Zero(t, r.status(t), "%s%s", r.stdout.String(), r.stderr.String())
	said := map[string][]string{}
	for line := range strings.Lines(r.stdout.String()) {
		host, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		said[host] = append(said[host], text)
	}
	require.Equal(t, []string{"locked", "from b"}, said["a"])
	require.Equal(t, []string{
		"from a", "not locked: resource temporarily unavailable", "locked",
	}, said["b"])
}
