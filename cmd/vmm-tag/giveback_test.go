package main

import (
	"bufio"
	"bytes"
	"io"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/integration/need"
	"taskguide/tagging/abi"
)

// TestPreloadedProgramGivesMemoryBack: a program that knows nothing of tags gives its free memory
// back when a migration begins, and only then.
func TestPreloadedProgramGivesMemoryBack(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil {
		need.Skip(t, err.Error())
	}
	folder := t.TempDir()
	build := func(out string, args ...string) string {
		out = filepath.Join(folder, out)
		text, err := exec.CommandContext(t.Context(), "gcc", append(args, "-Wall", "-Wextra",
			"-Wconversion", "-Werror", "-O1", "-o", out)...).CombinedOutput()
		require.NoError(t, err, "%s", text)
		return out
	}
	hoarder := build("hoarder", "-std=c11", "testdata/hoarder.c")
	library := build("giveback.so", "-std=gnu11", "-I../../tagging/include", "-fPIC", "-shared",
		"-pthread", "../../examples/giveback/giveback.c")
	b := newBoard(t)
	p := newPuppet(t, "/usr/bin/env", "LD_PRELOAD="+library, "GIVEBACK_SOCKET="+b.socket, hoarder)
	const hoard = 16383 * 4000 >> 10
	require.Greater(t, p.do("?"), hoard)
	b.dev.Write(abi.RegState, uint32(abi.StatePreCopy))
	b.eventually(func() bool { return p.do("?") < hoard/4 })
	require.Empty(t, p.end())
	require.Zero(t, p.cmd.ProcessState.ExitCode(), "what it has kept is as it was")
}

// TestPreloadWithoutDaemon: the program runs on, and one line says that it is untagged.
func TestPreloadWithoutDaemon(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil {
		need.Skip(t, err.Error())
	}
	library := filepath.Join(t.TempDir(), "giveback.so")
	text, err := exec.CommandContext(t.Context(), "make", "-C", "../../examples/giveback",
		"OUT="+library).CombinedOutput()
	require.NoError(t, err, "%s", text)
	program := exec.CommandContext(t.Context(), "/usr/bin/env", "LD_PRELOAD="+library,
		"GIVEBACK_SOCKET="+filepath.Join(t.TempDir(), "none"), "cat")
	in, err := program.StdinPipe()
	require.NoError(t, err)
	errs, err := program.StderrPipe()
	require.NoError(t, err)
	var out bytes.Buffer
	program.Stdout = &out
	require.NoError(t, program.Start())
	line, err := bufio.NewReader(errs).ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, "untagged")
	_, err = io.WriteString(in, "text")
	require.NoError(t, err)
	require.NoError(t, in.Close())
	require.NoError(t, program.Wait())
	require.Equal(t, "text", out.String())
}
