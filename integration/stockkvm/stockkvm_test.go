package stockkvm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"taskguide/integration/stockkvm/wire"
)

func TestCPIOEntryHasTheKernelsLayout(t *testing.T) {
	var b bytes.Buffer
	c := newCPIOWriter(&b)
	c.File("ab", 0o755, []byte("xyz"))
	require.NoError(t, c.Close())
	// Header of 110 bytes, name with NUL to 116 (a multiple of 4 already: 113
	// and three of padding), data and one byte of padding.
	want := "070701" + "00000001" + "000081ED" + "00000000" + "00000000" + "00000001" + "00000000" +
		"00000003" + "00000000" + "00000000" + "00000000" + "00000000" + "00000003" + "00000000" +
		"ab\x00" + "\x00\x00\x00" + "xyz\x00"
	require.Equal(t, want, b.String()[:len(want)])
	require.Zero(t, b.Len()%4)
	require.Contains(t, b.String()[len(want):], "TRAILER!!!\x00")
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestCPIOReportsFailedWrites(t *testing.T) {
	c := newCPIOWriter(failingWriter{})
	c.Dir("etc", 0o755)
	require.ErrorContains(t, c.Close(), "disk full")
}

func TestKernelPackageIsFoundInDepends(t *testing.T) {
	name, ok := dependedKernel("linux-image-cloud-amd64\n  Depends: " +
		"linux-image-6.1.0-1-cloud-amd64\n  Suggests: linux-doc\n")
	require.True(t, ok)
	require.Equal(t, "linux-image-6.1.0-1-cloud-amd64", name)
	_, ok = dependedKernel("linux-image-cloud-amd64\n")
	require.False(t, ok)
}

func TestMissingAptNamesTheRemedy(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	dir := t.TempDir()
	_, err := FetchPackages(context.Background(), dir)
	require.ErrorIs(t, err, ErrPackages)
	require.ErrorContains(t, err, "apt-get is not here")
	require.ErrorContains(t, err, filepath.Join(dir, "debs"))
}

func TestPackagesAlreadyUnpackedNeedNoApt(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	dir := t.TempDir()
	for _, d := range []string{"root/boot", "root/bin", "root/lib/modules/6.1"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for _, f := range []string{"root/boot/vmlinuz-6.1", "root/bin/busybox"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, f), nil, 0o755))
	}
	p, err := FetchPackages(context.Background(), dir)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "root/boot/vmlinuz-6.1"), p.Kernel)
}

func TestMorePackagesAlreadyUnpackedNeedNoApt(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	dir := t.TempDir()
	root := filepath.Join(dir, "more", "one+two")
	_, err := FetchWithDependencies(t.Context(), dir, "one", "two")
	require.ErrorIs(t, err, ErrPackages)
	require.ErrorContains(t, err, "put the .deb files of one+two into "+root+".debs")
	require.NoError(t, os.Mkdir(root, 0o755))
	got, err := FetchWithDependencies(t.Context(), dir, "one", "two")
	require.NoError(t, err)
	require.Equal(t, root, got)
}

// collect runs recorded output of a test binary through the collector.
func collect(t *testing.T, output string) (Result, string) {
	t.Helper()
	var progress bytes.Buffer
	c, err := newCollector("s", &progress, io.Discard)
	require.NoError(t, err)
	_, err = io.WriteString(c.in, output)
	require.NoError(t, err)
	var r Result
	require.NoError(t, c.finish(&r))
	return r, progress.String()
}

func TestCollectorCounts(t *testing.T) {
	r, progress := collect(t,
		"\x16=== RUN   TestA\n\x16=== RUN   TestA/sub\n\x16--- PASS: TestA/sub (0.00s)\n"+
			"\x16--- PASS: TestA (0.00s)\n"+
			"\x16=== RUN   TestB\n    b_test.go:1: broken\n\x16--- FAIL: TestB (0.10s)\n"+
			"\x16=== RUN   TestC\n\x16--- SKIP: TestC (0.00s)\n\x16FAIL\n")
	require.Equal(t, []int{2, 1, 1}, []int{r.Passed, r.Failed, r.Skipped})
	require.Contains(t, progress, "FAIL  s TestB")
	require.Contains(t, progress, "b_test.go:1: broken")
}

