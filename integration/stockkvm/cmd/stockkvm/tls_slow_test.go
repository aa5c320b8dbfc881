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

// certificates makes what vmm tls init makes for hosts a and b, and two folders that are refused:
// one of another CA, and one of a host that is not allowed.
func certificates(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, c := range [][]string{
		{"ours", "--host", "a", "--host", "b", "--host", "other"},
		{"theirs", "--host", "a"},
	} {
		out, err := exec.Command(filepath.Join(bin, "vmm"),
			append([]string{"tls", "init", filepath.Join(dir, c[0])}, c[1:]...)...).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	// It would trust the host that it calls, but the host does not trust it.
	stranger := filepath.Join(dir, "theirs", "a")
	ca, err := os.ReadFile(filepath.Join(dir, "ours", "a", "ca.pem"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(stranger, "ca.pem"), ca, 0o644))
	return dir
}

// TestMoveByNameOverTLS: a guest moves from a to b, by b's name, with the files of vmm tls init.
// Others are refused, and b's log has their address.
func TestMoveByNameOverTLS(t *testing.T) {
	dir := certificates(t)
	scripts, err := filepath.Abs("testdata/tls")
	require.NoError(t, err)
	r := command(t, "pair", "--timeout", "4m",
		"--file", "a:"+dir+"/ours/a=/tls", "--file", "b:"+dir+"/ours/b=/tls",
		"--file", "a:"+dir+"/theirs/a=/stranger", "--file", "a:"+dir+"/ours/other=/other",
		"--file", "a:"+scripts+"/a.sh=/run.sh", "--file", "b:"+scripts+"/b.sh=/run.sh",
		"--", "sh", "/run.sh", "--", "sh", "/run.sh")
	require.NoError(t, r.cmd.Start())
	require.Zero(t, r.status(t), "%s%s", r.stdout.String(), r.stderr.String())
	t.Logf("\n%s%s", r.stdout.String(), r.stderr.String())
	refusals := 0
	const refusal = "turned an incoming connection away"
	for line := range strings.Lines(r.stdout.String()) {
		if strings.HasPrefix(line, "b: ") && strings.Contains(line, refusal) {
			require.Contains(t, line, "10.77.0.1:", "who it was")
			refusals++
		}
	}
	require.Equal(t, 2, refusals)
	require.Contains(t, r.stdout.String(), "b: hb task=0", "the guest is at work on b")
}
