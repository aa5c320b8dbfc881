package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/integration/stockkvm"
)

// TestWrongCommandLines: each ends with the status of a usage error before anything boots.
func TestWrongCommandLines(t *testing.T) {
	for _, line := range []string{
		"",
		"exce -- true",
		"exec",
		"exec --no-such-flag -- true",
		"exec --cpus 0 -- true",
		"exec --memory much -- true",
		"exec --memory 1023 -- true",
		"exec --timeout -1s -- true",
		"exec --timeout soon -- true",
		"pair -- true",
		"pair -- true --",
		"pair -- -- true",
		"pair --cpus 0 -- true -- true",
		"shell now",
		"shell --cpus -1",
		"test --suite none",
	} {
		require.Equal(t, statusUsage, execute(t.Context(), strings.Fields(line)), line)
	}
}

func TestSplitFile(t *testing.T) {
	for value, want := range map[string][2]string{
		"a=/b":         {"a", "/b"},
		"./x/y=/bin/":  {"./x/y", "/bin/y"},
		"a=b=/c":       {"a=b", "/c"},
		"folder/=/srv": {"folder/", "/srv"},
		"a=/x/../y":    {"a", "/y"},
		"a=/device":    {"a", "/device"},
	} {
		source, target, err := splitFile(value)
		require.NoError(t, err, value)
		require.Equal(t, want, [2]string{source, target}, value)
	}
	for _, value := range []string{
		"", "a", "a=", "=/b", "a=b", "a=/dev/x", "a=/proc", "a=/x/../sys/y",
	} {
		_, _, err := splitFile(value)
		var usage usageError
		require.ErrorAs(t, err, &usage, value)
		require.ErrorContains(t, err, "--file", value)
	}
}

func TestScriptsAreSplitAtTheSecondDashes(t *testing.T) {
	scripts, err := splitScripts([]string{"echo a | cat", "--", "echo", "b", "--", "c"})
	require.NoError(t, err)
	require.Equal(t, [2][]string{{"sh", "-c", "echo a | cat"}, {"echo", "b", "--", "c"}}, scripts)
}

func TestFilesOfAPairGoWhereTheySay(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"both", "left", "disk"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), make([]byte, 512), 0o644))
	}
	o := &pairOptions{hostOptions: hostOptions{
		files: []string{dir + "/both=/both", "a:" + dir + "/left=/left"},
		disks: []string{"b:" + dir + "/disk", dir + "/both"},
	}}
	plans, err := o.pairPlans("vmm")
	require.NoError(t, err)
	targets := func(p hostPlan) (names []string) {
		for _, f := range p.files {
			names = append(names, f.Target)
		}
		return names
	}
	require.Equal(t, []string{vmmInside, "/etc/hosts", "/both", "/left"}, targets(plans[0]))
	require.Equal(t, []string{vmmInside, "/etc/hosts", "/both"}, targets(plans[1]))
	both := stockkvm.Disk{Path: dir + "/both", Shared: true}
	require.Equal(t, []stockkvm.Disk{both}, plans[0].disks)
	require.Equal(t, []stockkvm.Disk{{Path: dir + "/disk"}, both}, plans[1].disks)
}

func TestDisksAreWholeSectors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	require.ErrorContains(t, (&hostPlan{}).addDisk(file, ownDisk), "no such file")
	for size, ok := range map[int]bool{0: false, 511: false, 512: true, 1 << 20: true} {
		require.NoError(t, os.WriteFile(file, make([]byte, size), 0o644))
		err := (&hostPlan{}).addDisk(file, ownDisk)
		if ok {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, "sectors")
		}
	}
}

func TestPrefixedWritesWholeLines(t *testing.T) {
	var out bytes.Buffer
	var lines sync.Mutex
	p := &prefixed{to: &out, prefix: "a: ", lines: &lines}
	for _, piece := range []string{"one\ntw", "o", "\n\nthree"} {
		n, err := p.Write([]byte(piece))
		require.NoError(t, err)
		require.Equal(t, len(piece), n)
	}
	require.Equal(t, "a: one\na: two\na: \n", out.String())
	p.flush()
	p.flush()
	require.Equal(t, "a: one\na: two\na: \na: three\n", out.String())
}

// TestDynamicProgramsAreRefused: the host has no libraries, and would only say "not found".
func TestDynamicProgramsAreRefused(t *testing.T) {
	sh, err := filepath.EvalSymlinks("/bin/sh")
	require.NoError(t, err)
	err = checkStatic(sh)
	require.ErrorContains(t, err, "shared libraries")
	require.Error(t, checkStatic("/etc/passwd"))
}