func TestCollectorCountsUnfinishedTestAsFailed(t *testing.T) {
	r, progress := collect(t,
		"\x16=== RUN   TestA\n\x16--- PASS: TestA (0.00s)\n\x16=== RUN   TestB\nsome output")
	require.Equal(t, 1, r.Passed)
	require.Equal(t, 1, r.Failed)
	require.Contains(t, progress, "TestB")
}

func TestSummaryIsRedUnlessEverySuiteRanAndPassed(t *testing.T) {
	good := Result{Suite: "a", Passed: 3}
	for name, tc := range map[string]struct {
		results []Result
		ok      bool
		closing string
	}{
		"all pass": {[]Result{good, good}, true, "6 passed, 0 failed\n"},
		"a test failed": {
			[]Result{good, {Suite: "b", Passed: 1, Failed: 1}}, false, "4 passed, 1 failed\n",
		},
		"suite without it": {
			[]Result{good, {Suite: "b", Err: ErrNoTests}}, false, "3 passed, 1 failed\n",
		},
		"one skipped": {
			[]Result{good, {Suite: "b", Passed: 1, Skipped: 1}}, false,
			"4 passed, 0 failed, 1 skipped\n",
		},
		"only skipped": {
			[]Result{{Suite: "b", Skipped: 2}}, false, "0 passed, 0 failed, 2 skipped\n",
		},
		"nothing ran": {nil, false, "0 passed, 0 failed\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			require.Equal(t, tc.ok, Summary(&b, tc.results))
			require.Contains(t, b.String(), tc.closing)
		})
	}
}

func TestFailureQuotesThePanic(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "console.log"),
		[]byte("[    1.0] something\r\n[    1.1] Kernel panic - not syncing: sysrq triggered "+
			"crash\r\n[    1.2] CPU: 0\r\n"), 0o644))
	h := &Host{cfg: HostConfig{Dir: dir}, ended: make(chan struct{})}
	h.stderr.WriteString("qemu: warning: TCG doesn't support requested feature: CPUID.01H\nqemu: " +
		"bad thing\n")
	close(h.ended)
	err := h.failure(ErrDied, "the port ended")
	require.ErrorIs(t, err, ErrDied)
	require.ErrorContains(t, err, "kernel panic inside: sysrq triggered crash")
	require.ErrorContains(t, err, "bad thing")
	require.NotContains(t, err.Error(), "TCG doesn't support")
	require.ErrorContains(t, err, "CPU: 0")
}

// entry is an entry of a cpio archive.
type entry struct {
	name string
	mode uint64
	data string
}

// readCPIO reads an archive by the format's description, not by our writer.
func readCPIO(t *testing.T, archive []byte) []entry {
	t.Helper()
	var all []entry
	field := func(i int) uint64 {
		v, err := strconv.ParseUint(string(archive[6+8*i:14+8*i]), 16, 32)
		require.NoError(t, err)
		return v
	}
	align := func(n uint64) uint64 { return (n + 3) &^ 3 }
	for {
		require.Equal(t, "070701", string(archive[:6]))
		size, nameSize := field(6), field(11)
		e := entry{name: string(archive[110 : 110+nameSize-1]), mode: field(1)}
		begin := align(110 + nameSize)
		e.data = string(archive[begin : begin+size])
		if e.name == "TRAILER!!!" {
			return all
		}
		all = append(all, e)
		archive = archive[align(begin+size):]
	}
}

