package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/bench"
	"taskguide/cmd/cli"
)

// qemuProgram is a program that tells a version as QEMU does, and leaves a file beside itself.
func qemuProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n: >\"$0.asked\"\n"+
		"[ \"$1\" = --version ] && echo QEMU emulator version 9.0\n"), 0o755))
	return path
}

// betweenHosts are the flags of a run between two hosts.
func betweenHosts(t *testing.T, more ...string) *benchRunFlags {
	t.Helper()
	var f benchRunFlags
	cmd := newBenchList(cli.Streams{})
	f.hosts.define(cmd)
	require.NoError(t, cmd.ParseFlags(append(more, "--source", "ssh:me@a", "--destination",
		"ssh:b,address=10.0.0.2")))
	return &f
}

// TestTwoHostsAskNoQEMU: parts of a run have the same setting, whatever QEMU their controllers
// have.
func TestTwoHostsAskNoQEMU(t *testing.T) {
	f := betweenHosts(t)
	f.programs.QEMU = qemuProgram(t)
	require.Equal(t, bench.Setting{Size: bench.Full}, f.setting())
	require.NoFileExists(t, f.programs.QEMU+".asked")
	f.hosts = hostFlags{}
	require.Equal(t, "9.0", f.setting().QEMU)
	require.FileExists(t, f.programs.QEMU+".asked")
}

// TestQEMUOfAFile: --qemu goes with peers that not every QEMU can be, too.
func TestQEMUOfAFile(t *testing.T) {
	f := benchRunFlags{programs: bench.Programs{QEMU: qemuProgram(t)}}
	check := func(peers string) error {
		file := filepath.Join(t.TempDir(), "e.yaml")
		require.NoError(t, os.WriteFile(file, []byte(
			"guests: [{name: g, cmdline: workload=phased}]\npeers: ["+peers+"]\n"), 0o600))
		c, err := bench.ReadCustom(file)
		require.NoError(t, err)
		return f.checkPrograms(c.Experiment())
	}
	for _, peer := range []string{
		"qemu", "qemu-postcopy", "qemu-auto-converge", "qemu-multifd-zero",
	} {
		require.NoError(t, check(peer), peer)
	}
	require.ErrorContains(t, check(""), "custom does not compare with QEMU")
}

// TestCommandThatGoesOn: what a run that was ended prints goes on with it as it is, in a shell.
func TestCommandThatGoesOn(t *testing.T) {
	const run = "vmm bench run peers"
	f := &benchRunFlags{programs: bench.Programs{
		VMM: "/found/vmm", QEMU: "/opt/my qemu", Before: "../old/vmm",
	}}
	require.Equal(t, run+` --resume --out 'it'\''s' --qemu '/opt/my qemu' --before ../old/vmm`,
		f.resumeCommand(run, "it's"))
	err := f.withResume(bench.ErrTimeUp, run, "out")
	require.ErrorIs(t, err, bench.ErrTimeUp)
	require.ErrorContains(t, err, f.resumeCommand(run, "out")+" goes on")
	require.ErrorContains(t, f.withResume(bench.ErrInterrupted, run, "out"), " --resume ")
	require.Equal(t, bench.ErrFailing, f.withResume(bench.ErrFailing, run, "out"))

	f = betweenHosts(t)
	f.repeatNoisy, f.json = true, true
	require.Equal(t, run+" --resume --repeat-noisy --out out --source ssh:me@a "+
		"--destination ssh:b,address=10.0.0.2 --json", f.resumeCommand(run, "out"))
	require.Contains(t, betweenHosts(t, "--insecure").resumeCommand(run, "out"), " --insecure")
	require.Equal(t, run+" --resume --out out", new(benchRunFlags).resumeCommand(run, "out"))
}
