package bench

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMixedRun: a run that went on otherwise than it began has a banner that says how.
func TestMixedRun(t *testing.T) {
	here := Environment{
		VMM: "abc", Go: "go1.24", QEMU: "7.2", Before: "v1", CPU: "cpu 1", Kernel: "6.1",
	}
	run := Run{Size: Full, Host: here, Resumed: []Resumption{{Host: here}}}
	require.Empty(t, banners(run, nil))
	for want, change := range map[string]func(*Environment){
		"with vmm def":     func(e *Environment) { e.VMM = "def" },
		"with QEMU 10":     func(e *Environment) { e.QEMU = "10" },
		"without QEMU":     func(e *Environment) { e.QEMU = "" },
		"with --before v2": func(e *Environment) { e.Before = "v2" },
		"with Go 1.25":     func(e *Environment) { e.Go = "go1.25" },
		"on another host or kernel (cpu 2, Linux 6.1)": func(e *Environment) {
			e.CPU = "cpu 2"
		},
		"with vmm def, on another host or kernel (cpu 1, Linux 6.2)": func(e *Environment) {
			e.VMM, e.Kernel = "def", "6.2"
		},
	} {
		there := here
		change(&there)
		run.Resumed = []Resumption{{Host: here}, {Host: there}, {Host: there}}
		require.Equal(t, []Banner{
			{"MIXED", "resumed " + want +
				": the figures are not of one build and the same files on one host"},
		}, banners(run, nil))
	}
}

// TestMixedRunIsSeen: the banner stands in the report of a run that another build resumed.
func TestMixedRunIsSeen(t *testing.T) {
	store, dir := newStore(t, newOrder(tagging()))
	require.NoError(t, store.Close())
	store, _, _, err := Resume(dir, Resumption{Host: Environment{VMM: "def", QEMU: "7.2"}})
	require.NoError(t, err)
	require.NoError(t, store.Close())
	_, err = WriteReport(dir)
	require.NoError(t, err)
	text := strings.Join(strings.Fields(readFile(t, dir, textFile)), " ")
	require.Contains(t, text, "MIXED: resumed with vmm def: the figures")
}

// scriptOf is a program that a shell runs.
func scriptOf(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vmm")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755))
	return path
}

// tellsVersion is a script that prints its version as vmm does.
const tellsVersion = `[ "$1 $2" = "version --json" ] || exit 2
echo '{"version": "v0.1.0", "revision": "abc", "modified": true}'
`

// TestBuildOf: a build is named by what it prints and by what it is.
func TestBuildOf(t *testing.T) {
	name, err := buildOf("")
	require.NoError(t, err)
	require.Empty(t, name)

	name, err = buildOf(scriptOf(t, tellsVersion))
	require.NoError(t, err)
	sum := sha256.Sum256([]byte("#!/bin/sh\n" + tellsVersion))
	require.Equal(t, "v0.1.0 abc+, SHA-256 "+hex.EncodeToString(sum[:hashDigits/2]), name)

	other, err := buildOf(scriptOf(t, tellsVersion+"# changed\n"))
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(other, "v0.1.0 abc+, SHA-256 "))
	require.NotEqual(t, name, other)

	old, err := buildOf(scriptOf(t, "exit 2\n"))
	require.NoError(t, err)
	require.Regexp(t, `^of unknown version, SHA-256 [0-9a-f]{12}$`, old)

	_, err = buildOf("/no/such/vmm")
	require.ErrorIs(t, err, os.ErrNotExist)

	require.Equal(t, "vmm abc, go1.24, QEMU not installed, --before vmm "+name,
		versions(Environment{VMM: "abc", Go: "go1.24", Before: name}))
}

// TestResumeAfterAnUpgradeOfQEMU: only a run that compares with QEMU needs the same one.
func TestResumeAfterAnUpgradeOfQEMU(t *testing.T) {
	upgraded := scriptOf(t, "echo QEMU emulator version 9.0\n")
	resume := func(e Experiment) error {
		store, dir := newStore(t, newOrder(e))
		require.NoError(t, store.Close())
		s := Session{Dir: dir, Order: newOrder(e), Resume: true}
		s.Order.Programs.QEMU = upgraded
		return s.takeUp()
	}
	require.NoError(t, resume(tagging()))
	require.ErrorContains(t, resume(peers()), `compares with QEMU 7.2, and here is "9.0"`)
}

// TestResumeNeedsTheSameOtherVMM: a run goes on with the vmm that it compares with, and no other.
func TestResumeNeedsTheSameOtherVMM(t *testing.T) {
	program := scriptOf(t, tellsVersion)
	name, err := buildOf(program)
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "out")
	store, err := Create(dir, Run{
		Experiment: before().Name, Size: Quick, Seed: 5, Before: true,
		Host: Environment{Before: name},
	})
	require.NoError(t, err)
	require.NoError(t, store.Close())

	s := Session{Dir: dir, Order: newOrder(before()), Resume: true}
	_, err = s.Run(t.Context())
	require.ErrorContains(t, err, "name its program with --before")
	s.Order.Programs.Before = scriptOf(t, "exit 2\n")
	_, err = s.Run(t.Context())
	require.ErrorContains(t, err, "compares with vmm "+name+", and that of --before is of unknown")
	run, _, err := Load(dir)
	require.NoError(t, err)
	require.Empty(t, run.Resumed)
	s.Order.Programs.Before = program
	require.NoError(t, s.takeUp())
}