func TestInitramfsHasParentsFirstAndTheLastOfEach(t *testing.T) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	require.NoError(t, os.MkdirAll(filepath.Join(tree, "empty"), 0o755))
	require.NoError(t, os.Chmod(filepath.Join(tree, "empty"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(tree, "run"), []byte("#!"), 0o755))
	require.NoError(t, os.Symlink("run", filepath.Join(tree, "link")))
	require.NoError(t, os.Symlink(tree, filepath.Join(dir, "alias")))
	imported, err := Import(filepath.Join(dir, "alias"), "/a/b")
	require.NoError(t, err)
	one, err := Import(filepath.Join(tree, "link"), "/bin/one")
	require.NoError(t, err)

	var b bytes.Buffer
	files := append(imported, one...)
	files = append(files,
		Content("a/b/../c", 0o600, []byte("old")), Content("/a/c", 0o640, []byte("new")),
		Content("/d/e/f", 0o600, nil))
	require.NoError(t, writeInitramfs(&b, files))
	require.Equal(t, []entry{
		{"a", modeDir | 0o755, ""},
		{"a/b", modeDir | 0o755, ""},
		{"a/b/empty", modeDir | 0o700, ""},
		{"a/b/link", modeSymlink | 0o777, "run"},
		{"a/b/run", modeRegular | 0o755, "#!"},
		{"bin", modeDir | 0o755, ""},
		{"bin/one", modeRegular | 0o755, "#!"},
		{"a/c", modeRegular | 0o640, "new"},
		{"d", modeDir | 0o755, ""},
		{"d/e", modeDir | 0o755, ""},
		{"d/e/f", modeRegular | 0o600, ""},
	}, readCPIO(t, b.Bytes()))
}

func TestImportRefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	require.NoError(t, unix.Mkfifo(pipe, 0o600))
	_, err := Import(pipe, "/pipe")
	require.ErrorContains(t, err, "neither")
	_, err = Import(dir, "/dir")
	require.ErrorContains(t, err, "neither")
	_, err = Import(filepath.Join(dir, "missing"), "/missing")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestFilesThatDoNotFitAreRefused(t *testing.T) {
	initramfs := filepath.Join(t.TempDir(), "big")
	require.NoError(t, os.WriteFile(initramfs, nil, 0o644))
	require.NoError(t, os.Truncate(initramfs, 400<<20))
	small := HostConfig{Initramfs: initramfs, MemoryMiB: 1024, Dir: t.TempDir()}
	_, err := StartHost(t.Context(), small)
	require.ErrorContains(t, err, "give it 1128 MiB")
	require.NoError(t, HostConfig{Initramfs: initramfs, MemoryMiB: 1128}.roomForFiles())
}

func TestMachineArguments(t *testing.T) {
	odd := `/tmp/a "disk",readonly=on`
	args := HostConfig{Disks: []Disk{{Path: odd}, {Path: "/dev/null", Shared: true}}}.machineArgs()
	require.Contains(t, strings.Join(args, " "), "-smp 1 -m 2048")
	var disks []string
	for i, a := range args {
		if a == "-blockdev" {
			disks = append(disks, args[i+1])
		}
	}
	require.Len(t, disks, 2)
	require.JSONEq(t, `{"driver":"raw","node-name":"disk0",
		"file":{"driver":"file","filename":"/tmp/a \"disk\",readonly=on"}}`, disks[0])
	require.JSONEq(t, `{"driver":"raw","node-name":"disk1",
		"file":{"driver":"host_device","filename":"/dev/null","locking":"off"}}`, disks[1])
}

func TestTreeOfMissingFolderIsEmpty(t *testing.T) {
	files, err := Tree(filepath.Join(t.TempDir(), "testdata"), "/x")
	require.NoError(t, err)
	require.Empty(t, files)
}

// TestHostIsKeptAwake: a host that nobody asks anything is asked all the same, again and again, and
// what it answers to that disturbs nobody.
func TestHostIsKeptAwake(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "control.sock")
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	defer listener.Close()
	ended := make(chan struct{})
	h := &Host{
		cfg: HostConfig{BootTimeout: time.Minute}, ended: ended, jobs: map[int]*Job{},
	}
	agent, err := net.Dial("unix", socket)
	require.NoError(t, err)
	says := wire.NewWriter[wire.Message](agent)
	require.NoError(t, says.Write(wire.Message{Hello: &wire.Hello{KVM: "api 12"}}))
	require.NoError(t, h.waitForHello(t.Context(), listener))
	require.NoError(t, agent.SetReadDeadline(time.Now().Add(time.Minute)))
	asked := wire.NewReader[wire.Request](agent)
	for range 2 {
		request, err := asked.Read()
		require.NoError(t, err)
		require.Equal(t, wire.Request{Clock: &wire.Adjust{}}, request)
		require.NoError(t, says.Write(wire.Message{Clock: 1}))
	}
	close(ended)
	require.NoError(t, agent.Close())
}
