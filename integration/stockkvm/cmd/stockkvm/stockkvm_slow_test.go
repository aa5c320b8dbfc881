//go:build stockkvm

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// bin is a folder with vmm and stockkvm, as make stockkvm builds them.
var bin string

func TestMain(m *testing.M) { os.Exit(runTestsWithPrograms(m)) }

func runTestsWithPrograms(m *testing.M) int {
	var err error
	if bin, err = os.MkdirTemp("", "stockkvm-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(bin)
	cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-o", bin,
		".", "taskguide/cmd/vmm")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// run is one run of the program.
type run struct {
	cmd            *exec.Cmd
	scratch        string
	stdout, stderr bytes.Buffer
}

// command prepares a run that makes its scratch space in its own folder, outside of the project.
func command(t *testing.T, args ...string) *run {
	t.Helper()
	r := &run{cmd: exec.CommandContext(t.Context(), filepath.Join(bin, "stockkvm"), args...)}
	var err error
	// Not t.TempDir(): the path of a socket has 107 bytes at most.
	r.scratch, err = os.MkdirTemp("", "rig-")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(r.scratch) })
	r.cmd.Env = append(os.Environ(), "TMPDIR="+r.scratch)
	r.cmd.Dir = r.scratch
	r.cmd.Stdout, r.cmd.Stderr = &r.stdout, &r.stderr
	return r
}

// status waits for the end and requires that nothing is left behind.
func (r *run) status(t *testing.T) int {
	t.Helper()
	_ = r.cmd.Wait()
	left, err := os.ReadDir(r.scratch)
	require.NoError(t, err)
	require.Empty(t, left, "scratch space is removed")
	return r.cmd.ProcessState.ExitCode()
}

// checks is a script that shows what a host has, in one line each.
const checks = `
cd /tree
stat -c '%a %F %n' run data empty
readlink link
./run
dd if=/dev/vda bs=512 count=1 2>/dev/null | head -c 9; echo
mke2fs /dev/vda >/dev/null && mount /dev/vda /mnt &&
	echo written, and not yet on the disk >/mnt/file
ls /boot
command -v vmm
hostname; nproc
ip link add br0 type bridge && ip link add v0 type veth && ls /dev/net/tun
cat
echo wrong >&2
exit 7
`

const checked = `755 regular file run
640 regular file data
700 directory empty
data
it ran
from here
initrd
vmlinuz
/bin/vmm
host
1
/dev/net/tun
`

func TestExecIsTheCommands(t *testing.T) {
	tree := t.TempDir()
	ran := []byte("#!/bin/sh\necho it ran\n")
	require.NoError(t, os.WriteFile(filepath.Join(tree, "run"), ran, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(tree, "data"), []byte("data"), 0o640))
	require.NoError(t, os.Mkdir(filepath.Join(tree, "empty"), 0o700))
	require.NoError(t, os.Symlink("data", filepath.Join(tree, "link")))
	disk := filepath.Join(t.TempDir(), "disk,with=comma")
	content := make([]byte, 1<<20)
	copy(content, "from here")
	require.NoError(t, os.WriteFile(disk, content, 0o644))

	r := command(t, "exec", "--file", tree+"=/tree", "--disk", disk, "--kernel-inside",
		"--", checks)
	require.NoError(t, r.cmd.Start())
	require.Equal(t, 7, r.status(t), r.stderr.String())
	require.Equal(t, checked, r.stdout.String())
	require.Equal(t, "wrong\n", r.stderr.String())
	content, err := os.ReadFile(disk)
	require.NoError(t, err)
	require.True(t, bytes.Contains(content, []byte("written, and not yet on the disk\n")),
		"what a command writes to a disk outlives the host")
}

// children returns the processes that a process has started.
func children(t *testing.T, pid int) []string {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	require.NoError(t, err)
	var all []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		require.NoError(t, err)
		all = append(all, strings.Fields(string(text))...)
	}
	return all
}

func TestASignalLeavesNothingBehind(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			r := command(t, "exec", "--", "echo up; sleep 1000")
			r.cmd.Stdout = nil
			stdout, err := r.cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, r.cmd.Start())
			line := make([]byte, 3)
			_, err = stdout.Read(line)
			require.NoError(t, err, r.stderr.String())
			require.Equal(t, "up\n", string(line), "output arrives while the command runs")
			emulators := children(t, r.cmd.Process.Pid)
			require.Len(t, emulators, 1)

			require.NoError(t, r.cmd.Process.Signal(signal))
			require.Equal(t, 128+int(signal), r.status(t), r.stderr.String())
			require.NoDirExists(t, "/proc/"+emulators[0], "QEMU is gone when the program is")
		})
	}
}

func TestFailuresOfTheRigHaveAStatusOfTheirOwn(t *testing.T) {
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"exec", "--memory", "64M", "--", "true"}, statusRig, "memory"},
		{[]string{"exec", "--file", "/no/such=/x", "--", "true"}, statusRig, "/no/such"},
		{[]string{"exec", "--timeout", "2s", "--", "true"}, statusTimeout, "--timeout"},
	} {
		r := command(t, c.args...)
		require.NoError(t, r.cmd.Start())
		require.Equal(t, c.status, r.status(t), c.args)
		require.Contains(t, r.stderr.String(), c.says)
		require.Equal(t, 1, strings.Count(r.stderr.String(), "\n"), r.stderr.String())
		require.Empty(t, r.stdout.String())
	}
}

// TestPairIsTwoHostsWithNames: the hosts reach each other by name, each has its own files and
// disks, and if one fails, the other is asked to end.
func TestPairIsTwoHostsWithNames(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("I am "+name+"\n"), 0o644))
	}
	shared := filepath.Join(dir, "disk")
	require.NoError(t, os.WriteFile(shared, make([]byte, 1<<20), 0o644))
	started := time.Now()
	r := command(t, "pair", "--disk", shared,
		"--file", "a:"+dir+"/a=/id", "--file", "b:"+dir+"/b=/id", "--",
		`cat /id; hostname; ping -c 1 b >/dev/null && echo b answers
		 until nc b 9 </dev/null >/tmp/said && grep -q written /tmp/said; do sleep 0.1; done
		 head -c 7 /dev/vda; exit 3`, "--",
		`cat /id; hostname; ping -c 1 a >/dev/null && echo a answers
		 printf written | dd of=/dev/vda conv=fsync 2>/dev/null
		 trap 'echo asked; kill $!; exit 0' TERM
		 while :; do echo written | nc -l -p 9 & wait $!; done`)
	require.NoError(t, r.cmd.Start())
	require.Equal(t, 3, r.status(t), r.stderr.String())
	t.Logf("%v\n%s%s", time.Since(started), r.stdout.String(), r.stderr.String())
	said := map[string][]string{}
	for line := range strings.Lines(r.stdout.String()) {
		host, text, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		require.True(t, ok, line)
		said[host] = append(said[host], text)
	}
	require.Equal(t, []string{"I am a", "a", "b answers", "written"}, said["a"])
	require.Equal(t, []string{"I am b", "b", "a answers", "asked"}, said["b"])
	require.Contains(t, r.stderr.String(), "a ended with status 3")
}
